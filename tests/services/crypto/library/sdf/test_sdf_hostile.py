"""A module that lies: no answer of its makes the library write where the caller has no room."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from ctypes import byref, c_ubyte, c_uint, c_void_p
from pathlib import Path
from typing import Any

import pytest

from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import Attr
from secgear.services.crypto.rpc.attributes import Filled
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.messages import build_answer
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.dispatch import answer
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN
from tests.services.crypto.library.answering import Answering, Peer, answering, called
from tests.services.crypto.library.cryptoki import copy_of
from tests.services.crypto.library.sdf import binding, oracle
from tests.services.crypto.library.sdf.binding import (
    MARK,
    EccPublic,
    EccSignature,
    Room,
    RsaPublic,
    Sdf,
    Session,
    cipher,
    opened,
)

Lies = dict[str, tuple[Any, ...]]
"""By call: the results that it is answered with, whatever it was."""


@pytest.fixture
def lies() -> Lies:
    return {}


@pytest.fixture
def served() -> list[Application]:
    """Who answers is the last of these."""
    return []


@pytest.fixture
def server(
    module: Module, short: Path, lies: Lies, served: list[Application]
) -> Iterator[Answering]:
    """The token, but for lies."""
    served.append(Application(module, "test"))

    def serve(peer: Peer) -> None:
        peer.greet()

        def work(number: int, body: bytes) -> None:
            call = called(body)
            truth = answer(served[-1], body, OWN)
            lie = lies.get(call.name)
            with contextlib.suppress(OSError):
                peer.reply(number, truth if lie is None else build_answer(call, lie, OWN))

        while True:
            threading.Thread(target=work, args=peer.frame(), daemon=True).start()

    with answering(short / "token", serve) as one:
        yield one


@pytest.mark.parametrize("size", [0, 1, 96, 97, 112, 114, 97 + 64])
def test_envelopes_of_other_sizes(user: Session, lies: Lies, size: int) -> None:
    out, handle = cipher(16), c_void_p()
    lies["S_GenerateEnvelopedKey"] = (bytes(size), 3)
    code = user.code("GenerateKeyWithIPK_ECC", 1, 128, byref(out), byref(handle))
    assert (code, handle.value) == ("HARDFAIL", None)
    assert bytes(out.mark) == MARK
    lies.clear()
    user.call("GenerateKeyWithIPK_ECC", 1, 128, byref(out), byref(handle))


@pytest.mark.parametrize("size", [0, 96, 112, 114, 500])
def test_ciphertexts_of_other_sizes(user: Session, lies: Lies, size: int) -> None:
    out, public = cipher(16), EccPublic.of(oracle.generate()[1])
    lies["S_EncryptBatch"] = ([bytes(size)],)
    lies["S_ExchangeEnvelope"] = (bytes(size),)
    code = user.code(
        "ExternalEncrypt_ECC", binding.SM2_ENC, byref(public), bytes(16), 16, byref(out)
    )
    assert code == "HARDFAIL"
    assert bytes(out.mark) == MARK
    lies.pop("S_EncryptBatch")
    good = cipher(16)
    user.made("GenerateKeyWithIPK_ECC", 2, 128, byref(good))
    code = user.code(
        "ExchangeDigitEnvelopeBaseOnECC", 2, binding.SM2_ENC, byref(public), byref(good), byref(out)
    )
    assert code == "HARDFAIL"
    assert bytes(out.mark) == MARK


@pytest.mark.parametrize("size", [0, 63, 65, 128])
def test_signatures_of_other_sizes(user: Session, lies: Lies, size: int) -> None:
    signature = EccSignature()
    lies["S_SignBatch"] = ([bytes(size)],)
    code = user.code("InternalSign_ECC", 1, bytes(32), 32, byref(signature))
    assert code == "HARDFAIL"
    assert bytes(signature) == bytes(128)


@pytest.mark.parametrize("size", [0, 15, 17, 4096])
def test_encryptions_of_other_sizes(user: Session, lies: Lies, size: int) -> None:
    key, room, tag = user.key(bytes(16)), Room(16), Room(16)
    lies["S_EncryptBatch"] = ([bytes(size)],)
    arguments = (key, binding.SM4_ECB, None, bytes(16), 16, room.buffer, byref(room.length))
    assert user.code("Encrypt", *arguments) == "HARDFAIL"
    room.length.value = 16
    code = user.code(
        "AuthEnc", key, binding.SM4_GCM, bytes(12), 12, None, 0, bytes(16), 16, room.buffer,
        byref(room.length), tag.buffer, byref(tag.length),
    )  # fmt: skip
    assert code == "HARDFAIL"
    assert bytes(room.buffer[16:]) == bytes(tag.buffer[16:]) == MARK


@pytest.mark.parametrize("size", [0, 15, 32, 48])
def test_macs_of_other_sizes(user: Session, lies: Lies, size: int) -> None:
    """What comes of none is no MAC, least of all what happens to be in memory."""
    key, room = user.key(bytes(16)), Room(16)
    given = 16 if size == 32 else 32
    data = (bytes(given), given)
    lies["C_EncryptUpdate"] = (bytes(size),)
    code = user.code("CalculateMAC", key, binding.SM4_MAC, (c_ubyte * 16)(), *data, room.buffer,
                     byref(room.length))  # fmt: skip
    assert code == "HARDFAIL"
    assert bytes(room.buffer) == bytes(16) + MARK
    begin = ("CalculateMACInit", key, binding.SM4_MAC, bytes(16), 16)
    user.call(*begin)
    assert user.code("CalculateMACUpdate", *data) == "HARDFAIL"
    assert user.code("CalculateMACFinal", room.buffer, byref(room.length)) == "STEPERR"
    lies.clear()
    user.call(*begin)  # in the module too it has ended


def test_attributes_that_are_too_long(user: Session, lies: Lies) -> None:
    public, form = EccPublic(), RsaPublic()
    lies["C_GetAttributeValue"] = ([Filled(Attr.EC_POINT, b"\4\x41" + bytes(500))], 0)
    assert user.code("ExportSignPublicKey_ECC", 1, byref(public)) != "OK"
    assert bytes(public) == bytes(132)
    lies["C_GetAttributeValue"] = (
        [Filled(Attr.MODULUS, bytes(300)), Filled(Attr.PUBLIC_EXPONENT, bytes(3)),
         Filled(Attr.MODULUS_BITS, 2048)], 0,
    )  # fmt: skip
    assert user.code("ExportSignPublicKey_RSA", 1, byref(form)) != "OK"
    assert bytes(form) == bytes(516)


@pytest.mark.parametrize("found", [[2, 4], [2, 4, 6], list(range(100))])
def test_more_keys_than_were_asked_for(session: Session, lies: Lies, found: list[int]) -> None:
    lies["C_FindObjects"] = (found,)
    code = session.code("ExportSignPublicKey_ECC", 1, byref(EccPublic()))
    assert code == ("KEYERR" if len(found) == 2 else "HARDFAIL")


@pytest.mark.parametrize("first", ["use", "open"])
def test_another_module_behind_the_same_connection_is_noticed(
    sdf: Sdf, module: Module, served: list[Application], first: str
) -> None:
    # It begins to count sessions and keys anew: an old number would be somebody else's key.
    with opened(sdf) as device:
        old = Session(sdf, device)
        key = old.key(bytes(16))
        served.append(Application(module, "test", initialised=True))
        room = Room(16)
        arguments = (key, binding.SM4_ECB, None, bytes(16), 16, room.buffer, byref(room.length))
        if first == "open":
            assert sdf.code("OpenSession", device, byref(c_void_p())) == "OPENSESSION"
        assert old.code("Encrypt", *arguments) == "COMMFAIL"
        assert sdf.code("OpenSession", device, byref(c_void_p())) == "OPENSESSION"
        assert old.code("GenerateRandom", 8, room.buffer) == "COMMFAIL"
    served[-1].initialised = False  # what C_Finalize has not reached
    with opened(sdf) as device:
        Session(sdf, device).call("GenerateRandom", 8, room.buffer)


def test_no_answer_is_believed_after_one_that_is_none(
    built: Path, tmp_path: Path, settings: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []
    numbers = itertools.count(1)

    def serve(peer: Peer) -> None:
        peer.greet()
        while True:
            number, body = peer.frame()
            call = called(body)
            requests.append(call.name)
            if call.name in ("C_Initialize", "C_Finalize"):
                peer.reply(number, build_answer(call, (), OWN))
            elif call.name == "C_OpenSession":
                peer.reply(number, build_answer(call, (next(numbers),), OWN))
            else:
                peer.reply(number, b"\0\0")

    with answering(short / "liar", serve) as liar:
        monkeypatch.setenv("SECGEAR_PKCS11", liar.address)
        library = Sdf(copy_of(built, tmp_path))
        with opened(library) as device:
            session = Session(library, device)
            room = Room(8)
            assert session.code("GenerateRandom", 8, room.buffer) == "HARDFAIL"
            assert session.code("GenerateRandom", 8, room.buffer) == "COMMFAIL"
            code = session.code("GetPrivateKeyAccessRight", 1, PIN, c_uint(len(PIN)))
            assert code == "COMMFAIL"
            assert bytes(room.buffer) == bytes(8) + MARK
        library.close()
    assert requests.count("C_GenerateRandom") == 1
    assert set(requests) <= set(BY_NAME)
