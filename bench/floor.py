"""The floor under every call between two processes: one cache line, there and back.

On a virtual machine the processors move on the host, and the floor with them, by a factor of
eight within seconds. So it is measured right before and right after each sample; the sample is
told with the regime that it fell into, and as a multiple of the floor.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_NEAR, _FAR = 180e-9, 300e-9
"""Seconds that tell processors that share a cache from those that don't."""


class Floor:
    """Compiles and runs the measurement. A context manager. Needs a C compiler and two processors.

    ours, theirs: processors of the two sides.
    """

    def __init__(self, ours: int = 0, theirs: int = 1) -> None:
        self._folder = tempfile.TemporaryDirectory()
        program = Path(self._folder.name) / "floor"
        source = Path(__file__).with_name("floor.c")
        subprocess.run(["cc", "-std=gnu11", "-O2", str(source), "-o", str(program)], check=True)
        self._process = subprocess.Popen(
            [str(program), str(ours), str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def measure(self) -> float:
        """Seconds of a round trip, now."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the measurement has ended")
        self._process.stdin.write(b".")
        return float(self._process.stdout.readline()) * 1e-9

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def regime(before: float, after: float) -> str:
    """``near``, ``far``, or ``mix`` for a sample during which the processors moved."""
    if max(before, after) < _NEAR:
        return "near"
    return "far" if min(before, after) > _FAR else "mix"
