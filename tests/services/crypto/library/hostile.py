"""A module whose answers are damaged, and an application that calls it with guarded buffers."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable
from ctypes import POINTER, addressof, byref, c_ubyte, c_ulong, sizeof
from pathlib import Path
from typing import Any

from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import UNAVAILABLE, Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.frames import HEADER, build_frame
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.dispatch import answer
from secgear.services.crypto.token.module import Module
from tests.services.crypto.library.answering import Answering, Peer
from tests.services.crypto.library.cryptoki import (
    Attribute,
    Input,
    Library,
    Mechanism,
    Result,
    mechanism_of,
    template,
)
from tests.services.crypto.library.parameters import GcmMessageParams

NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
GUARD = 0xA5
RVS = frozenset(int(rv) for rv in Rv)


def damaged(frame: bytes, chance: random.Random) -> bytes:
    """The frame as a liar sends it: bits, numbers, lengths, pieces of it."""
    data = bytearray(frame)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(data)) if data else 0
        match chance.randrange(7):
            case 0 if data:
                data[at] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2 if len(data) >= 4:  # what may be a length or a count
                at = chance.randrange(len(data) - 3)
                struct.pack_into(">I", data, at, chance.choice(NUMBERS))
            case 3:
                del data[at:]
            case 4:
                del data[at : at + chance.randrange(1, 9)]
            case 5:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 6 if len(data) >= 8:
                at = chance.randrange(len(data) - 7)
                struct.pack_into(">Q", data, at, chance.choice(NUMBERS))
    if chance.random() < 0.7 and len(data) >= HEADER.size:  # the frame's length fits its body
        struct.pack_into(">I", data, 8, len(data) - HEADER.size)
        if chance.random() < 0.8:
            data[:8] = frame[:8]
    return bytes(data)


def liar(module: Module, chance: random.Random, rate: float) -> Callable[[Peer], None]:
    """Serves the token; so many of its answers are damaged."""
    kept: list[bytes] = [b""]

    def serve(peer: Peer) -> None:
        peer.greet()
        app = Application(module, "fuzz")
        try:
            while True:
                number, body = peer.frame()
                made = answer(app, body, OWN)
                initialising = body[:4] == struct.pack(">I", BY_NAME["C_Initialize"].id)
                frame = build_frame(number, made)
                if chance.random() >= rate or initialising:
                    peer.send(frame)
                elif chance.random() < 0.2:
                    peer.reply(number, chance.choice(kept))  # the answer to something else
                else:
                    cut = damaged(frame, chance)
                    peer.send(cut)
                    if len(cut) != promised(cut):
                        return  # or both would wait for the rest
                kept.append(made)
                del kept[:-8]
        finally:
            app.leave()

    return serve


def promised(frame: bytes) -> int:
    """Bytes that the frame has by its own header."""
    if len(frame) < HEADER.size:
        return HEADER.size
    _, options, body = HEADER.unpack(frame[: HEADER.size])
    return int(HEADER.size + options + body)


class Guarded:
    """Room for some bytes, and bytes around it that nobody may touch."""

    AROUND = 64

    def __init__(self, size: int) -> None:
        self.size = size
        self._whole = (c_ubyte * (size + 2 * self.AROUND))(*[GUARD] * (size + 2 * self.AROUND))
        self.address = addressof(self._whole) + self.AROUND

    def pointer(self) -> Any:
        return (c_ubyte * max(self.size, 1)).from_address(self.address)

    def check(self) -> None:
        data = bytes(self._whole)
        around = data[: self.AROUND] + data[self.AROUND + self.size :]
        if around != bytes([GUARD]) * (2 * self.AROUND):
            raise AssertionError("written beyond the caller's buffer")


def expect(condition: bool, what: str) -> None:
    """Fails like an assertion, in a program too."""
    if not condition:
        raise AssertionError(what)


class Caller:
    """An application that calls whatever there is, and looks at what becomes of its buffers."""

    def __init__(self, library: Library, chance: random.Random) -> None:
        self.library = library
        self.chance = chance
        self.calls = 0
        self.refused = 0
        self.session = 1
        self.key = self.aes = 2

    def play(self, calls: int) -> None:
        """So many calls, or until the connection is gone."""
        for _ in range(calls):
            rv = self.chance.choice(self.MOVES)(self)
            self.calls += 1
            expect(rv in RVS, f"returned {rv:#x}")
            if rv == Rv.DEVICE_ERROR:
                self.refused += 1
            if rv == Rv.DEVICE_REMOVED:
                return

    def _rv(self, name: str, *arguments: Any) -> int:
        return self.library.rv(name, *arguments)

    def _output(self, name: str, *arguments: Any) -> int:
        room = Guarded(self.chance.choice((0, 1, 8, 16, 31, 32, 64, 256, 5000)))
        size = c_ulong(room.size)
        asks = self.chance.random() < 0.3
        rv = self._rv(name, self.session, *arguments, None if asks else room.pointer(), byref(size))
        room.check()
        if rv == Rv.OK and not asks:
            expect(size.value <= room.size, "says that there is more than there was room for")
        return rv

    def begin(self) -> int:
        handle = c_ulong(0)
        rv = self._rv("C_OpenSession", 0, 6, None, None, byref(handle))
        if rv == Rv.OK and handle.value < 1000:
            self.session = handle.value
        return rv

    def create(self) -> int:
        made = template(
            CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.GENERIC_SECRET, VALUE=b"0123456789abcde",
            PRIVATE=False, SENSITIVE=False, EXTRACTABLE=True, LABEL=b"a label",
            ALLOWED_MECHANISMS=[Mech.SHA256_HMAC, Mech.SHA384_HMAC],
        )  # fmt: skip
        handle = c_ulong(0)
        rv = self._rv("C_CreateObject", self.session, made, len(made), byref(handle))
        if rv == Rv.OK and handle.value < 10000:
            self.key = handle.value
        made = template(
            CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.AES, VALUE=bytes(16), PRIVATE=False
        )
        if not self._rv("C_CreateObject", self.session, made, len(made), byref(handle)):
            self.aes = handle.value
        return rv

    def digest(self) -> int:
        self._rv("C_DigestInit", self.session, byref(Mechanism(Mech.SHA256)))
        return self._output("C_Digest", b"some data", 9)

    def sign(self) -> int:
        mechanism = byref(mechanism_of(Mech.SHA256_HMAC))
        self._rv("C_SignInit", self.session, mechanism, self.key)
        return self._output("C_Sign", b"some data", 9)

    def random(self) -> int:
        room = Guarded(self.chance.choice((1, 16, 3000)))
        rv = self._rv("C_GenerateRandom", self.session, room.pointer(), room.size)
        room.check()
        return rv

    def find(self) -> int:
        most = self.chance.choice((1, 3, 20))
        room = Guarded(8 * most)
        count = c_ulong(0)
        self._rv("C_FindObjectsInit", self.session, template(), 0)
        rv = self._rv("C_FindObjects", self.session, room.pointer(), most, byref(count))
        room.check()
        if rv == Rv.OK:
            expect(count.value <= most, "found more than there was room for")
        self._rv("C_FindObjectsFinal", self.session)
        return rv

    def lists(self) -> int:
        most = self.chance.choice((0, 1, 5, 200))
        name, arguments = self.chance.choice(
            (("C_GetSlotList", (1,)), ("C_GetMechanismList", (0,)))
        )
        room = Guarded(8 * most)
        count = c_ulong(most)
        rv = self._rv(name, *arguments, room.pointer(), byref(count))
        room.check()
        if rv == Rv.OK:
            expect(count.value <= most, "lists more than there was room for")
        return rv

    def info(self) -> int:
        name, arguments, size = self.chance.choice(
            (
                ("C_GetInfo", (), 88),
                ("C_GetSlotInfo", (0,), 112),
                ("C_GetTokenInfo", (0,), 208),
                ("C_GetMechanismInfo", (0, Mech.SHA256), 24),
                ("C_GetSessionInfo", (self.session,), 32),
            )
        )
        room = Guarded(size)
        rv = self._rv(name, *arguments, room.pointer())
        room.check()
        return rv

    def attributes(self) -> int:
        wanted = self.chance.choices(
            (Attr.LABEL, Attr.VALUE, Attr.CLASS, Attr.TOKEN, Attr.ALLOWED_MECHANISMS, Attr.MODULUS,
             Attr.WRAP_TEMPLATE, Attr.START_DATE), k=self.chance.randrange(1, 6),
        )  # fmt: skip
        rooms = [Guarded(self.chance.choice((0, 1, 7, 8, 16, 24, 48, 100))) for _ in wanted]
        made = (Attribute * len(wanted))()
        for one, attr, room in zip(made, wanted, rooms, strict=True):
            one.type = attr
            if self.chance.random() < 0.8:
                one.value, one.size = room.address, room.size
            if attr == Attr.WRAP_TEMPLATE and one.value:
                one.size -= one.size % sizeof(Attribute)
                nested = (Attribute * (one.size // sizeof(Attribute))).from_address(one.value)
                for inner in nested:  # as a program has it that asks for their sizes
                    inner.type, inner.value, inner.size = 0, None, 0
        rv = self._rv("C_GetAttributeValue", self.session, self.key, made, len(made))
        for one, room in zip(made, rooms, strict=True):
            room.check()
            if one.value:
                expect(one.size <= room.size or one.size == UNAVAILABLE, "a size beyond its room")
        return rv

    def pair(self) -> int:
        first, second = c_ulong(0), c_ulong(0)
        return self._rv(
            "C_GenerateKeyPair", self.session, byref(Mechanism(Mech.EC_KEY_PAIR_GEN)),
            template(), 0, template(), 0, byref(first), byref(second),
        )  # fmt: skip

    def message(self) -> int:
        self._rv("C_MessageEncryptInit", self.session, byref(Mechanism(Mech.AES_GCM)), self.aes)
        iv, tag, room = Guarded(12), Guarded(16), Guarded(self.chance.choice((0, 9, 64)))
        given = GcmMessageParams(iv=iv.address, iv_size=12, tag=tag.address, tag_bits=128)
        size = c_ulong(room.size)
        rv = self._rv(
            "C_EncryptMessage", self.session, byref(given), sizeof(given), None, 0,
            b"some data", 9, room.pointer(), byref(size),
        )  # fmt: skip
        for one in (iv, tag, room):
            one.check()
        if rv == Rv.OK:
            expect(size.value <= room.size, "a message that is longer than its room")
        self._rv("C_MessageEncryptFinal", self.session)
        return rv

    def batch(self) -> int:
        rooms = [Guarded(self.chance.choice((0, 31, 32, 64))) for _ in range(3)]
        results = (Result * 3)(*(Result(room.address, room.size, 0) for room in rooms))
        inputs = (Input * 3)(*(Input(b"some data", 9) for _ in rooms))
        mechanism = (Mechanism * 1)(Mechanism(Mech.SHA256_HMAC))
        rv = self._rv("S_SignBatch", self.session, mechanism, 1, self.key, inputs, 3, results, 3)
        for one, room in zip(results, rooms, strict=True):
            room.check()
            if rv == Rv.OK and one.rv == Rv.OK:
                expect(one.size <= room.size, "a result that is longer than its room")
        return rv

    def document(self) -> int:
        data, size = POINTER(c_ubyte)(), c_ulong(0)
        rv = self._rv("S_ListKeys", self.session, None, 0, byref(data), byref(size))
        if rv == Rv.OK:
            expect(len(bytes(data[: size.value])) == size.value, "less than it says")
            self._rv("S_Free", data)
        else:
            expect(not data and not size.value, "something to free where nothing came")
        return rv

    MOVES = (
        *(begin, create, digest, sign, random, find, lists, info, attributes, pair),
        *(message, batch, document),
    )


def play(module: Module, path: Path, place: Path, seed: int, rate: float = 0.3) -> tuple[int, int]:
    """Ten times, calls until the connection is gone. Returns how many, and how many refused."""
    chance = random.Random(seed)
    server = Answering(place, liar(module, chance, rate))
    library = Library(path)
    caller = Caller(library, random.Random(seed + 1))
    try:
        for _ in range(10):
            library.initialise(server.address)
            caller.begin()
            caller.create()
            caller.play(30)
            library.rv("C_Finalize", None)
    finally:
        with contextlib.suppress(OSError):
            server.close()
        library.rv("C_Finalize", None)
        library.close()
    return caller.calls, caller.refused
