"""The system call filter of a sealed enclave: an allow-list, for every thread.

What is in no table gets ENOSYS, so that a library tries something older; what is known and
refused gets EPERM. Signals, descriptors of others, sockets, processes, tracing, mounting, new
writable files: nothing on the list can make any of these.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from secgear.base.sandbox import bpf
from secgear.base.sandbox.bpf import Instruction
from secgear.base.sandbox.syscalls import ALLOWED, CHECKED, REFUSED
from secgear.base.sandbox.system import call, machine

_AUDIT_ARCH = (0xC000003E, 0xC00000B7)
_X32_BIT = 0x40000000
_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1

_PROT_WRITE, _PROT_EXEC = 2, 4
_MAP_ANONYMOUS = 0x20
_CLONE_THREAD = 0x10000
_O_WRITING = 0o3 | 0o100 | 0o1000 | 0o20000000  # access mode, O_CREAT, O_TRUNC, O_TMPFILE

PRCTL_ALLOWED = (
    3,  # PR_GET_DUMPABLE
    15,  # PR_SET_NAME
    16,  # PR_GET_NAME
    21,  # PR_GET_SECCOMP
    39,  # PR_GET_NO_NEW_PRIVS
    0x53564D41,  # PR_SET_VMA: glibc and allocators name their mappings
)
FCNTL_ALLOWED = (
    0,  # F_DUPFD
    1,  # F_GETFD
    2,  # F_SETFD
    3,  # F_GETFL
    4,  # F_SETFL
    1030,  # F_DUPFD_CLOEXEC
    1032,  # F_GETPIPE_SZ
    1034,  # F_GET_SEALS
)
"""Not F_SETOWN and F_SETSIG: with them a descriptor could send any signal to the host."""
IOCTL_ALLOWED = (
    0x5401,  # TCGETS: isatty
    0x5413,  # TIOCGWINSZ
    0x541B,  # FIONREAD
    0x5421,  # FIONBIO
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX
)

_ALLOW = bpf.answer(bpf.ALLOW)
_REFUSE = bpf.answer(bpf.errno(errno.EPERM))


def program(arch: int, pid: int, door: int = -1) -> list[Instruction]:
    """The filter for machine `arch` (index as in `system.MACHINES`) and the process `pid`.

    door: the one descriptor from which others can be received; -1 for none.
    """
    code = [
        bpf.load(bpf.ARCH),
        bpf.equal(_AUDIT_ARCH[arch], 1, 0),
        bpf.answer(bpf.KILL),
        bpf.load(bpf.NUMBER),
        # x32 calls have numbers of their own; a list of 64-bit numbers would miss them.
        bpf.at_least(_X32_BIT, 0, 1),
        bpf.answer(bpf.KILL),
    ]
    for numbers in ALLOWED.values():
        code += _if_number(numbers[arch], [_ALLOW])
    for name, block in _checks(pid, door).items():
        code += _if_number(CHECKED[name][arch], block)
    for numbers in REFUSED.values():
        code += _if_number(numbers[arch], [_REFUSE])
    code.append(bpf.answer(bpf.errno(errno.ENOSYS)))
    return code


def install(door: int = -1) -> None:
    """Put the filter in place for all threads of this process, `door` as in `program`.

    no_new_privs must be set. There is no way back. Raises OSError.
    """
    code = bpf.assemble(program(machine(), os.getpid(), door))
    instructions = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(instructions))
    tid = call("seccomp", _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.create_string_buffer(header))
    if tid:
        raise OSError(f"thread {tid} could not be brought under the filter")


def _if_number(number: int | None, block: list[Instruction]) -> list[Instruction]:
    """`block`, which ends in a verdict, for one system call; skipped for others."""
    return [] if number is None else [bpf.equal(number, 0, len(block)), *block]


def _checks(pid: int, door: int) -> dict[str, list[Instruction]]:
    return {
        # No writable and executable memory; executable only from a file, and since nothing here
        # can write a file or make a memfd, such a file holds what was there before.
        "mmap": [
            bpf.load(bpf.low(2)),
            bpf.any_bit(_PROT_EXEC, 0, 3),
            bpf.any_bit(_PROT_WRITE, 3, 0),
            bpf.load(bpf.low(3)),
            bpf.any_bit(_MAP_ANONYMOUS, 1, 0),
            _ALLOW,
            _REFUSE,
        ],
        "mprotect": [bpf.load(bpf.low(2)), bpf.any_bit(_PROT_EXEC, 1, 0), _ALLOW, _REFUSE],
        # Threads, not processes.
        "clone": [bpf.load(bpf.low(0)), bpf.any_bit(_CLONE_THREAD, 0, 1), _ALLOW, _REFUSE],
        "open": [bpf.load(bpf.low(1)), bpf.any_bit(_O_WRITING, 1, 0), _ALLOW, _REFUSE],
        "openat": [bpf.load(bpf.low(2)), bpf.any_bit(_O_WRITING, 1, 0), _ALLOW, _REFUSE],
        "prctl": [bpf.load(bpf.low(0)), *_one_of(PRCTL_ALLOWED)],
        "fcntl": [bpf.load(bpf.low(1)), *_one_of(FCNTL_ALLOWED)],
        "ioctl": [bpf.load(bpf.low(1)), *_one_of(IOCTL_ALLOWED)],
        # Read one's own limits, set none.
        "prlimit64": [
            bpf.load(bpf.low(0)),
            bpf.equal(0, 1, 0),
            bpf.equal(pid, 0, 5),
            bpf.load(bpf.low(2)),
            bpf.equal(0, 0, 3),
            bpf.load(bpf.high(2)),
            bpf.equal(0, 0, 1),
            _ALLOW,
            _REFUSE,
        ],
        # abort() signals its own thread.
        "tgkill": [bpf.load(bpf.low(0)), bpf.equal(pid, 0, 1), _ALLOW, _REFUSE],
        # Descriptors come through the door or not at all. Only code that was taken over could put
        # another descriptor in the door's place; for any other this keeps clients' out.
        "recvmsg": [bpf.load(bpf.low(0)), bpf.equal(door & 0xFFFFFFFF, 0, 1), _ALLOW, _REFUSE],
        # On the connected stream only: no address.
        "sendto": [
            bpf.load(bpf.low(4)),
            bpf.equal(0, 0, 3),
            bpf.load(bpf.high(4)),
            bpf.equal(0, 0, 1),
            _ALLOW,
            _REFUSE,
        ],
    }


def _one_of(values: tuple[int, ...]) -> list[Instruction]:
    last = len(values) - 1
    tests = [bpf.equal(value, last - at, 0 if at < last else 1) for at, value in enumerate(values)]
    return [*tests, _ALLOW, _REFUSE]
