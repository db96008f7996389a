"""Landlock: which files a process may touch, set by itself, for good.

Source: the kernel's ``Documentation/userspace-api/landlock.rst`` and ``uapi/linux/landlock.h``.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from secgear.base.sandbox.system import call

_CREATE_VERSION = 1
_RULE_PATH_BENEATH = 1

_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_FIRST_RIGHTS = (1 << 13) - 1  # ABI 1: execute, write, read, remove and make of all kinds
_RIGHTS_SINCE = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # refer, truncate, ioctl on devices
_TCP = 0b11  # bind and connect, ABI 4
_SCOPES = 0b11  # abstract Unix sockets and signals, ABI 6


def abi() -> int:
    """The kernel's Landlock version, 0 without Landlock."""
    try:
        return call("landlock_create_ruleset", None, 0, _CREATE_VERSION)
    except OSError:
        return 0


def restrict(readable: Iterable[str]) -> int:
    """Allow reading below `readable` and nothing else: no writing, no TCP, no signals outside.

    Covers the calling thread and those it starts later, so it must come before any other thread.
    no_new_privs must be set. Returns the ABI used. Raises OSError, with nothing restricted.
    """
    version = abi()
    if not version:
        raise OSError("the kernel has no Landlock (CONFIG_SECURITY_LANDLOCK, or lsm= without it)")
    files = _FIRST_RIGHTS
    for since, right in _RIGHTS_SINCE.items():
        files |= right if version >= since else 0
    attributes = struct.pack("<Q", files)
    if version >= 4:
        attributes += struct.pack("<Q", _TCP)
    if version >= 6:
        attributes += struct.pack("<Q", _SCOPES)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = call("landlock_create_ruleset", buffer, len(attributes), 0)
    try:
        for path in readable:
            _allow_reading(ruleset, path)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow_reading(ruleset: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no permission
    try:
        rights = _READ_FILE
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            rights |= _READ_DIR
        rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, fd), 12)
        call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(fd)
