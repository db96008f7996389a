"""The filter as a program: evaluated instruction by instruction, for both machines."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.sandbox import bpf, seccomp
from secgear.base.sandbox.bpf import Instruction
from secgear.base.sandbox.syscalls import ALLOWED, CHECKED, REFUSED

PID, DOOR = 4242, 9
ARCHES = {0: 0xC000003E, 1: 0xC00000B7}
PROGRAMS = {arch: seccomp.program(arch, PID, DOOR) for arch in ARCHES}
EPERM, ENOSYS = bpf.errno(errno.EPERM), bpf.errno(errno.ENOSYS)


def evaluate(program: list[Instruction], data: bytes) -> int:
    """Classic BPF as the kernel runs it."""
    word = at = 0
    for _ in range(len(program) + 1):
        code, true, false, value = program[at]
        at += 1
        if code == 0x20:
            (word,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return value
        else:
            holds = {0x15: word == value, 0x45: bool(word & value), 0x35: word >= value}[code]
            at += true if holds else false
    raise AssertionError("no verdict")


def data(arch: int, number: int, arguments: list[int]) -> bytes:
    return struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *arguments)


def policy(arch: int, number: int, args: list[int]) -> int:
    """The filter in plain words."""
    by_number = {
        numbers[arch]: (table, name)
        for table, entries in (("allowed", ALLOWED), ("checked", CHECKED), ("refused", REFUSED))
        for name, numbers in entries.items()
        if numbers[arch] is not None
    }
    table, name = by_number.get(number, ("unknown", ""))
    if table == "allowed":
        return bpf.ALLOW
    if table == "unknown":
        return ENOSYS
    if table == "refused":
        return EPERM
    low = [value & 0xFFFFFFFF for value in args]
    fine = {
        "mmap": not low[2] & 4 or not (low[2] & 2 or low[3] & 0x20),
        "mprotect": not low[2] & 4,
        "clone": bool(low[0] & 0x10000),
        "open": not low[1] & (3 | 0o100 | 0o1000 | 0o20000000),
        "openat": not low[2] & (3 | 0o100 | 0o1000 | 0o20000000),
        "prctl": low[0] in seccomp.PRCTL_ALLOWED,
        "fcntl": low[1] in seccomp.FCNTL_ALLOWED,
        "ioctl": low[1] in seccomp.IOCTL_ALLOWED,
        "prlimit64": low[0] in {0, PID} and args[2] == 0,
        "tgkill": low[0] == PID,
        "recvmsg": low[0] == DOOR,
        "sendto": args[4] == 0,
    }[name]
    return bpf.ALLOW if fine else EPERM


WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 64),
    st.sampled_from(
        [PID, 0x10000, 0x20, 0o100, 0x5401, 0x5412, 15, 8, 10, 1030, 1 << 32, (1 << 32) + 7]
    ),
)
NUMBERS = sorted(
    {
        number
        for table in (ALLOWED, CHECKED, REFUSED)
        for pair in table.values()
        for number in pair
        if number is not None
    }
)


@settings(max_examples=3000, deadline=None)
@given(
    arch=st.sampled_from([0, 1]),
    number=st.one_of(st.sampled_from(NUMBERS), st.integers(0, 0x3FFFFFFF)),
    arguments=st.lists(WORDS, min_size=6, max_size=6),
)
def test_the_program_says_what_the_policy_says(
    arch: int, number: int, arguments: list[int]
) -> None:
    verdict = evaluate(PROGRAMS[arch], data(ARCHES[arch], number, arguments))
    assert verdict == policy(arch, number, arguments)


@given(st.sampled_from([0, 1]), st.integers(0, 2**32 - 1), st.sampled_from(NUMBERS))
def test_another_architecture_is_killed(arch: int, other: int, number: int) -> None:
    if other != ARCHES[arch]:
        assert evaluate(PROGRAMS[arch], data(other, number, [0] * 6)) == bpf.KILL


@given(st.sampled_from(NUMBERS))
def test_x32_calls_are_killed(number: int) -> None:
    assert evaluate(PROGRAMS[0], data(ARCHES[0], number | 0x40000000, [0] * 6)) == bpf.KILL


@pytest.mark.parametrize("arch", [0, 1])
def test_every_jump_stays_inside(arch: int) -> None:
    program = PROGRAMS[arch]
    for at, (code, true, false, _) in enumerate(program):
        if code in {0x15, 0x45, 0x35}:
            assert at + 1 + max(true, false) < len(program)
            assert max(true, false) <= 255
    assert len(bpf.assemble(program)) == 8 * len(program) < 8 * 4096


def test_no_call_is_in_two_tables() -> None:
    names = [*ALLOWED, *CHECKED, *REFUSED]
    assert len(names) == len(set(names))
    for arch in (0, 1):
        numbers = [
            pair[arch]
            for table in (ALLOWED, CHECKED, REFUSED)
            for pair in table.values()
            if pair[arch] is not None
        ]
        assert len(numbers) == len(set(numbers))


HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("arch", [0, 1])
def test_the_numbers_are_the_systems(arch: int) -> None:
    if not HEADERS[arch].exists():
        pytest.skip(f"no {HEADERS[arch]} here (linux-libc-dev)")
    found = {
        re.sub(r"^3264_", "", name): int(value)
        for name, value in re.findall(r"#define __NR(?:_|)(\w+)\s+(\d+)", HEADERS[arch].read_text())
    }
    checked = 0
    for table in (ALLOWED, CHECKED, REFUSED):
        for name, pair in table.items():
            if name in found:
                assert pair[arch] == found[name], name
                checked += 1
    assert checked > 150
