"""The little of an operating system that collectors touch, so that a test can stand in for it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MAX_FILE = 8 << 20  # bytes: a CCEL area may have one MiB


def _ioctl(descriptor: int, request: int, argument: bytearray) -> int:
    result: int = fcntl.ioctl(descriptor, request, argument, True)
    return result


@dataclass(frozen=True)
class System:
    """root: below which ``/dev`` and ``/sys`` are. The functions are the system calls."""

    root: Path = Path("/")
    ioctl: Callable[[int, int, bytearray], int] = _ioctl
    mkdir: Callable[[Path], None] = Path.mkdir
    rmdir: Callable[[Path], None] = Path.rmdir

    def path(self, name: str) -> Path:
        """An absolute name below the root."""
        return self.root / name.lstrip("/")

    def read(self, path: Path) -> bytes:
        """A whole file, in one open. Raises OSError."""
        with path.open("rb", buffering=0) as file:
            parts: list[bytes] = []
            size = 0
            while part := file.read(1 << 20):
                size += len(part)
                if size > MAX_FILE:
                    raise OSError(27, "larger than expected", str(path))
                parts.append(part)
        return b"".join(parts)

    def write(self, path: Path, data: bytes) -> None:
        """`data` in one write, as attributes of configfs want it. Raises OSError."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(5, "written in part only", str(path))
        finally:
            os.close(descriptor)

    def open(self, name: str) -> int:
        """A device for reading and writing. Raises OSError."""
        return os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC)
