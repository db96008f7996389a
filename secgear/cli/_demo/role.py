"""Playing one part of the demo in a process of its own: orders come in, answers go out.

Both are lines of JSON, on the pipes that the process was started with. The other end is
``cast.py``, which tells the story.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from secgear.errors import SecGearError, Untrusted

PDEATHSIG: Final = 1  # PR_SET_PDEATHSIG, prctl(2)


class Order(msgspec.Struct, frozen=True):
    """What is to be done, with which arguments."""

    do: str
    given: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line back. Either news of the work (stage, and how much of it is done), or its end.

    code, text: of the error, if it failed; checks: the checks of a verdict that said no.
    """

    stage: str = ""
    fraction: float = 0.0
    ended: bool = False
    result: Any = None
    code: str = ""
    text: str = ""
    checks: tuple[str, ...] = ()


Tell = Callable[[str, float], None]
Deeds = Mapping[str, Callable[..., object]]


def play(prepare: Callable[[Tell], Deeds], parent: int) -> None:
    """Carry out orders until there are no more. parent: the process to die with."""
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before we could ask to be told
        return
    orders, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(2, 1)  # whatever prints must not talk into the answers

    def say(answer: Answer) -> None:
        line = msgspec.json.encode(answer) + b"\n"
        while line:
            line = line[os.write(answers, line) :]

    deeds = prepare(lambda stage, fraction: say(Answer(stage=stage, fraction=fraction)))
    for line in orders:
        order = msgspec.json.decode(line, type=Order)
        say(_done(deeds[order.do], order.given))


def _done(deed: Callable[..., object], given: dict[str, Any]) -> Answer:
    try:
        return Answer(ended=True, result=deed(**given))
    except Untrusted as error:
        verdict: Any = error.verdict
        checks = tuple(check.name for check in verdict.reasons)
        return Answer(ended=True, code=error.code, text=str(error), checks=checks)
    except SecGearError as error:
        return Answer(ended=True, code=error.code, text=str(error))
    except Exception as error:  # noqa: BLE001  (whatever it is, somebody waits for the answer)
        traceback.print_exc(file=sys.stderr)
        return Answer(ended=True, code="demo.bug", text=f"{type(error).__name__}: {error}")
