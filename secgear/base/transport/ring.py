"""Switchless transport: messages through shared memory, without a system call while both are busy.

The native module is optional. Without it `available()` is False, `reason()` says why, and calls
take the stream. How the ring works, and what a hostile peer can do to it: docs/switchless-ring.md.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from secgear.base.transport._ring import Ring

try:
    from secgear.base.transport import _ring
except ImportError as error:
    _REASON = (
        f"the native ring can't be loaded: {error}"  # built for another machine, or damaged
        if importlib.util.find_spec("secgear.base.transport._ring")
        else "the native ring was not built when secgear was installed"
    )
else:
    _REASON = ""

FIX = "install a C compiler and Python's headers (Debian: gcc python3-dev), then secgear again"


def available() -> bool:
    """Whether rings can be opened in this process."""
    return not _REASON


def reason() -> str:
    """Why not; empty if they can."""
    return _REASON


def broken() -> type[ConnectionError]:
    """What is raised when the peer breaks the protocol; needs `available()`."""
    return _ring.RingBroken


class Geometry(NamedTuple):
    """Shape of a lane. Each side has it from its own configuration, never from shared memory.

    slots: messages under way in a direction, a power of two. arena: bytes under way in a
    direction, a power of two from 4096; 1 MiB and more keep both sides copying at once.
    limit: bytes of one message; larger than the arena is possible, it then goes in pieces.
    """

    slots: int = 64
    arena: int = 1 << 20
    limit: int = 1 << 20

    @property
    def size(self) -> int:
        """Bytes of a lane, a multiple of 4096. Raises ValueError for an impossible shape."""
        return _ring.lane_size(self.slots, self.arena)


def open_lane(
    memory: WriteableBuffer,
    geometry: Geometry,
    *,
    host: bool,
    spin: int = 200,
    bell: tuple[int, int] | None = None,
) -> Ring:
    """This side's end of the lane in `memory`, which has `geometry.size` zero bytes at first.

    Other parameters as in `Ring`. Call only when `available()`.
    """
    return _ring.Ring(memory, host=host, spin=spin, bell=bell, **geometry._asdict())
