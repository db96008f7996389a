"""The break-in: the attacker on the enclave and, as a control, on an ordinary process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Literal, cast

import msgspec

from secgear.cli._demo.report import Attack, Outcome, User
from secgear.errors import SecGearError

_PROGRAM: Final = Path(__file__).with_name("breakin.py")
_COMMAND: Final = [sys.executable, "-I", "-S", "-B", str(_PROGRAM)]
_NEEDLE: Final = "Newark Liberty Intl"
_SECONDS: Final = 60
_MEANS: Final = {
    "/proc/PID/maps": "list memory areas",
    "/proc/PID/mem": "read memory",
    "process_vm_readv": "copy memory",
    "/proc/PID/fd": "list descriptors",
    "pidfd_getfd": "steal descriptors",
    "/proc/PID/environ": "read environment",
    "ptrace": "attach a debugger",
}


class BreakInFailed(SecGearError):
    """The attacker could not do its work, so nothing was shown."""

    code = "demo.break_in"


def break_in(pid: int) -> tuple[list[Attack], User]:
    """Every attack on the process `pid`, and the attacker. Raises BreakInFailed."""
    with _ordinary_process() as victim:
        on_enclave, attacker = _attack(pid)
        on_victim, _ = _attack(victim)
    attacks = [
        Attack(ours.means, _MEANS[ours.means], _verdict(ours, control), ours, control)
        for ours, control in zip(on_enclave, on_victim, strict=True)
    ]
    return attacks, attacker


def _verdict(enclave: Outcome, ordinary: Outcome) -> Literal["refused", "broken", "inconclusive"]:
    if enclave.result == "succeeded":
        return "broken"
    both = enclave.result == "refused" and ordinary.result == "succeeded"
    return "refused" if both else "inconclusive"


@contextlib.contextmanager
def _ordinary_process() -> Iterator[int]:
    """A process that holds the same secret, started like any other; yields its id."""
    process = subprocess.Popen(
        [*_COMMAND, "victim"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"SECRET": _NEEDLE},
    )
    with process:
        try:
            stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
            stdin.write(f"{_NEEDLE}\n".encode())
            stdin.flush()
            stdout.readline()
            yield process.pid
        finally:
            process.kill()


def _attack(pid: int) -> tuple[list[Outcome], User]:
    try:
        done = subprocess.run(
            [*_COMMAND, "attack", str(pid), _NEEDLE],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={},
        )
    except subprocess.TimeoutExpired:
        raise BreakInFailed(f"the attacker was not done in {_SECONDS} seconds") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise BreakInFailed(f"the attacker could not work: {lines[-1]}")
    found = json.loads(done.stdout)
    outcomes = msgspec.convert(found["outcomes"], list[Outcome])
    return outcomes, User(found["uid"], found["capabilities"])
