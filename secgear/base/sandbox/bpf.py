"""A few classic BPF instructions, as seccomp filters use them.

Jumps are relative and at most 255 long, so a filter here is a row of short blocks, each of which
ends in a return or falls through to the next. Source: ``Documentation/networking/filter.rst`` and
``uapi/linux/{bpf_common,filter,seccomp}.h``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06

ALLOW = 0x7FFF0000
KILL = 0x80000000
NUMBER, ARCH = 0, 4


def errno(number: int) -> int:
    """The return value that makes a system call fail with `number`."""
    return 0x00050000 | number


class Instruction(NamedTuple):
    """One instruction: code, jumps if true and false, constant."""

    code: int
    true: int
    false: int
    value: int


def load(offset: int) -> Instruction:
    """Load the 32-bit word at `offset` of `struct seccomp_data`."""
    return Instruction(_LOAD, 0, 0, offset)


def low(argument: int) -> int:
    """Offset of the lower half of an argument (both machines are little endian)."""
    return 16 + 8 * argument


def high(argument: int) -> int:
    """Offset of the upper half of an argument."""
    return low(argument) + 4


def equal(value: int, true: int, false: int) -> Instruction:
    """Skip `true` instructions if the word is `value`, else `false`."""
    return Instruction(_JUMP_EQUAL, true, false, value)


def any_bit(mask: int, true: int, false: int) -> Instruction:
    """Skip `true` instructions if a bit of `mask` is set, else `false`."""
    return Instruction(_JUMP_SET, true, false, mask)


def at_least(value: int, true: int, false: int) -> Instruction:
    """Skip `true` instructions if the word is `value` or more, else `false`."""
    return Instruction(_JUMP_GREATER_EQUAL, true, false, value)


def answer(value: int) -> Instruction:
    """End with this verdict."""
    return Instruction(_RETURN, 0, 0, value)


def assemble(program: list[Instruction]) -> bytes:
    """The program as the kernel takes it (`struct sock_filter`). Raises ValueError if too long."""
    if len(program) > 4096:
        raise ValueError("a filter has at most 4096 instructions")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
