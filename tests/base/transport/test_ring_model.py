"""The ring's protocol over all interleavings: no lost wake-up, no data race, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from .checker import Checker, Found
from .model import (
    CLOSED,
    OK,
    Message,
    Order,
    Rules,
    Shape,
    Steps,
    Way,
    close,
    get,
    put,
)

INLINE = Shape(slots=2, arena=4, piece=1, inline=2, unit=1)
PIECES = Shape(slots=2, arena=2, piece=1, inline=0, unit=1)
SOUND = Rules()


def messages(sizes: tuple[int, ...]) -> list[Message]:
    return [Message(n, n, bytes([n + 65]) * size) for n, size in enumerate(sizes)]


def sender(
    shape: Shape, rules: Rules, sizes: tuple[int, ...], *, closes: bool
) -> Callable[[], Steps]:
    def steps() -> Steps:
        out, back = Way("there", shape, True, rules), Way("back", shape, False, rules)
        rest, found = messages(sizes), OK
        while rest and found == OK:
            found = yield from put(out, rest.pop(0))
        if closes:
            yield from close(out, back)
        return found

    return steps


def receiver(
    shape: Shape, rules: Rules, count: int, *, closes: bool = False
) -> Callable[[], Steps]:
    """Takes `count` messages, or all there are until the end."""

    def steps() -> Steps:
        back, out = Way("there", shape, False, rules), Way("back", shape, True, rules)
        got: list[Message] = []
        found = OK
        while found == OK and len(got) != count:
            found, message = yield from get(back, 100)
            if found == OK:
                got.append(message)
        if closes:
            yield from close(out, back)
        return found, got

    return steps


def explored(
    shape: Shape, sizes: tuple[int, ...], rules: Rules = SOUND, *, closer: str = ""
) -> Checker:
    """closer: who ends the ring; a sender after its messages, a receiver at once."""
    count = {"": len(sizes), "sender": -1, "receiver": 0}[closer]
    checker = Checker(
        sender(shape, rules, sizes, closes=closer == "sender"),
        receiver(shape, rules, count, closes=closer == "receiver"),
    )
    checker.explore()
    return checker


BOUNDS = [
    (INLINE, (1, 1, 1)),
    (PIECES, (1, 2)),
    pytest.param(INLINE, (1, 2, 0, 1), marks=pytest.mark.slow),
    pytest.param(PIECES, (1, 3, 1), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("shape", "sizes"), BOUNDS)
def test_every_message_arrives_whole_and_nobody_sleeps_for_ever(
    shape: Shape, sizes: tuple[int, ...]
) -> None:
    checker = explored(shape, sizes)
    assert checker.ends == {(OK, (OK, tuple(messages(sizes))))}
    assert checker.states > 10_000


@pytest.mark.parametrize(("shape", "sizes"), [(INLINE, (1, 1)), (PIECES, (2,))])
def test_an_end_after_the_last_message_reaches_the_receiver_after_it(
    shape: Shape, sizes: tuple[int, ...]
) -> None:
    checker = explored(shape, sizes, closer="sender")
    assert checker.ends == {(OK, (CLOSED, tuple(messages(sizes))))}


@pytest.mark.parametrize("shape", [INLINE, PIECES])
def test_an_end_wakes_a_sender_that_waits_for_room(shape: Shape) -> None:
    checker = explored(shape, (1, 1, 1), closer="receiver")
    assert checker.ends == {(CLOSED, (OK, ()))}


@pytest.mark.parametrize(
    ("broken", "what", "closer"),
    [
        # The note on `asleep` in _ring_core.h: what both fences are for.
        ({"publisher_fences": False}, "sleeps for ever", ""),
        ({"sleeper_fences": False}, "sleeps for ever", ""),
        ({"looks_again": False}, "sleeps for ever", ""),
        ({"publish": Order.RELAXED}, "data race", ""),
        ({"take": Order.RELAXED}, "data race", ""),
        ({"credit": Order.RELAXED}, "data race", ""),
        ({"reclaim": Order.RELAXED}, "data race", ""),
        ({"closer_fences": False}, "sleeps for ever", "sender"),
        ({"closer_fences": False}, "sleeps for ever", "receiver"),
    ],
)
@pytest.mark.parametrize(("shape", "sizes"), [(INLINE, (1, 1, 1)), (PIECES, (1, 2))])
def test_the_checker_finds_what_each_rule_is_for(
    shape: Shape, sizes: tuple[int, ...], broken: dict[str, Any], what: str, closer: str
) -> None:
    with pytest.raises(Found, match=what):
        explored(shape, sizes, replace(SOUND, **broken), closer=closer)
