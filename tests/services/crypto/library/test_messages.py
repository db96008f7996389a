"""The calls of PKCS#11 3.0 that work message by message, and our own calls for many at once."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from ctypes import (
    POINTER,
    Structure,
    addressof,
    byref,
    c_ubyte,
    c_ulong,
    create_string_buffer,
    sizeof,
    string_at,
)
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from secgear.services.crypto.pkcs11.constants import Attr, Generator, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.messages import build_answer
from tests.services.crypto.library.answering import Peer, answering, called, lying
from tests.services.crypto.library.cryptoki import (
    Input,
    Library,
    Mechanism,
    Result,
    Session,
    buffer_of,
    mechanism_of,
    template,
)
from tests.services.crypto.library.parameters import (
    CcmMessageParams,
    ChachaMessageParams,
    GcmMessageParams,
    GcmParams,
)

VALUE, DATA, AAD = bytes(range(32)), b"the message", b"beside it"


def key_of(session: Session, kind: KeyType = KeyType.AES, value: bytes = VALUE) -> int:
    return session.create(CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=kind, VALUE=value)


def tag_of(parameter: Any, at: int = 1) -> bytes:
    return bytes(parameter.kept[at].raw[:16])


def gcm(iv: bytes = bytes(12), generator: int = 0, tag: bytes = bytes(16)) -> GcmMessageParams:
    return GcmMessageParams.of(iv, 0, generator, tag, 128)


def ccm(tag: bytes = bytes(16)) -> CcmMessageParams:
    return CcmMessageParams.of(len(DATA), bytes(13), 0, 0, tag, 16)


def chacha(tag: bytes = bytes(16)) -> ChachaMessageParams:
    return ChachaMessageParams.of(bytes(12), tag)


def message(session: Session, call: str, parameter: Structure, data: bytes) -> bytes:
    """C_EncryptMessage or C_DecryptMessage, asked for the size first."""
    return session.sized(call, byref(parameter), sizeof(parameter), AAD, len(AAD), data, len(data))


@pytest.mark.parametrize(
    ("mechanism", "kind", "params", "expected"),
    [
        (Mech.AES_GCM, KeyType.AES, gcm, AESGCM(VALUE).encrypt(bytes(12), DATA, AAD)),
        (Mech.AES_CCM, KeyType.AES, ccm, AESCCM(VALUE).encrypt(bytes(13), DATA, AAD)),
        (
            Mech.CHACHA20_POLY1305,
            KeyType.CHACHA20,
            chacha,
            ChaCha20Poly1305(VALUE).encrypt(bytes(12), DATA, AAD),
        ),
    ],
    ids=["gcm", "ccm", "chacha"],
)
def test_messages_are_encrypted_and_their_tags_come_in_their_structures(
    session: Session,
    mechanism: Mech,
    kind: KeyType,
    params: Callable[..., Any],
    expected: bytes,
) -> None:
    key = key_of(session, kind)
    session.call("C_MessageEncryptInit", byref(Mechanism(mechanism)), key)
    for _ in range(3):
        given = params()
        assert message(session, "C_EncryptMessage", given, DATA) == expected[:-16]
        assert tag_of(given) == expected[-16:]
    session.call("C_MessageEncryptFinal")
    session.call("C_MessageDecryptInit", byref(Mechanism(mechanism)), key)
    assert message(session, "C_DecryptMessage", params(tag=expected[-16:]), expected[:-16]) == DATA
    room, size, wrong = buffer_of(99), c_ulong(99), params(tag=bytes(16))
    rv = session.rv(
        "C_DecryptMessage", byref(wrong), sizeof(wrong), AAD, len(AAD),
        expected[:-16], len(DATA), room, byref(size),
    )  # fmt: skip
    assert rv == Rv.ENCRYPTED_DATA_INVALID
    session.call("C_MessageDecryptFinal")


def test_the_token_makes_initialisation_vectors_and_they_come_back(session: Session) -> None:
    key = key_of(session)
    session.call("C_MessageEncryptInit", byref(Mechanism(Mech.AES_GCM)), key)
    seen = set()
    for _ in range(3):
        given = gcm(generator=Generator.GENERATE_RANDOM)
        sealed = message(session, "C_EncryptMessage", given, DATA)
        iv = bytes(given.kept[0].raw[:12])
        assert AESGCM(VALUE).decrypt(iv, sealed + tag_of(given), AAD) == DATA
        seen.add(iv)
    assert len(seen) == 3


def test_a_message_in_pieces(session: Session) -> None:
    key = key_of(session)
    expected = AESGCM(VALUE).encrypt(bytes(12), DATA, AAD)
    session.call("C_MessageEncryptInit", byref(Mechanism(Mech.AES_GCM)), key)
    given = gcm()
    at = (byref(given), sizeof(given))
    session.call("C_EncryptMessageBegin", *at, AAD, len(AAD))
    made = b""
    for part, flags in ((DATA[:4], 0), (DATA[4:], 1)):
        room, size = buffer_of(32), c_ulong(32)
        session.call("C_EncryptMessageNext", *at, part, len(part), room, byref(size), flags)
        made += bytes(room[: size.value])
    assert (made, tag_of(given)) == (expected[:-16], expected[-16:])
    session.call("C_MessageDecryptInit", byref(Mechanism(Mech.AES_GCM)), key)
    session.call("C_DecryptMessageBegin", *at, AAD, len(AAD))
    room, size = buffer_of(32), c_ulong(32)
    session.call("C_DecryptMessageNext", *at, made[:4], 4, room, byref(size), 0)
    assert size.value == 0
    size.value = 32
    session.call("C_DecryptMessageNext", *at, made[4:], len(made) - 4, room, byref(size), 1)
    assert bytes(room[: size.value]) == DATA


def test_messages_are_signed_and_verified(session: Session) -> None:
    key = key_of(session, KeyType.GENERIC_SECRET)
    expected = hmac.digest(VALUE, DATA, "sha256")
    session.call("C_MessageSignInit", byref(Mechanism(Mech.SHA256_HMAC)), key)
    assert session.sized("C_SignMessage", None, 0, DATA, len(DATA)) == expected
    session.call("C_SignMessageBegin", None, 0)
    session.call("C_SignMessageNext", None, 0, DATA[:4], 4, None, None)
    rest = (DATA[4:], len(DATA) - 4)
    assert session.sized("C_SignMessageNext", None, 0, *rest) == expected
    session.call("C_MessageSignFinal")
    session.call("C_MessageVerifyInit", byref(Mechanism(Mech.SHA256_HMAC)), key)
    session.call("C_VerifyMessage", None, 0, DATA, len(DATA), expected, 32)
    session.call("C_VerifyMessageBegin", None, 0)
    session.call("C_VerifyMessageNext", None, 0, DATA[:4], 4, None, 0)
    rv = session.rv("C_VerifyMessageNext", None, 0, *rest, bytes(32), 32)
    assert rv == Rv.SIGNATURE_INVALID
    session.call("C_MessageVerifyFinal")


@pytest.mark.parametrize(
    "given",
    [
        GcmMessageParams(iv=None, iv_size=12, tag=1, tag_bits=128),
        GcmMessageParams(iv=1, iv_size=0, tag=None, tag_bits=128),
        GcmMessageParams(iv=1, iv_size=0, tag=1, tag_bits=136),
        CcmMessageParams(nonce=1, nonce_size=0, mac=1, mac_size=1 << 62),
        (c_ubyte * 47)(),
    ],
)
def test_a_structure_of_a_message_that_is_none_is_invalid(session: Session, given: Any) -> None:
    session.call("C_MessageEncryptInit", byref(Mechanism(Mech.AES_GCM)), key_of(session))
    room, size = buffer_of(32), c_ulong(32)
    for pointer, length in ((byref(given), sizeof(given)), (None, 48)):
        rv = session.rv(
            "C_EncryptMessage", pointer, length, None, 0, DATA, len(DATA), room, byref(size)
        )
        assert rv == Rv.MECHANISM_PARAM_INVALID


@pytest.mark.parametrize(
    "parts",
    [
        (b"x" * 11, bytes(12), bytes(17)),  # a tag that is longer
        (b"x" * 11, bytes(13), bytes(16)),  # an initialisation vector that is longer
        (b"x" * 11, b"", bytes(16)),
        (b"x" * 11, bytes(12), b""),
        (b"x" * 33, bytes(12), bytes(16)),
    ],
)
def test_parts_of_a_message_that_do_not_fit_their_structure_are_no_answer(
    library: Library, short: Path, parts: tuple[bytes, ...]
) -> None:
    def lie(peer: Peer, number: int, body: bytes) -> None:
        peer.reply(number, build_answer(called(body), parts, OWN))

    with answering(short / "liar", lying(lie)) as server:
        library.initialise(server.address)
        given, room, size = gcm(), buffer_of(32), c_ulong(32)
        rv = library.rv(
            "C_EncryptMessage", 1, byref(given), sizeof(given), None, 0, DATA, len(DATA),
            room, byref(size),
        )  # fmt: skip
        assert rv == Rv.DEVICE_ERROR


# --- our own -------------------------------------------------------------------------------------


def inputs(*items: bytes) -> Any:
    return (Input * len(items))(*(Input(item, len(item)) for item in items))


def results(*rooms: int) -> Any:
    made = (Result * len(rooms))()
    made.kept = [create_string_buffer(max(room, 1)) for room in rooms]
    for one, buffer, room in zip(made, made.kept, rooms, strict=True):
        one.data, one.size, one.rv = addressof(buffer), room, 4711
    return made


def test_a_batch_has_a_result_for_each_input(session: Session) -> None:
    key = key_of(session, KeyType.GENERIC_SECRET)
    items = [b"first", b"", b"third" * 1000]
    made = results(32, 32, 31)
    mechanism = (Mechanism * 1)(Mechanism(Mech.SHA256_HMAC))
    session.call("S_SignBatch", mechanism, 1, key, inputs(*items), 3, made, 3)
    assert [one.rv for one in made] == [Rv.OK, Rv.OK, Rv.BUFFER_TOO_SMALL]
    assert [one.size for one in made] == [32, 32, 32]
    for one, item in list(zip(made.kept, items, strict=True))[:2]:
        assert one.raw == hmac.digest(VALUE, item, "sha256")
    assert made.kept[2].raw == bytes(31)
    verdicts = results(0, 0)
    signatures = inputs(made.kept[0].raw, bytes(32))
    session.call(
        "S_VerifyBatch", mechanism, 1, key, inputs(*items[:2]), 2, signatures, 2, verdicts, 2
    )
    assert [one.rv for one in verdicts] == [Rv.OK, Rv.SIGNATURE_INVALID]


def test_a_batch_has_a_parameter_for_each_input(session: Session) -> None:
    key = key_of(session)
    items = [b"one", b"two"]
    ivs = [bytes([i] * 12) for i in range(2)]
    given = [mechanism_of(Mech.AES_GCM, GcmParams.of(iv, AAD, 128)) for iv in ivs]
    made = results(64, 64)
    session.call("S_EncryptBatch", (Mechanism * 2)(*given), 2, key, inputs(*items), 2, made, 2)
    for one, buffer, iv, item in zip(made, made.kept, ivs, items, strict=True):
        assert one.rv == Rv.OK
        assert AESGCM(VALUE).decrypt(iv, buffer.raw[: one.size], AAD) == item
    other = (Mechanism * 2)(given[0], Mechanism(Mech.AES_GCM))
    for mechanisms, count in ((other, 2), (None, 0), ((Mechanism * 1)(given[0]), 257)):
        rv = session.rv("S_EncryptBatch", mechanisms, count, key, inputs(*items), 2, made, 2)
        assert rv == Rv.ARGUMENTS_BAD
    # As many results as inputs, or somebody has miscounted.
    rv = session.rv("S_EncryptBatch", other, 1, key, inputs(*items), 2, made, 1)
    assert rv == Rv.ARGUMENTS_BAD


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_results_is_no_answer(library: Library, short: Path, count: int) -> None:
    def lie(peer: Peer, number: int, body: bytes) -> None:
        peer.reply(number, build_answer(called(body), ([b"x"] * count,), OWN))

    with answering(short / "liar", lying(lie)) as server:
        library.initialise(server.address)
        mechanism = (Mechanism * 1)(Mechanism(Mech.SHA256_HMAC))
        made = results(8, 8)
        rv = library.rv("S_SignBatch", 1, mechanism, 1, 2, inputs(b"a", b"b"), 2, made, 2)
        assert rv == Rv.DEVICE_ERROR


def test_what_the_library_allocates_is_freed_by_the_library(session: Session) -> None:
    made = template(VALUE_LEN=32, ENCRYPT=True)
    mechanism = byref(Mechanism(Mech.AES_KEY_GEN))
    session.number("S_NewKey", b"data", 4, mechanism, None, 0, made, len(made))
    data, size = POINTER(c_ubyte)(), c_ulong(0)
    session.call("S_ListKeys", None, 0, byref(data), byref(size))
    assert b"data" in string_at(data, size.value)
    session.library.rv("S_Free", data)
    for missing in ((None, byref(size)), (byref(data), None)):
        assert session.rv("S_ListKeys", None, 0, *missing) == Rv.ARGUMENTS_BAD
    # Where the call fails there is nothing to free.
    session.call("C_CloseSession")
    assert session.rv("S_ListKeys", None, 0, byref(data), byref(size)) == Rv.SESSION_HANDLE_INVALID
    assert not data
    assert size.value == 0


def test_of_a_document_that_is_none_nothing_is_left(library: Library, short: Path) -> None:
    def lie(peer: Peer, number: int, body: bytes) -> None:
        peer.reply(number, build_answer(called(body), (b"a document",), OWN) + b"and more")

    with answering(short / "liar", lying(lie)) as server:
        library.initialise(server.address)
        data, size = POINTER(c_ubyte)(), c_ulong(9)
        rv = library.rv("S_ListKeys", 1, None, 0, byref(data), byref(size))
        assert rv == Rv.DEVICE_ERROR
        assert not data
        assert size.value == 0


def test_numbers_come_back_as_numbers(session: Session) -> None:
    made = template(VALUE_LEN=32, ENCRYPT=True)
    mechanism = byref(Mechanism(Mech.AES_KEY_GEN))
    key = session.number("S_NewKey", b"other", 5, mechanism, None, 0, made, len(made))
    version, found, public = (c_ulong(9) for _ in range(3))
    session.call("S_FindKey", b"other", 5, 0, byref(version), byref(found), byref(public))
    assert (version.value, found.value, public.value) == (1, key, 0)
    assert session.get(key, Attr.KEY_NAME) == b"other"
