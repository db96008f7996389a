"""Fake guests: configfs-tsm with the kernel's semantics, and devices that answer ioctls.

The fakes check what the kernel checks (numbers, sizes, order) and write through the addresses that
they are given, so that a wrong structure shows.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2

from secgear.middleware.attestation.collect import tsm
from secgear.middleware.attestation.collect.system import System


@dataclass
class Entry:
    inblob: bytes = b""
    privlevel: int = 0
    generation: int = 0
    read_generation: int = -1
    outblob: bytes = b""


@dataclass
class FakeTsm:
    """drivers/virt/coco/tsm.c, as far as user space sees it.

    report: makes the report for an entry. before_read: called before outblob is read, for races.
    errors: what a read of outblob answers, one after the other, before it works.
    """

    root: Path
    report: Callable[[Entry], bytes]
    provider: str | None = "sev_guest"
    auxblob: bytes = b""
    privlevel_floor: int = 0
    before_read: Callable[[Entry], None] = lambda _: None
    errors: list[int] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    made: int = 0

    def __post_init__(self) -> None:
        self._reports = self.root / tsm.REPORTS.lstrip("/")
        self._reports.mkdir(parents=True)

    @property
    def system(self) -> System:
        fake = self

        class FakeSystem(System):
            def read(self, path: Path) -> bytes:
                entry = fake._entry(path)
                return super().read(path) if entry is None else fake._read(entry, path)

            def write(self, path: Path, data: bytes) -> None:
                entry = fake._entry(path)
                if entry is None:
                    super().write(path, data)
                else:
                    fake._write(entry, path, data)

        return FakeSystem(self.root, mkdir=self._mkdir, rmdir=self._rmdir)

    def write_from_elsewhere(self, entry: Entry, data: bytes) -> None:
        """Another process writes to the same entry."""
        entry.inblob, entry.generation = data, entry.generation + 1

    def _mkdir(self, path: Path) -> None:
        if self.provider is None:
            raise OSError(errno.ENXIO, "No such device or address", str(path))
        assert path.parent == self._reports
        if path.name in self.entries:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        self.made += 1
        self.entries[path.name] = Entry()

    def _rmdir(self, path: Path) -> None:
        del self.entries[path.name]

    def _entry(self, path: Path) -> Entry | None:
        return self.entries.get(path.parent.name) if path.parents[1] == self._reports else None

    def _read(self, entry: Entry, path: Path) -> bytes:
        match path.name:
            case "provider":
                return f"{self.provider}\n".encode()
            case "generation":
                return f"{entry.generation}\n".encode()
            case "outblob" | "auxblob":
                if path.name == "outblob":
                    self.before_read(entry)
                    if self.errors:
                        raise OSError(self.errors.pop(0), "made to fail", str(path))
                if not entry.inblob:
                    raise OSError(errno.EINVAL, "Invalid argument", str(path))
                if entry.read_generation != entry.generation:
                    entry.outblob = self.report(entry)
                    entry.read_generation = entry.generation
                return entry.outblob if path.name == "outblob" else self.auxblob
            case name:
                raise FileNotFoundError(errno.ENOENT, name, str(path))

    def _write(self, entry: Entry, path: Path, data: bytes) -> None:
        if path.name == "inblob":
            if not 1 <= len(data) <= 64:
                raise OSError(errno.EINVAL, "Invalid argument", str(path))
            entry.inblob = data
        elif path.name == "privlevel":
            if not self.privlevel_floor <= int(data) <= 3:
                raise OSError(errno.EINVAL, "Invalid argument", str(path))
            entry.privlevel = int(data)
        else:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        entry.generation += 1


@dataclass
class FakeSevGuest:
    """drivers/virt/coco/sev-guest: SNP_GET_EXT_REPORT. answers: host errors before it works."""

    report: Callable[[bytes, int], bytes]
    certificates: bytes = b""
    host_errors: list[int] = field(default_factory=list)
    firmware_error: int = 0
    status: int = 0
    calls: int = 0

    def ioctl(self, _: int, request: int, argument: bytearray) -> int:
        self.calls += 1
        assert request == 0xC0205302
        assert len(argument) == (request >> 16) & 0x3FFF == 32
        version, inner, response, _ = struct.unpack("<B7xQQQ", argument)
        assert version != 0
        asked = ctypes.string_at(inner, 112)
        report_data, vmpl = struct.unpack_from("<64sI", asked)
        address, size = struct.unpack_from("<QI", asked, 96)
        if self.host_errors or self.firmware_error:
            host = self.host_errors.pop(0) if self.host_errors else 0
            struct.pack_into("<II", argument, 24, self.firmware_error, host)
            raise OSError(errno.EIO, "Input/output error")
        if size < len(self.certificates):
            needed = (len(self.certificates) + 4095) & ~4095
            ctypes.memmove(inner + 104, struct.pack("<I", needed), 4)
            struct.pack_into("<II", argument, 24, 0, 1)
            raise OSError(errno.ENOSPC, "No space left on device")
        ctypes.memmove(address, self.certificates, len(self.certificates))
        report = self.report(report_data, vmpl)
        answer = struct.pack("<II24x", self.status, len(report)) + report
        ctypes.memmove(response, answer, len(answer))
        return 0


@dataclass
class FakeNsm:
    """drivers/misc/nsm.c. answer: makes the module's answer from the decoded request."""

    answer: Callable[[Any], Any]
    size: int | None = None
    error: int = 0

    def ioctl(self, _: int, request: int, argument: bytearray) -> int:
        assert request == 0xC0200A00
        assert len(argument) == (request >> 16) & 0x3FFF == 32
        address, length, response, room = struct.unpack("<QQQQ", argument)
        assert length <= 0x1000
        assert room <= 0x3000
        if self.error:
            raise OSError(self.error, "made to fail")
        answer = self.answer(cbor2.loads(ctypes.string_at(address, length)))
        data = answer if isinstance(answer, bytes) else cbor2.dumps(answer)
        assert len(data) <= room
        ctypes.memmove(response, data, len(data))
        struct.pack_into("<Q", argument, 24, len(data) if self.size is None else self.size)
        return 0


def with_device(root: Path, name: str, ioctl: Callable[[int, int, bytearray], int]) -> System:
    """A system that has this device."""
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return System(root, ioctl=ioctl)
