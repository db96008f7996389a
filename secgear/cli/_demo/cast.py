"""The demo's parts, each in a process of its own, as they are in life; this is who directs them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final, Self, cast, final

import msgspec

from secgear.cli._demo.role import Answer, Order
from secgear.errors import SecGearError

PATIENCE: Final = 120.0  # seconds that any order may take
_LEAVING: Final = 5.0
_LINGERING: Final = 0.5
_READ: Final = 1 << 16
_answer = msgspec.json.Decoder(Answer)


class PartFailed(SecGearError):
    """One of the parties could not do what it was asked for; `reason` is its own error's code.

    checks: of a verdict that said no.
    """

    code = "demo.part_failed"

    def __init__(self, text: str, reason: str = "", checks: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.reason = reason
        self.checks = checks


class PartLost(SecGearError):
    """One of the parties is gone, or says nothing any more."""

    code = "demo.part_lost"


def python(code: str, arguments: Sequence[str] = ()) -> list[str]:
    """A command that runs `code` in an interpreter that imports what this one does."""
    path = [str(Path(entry).absolute()) for entry in sys.path if entry]
    code = f"import sys; sys.path[:] = {path!r}; {code}"
    return [sys.executable, "-P", "-B", "-c", code, *arguments]


@final
class Part:
    """A party's process. A context manager; leaving it ends the process.

    name: for people. module: of this package; its ``prepare`` is given the arguments. folder:
    where it may write. Not for several threads at once.
    """

    def __init__(self, name: str, module: str, *arguments: str, folder: Path) -> None:
        self.name = name
        self._said = folder / f"{name.replace(' ', '-')}.stderr"
        code = (
            f"from secgear.cli._demo.{module} import prepare; "
            "from secgear.cli._demo.role import play; "
            f"play(lambda tell: prepare(tell, *sys.argv[1:]), {os.getpid()})"
        )
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                python(code, arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=folder,
                start_new_session=True,  # the terminal's Ctrl-C is the director's to handle
            )
        self._orders = cast("IO[bytes]", self.process.stdin)
        self._answers = cast("IO[bytes]", self.process.stdout)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._orders.close()  # no more orders: it leaves
        if kind is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_LEAVING)
        self.process.kill()
        self.process.wait()
        self._answers.close()

    def ask(self, deed: str, **given: Any) -> Any:
        """Have something done; gives its result.

        Raises PartFailed when it can't be done, PartLost when there is nobody to do it.
        """
        until = time.monotonic() + PATIENCE
        try:
            self._orders.write(msgspec.json.encode(Order(deed, given)) + b"\n")
            self._orders.flush()
        except OSError:
            raise self._lost() from None
        while True:
            answer = _answer.decode(self._line(until))
            if not answer.ended:
                continue  # news that nobody has overheard
            if answer.code:
                text = f"the {self.name}: {answer.text} ({answer.code})"
                raise PartFailed(text, answer.code, answer.checks)
            return answer.result

    def overhear(self, tell: Callable[[str, float], None]) -> None:
        """Hand on its news of work that it was not asked for, if there are any. Never waits."""
        while select.select([self._answers], [], [], 0)[0]:
            data = os.read(self._answers.fileno(), _READ)
            if not data:
                return
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            answer = _answer.decode(line)
            # What an enclave says is data: it must not steer the terminal.
            tell("".join(sign for sign in answer.stage[:60] if sign.isprintable()), answer.fraction)

    def _line(self, until: float) -> bytes:
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise PartLost(f"the {self.name} has said nothing for {PATIENCE:.0f} seconds")
            data = os.read(self._answers.fileno(), _READ)
            if not data:
                raise self._lost()
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    @property
    def gone(self) -> PartLost | None:
        """How its process ended; None while it is there."""
        return None if self.process.poll() is None else self._lost()

    def _lost(self) -> PartLost:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_LEAVING)
        code = self.process.returncode
        if code is None:
            return PartLost(f"the {self.name} has stopped listening")
        if code < 0:
            with contextlib.suppress(ValueError):
                return PartLost(
                    f"the {self.name}'s process was killed by {signal.Signals(-code).name}"
                )
        said = self._said.read_text(errors="replace").strip().splitlines()
        why = f": {said[-1]}" if said else ""
        return PartLost(f"the {self.name}'s process ended with status {code}{why}")


def blame(parts: Sequence[Part]) -> PartLost | None:
    """Who is gone, if somebody is: whoever talked to them has failed for that reason only.

    A process that is being killed is not gone at once, so it is waited for a little.
    """
    until = time.monotonic() + _LINGERING
    while time.monotonic() < until:
        for part in parts:
            if part.gone is not None:
                return part.gone
        time.sleep(0.05)
    return None
