"""The enclave's half: leases of what the host shares, from which everything is copied first.

The host can change shared memory at any time, between two looks at the same byte too. So nothing
here gives a view of it: what is parsed, decrypted or computed with is a private copy, made once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, final

from secgear.base.shared import Shared
from secgear.errors import SharedBufferError


@final
class Lease(Shared):
    """A buffer of the host's, for the call that it was passed to.

    Every method copies, and raises SharedBufferError once the call has ended.
    """

    __slots__ = ("_shared", "_size")

    def __init__(self, shared: memoryview) -> None:
        self._shared: memoryview | None = shared
        self._size = len(shared)

    def __repr__(self) -> str:
        return f"<Lease of {self._size} bytes{'' if self._shared is not None else ', ended'}>"

    def __len__(self) -> int:
        return self._size

    def close(self) -> None:
        """End the lease; the runtime does when the call returns. Idempotent."""
        shared, self._shared = self._shared, None
        if shared is not None:
            with contextlib.suppress(BufferError):  # another thread is copying: the last time
                shared.release()

    def _bytes(self) -> memoryview:
        if self._shared is None:
            raise SharedBufferError("this lease has ended with the call that it was given to")
        return self._shared


class _Pool:
    """What the host shares with this enclave. token: how it names it."""

    memory: memoryview | None = None
    token = 0


_pool = _Pool()


def install(memory: memoryview, token: int) -> None:
    """Called once by the runtime: leases are of `memory`, which the host calls `token`."""
    _pool.memory, _pool.token = memory, token


def lease(value: Any, attachment: Callable[[Any], bytearray]) -> Lease:
    """The lease of what a message refers to. Raises ValueError."""
    if not isinstance(value, list):
        return Lease(memoryview(attachment(value)))
    if len(value) != 3 or not all(type(number) is int for number in value):
        raise ValueError("malformed reference to a shared buffer")
    token, start, size = value
    if _pool.memory is None or token != _pool.token:
        raise ValueError("a shared buffer of another enclave")
    if not 0 <= start <= start + size <= len(_pool.memory) or not size:
        raise ValueError("a shared buffer outside the shared memory")
    return Lease(_pool.memory[start : start + size])


def end_leases(values: dict[str, Any]) -> None:
    """The call that these arguments were for is over."""
    for value in values.values():
        if isinstance(value, Lease):
            value.close()
