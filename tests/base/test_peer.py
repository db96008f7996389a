"""The host's half of a connection, fed hostile frames by the ten thousand.

Each connection has calls of every shape in flight, gets a few hostile frames and the end. Whatever
they were: nothing but typed errors and values of the declared types comes out, for every call.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from secgear import App
from secgear.base.assembly import Assembly
from secgear.base.flow import Consumer
from secgear.base.functions import Compiled, Served, compile_function
from secgear.base.peer import Peer
from secgear.base.wire import VALUE, ErrorBody, Flag, Kind, Limits, ValueHead, frame
from secgear.base.workers import Workers
from secgear.errors import CallError, EnclaveLost
from tests.adversary.frames import Hostile

CASES = int(os.environ.get("SECGEAR_FUZZ_CASES", "120000"))
FRAMES = 3
SEEDS = 4

app = App("peer")


@app.ecall(raises=[ValueError])
def echo(text: str) -> str: ...


@app.ecall
def upto(n: int) -> Iterator[int]: ...


@app.ecall
def total(numbers: Iterator[int]) -> int: ...


@app.ecall
def blob() -> bytes: ...


@app.ocall
def ask(text: str) -> str: ...


_encode = msgspec.msgpack.encode


class Tape:
    """A stream that says what is on it and ends."""

    def __init__(self) -> None:
        self.said = b""
        self.heard = bytearray()

    def recv(self, size: int) -> bytes:
        data, self.said = self.said[:size], self.said[size:]
        return data

    def send(self, buffers: list[Any], *, block: bool = True) -> int:
        del block
        data = b"".join(buffers)
        self.heard += data
        return len(data)

    def close(self) -> None:
        self.said = b""


class Connections:
    """Makes host peers with calls in flight."""

    def __init__(self) -> None:
        self.workers = Workers(4, "peer", elastic=True)
        self.asked: list[Any] = []
        self.functions = {
            name: compile_function(
                ecall.described.function,
                ecall.described.types,
                {kind.__name__: kind for kind in ecall.raises},
            )
            for name, ecall in app.ecalls.items()
        }
        described = app.ocalls["ask"].described
        compiled: Compiled = compile_function(described.function, described.types, {})
        self.served = {"ask": Served(compiled, self._ask, ())}

    def _ask(self, values: dict[str, Any]) -> str:
        self.asked.append(values["text"])
        return "answer"

    def make(self) -> tuple[Peer, Tape]:
        tape = Tape()
        limits = Limits(message=4096, attached=1 << 20, assembling=1 << 21, window=4)
        peer = Peer(tape, None, host=True, limits=limits, workers=self.workers, served=self.served)
        return peer, tape

    def begin(self, peer: Peer) -> list[Any]:
        return [
            peer.call(self.functions["echo"], {"text": "x"}),
            peer.call(self.functions["upto"], {"n": 3}),
            peer.call(self.functions["total"], {"numbers": iter(range(3))}),
            peer.call(self.functions["blob"], {}),
        ]


@pytest.fixture(scope="module")
def connections() -> Iterator[Connections]:
    connections = Connections()
    yield connections
    connections.workers.close()


class Plausible(Hostile):
    """Half of the frames are what an honest enclave could say, in some order."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._pick = random.Random(~seed)

    def _one(self) -> bytes:
        pick = self._pick
        if pick.random() < 0.5:
            return super()._one()
        id = pick.randrange(1, 5)
        value = pick.choice(["text", 5, None, 0, b"x", [1], {"a": 1}, -1])
        sizes = pick.choice([(), (), (), (3,), (0,), (2, 2)])
        head = _encode(ValueHead(sizes, msgspec.Raw(_encode(value))))
        kind = pick.choice(
            [Kind.RESULT, Kind.RESULT, Kind.ITEM, Kind.ITEM, Kind.END, Kind.ERROR, Kind.DATA]
        )
        if kind is Kind.RESULT:
            return frame(kind, id, head, flags=Flag.STREAM if id == 2 else 0)
        if kind is Kind.ITEM:
            return frame(kind, 2, head)
        if kind is Kind.ERROR:
            code = pick.choice(["enclave.declared", "enclave.internal", "call.limit", "x"])
            return frame(kind, id, _encode(ErrorBody(code, "text", "ValueError")))
        if kind is Kind.DATA:
            data = bytes(pick.randrange(1, 4))
            return frame(kind, id, data, flags=Flag.INLINE, index=pick.choice([VALUE, VALUE, 0]))
        return frame(kind, id)


def outcome(peer: Peer, pending: Any) -> Any:
    try:
        result = peer.wait(pending, 0)
        return list(result) if isinstance(result, Consumer) else result
    except (CallError, ValueError) as error:
        return error


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_call_ends_in_a_value_of_its_type_or_a_typed_error(
    connections: Connections, seed: int
) -> None:
    hostile = Plausible(seed)
    values = errors = 0
    held: list[Assembly] = []
    for _ in range(CASES // SEEDS // FRAMES):
        peer, tape = connections.make()
        pending = connections.begin(peer)
        tape.said = hostile.batch(FRAMES)
        peer.run()
        assert isinstance(peer.lost, EnclaveLost)
        text, items, number, data = (outcome(peer, call) for call in pending)
        for result, kind in ((text, str), (items, list), (number, int), (data, bytes)):
            if isinstance(result, Exception):
                errors += 1
            else:
                assert type(result) is kind, result
                values += 1
        if isinstance(items, list):
            assert all(type(item) is int for item in items)
        assert not peer.pending
        del pending
        held.append(peer._link.assembly)
    gc.collect()
    # What counts is what waits for the rest of it, nothing else.
    for assembly in held:
        assert assembly.held == sum(partial.held for partial in assembly._partial.values())
    assert values > 100
    assert errors > 100
    assert all(type(text) is str for text in connections.asked)


def test_a_reader_that_fails_lets_nobody_wait(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, tape = connections.make()
    (pending, *_) = connections.begin(peer)
    tape.said = frame(Kind.LOG, 0, b"")

    def broken(_: object) -> None:
        raise OSError("the disk that the log is on is full")

    peer.handlers[Kind.LOG] = broken
    peer.run()
    with pytest.raises(EnclaveLost, match="OSError"):
        peer.wait(pending, 0)


def test_the_reason_is_the_same_for_all_and_each_has_its_own_exception(
    connections: Connections,
) -> None:
    peer, tape = connections.make()
    calls = connections.begin(peer)
    tape.said = frame(Kind.READY)
    peer.run()
    failures = [outcome(peer, call) for call in calls]
    assert len({str(error) for error in failures}) == 1
    assert len({id(error) for error in failures}) == len(failures)
    with pytest.raises(EnclaveLost, match="not expected here"):
        connections.begin(peer)


def test_calls_that_begin_while_it_ends_end_as_well(connections: Connections) -> None:
    """`call` and `fail` race; no call is left between them."""
    for _ in range(200):
        peer, _ = connections.make()
        outcomes: list[Any] = []

        def work(peer: Peer = peer, outcomes: list[Any] = outcomes) -> None:
            for _ in range(5):
                try:
                    pending = peer.call(connections.functions["echo"], {"text": "x"})
                except EnclaveLost as error:
                    outcomes.append(error)
                else:
                    with contextlib.suppress(EnclaveLost):
                        peer.wait(pending)
                    outcomes.append(pending)

        thread = threading.Thread(target=work)
        thread.start()
        peer.fail(EnclaveLost("gone"))
        thread.join(5)
        assert not thread.is_alive(), "a call waits for ever"
        assert len(outcomes) == 5
