"""A machine as the probes see it: files, devices, programs, CPU.

Every way out of the process goes through one `Machine`, so that a test can put a faithful fake
tree under `root` and answer the ioctls itself. Nothing here changes the machine: files are read,
devices are opened and closed again and asked for versions, programs are asked for their version.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import functools
import grp
import os
import platform
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from secgear.base.probing import commands

READ_LIMIT = 64 << 10
FACT_LIMIT = 200


class DeviceState(enum.Enum):
    """What opening a device for reading and writing said."""

    OPENS = "opens"
    ABSENT = "absent"
    DENIED = "denied"
    DEAD = "dead"
    FAILED = "failed"


class Device(msgspec.Struct, frozen=True):
    """A device node and whether it can be used.

    seen: one line for people. fix: what to do if it is there but can't be used.
    """

    name: str
    state: DeviceState
    seen: str
    fix: str = ""

    @property
    def usable(self) -> bool:
        """Whether it opened."""
        return self.state is DeviceState.OPENS

    @property
    def present(self) -> bool:
        """Whether there is a node of that name at all."""
        return self.state is not DeviceState.ABSENT


class Cpu(msgspec.Struct, frozen=True):
    """The first processor of /proc/cpuinfo; `flags` are the names Linux gives its features."""

    vendor: str = ""
    model: str = "unknown"
    flags: frozenset[str] = frozenset()


class Machine:
    """The machine under `root`.

    root: the real machine is ``/``; tests give a directory.
    arch: as ``uname -m`` says. search_path: directories for programs, as in PATH.
    open_device, ioctl, run: replace the system's; see `os.open`, `fcntl.ioctl`, `commands.run`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = "/",
        *,
        arch: str | None = None,
        search_path: Sequence[str] | None = None,
        open_device: Callable[[str, int], int] = os.open,
        ioctl: Callable[[int, int, int | bytes], int | bytes] | None = None,
        run: Callable[[list[str]], str | None] = commands.run,
    ) -> None:
        self.root = Path(root)
        self.arch = arch or platform.machine()
        if search_path is None:
            search_path = os.environ.get("PATH", os.defpath).split(os.pathsep)
        # Tools that administrators run live in sbin, which is not on everybody's PATH.
        self._search = [*search_path, "/usr/local/sbin", "/usr/sbin", "/sbin"]
        self._open_device = open_device
        self._ioctl = ioctl or _ioctl
        self._run = run
        self._outputs: dict[tuple[object, ...], str | None] = {}
        self._silent: set[tuple[object, ...]] = set()

    def path(self, name: str) -> Path:
        """Where the file that the machine calls `name` (absolute) is for us."""
        return self.root / name.lstrip("/")

    def exists(self, name: str) -> bool:
        """Whether there is a file, directory, socket or device of that name."""
        try:
            self.path(name).stat()
        except (OSError, ValueError):
            return False
        return True

    def names(self, directory: str) -> list[str]:
        """Sorted names in a directory; empty if it is absent or unreadable."""
        try:
            return sorted(os.listdir(self.path(directory)))  # noqa: PTH208  (names, not paths)
        except (OSError, ValueError):
            return []

    def read(self, name: str, limit: int = READ_LIMIT) -> str | None:
        """The first `limit` bytes of a regular file as text; None if it can't be read."""
        try:
            descriptor = os.open(
                self.path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            )
        except (OSError, ValueError):
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            collected = bytearray()
            # procfs and sysfs give at most a page or so at a time.
            while len(collected) < limit and (piece := os.read(descriptor, limit - len(collected))):
                collected += piece
            return collected.decode("utf-8", "replace")
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def parameter(self, module: str, name: str) -> str | None:
        """A kernel module's parameter as sysfs shows it; None if there is no such thing."""
        value = self.read(f"/sys/module/{module}/parameters/{name}")
        return None if value is None else clean(value)

    def device(self, name: str) -> Device:
        """Open a device for reading and writing, close it, and tell how that went."""
        return self.ask(name)[0]

    def ask(
        self, name: str, *requests: tuple[int, int | bytes]
    ) -> tuple[Device, list[int | bytes | None]]:
        """Open a device once and put ioctl `requests` (number, argument) to it.

        Only requests that ask, never ones that change anything. An answer is None when the device
        refuses the request or could not be opened.
        """
        nothing: list[int | bytes | None] = [None] * len(requests)
        try:
            descriptor = self._open_device(
                str(self.path(name)), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            )
        except (OSError, ValueError) as error:
            return self._unusable(name, error), nothing
        answers: list[int | bytes | None] = []
        try:
            for number, argument in requests:
                try:
                    answers.append(self._ioctl(descriptor, number, argument))
                except OSError:
                    answers.append(None)
        finally:
            os.close(descriptor)
        return Device(name, DeviceState.OPENS, "present, opens"), answers

    def which(self, *programs: str) -> str | None:
        """The machine's name of the first of `programs` that is installed.

        A program is a bare name that is looked up on the search path, or an absolute name.
        """
        for program in programs:
            directories = [""] if program.startswith("/") else self._search
            for directory in directories:
                name = f"{directory.rstrip('/')}/{program.lstrip('/')}"
                if self._executable(self.path(name)):
                    return name
        return None

    def output(self, program: str, *arguments: str) -> str | None:
        """What an installed program prints; None if it can't be run or does not answer in time.

        program: as `which` names it. Answers are kept until the program's file changes. A program
        that once did not answer is not asked again: each silence costs two seconds.
        """
        path = self.path(program)
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        version = (program, status.st_ino, status.st_size, status.st_mtime_ns)
        if version in self._silent:
            return None
        key = (*version, *arguments)
        if key not in self._outputs:
            self._outputs[key] = self._run([str(path), *arguments])
            if self._outputs[key] is None:
                self._silent.add(version)
        return self._outputs[key]

    @functools.cached_property
    def cpu(self) -> Cpu:
        """The first processor."""
        return parse_cpuinfo(self.read("/proc/cpuinfo") or "")

    def _executable(self, path: Path) -> bool:
        try:
            return stat.S_ISREG(path.stat().st_mode) and os.access(path, os.X_OK)
        except (OSError, ValueError):
            # For example a directory of PATH that this user may not enter.
            return False

    def _unusable(self, name: str, error: OSError | ValueError) -> Device:
        code = error.errno if isinstance(error, OSError) else None
        if code in {errno.ENOENT, errno.ENOTDIR}:
            return Device(name, DeviceState.ABSENT, "absent")
        if code == errno.EPERM:
            return Device(
                name,
                DeviceState.DENIED,
                "present, but opening it is forbidden",
                f"a container or security module forbids {name}: pass the device in, for example "
                f"with docker run --device {name}",
            )
        if code == errno.EACCES:
            return self._denied(name)
        if code in {errno.ENXIO, errno.ENODEV}:
            return Device(
                name,
                DeviceState.DEAD,
                "present, but no driver stands behind it",
                f"load the kernel module behind {name}, or remove the stale device node",
            )
        return Device(
            name,
            DeviceState.FAILED,
            f"present, but opening it fails: {clean(str(error.args[-1] if error.args else error))}",
            f"see dmesg for what the driver of {name} says",
        )

    def _denied(self, name: str) -> Device:
        """EACCES: say who may open the device and how to become one of them."""
        try:
            status = self.path(name).stat()
        except OSError:
            return Device(
                name,
                DeviceState.DENIED,
                "permission denied",
                f"a directory above {name} is closed to you; run as a user who may enter it",
            )
        mode = stat.S_IMODE(status.st_mode)
        try:
            group = grp.getgrgid(status.st_gid).gr_name
        except (KeyError, OSError):
            group = str(status.st_gid)
        seen = f"present, but permission denied (group {group}, mode {mode:04o})"
        if mode & 0o060 == 0o060 and status.st_gid != 0:
            fix = f"join its group: sudo usermod -aG {group} $USER, then log in again"
        else:
            fix = f"run as root, or let a group open {name} with a udev rule"
        return Device(name, DeviceState.DENIED, seen, fix)


@functools.cache
def this_machine() -> Machine:
    """The machine this process runs on; one object, so that programs are asked only once."""
    return Machine()


def clean(text: str, limit: int = FACT_LIMIT) -> str:
    """`text` as one printable line of at most `limit` characters.

    What a probe reads ends up on a terminal; control sequences must not.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _ioctl(descriptor: int, number: int, argument: int | bytes) -> int | bytes:
    # One signature for what typeshed keeps apart.
    return fcntl.ioctl(descriptor, number, argument)


def parse_cpuinfo(text: str) -> Cpu:
    """The first processor of the text of /proc/cpuinfo, whatever the architecture.

    x86 has ``vendor_id``, ``model name`` and ``flags``; Arm has ``CPU implementer``, ``CPU part``
    and ``Features`` (Linux, arch/*/kernel/cpu*/proc.c and cpuinfo.c).
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    model = fields.get("model name") or fields.get("hardware") or ""
    if not model and "cpu implementer" in fields:
        part = fields.get("cpu part", "unknown")
        model = f"Arm implementer {fields['cpu implementer']} part {part}"
    flags = fields.get("flags") or fields.get("features") or ""
    return Cpu(
        vendor=clean(fields.get("vendor_id", "")),
        model=clean(model) or "unknown",
        flags=frozenset(flags.split()),
    )
