"""System calls that Python has no function for, through libc's `syscall`."""

from __future__ import annotations

import ctypes
import os
import platform

MACHINES = ("x86_64", "aarch64")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# Numbers that are the same on both machines, and those that are not: (x86-64, aarch64).
_NUMBERS = {
    "capset": (126, 91),
    "unshare": (272, 97),
    "seccomp": (317, 277),
    "prctl": (157, 167),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "memfd_secret": (447, 447),
}


def machine() -> int:
    """Index into a pair of (x86-64, aarch64). Raises OSError elsewhere."""
    name = platform.machine()
    if name not in MACHINES:
        raise OSError(f"no table of system calls for {name}")
    return MACHINES.index(name)


def call(name: str, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """The system call `name`. Raises OSError with its errno."""
    converted = [
        ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments
    ]
    result: int = _libc.syscall(ctypes.c_long(_NUMBERS[name][machine()]), *converted)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, *arguments: int) -> int:
    """`prctl(2)`; arguments that are not given are 0. Raises OSError."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    return call("prctl", option, *padded)
