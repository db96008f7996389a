"""Python source as text: names that don't collide, imports, literals, wrapped lines.

An app may call an ECALL ``list``, a field ``datetime`` and a type ``Iterator``. In generated code
such a name would hide what an annotation means by it, so whatever the app uses is *taken*, and
everything else steps aside: ``list`` is then written ``_list``.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable

WIDTH = 88
"""Columns; what ruff and black take unless told otherwise."""
INDENT = "    "
_SHORT = {"numpy": "np", "numpy.typing": "npt", "pyarrow": "pa"}


class Names:
    """The names of one module.

    taken: identifiers that belong to the app.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._local: dict[tuple[str, str], str] = {}

    def own(self, wanted: str) -> str:
        """A name for something public that the module defines."""
        while wanted in self._taken:
            wanted += "_"
        self._taken.add(wanted)
        return wanted

    def private(self, wanted: str) -> str:
        """A name for something that only the module itself uses, or for a second name."""
        wanted = f"_{wanted}"
        while wanted in self._taken:
            wanted = f"_{wanted}"
        self._taken.add(wanted)
        return wanted

    def use(self, module: str, name: str = "") -> str:
        """What `name` of `module`, or the module itself, is called here; it gets imported."""
        key = (module, name)
        if key not in self._local:
            wanted = name or _SHORT.get(module, module)
            self._local[key] = self.private(wanted) if wanted in self._taken else wanted
            self._taken.add(wanted)
        return self._local[key]

    def builtin(self, name: str) -> str:
        """What a built-in is called here."""
        return self.use("builtins", name) if name in self._taken else name

    def imports(self) -> list[str]:
        """Import statements in the order that isort and ruff keep."""
        groups: list[list[str]] = [[], []]
        for plain in (True, False):
            modules = sorted({module for module, name in self._local if bool(name) != plain})
            for module in modules:
                standard = module.partition(".")[0] in sys.stdlib_module_names
                groups[not standard] += self._import(module) if plain else self._from(module)
        return [line for group in groups if group for line in ["", *group]]

    def _import(self, module: str) -> list[str]:
        local = self._local[module, ""]
        statement = f"import {module}" if local == module else f"import {module} as {local}"
        # It has no type information; should that change, this is no error either.
        untyped = "  # type: ignore[import-untyped, unused-ignore]"
        return [statement + (untyped if module == "pyarrow" else "")]

    def _from(self, module: str) -> list[str]:
        found = {name: local for (of, name), local in self._local.items() if of == module and name}
        plain = sorted((name for name in found if found[name] == name), key=_import_order)
        lines = [
            (name, [f"from {module} import {name} as {found[name]}"])
            for name in found
            if found[name] != name
        ]
        if plain:
            lines.append((plain[0], wrapped(f"from {module} import ", plain, "", ("(", ")"))))
        lines.sort(key=lambda entry: _import_order(entry[0]))
        return [line for _, statement in lines for line in statement]


def _import_order(name: str) -> tuple[int, str]:
    """Constants, classes, functions."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2, name)


def wrapped(
    head: str,
    items: list[str],
    tail: str,
    brackets: tuple[str, str] = ("", ""),
    *,
    compact: bool = False,
) -> list[str]:
    """``head`` + items with commas + ``tail``, in one line if it fits, else one item a line.

    brackets: what goes around the items only when there are several lines.
    compact: whether all items may share one line of their own.
    """
    line = head + ", ".join(items) + tail
    if not items or len(line) <= WIDTH:
        return [line]
    margin = head[: len(head) - len(head.lstrip())]
    opening, closing = brackets
    together = f"{margin}{INDENT}{', '.join(items)}"
    if compact and len(together) <= WIDTH:
        return [head + opening, together, margin + closing + tail]
    return [
        head + opening,
        *(f"{margin}{INDENT}{item}," for item in items),
        margin + closing + tail,
    ]


def text(value: str) -> str:
    """A literal, in double quotes unless that takes more escapes; what formatters prefer."""
    quote = "'" if value.count('"') > value.count("'") else '"'
    other = "'" if quote == '"' else '"'
    # A piece that starts with the other quote and has none of this one: repr must choose this one.
    pieces = [repr(other + piece)[2:-1] for piece in value.split(quote)]
    return quote + f"\\{quote}".join(pieces) + quote


def literal(value: object) -> str:
    """A literal of None, bool, int, float or str."""
    return text(value) if isinstance(value, str) else repr(value)


def docstring(paragraphs: Iterable[str], indent: str) -> list[str]:
    """A docstring of these paragraphs; nothing in them can end it."""
    lines: list[str] = []
    for paragraph in paragraphs:
        safe = paragraph.replace("\\", "\\\\").replace('"', '\\"' if '""' in paragraph else '"')
        room = WIDTH - len(indent) - 6
        block = textwrap.wrap(safe, room, break_long_words=False, break_on_hyphens=False)
        lines += ["", *block] if lines and block else block
    if lines[-1].endswith('"') and not lines[-1].endswith('\\"'):
        lines[-1] = lines[-1][:-1] + '\\"'
    if len(lines) == 1:
        return [f'{indent}"""{lines[0]}"""']
    return [
        f'{indent}"""{lines[0]}',
        *(f"{indent}{line}".rstrip() for line in lines[1:]),
        f'{indent}"""',
    ]


def bytes_lines(data: bytes, indent: str) -> list[str]:
    """A long bytes literal in several lines, to stand in parentheses."""
    lines = []
    start = 0
    while start < len(data):
        size = WIDTH - len(indent) - 3
        while len(piece := _raw(data[start : start + size])) > WIDTH - len(indent):
            size -= max(1, (len(piece) - WIDTH + len(indent)) // 4)
        lines.append(indent + piece)
        start += size
    return lines


def _raw(data: bytes) -> str:
    """A bytes literal in the quotes that `text` would choose."""
    plain = repr(data)
    return f'b"{plain[2:-1]}"' if plain[1] == "'" and b'"' not in data else plain
