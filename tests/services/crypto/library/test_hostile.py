"""Whoever answers may be anybody: what is no answer is refused, and the connection ends."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from ctypes import addressof, byref, c_ulong, sizeof
from pathlib import Path
from typing import Any

import pytest

from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import Attr, Mech
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.buffer import OWN, Writer
from secgear.services.crypto.rpc.frames import build_frame
from secgear.services.crypto.rpc.messages import build_error
from secgear.services.crypto.token.module import Module
from tests.services.crypto.library.answering import Peer, answering, lying
from tests.services.crypto.library.cryptoki import Attribute, InitializeArgs, Library, Mechanism
from tests.services.crypto.library.hostile import Guarded, play


def message(name: str, *values: Any, response: str | None = None) -> bytes:
    """An answer; its values are bytes as they are, single bytes as numbers, `u32` and `u64`."""
    writer = Writer(OWN)
    writer.u32(BY_NAME[name].id)
    writer.array((BY_NAME[name].response if response is None else response).encode())
    for value in values:
        if isinstance(value, tuple):
            writer.raw(struct.pack(f">{value[0]}", value[1]))
        elif isinstance(value, int):
            writer.u8(value)
        else:
            writer.raw(value)
    return writer.done()


def u32(number: int) -> tuple[str, int]:
    return ("I", number)


def u64(number: int) -> tuple[str, int]:
    return ("Q", number)


def octets(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


ROOM = 16


def digest(library: Library, room: Guarded) -> int:
    return library.rv("C_Digest", 1, b"data", 4, room.pointer(), byref(c_ulong(room.size)))


def size_of_digest(library: Library, room: Guarded) -> int:
    return library.rv("C_Digest", 1, b"data", 4, None, byref(c_ulong(0)))


def random_bytes(library: Library, room: Guarded) -> int:
    return library.rv("C_GenerateRandom", 1, room.pointer(), room.size)


def slots(library: Library, room: Guarded) -> int:
    return library.rv("C_GetSlotList", 1, room.pointer(), byref(c_ulong(room.size // 8)))


def found(library: Library, room: Guarded) -> int:
    return library.rv("C_FindObjects", 1, room.pointer(), room.size // 8, byref(c_ulong(0)))


def opened(library: Library, room: Guarded) -> int:
    return library.rv("C_OpenSession", 0, 6, None, None, room.pointer())


def about(library: Library, room: Guarded) -> int:
    return library.rv("C_GetMechanismInfo", 0, 1, room.pointer())


def described(library: Library, _: Guarded) -> int:
    info = Guarded(112)
    rv = library.rv("C_GetSlotInfo", 0, info.pointer())
    info.check()
    return rv


def attribute(attr: int) -> Callable[[Library, Guarded], int]:
    def get(library: Library, room: Guarded) -> int:
        wanted = (Attribute * 1)(Attribute(attr, room.address, room.size))
        return library.rv("C_GetAttributeValue", 1, 2, wanted, 1)

    return get


def attribute_size(library: Library, room: Guarded) -> int:
    wanted = (Attribute * 1)(Attribute(Attr.LABEL, None, 0))
    return library.rv("C_GetAttributeValue", 1, 2, wanted, 1)


def wrap_template(library: Library, _: Guarded) -> int:
    nested = (Attribute * 1)()
    wanted = (Attribute * 1)(Attribute(Attr.WRAP_TEMPLATE, addressof(nested), sizeof(nested)))
    return library.rv("C_GetAttributeValue", 1, 2, wanted, 1)


def encapsulated(library: Library, room: Guarded) -> int:
    key = c_ulong(0)
    return library.rv(
        "C_EncapsulateKey", 1, byref(Mechanism(Mech.ML_KEM)), 2, None, 0,
        room.pointer(), byref(c_ulong(room.size)), byref(key),
    )  # fmt: skip


def one_attribute(attr: int, *value: Any, rv: int = 0) -> bytes:
    return message("C_GetAttributeValue", u32(1), u32(attr), 1, *value, u64(rv))


LIES = {
    "longer than its room": (digest, message("C_Digest", 1, octets(bytes(ROOM + 1)))),
    "bytes for who asks for the size": (size_of_digest, message("C_Digest", 1, octets(b"x"))),
    "longer than the answer": (digest, message("C_Digest", 1, u32(ROOM), b"short")),
    "of a length beyond everything": (digest, message("C_Digest", 1, u32(0xFFFFFFFE), bytes(ROOM))),
    "too small, but it would have fitted": (digest, message("C_Digest", 0, u32(ROOM))),
    "followed by something": (digest, message("C_Digest", 1, octets(b"x"), 0)),
    "cut short": (digest, message("C_Digest", 1)),
    "empty": (digest, b""),
    "of three bytes": (digest, b"abc"),
    "of another call": (digest, message("C_Encrypt", 1, octets(b"x"))),
    "of another signature": (digest, message("C_Digest", u64(1), response="u")),
    "without a signature": (digest, struct.pack(">II", 38, 0xFFFFFFFF)),
    "an error that is none": (digest, build_error(Rv.OK)),
    "an error with more behind it": (digest, build_error(Rv.CANCEL) + b"x"),
    "an error cut short": (digest, build_error(Rv.CANCEL)[:-1]),
    "fewer random bytes": (random_bytes, message("C_GenerateRandom", 1, octets(bytes(ROOM - 1)))),
    "no random bytes": (random_bytes, message("C_GenerateRandom", 0, u32(99))),
    "more slots than room": (slots, message("C_GetSlotList", 1, u32(3), bytes(24))),
    "more slots than it has": (slots, message("C_GetSlotList", 1, u32(2), bytes(15))),
    "slots beyond everything": (slots, message("C_GetSlotList", 1, u32(0xFFFFFFFF))),
    "slots that would have fitted": (slots, message("C_GetSlotList", 0, u32(1))),
    "more objects than room": (found, message("C_FindObjects", 1, u32(3), bytes(24))),
    "objects by their number only": (found, message("C_FindObjects", 0, u32(50))),
    "a session cut short": (opened, message("C_OpenSession", bytes(7))),
    "a mechanism's sizes cut short": (about, message("C_GetMechanismInfo", bytes(23))),
    "a description too short": (
        described,
        message("C_GetSlotInfo", octets(bytes(63)), octets(bytes(32)), u64(0), 0, 0, 0, 0),
    ),
    "a description too long": (
        described,
        message("C_GetSlotInfo", octets(bytes(65)), octets(bytes(32)), u64(0), 0, 0, 0, 0),
    ),
    "a manufacturer that is not there": (
        described,
        message("C_GetSlotInfo", octets(bytes(64)), u32(0xFFFFFFFF), u64(0), 0, 0, 0, 0),
    ),
    "another attribute": (attribute(Attr.LABEL), one_attribute(Attr.ID, u32(1), octets(b"x"))),
    "more attributes": (
        attribute(Attr.LABEL),
        message("C_GetAttributeValue", u32(2), u32(Attr.LABEL), 0, u32(Attr.LABEL), 0, u64(0x11)),
    ),
    "a size that is another than its bytes'": (
        attribute(Attr.LABEL), one_attribute(Attr.LABEL, u32(ROOM), octets(bytes(ROOM + 1))),
    ),
    "a size that fits, and no bytes": (
        attribute(Attr.LABEL), one_attribute(Attr.LABEL, u32(ROOM), u32(0xFFFFFFFF)),
    ),
    "another size than a size": (
        attribute_size, one_attribute(Attr.LABEL, u32(3), octets(b"four")),
    ),
    "a bool of two bytes": (attribute(Attr.TOKEN), one_attribute(Attr.TOKEN, u32(2), 1)),
    "a number of four bytes": (attribute(Attr.CLASS), one_attribute(Attr.CLASS, u32(4), u64(1))),
    "mechanisms beyond everything": (
        attribute(Attr.ALLOWED_MECHANISMS),
        one_attribute(Attr.ALLOWED_MECHANISMS, u32(0xFFFFFFF8), u32(0x1FFFFFFF)),
    ),
    "mechanisms of another size": (
        attribute(Attr.ALLOWED_MECHANISMS),
        one_attribute(Attr.ALLOWED_MECHANISMS, u32(8), u32(2), bytes(16)),
    ),
    "attributes in attributes in attributes": (
        wrap_template,
        one_attribute(
            Attr.WRAP_TEMPLATE, u32(24), u32(1), u32(Attr.WRAP_TEMPLATE), 1, u32(24), u32(0)
        ),
    ),
    "attributes in attributes beyond everything": (
        wrap_template, one_attribute(Attr.WRAP_TEMPLATE, u32(24), u32(0xFFFFFFFF)),
    ),
    "attributes in attributes of another size": (
        wrap_template,
        one_attribute(Attr.WRAP_TEMPLATE, u32(24), u32(2), *(u32(1), 1, u32(1), 1) * 2),
    ),
    "withheld for no reason": (
        attribute(Attr.LABEL), message("C_GetAttributeValue", u32(1), u32(Attr.LABEL), 0, u64(0)),
    ),
    "a reason that is none": (
        attribute(Attr.LABEL), message("C_GetAttributeValue", u32(1), u32(Attr.LABEL), 0, u64(5)),
    ),
    "a ciphertext without a key": (
        encapsulated, message("C_EncapsulateKey", 1, octets(bytes(ROOM))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_none_ends_the_connection(
    library: Library, short: Path, lie: str
) -> None:
    call, body = LIES[lie]

    def answer(peer: Peer, number: int, _: bytes) -> None:
        peer.reply(number, body)

    with answering(short / "liar", lying(answer)) as server:
        library.initialise(server.address)
        room = Guarded(ROOM)
        assert call(library, room) == Rv.DEVICE_ERROR
        room.check()
        assert library.rv("C_GetInfo", Guarded(88).pointer()) == Rv.DEVICE_REMOVED
        library.call("C_Finalize", None)
        library.initialise(server.address)  # and nothing is left of it


@pytest.mark.parametrize(
    ("lie", "expected"),
    [
        (lambda number: build_frame(number + 1, b"x"), Rv.DEVICE_ERROR),  # nobody asked
        (lambda number: struct.pack(">III", number, 0, (4 << 20) + 1), Rv.DEVICE_ERROR),
        (lambda number: struct.pack(">III", number, 4097, 0), Rv.DEVICE_ERROR),
        (lambda number: struct.pack(">III", number, 0, 100) + b"short", Rv.DEVICE_REMOVED),
        (lambda number: struct.pack(">III", number, 100, 0) + b"short", Rv.DEVICE_REMOVED),
        (lambda number: b"short", Rv.DEVICE_REMOVED),
    ],
)
def test_a_frame_that_is_none_ends_the_connection(
    library: Library, short: Path, lie: Callable[[int], bytes], expected: Rv
) -> None:
    def answer(peer: Peer, number: int, _: bytes) -> None:
        peer.send(lie(number))
        if expected is Rv.DEVICE_REMOVED:
            raise EOFError

    with answering(short / "liar", lying(answer)) as server:
        library.initialise(server.address)
        room = Guarded(ROOM)
        assert digest(library, room) == expected
        room.check()
        assert digest(library, room) == Rv.DEVICE_REMOVED


def test_an_answer_that_comes_twice_ends_the_connection(library: Library, short: Path) -> None:
    def answer(peer: Peer, number: int, _: bytes) -> None:
        peer.send(2 * build_frame(number, message("C_Digest", 1, octets(b"x"))))

    with answering(short / "liar", lying(answer)) as server:
        library.initialise(server.address)
        room = Guarded(ROOM)
        assert digest(library, room) == Rv.OK
        assert digest(library, room) == Rv.DEVICE_ERROR


def test_options_are_passed_over(library: Library, short: Path) -> None:
    def answer(peer: Peer, number: int, _: bytes) -> None:
        peer.send(build_frame(number, message("C_Digest", 1, octets(b"x")), bytes(4096)))

    with answering(short / "odd", lying(answer)) as server:
        library.initialise(server.address)
        for _ in range(3):
            assert digest(library, Guarded(ROOM)) == Rv.OK


@pytest.mark.parametrize("number", [0x80000001, 0x1234, 2**64 - 1])
def test_a_return_value_that_nobody_knows_is_an_error_of_the_device(
    library: Library, short: Path, number: int
) -> None:
    def answer(peer: Peer, frame: int, _: bytes) -> None:
        peer.reply(frame, struct.pack(">II1sQ", 0, 1, b"u", number))

    with answering(short / "odd", lying(answer)) as server:
        library.initialise(server.address)
        assert digest(library, Guarded(ROOM)) == Rv.DEVICE_ERROR
        assert digest(library, Guarded(ROOM)) == Rv.DEVICE_ERROR  # but it is an answer


@pytest.mark.parametrize("greeting", [b"", b"\0", b"\2", b"HTTP/1.1 400"])
def test_who_speaks_something_else_is_no_module(
    library: Library, short: Path, greeting: bytes
) -> None:
    def serve(peer: Peer) -> None:
        peer.read(1)
        peer.send(greeting)

    with answering(short / "other", serve) as server:
        args = InitializeArgs(flags=2, reserved=server.address.encode())
        assert library.rv("C_Initialize", byref(args)) == Rv.FUNCTION_FAILED


@pytest.mark.parametrize(
    ("body", "expected"),
    [(build_error(Rv.HOST_MEMORY), Rv.HOST_MEMORY), (b"no answer", Rv.DEVICE_ERROR)],
)
def test_who_is_not_let_in_may_try_again(
    library: Library, short: Path, body: bytes, expected: Rv
) -> None:
    said = [body]

    def serve(peer: Peer) -> None:
        peer.greet()
        number, _ = peer.frame()
        peer.reply(number, said[0])
        peer.frame()

    with answering(short / "strict", serve) as server:
        args = InitializeArgs(flags=2, reserved=server.address.encode())
        assert library.rv("C_Initialize", byref(args)) == expected
        assert library.rv("C_GetInfo", Guarded(88).pointer()) == Rv.CRYPTOKI_NOT_INITIALIZED
        assert library.rv("C_Finalize", None) == Rv.CRYPTOKI_NOT_INITIALIZED
        said[0] = message("C_Initialize")
        assert library.rv("C_Initialize", byref(args)) == Rv.OK


def test_a_lie_to_one_thread_ends_the_calls_of_all(library: Library, short: Path) -> None:
    both = threading.Barrier(2)
    numbers: list[int] = []

    def answer(peer: Peer, number: int, _: bytes) -> None:
        numbers.append(number)
        if len(numbers) == 2:
            peer.reply(numbers[0], b"no answer")

    results: list[int] = []

    def work() -> None:
        both.wait(60)
        results.append(digest(library, Guarded(ROOM)))

    with answering(short / "liar", lying(answer)) as server:
        library.initialise(server.address)
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results == [Rv.DEVICE_ERROR] * 2


def test_damaged_answers_never_reach_beyond_a_buffer(
    module: Module, built: Path, short: Path
) -> None:
    calls = refused = 0
    for seed in range(12):
        made = play(module, built, short / f"liar{seed}", seed)
        calls, refused = calls + made[0], refused + made[1]
    assert calls > 150
    assert refused > 10  # the damage is noticed


def test_the_guards_notice_what_is_written_beyond() -> None:
    """The control of all of the above."""
    room = Guarded(ROOM)
    room.check()
    target = (type(room.pointer()) * 2).from_address(room.address)
    target[1][0] = 0
    with pytest.raises(AssertionError, match="beyond"):
        room.check()
