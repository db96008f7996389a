"""The attacker: a process of the same user, without privileges, against a process it did not start.

Stand-alone, standard library only. ``attack PID NEEDLE`` tries everything that Linux offers one
process to look into another, prints the outcomes as JSON, and looks for NEEDLE in what it gets.
``victim`` is an ordinary process to try the same on: it holds what it reads on standard input in
its memory and in an open file until that ends.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17  # <sys/ptrace.h>, all architectures
_WALL = 0x40000000  # __WALL, waitpid(2)
_PIDFD_GETFD = 438  # all architectures, pidfd_getfd(2)
_CAPABILITY_VERSION_3 = 0x20080522  # capget(2)
_PR_SET_PTRACER, _PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)  # PR_SET_PTRACER(2const)

_CHUNK = 1 << 20
_MOST = 512 << 20  # bytes of the target's memory that are searched
_DESCRIPTORS = 64

# Permission denied in one of its forms. A process hidden by hidepid (proc(5)) looks absent.
_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOENT)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_libc.process_vm_readv.restype = ctypes.c_ssize_t


class _IoVec(ctypes.Structure):
    """``struct iovec``, readv(2)."""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def drop_capabilities() -> None:
    """Give up every capability for good, capset(2)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise _error("capset")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


# --- the attacks: each returns what it got, in words, or raises OSError --------------------------


def list_memory(pid: int, needle: bytes) -> str:
    """Where everything lies in the target's memory."""
    return f"{len(_areas(pid))} memory areas"


def read_mem_file(pid: int, needle: bytes) -> str:
    """Read memory as a file."""
    descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return _search(pid, needle, lambda start, size: os.pread(descriptor, size, start))
    finally:
        os.close(descriptor)


def read_by_system_call(pid: int, needle: bytes) -> str:
    """Copy memory from process to process, process_vm_readv(2)."""
    buffer = ctypes.create_string_buffer(_CHUNK)

    def read(start: int, size: int) -> bytes:
        local, remote = _IoVec(ctypes.addressof(buffer), size), _IoVec(start, size)
        count = _libc.process_vm_readv(
            pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, ctypes.c_ulong(0)
        )
        if count < 0:
            raise _error("process_vm_readv")
        return buffer.raw[:count]

    try:
        read(ctypes.addressof(buffer), 1)
    except OSError as error:
        # The kernel asks for permission before it looks at the address, so any address tells.
        if error.errno != errno.EFAULT:
            raise
    return _search(pid, needle, read)


def list_descriptors(pid: int, needle: bytes) -> str:
    """What files and sockets the target has open."""
    return f"{len(list(Path(f'/proc/{pid}/fd').iterdir()))} descriptors"


def steal_descriptor(pid: int, needle: bytes) -> str:
    """Take over open files and sockets of the target."""
    target = os.pidfd_open(pid)
    stolen = 0
    read = b""
    try:
        for number in range(_DESCRIPTORS):
            copy = _libc.syscall(_PIDFD_GETFD, target, number, 0)
            if copy >= 0:
                stolen += 1
                read += _peek(copy)
                os.close(copy)
            elif ctypes.get_errno() != errno.EBADF:
                raise _error("pidfd_getfd")
    finally:
        os.close(target)
    return f"{stolen} descriptors" + _found(needle, read)


def read_environment(pid: int, needle: bytes) -> str:
    """The environment that the target was started with."""
    data = Path(f"/proc/{pid}/environ").read_bytes()
    return f"{len(data)} bytes" + _found(needle, data)


def attach_debugger(pid: int, needle: bytes) -> str:
    """Stop the target and control it like a debugger."""
    if _libc.ptrace(_PTRACE_ATTACH, pid, None, None) != 0:
        raise _error("ptrace")
    os.waitpid(pid, _WALL)
    _libc.ptrace(_PTRACE_DETACH, pid, None, None)
    return "attached and stopped it"


ATTACKS: dict[str, Callable[[int, bytes], str]] = {
    "/proc/PID/maps": list_memory,
    "/proc/PID/mem": read_mem_file,
    "process_vm_readv": read_by_system_call,
    "/proc/PID/fd": list_descriptors,
    "pidfd_getfd": steal_descriptor,
    "/proc/PID/environ": read_environment,
    "ptrace": attach_debugger,
}


def _areas(pid: int) -> list[tuple[int, int]]:
    """Start and end of the target's writable private memory, the likely place of its data."""
    areas = []
    for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
        span, mode = line.split()[:2]
        start, _, end = span.partition(b"-")
        if mode == b"rw-p":
            areas.append((int(start, 16), int(end, 16)))
    return areas


def _search(pid: int, needle: bytes, read: Callable[[int, int], bytes]) -> str:
    seen = 0
    for start, size in _chunks(_areas(pid)):
        try:
            data = read(start, size)
        except OSError as error:
            if error.errno in _REFUSALS:
                raise
            continue  # a guard page, or memory that was given back meanwhile
        seen += len(data)
        if needle in data:
            return f"found {needle.decode()!r}"
        if seen > _MOST:
            break
    return f"{seen} bytes of memory"


def _chunks(areas: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in areas:
        for place in range(start, end, _CHUNK):
            yield place, min(_CHUNK, end - place)


def _peek(descriptor: int) -> bytes:
    """What a stolen file holds; empty for what has no content to read at a place."""
    try:
        return os.pread(descriptor, _CHUNK, 0)
    except OSError:
        return b""


def _found(needle: bytes, data: bytes) -> str:
    return f", {needle.decode()!r} in them" if needle in data else ""


# --- the two roles -------------------------------------------------------------------------------


def attack(pid: int, needle: bytes) -> dict[str, object]:
    """Every attack's outcome: refused, succeeded, or failed for another reason than permission."""
    drop_capabilities()
    outcomes = []
    for means, function in ATTACKS.items():
        outcome = {"means": means, "result": "succeeded", "errno": "", "detail": ""}
        try:
            outcome["detail"] = function(pid, needle)
        except OSError as error:
            outcome["result"] = "refused" if error.errno in _REFUSALS else "failed"
            outcome["errno"] = errno.errorcode.get(error.errno or 0, str(error.errno))
            outcome["detail"] = error.strerror or str(error)
        outcomes.append(outcome)
    os.kill(pid, 0)  # raises if it is gone: what is not there refuses nothing
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "uid": os.getuid(),
        "capabilities": fields["CapEff"].strip(),
        "outcomes": outcomes,
    }


def be_victim() -> None:
    """Hold a secret in memory and in an open file, as any program does, until input ends."""
    drop_capabilities()
    # Where Yama (kernel/Documentation/admin-guide/LSM/Yama.rst) lets only parents look into a
    # process, this one waives that, or there would be nothing to compare with.
    _libc.prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)
    secret = sys.stdin.buffer.readline()
    file = os.memfd_create("secret")
    os.write(file, secret)
    print("ready", flush=True)
    sys.stdin.buffer.read()


def main() -> None:
    """``attack PID NEEDLE`` or ``victim``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1] == "victim":
        be_victim()
    else:
        print(json.dumps(attack(int(sys.argv[2]), sys.argv[3].encode())))


if __name__ == "__main__":
    main()
