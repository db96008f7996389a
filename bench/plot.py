"""Lines on two logarithmic axes, as SVG that reads on light and dark pages."""

from __future__ import annotations

import math
from typing import NamedTuple
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 760, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 210, 46, 58
_COLORS = ("#c2410c", "#7c3aed", "#64748b", "#0284c7", "#059669", "#ca8a04")


class Series(NamedTuple):
    """One line: points of (x, y in seconds), x ascending."""

    name: str
    points: list[tuple[int, float]]


def draw(series: list[Series], title: str, across: str, up: str) -> str:
    """The plot as an SVG document; each line is labelled where it ends."""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    left, right = math.log2(min(xs)), math.log2(max(xs))
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def at(x: float, y: float) -> tuple[float, float]:
        inner_x = (math.log2(x) - left) / (right - left)
        inner_y = (math.log10(y) - low) / (high - low)
        return (
            _LEFT + inner_x * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - inner_y * (_HEIGHT - _TOP - _BOTTOM),
        )

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="13" fill="#64748b">',
        f"<title>{escape(title)}</title>",
        f'<text x="{_LEFT}" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        _, y = at(min(xs), 10.0**power)
        lines += [
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
            ' stroke="#94a3b8" stroke-opacity="0.35"/>',
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_time(power)}</text>',
        ]
    for x in sorted(set(xs)):
        place, _ = at(x, 10.0**low)
        lines.append(
            f'<text x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">'
            f"{_bytes(x)}</text>"
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    lines += [
        f'<text x="{middle:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{escape(across)}</text>',
        f'<text transform="translate(18 {_HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text>",
    ]
    label = _TOP - 18.0
    ordered = sorted(series, key=lambda one: -one.points[-1][1])
    for one, color in zip(ordered, _COLORS, strict=False):
        places = [at(x, y) for x, y in one.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        lines.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5"'
            ' stroke-linejoin="round"/>'
        )
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
        label = max(places[-1][1] + 4, label + 18)  # one under the other where lines meet
        lines.append(
            f'<text x="{_WIDTH - _RIGHT + 10}" y="{label:.1f}" fill="{color}">'
            f"{escape(one.name)}</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


def _time(power: int) -> str:
    unit, scale = (("ns", 9), ("µs", 6), ("ms", 3), ("s", 0))[
        0 if power < -6 else 1 if power < -3 else 2 if power < 0 else 3
    ]
    return f"{10 ** (power + scale):g} {unit}"


def _bytes(size: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size}"
