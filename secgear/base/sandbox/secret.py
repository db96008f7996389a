"""Memory for keys: pages that the kernel itself does not map (`memfd_secret(2)`).

Not even a read through ``/proc/PID/mem`` by root shows them. Root can still make the process run
code that reads them, so this is a layer, not a wall.
"""

from __future__ import annotations

import ctypes
import hmac
import mmap
import os
import threading
from types import TracebackType
from typing import Any, Self, final

from secgear.base.sandbox.system import call
from secgear.errors import GuestError

_SLOT = 64
_MADV_DONTDUMP, _MADV_DONTFORK = 16, 10


@final
class SecretPool:
    """A fixed piece of secret memory, made before sealing, from which secrets are cut.

    backing: ``memfd_secret``, or ``locked`` where the kernel has no secret memory: ordinary pages,
    locked where allowed, left out of dumps and forks.
    """

    def __init__(self, size: int = 64 << 10) -> None:
        self._map, self.backing = _secret_pages(size)
        self._view = memoryview(self._map)
        self._free = set(range(size // _SLOT))
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"SecretPool({self.backing})"

    def allocate(self, size: int) -> SecretMemory:
        """Memory for `size` bytes, zeroed. Raises GuestError when the pool is full."""
        count = max(1, -(-size // _SLOT))
        with self._lock:
            run: list[int] = []
            for slot in sorted(self._free):
                run = [*run, slot] if run and slot == run[-1] + 1 else [slot]
                if len(run) == count:
                    break
            else:
                raise GuestError("no secret memory left; close keys that are no longer needed")
            self._free.difference_update(run)
        start = run[0] * _SLOT
        return SecretMemory(self, self._view[start : start + size], run)

    def give_back(self, view: memoryview, slots: list[int]) -> None:
        """Zero and free what `allocate` gave."""
        view[:] = bytes(len(view))
        view.release()
        with self._lock:
            self._free.update(slots)


@final
class SecretMemory:
    """A secret. It can be used through `view`, compared, and wiped; it can't be shown.

    Wiped by `close`, at the end of a ``with`` block, and when it is collected.
    """

    def __init__(self, pool: SecretPool, view: memoryview, slots: list[int]) -> None:
        self._pool = pool
        self._view: memoryview | None = view
        self._slots = slots

    def __repr__(self) -> str:
        return "SecretMemory(…)"

    def __len__(self) -> int:
        return len(self.view())

    def __reduce__(self) -> Any:
        raise TypeError("a secret can't be pickled")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_view", None) is not None:
            self.close()

    @property
    def backing(self) -> str:
        """See `SecretPool.backing`."""
        return self._pool.backing

    def view(self) -> memoryview:
        """The secret in place, for functions that take bytes-like keys. Raises once closed."""
        if self._view is None:
            raise GuestError("this secret was closed")
        return self._view

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Put `data`, which has the secret's size, in place."""
        self.view()[:] = data

    def matches(self, other: bytes | bytearray | memoryview) -> bool:
        """Whether `other` is the same, in constant time."""
        return hmac.compare_digest(self.view(), other)

    def close(self) -> None:
        """Wipe and free. Idempotent."""
        view, self._view = self._view, None
        if view is not None:
            self._pool.give_back(view, self._slots)


def _secret_pages(size: int) -> tuple[mmap.mmap, str]:
    try:
        fd = call("memfd_secret", os.O_CLOEXEC)
    except OSError:
        return _locked_pages(size), "locked"
    try:
        os.ftruncate(fd, size)
        return mmap.mmap(fd, size), "memfd_secret"
    except OSError:
        return _locked_pages(size), "locked"
    finally:
        os.close(fd)


def _locked_pages(size: int) -> mmap.mmap:
    pages = mmap.mmap(-1, size)
    pages.madvise(_MADV_DONTDUMP)
    pages.madvise(_MADV_DONTFORK)
    holder = ctypes.c_char.from_buffer(pages)
    # Best effort: RLIMIT_MEMLOCK may be zero, and then the pages can be swapped out.
    ctypes.CDLL(None).mlock(ctypes.c_void_p(ctypes.addressof(holder)), ctypes.c_size_t(size))
    del holder
    return pages
