"""Sealing a process in: two steps, with the app's imports in between.

`begin` comes first, while there is a single thread, because Landlock covers only the calling
thread and what it starts: OpenBLAS and others start threads when they are imported, and those
must be covered too. `finish` comes after the imports, because importing may need system calls
that serving does not; its filter is put on every thread.

A layer that can't be had is reported, not hidden: whoever launches decides whether that will do.
Each layer of `finish` is tried before it is said to hold.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import signal
import socket
from collections.abc import Callable

import msgspec

from secgear.base.sandbox import landlock, seccomp
from secgear.base.sandbox.secret import SecretPool
from secgear.base.sandbox.system import call, prctl
from secgear.base.tee import Layer

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_GET_DUMPABLE = 1, 4, 3
_PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 24, 28, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
_SECUREBITS_ALL_LOCKED = 0xEF  # no root magic, no setuid fix-up, no ambient; each locked
_CAPABILITY_VERSION_3 = 0x20080522
_NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_SYSTEM = (
    "/dev/null",
    "/dev/urandom",
    "/etc/localtime",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    # DuckDB stats the cgroup's quota, then opens it, and aborts when that is refused.
    "/sys/fs/cgroup",
    "/usr/share/zoneinfo",
)


class SealConfig(msgspec.Struct, frozen=True):
    """What a process may keep.

    host_pid: whose death ends it. read_paths: files and folders it may read.
    memory_limit: bytes of private writable memory. keep_fds: descriptors to keep, beside 0 to 2.
    open_files: how many descriptors it may have.
    """

    host_pid: int
    read_paths: tuple[str, ...]
    memory_limit: int
    keep_fds: tuple[int, ...]
    open_files: int = 256


_pool: SecretPool | None = None


def pool() -> SecretPool:
    """The secret memory that `begin` has set aside."""
    if _pool is None:
        raise RuntimeError("begin() sets the secret memory aside")
    return _pool


def begin(config: SealConfig) -> list[Layer]:
    """First step, in a fresh interpreter with one thread. Raises RuntimeError if there are more."""
    global _pool  # noqa: PLW0603  (one process is sealed once)
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208  (pathlib is not loaded here)
        raise RuntimeError("sealing begins before any other thread is started")
    _pool = SecretPool()
    secret = _pool.backing == "memfd_secret"
    return [
        _layer("not_dumpable", _undumpable),
        # Before the parent-death signal, which a gain of capabilities in a new namespace clears.
        _layer("namespaces", _unshare),
        _layer("dies_with_host", lambda: _die_with(config.host_pid)),
        _layer("no_new_privs", lambda: prctl(_PR_SET_NO_NEW_PRIVS, 1)),
        _layer("closed_descriptors", lambda: _close_others(config.keep_fds)),
        _layer("capabilities", _drop_capabilities),
        _layer("rlimits", lambda: _limit(config)),
        _layer("landlock", lambda: landlock.restrict([*config.read_paths, *_LIBRARIES, *_SYSTEM])),
        Layer(
            "secret_memory", secret, "" if secret else "no memfd_secret; keys lie in locked pages"
        ),
    ]


def finish(door: int = -1) -> list[Layer]:
    """Second step, after the imports. From here on nothing can be undone or added.

    door: the one descriptor from which others may be received; -1 for none.
    """
    # Kernel 6.3 and later refuse to make memory executable by themselves; the filter does too.
    with contextlib.suppress(OSError):
        prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return [
        _layer("seccomp", lambda: _filter(door)),
        _layer("w_xor_x", lambda: _expect_refusal("writable and executable memory", _map_wx)),
    ]


def _layer(name: str, work: Callable[[], object]) -> Layer:
    try:
        work()
    except OSError as error:
        return Layer(name, False, error.strerror or str(error))
    return Layer(name, True)


def _undumpable() -> None:
    # Set after exec, so that the process belongs to the host's user namespace for good: one who
    # owns the namespace in which a program was executed may trace it, dumpable or not.
    prctl(_PR_SET_DUMPABLE, 0)
    if prctl(_PR_GET_DUMPABLE) != 0:
        raise OSError("the process is still dumpable")


def _unshare() -> None:
    call("unshare", _NEW_NAMESPACES)


def _die_with(host: int) -> None:
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host:  # it died before the line above
        os._exit(4)


def _close_others(keep: tuple[int, ...]) -> None:
    start = 3
    for fd in sorted(keep):
        if fd >= start:
            os.closerange(start, fd)
            start = fd + 1
    os.closerange(start, 1 << 20)


def _drop_capabilities() -> None:
    # In a namespace of its own the process has them all; without one these calls may be refused,
    # and then there was nothing to drop. What counts is looked at below.
    with contextlib.suppress(OSError):
        prctl(_PR_SET_SECUREBITS, _SECUREBITS_ALL_LOCKED)
    with contextlib.suppress(OSError):
        for capability in range(64):
            prctl(_PR_CAPBSET_DROP, capability)
    with contextlib.suppress(OSError):
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    import ctypes
    import struct

    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    call("capset", header, ctypes.create_string_buffer(24))
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123
        held = [line for line in status if line.startswith(("CapPrm:", "CapEff:", "CapAmb:"))]
    if any(int(line.split()[1], 16) for line in held):
        raise OSError(errno.EPERM, "capabilities are left")


def _limit(config: SealConfig) -> None:
    # Private writable memory, not address space: numpy and DuckDB reserve much they never touch.
    limits = {
        resource.RLIMIT_DATA: config.memory_limit,
        resource.RLIMIT_NOFILE: config.open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (bound, bound))
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from error


def _filter(door: int) -> None:
    seccomp.install(door)
    _expect_refusal("a socket", lambda: socket.socket().close())
    _expect_refusal("a writable file", lambda: os.close(os.open("/dev/null", os.O_WRONLY)))
    _expect_refusal("a process", _fork)


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _map_wx() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _expect_refusal(what: str, attempt: Callable[[], None]) -> None:
    try:
        attempt()
    except OSError:
        return
    raise OSError(errno.EPERM, f"{what} could be had after sealing")
