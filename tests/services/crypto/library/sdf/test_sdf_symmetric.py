"""Session keys at work, digests: GM/T 0018, 6.5 and 6.6, in one call and in pieces."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from ctypes import byref, c_ubyte, c_uint, c_void_p
from itertools import pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.services.crypto.library.sdf import binding, oracle
from tests.services.crypto.library.sdf.binding import MARK, EccPublic, Room, Session
from tests.services.crypto.library.sdf.test_sdf_asymmetric import DIGEST, signed

KEY = bytes.fromhex("0123456789abcdeffedcba9876543210")
IV = bytes(range(16))
MODES: dict[int, Any] = {
    binding.SM4_ECB: lambda: modes.ECB(),
    binding.SM4_CBC: lambda: modes.CBC(IV),
    binding.SM4_CTR: lambda: modes.CTR(IV),
}


def iv_of(data: bytes = IV) -> Any:
    return (c_ubyte * 16)(*data)


def reference(algorithm: int, data: bytes) -> bytes:
    return Cipher(algorithms.SM4(KEY), MODES[algorithm]()).encryptor().update(data)


# --- in one call -------------------------------------------------------------------------------


def test_the_standards_examples_of_sm4(session: Session, vector: Callable[[str], bytes]) -> None:
    done = 0
    for case in json.loads(vector("crypto/gmt/sm3_sm4_gmt.json"))["sm4"]:
        key, text = session.key(bytes.fromhex(case["key"])), bytes.fromhex(case["pt"])
        if case["rounds"] == 1:
            assert session.crypt("Encrypt", key, binding.SM4_ECB, text).hex() == case["ct"]
            assert session.crypt("Decrypt", key, binding.SM4_ECB, bytes.fromhex(case["ct"])) == text
            done += 1
    assert done


@pytest.mark.parametrize(
    ("mode", "algorithm"),
    [("ecb", binding.SM4_ECB), ("cbc", binding.SM4_CBC), ("ctr", binding.SM4_CTR)],
)
def test_the_examples_of_the_draft(
    session: Session, vector: Callable[[str], bytes], mode: str, algorithm: int
) -> None:
    text = vector(f"crypto/gmt/SM4/draft-ribose-cfrg-sm4-10-{mode}.txt").decode()
    cases: list[dict[str, str]] = []
    for line in text.splitlines():
        name, found, value = line.partition(" = ")
        if found and name == "COUNT":
            cases.append({})
        elif found and cases:
            cases[-1][name] = value.strip()
    assert cases
    for case in cases:
        fields = {name: bytes.fromhex(value) for name, value in case.items()}
        plain, sealed = fields["PLAINTEXT"], fields["CIPHERTEXT"]
        key, iv = session.key(fields["KEY"]), fields.get("IV", bytes(16))
        assert session.crypt("Encrypt", key, algorithm, plain, iv_of(iv)) == sealed
        assert session.crypt("Decrypt", key, algorithm, sealed, iv_of(iv)) == plain


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_data_is_what_others_make_of_it(session: Session, data: st.DataObject) -> None:
    algorithm = data.draw(st.sampled_from(sorted(MODES)))
    text = data.draw(st.binary(min_size=1, max_size=200))
    if algorithm != binding.SM4_CTR:
        text += bytes(-len(text) % 16)
    key = session.key(KEY)
    sealed = session.crypt("Encrypt", key, algorithm, text, iv_of())
    assert sealed == reference(algorithm, text)
    assert session.crypt("Decrypt", key, algorithm, sealed, iv_of()) == text
    session.call("DestroyKey", key)


@pytest.mark.parametrize("algorithm", sorted(MODES))
def test_data_of_more_than_one_message(session: Session, algorithm: int) -> None:
    text = os.urandom((2 << 20) + 48)
    key = session.key(KEY)
    sealed = session.crypt("Encrypt", key, algorithm, text, iv_of())
    assert sealed == reference(algorithm, text)
    assert session.crypt("Decrypt", key, algorithm, sealed, iv_of()) == text


@pytest.mark.parametrize("algorithm", [binding.SM4_CBC, binding.SM4_CTR])
def test_the_iv_that_comes_back_goes_on_with(session: Session, algorithm: int) -> None:
    key, text = session.key(KEY), bytes(range(96))
    for name, data in (("Encrypt", text), ("Decrypt", reference(algorithm, text))):
        iv = iv_of()
        parts = [session.crypt(name, key, algorithm, data[at : at + 32], iv) for at in (0, 32, 64)]
        assert b"".join(parts) == (text if name == "Decrypt" else reference(algorithm, text))


def test_a_counter_carries_and_is_not_let_round(session: Session) -> None:
    key, iv = session.key(KEY), iv_of(bytes(13) + b"\xff\xff\xff")
    session.crypt("Encrypt", key, binding.SM4_CTR, bytes(17), iv)
    assert bytes(iv) == bytes(12) + b"\1\0\0\1"
    room, last = Room(32), iv_of(b"\xff" * 16)
    arguments = (key, binding.SM4_CTR, last, bytes(17), 17, room.buffer, byref(room.length))
    assert session.code("Encrypt", *arguments) == "INARGERR"
    assert bytes(last) == b"\xff" * 16


@pytest.mark.parametrize("algorithm", sorted(MODES))
def test_output_may_replace_input(session: Session, algorithm: int) -> None:
    key, place, length = session.key(KEY), (c_ubyte * 64)(*range(64)), c_uint(64)
    iv = iv_of()
    session.call("Encrypt", key, algorithm, iv, place, 64, place, byref(length))
    assert bytes(place) == reference(algorithm, bytes(range(64)))
    session.call("Decrypt", key, algorithm, iv_of(), place, 64, place, byref(length))
    assert bytes(place) == bytes(range(64))


def test_what_cannot_be_encrypted_is_refused(session: Session) -> None:
    key, room = session.key(KEY), Room(64)

    def code(algorithm: int, iv: Any, data: Any, size: int, out: Any = None) -> str:
        return session.code(
            "Encrypt", key, algorithm, iv, data, size, out or room.buffer, byref(room.length)
        )

    for size in (0, 1, 15, 17):
        assert code(binding.SM4_ECB, None, bytes(32), size) == "INARGERR"
    assert code(binding.SM4_CBC, None, bytes(16), 16) == "INARGERR"
    assert code(binding.SM4_ECB, None, None, 16) == "INARGERR"
    for algorithm in (binding.SM4_CFB, binding.SM4_OFB, binding.SM4_MAC):
        assert code(algorithm, iv_of(), bytes(16), 16) == "ALGMODNOTSUPPORT"
    for algorithm in (binding.SM1_ECB, binding.SSF33_CBC, binding.ZUC_EEA3, 0, binding.SM3):
        assert code(algorithm, iv_of(), bytes(16), 16) == "ALGNOTSUPPORT"
    assert session.code("Encrypt", None, binding.SM4_ECB, None, bytes(16), 16, room.buffer,
                        byref(room.length)) == "KEYNOTEXIST"  # fmt: skip
    assert session.code("Encrypt", key, binding.SM4_ECB, None, bytes(16), 16, room.buffer,
                        None) == "OUTARGERR"  # fmt: skip
    room.length.value = 15
    assert code(binding.SM4_ECB, None, bytes(16), 16) == "NOBUFFER"
    assert room.length.value == 16
    assert bytes(room.buffer) == bytes(64) + MARK
    assert session.code("Encrypt", key, binding.SM4_ECB, None, bytes(16), 16, None,
                        byref(room.length)) == "NOBUFFER"  # fmt: skip


def test_a_key_that_is_not_of_sm4_encrypts_nothing(session: Session) -> None:
    key, room = session.key(bytes(32)), Room(16)
    arguments = (key, binding.SM4_ECB, None, bytes(16), 16, room.buffer, byref(room.length))
    assert session.code("Encrypt", *arguments) == "KEYTYPEERR"


# --- MACs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 160, (1 << 20) + 16])
def test_a_mac_is_the_last_block_of_cbc(session: Session, size: int) -> None:
    key, text, iv = session.key(KEY), os.urandom(size), iv_of()
    mac = session.output("CalculateMAC", key, binding.SM4_MAC, iv, text, size)
    assert mac == reference(binding.SM4_CBC, text)[-16:] == bytes(iv)
    session.call("CalculateMACInit", key, binding.SM4_MAC, iv_of(), 16)
    for start, end in ((0, 5), (5, 16), (16, size)):
        if start < end <= size:
            session.call("CalculateMACUpdate", text[start:end], end - start)
    assert session.output("CalculateMACFinal") == mac


def test_macs_of_parts_of_blocks_are_refused(session: Session) -> None:
    key, room = session.key(KEY), Room(16)
    for size in (0, 15, 17):
        arguments = (
            key,
            binding.SM4_MAC,
            iv_of(),
            bytes(32),
            size,
            room.buffer,
            byref(room.length),
        )
        assert session.code("CalculateMAC", *arguments) == "INARGERR"
    session.call("CalculateMACInit", key, binding.SM4_MAC, iv_of(), 16)
    session.call("CalculateMACUpdate", bytes(17), 17)
    assert session.code("CalculateMACFinal", room.buffer, byref(room.length)) == "INARGERR"
    assert session.code("CalculateMACFinal", room.buffer, byref(room.length)) == "STEPERR"
    room = Room(15)
    arguments = (key, binding.SM4_MAC, iv_of(), bytes(32), 16, room.buffer, byref(room.length))
    assert session.code("CalculateMAC", *arguments) == "NOBUFFER"
    assert session.code("CalculateMAC", key, binding.SM4_CBC, *arguments[2:]) == "ALGMODNOTSUPPORT"


@pytest.mark.parametrize("size", [16, 32, 64])
def test_hmac_with_a_session_key(session: Session, size: int) -> None:
    value, text = os.urandom(size), os.urandom(100)
    key = session.key(value)
    session.call("HMACInit", key, binding.SM3)
    session.call("HMACUpdate", text[:33], 33)
    session.call("HMACUpdate", text[33:], 67)
    expected = hmac.HMAC(value, hashes.SM3())
    expected.update(text)
    assert session.output("HMACFinal") == expected.finalize()
    assert session.code("HMACInit", key, binding.SHA256) == "ALGNOTSUPPORT"
    assert session.code("HMACUpdate", text, 1) == "STEPERR"


# --- authenticated encryption ------------------------------------------------------------------


def sealed(session: Session, key: c_void_p, algorithm: int, nonce: bytes, text: bytes) -> Any:
    data, tag = Room(len(text)), Room(16)
    session.call(
        "AuthEnc", key, algorithm, nonce, len(nonce), b"aad", 3, text, len(text), data.buffer,
        byref(data.length), tag.buffer, byref(tag.length),
    )  # fmt: skip
    return data.data, tag.data


@pytest.mark.parametrize("algorithm", [binding.SM4_GCM, binding.SM4_CCM])
def test_authenticated_encryption_comes_back_or_not_at_all(
    session: Session, algorithm: int
) -> None:
    key, nonce, text = session.key(KEY), bytes(range(12)), os.urandom(100)
    data, tag = sealed(session, key, algorithm, nonce, text)
    if algorithm == binding.SM4_GCM:
        context = Cipher(algorithms.SM4(KEY), modes.GCM(nonce)).encryptor()
        context.authenticate_additional_data(b"aad")
        assert (data, tag) == (context.update(text) + context.finalize(), context.tag)

    def opened(nonce: bytes, aad: bytes, tag: bytes, data: bytes) -> tuple[str, bytes]:
        room = Room(100)
        code = session.code(
            "AuthDec", key, algorithm, nonce, len(nonce), aad, len(aad), tag, len(tag), data,
            len(data), room.buffer, byref(room.length),
        )  # fmt: skip
        return code, bytes(room.buffer[:100])

    assert opened(nonce, b"aad", tag, data) == ("OK", text)
    for wrong in (
        (bytes(12), b"aad", tag, data),
        (nonce, b"AAD", tag, data),
        (nonce, b"aad", bytes(16), data),
        (nonce, b"aad", tag, data[:-1] + bytes((data[-1] ^ 1,))),
        (nonce, b"aad", tag, data[:-1]),
    ):
        assert opened(*wrong) == ("MACERR", bytes(100))
    assert opened(nonce, b"aad", tag[:15], data)[0] == "INARGERR"


def test_the_example_of_rfc_8998(session: Session) -> None:
    text = b"".join(
        bytes((value,)) * 8 for value in (0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0xEE, 0xAA)
    )
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    nonce = bytes.fromhex("00001234567800000000abcd")
    for algorithm, expected in (
        (binding.SM4_GCM, "83de3541e4c2b58177e065a9bf7b62ec"),
        (binding.SM4_CCM, "16842d4fa186f56ab33256971fa110f4"),
    ):
        data, tag = Room(64), Room(16)
        session.call(
            "AuthEnc", session.key(KEY), algorithm, nonce, 12, aad, 20, text, 64, data.buffer,
            byref(data.length), tag.buffer, byref(tag.length),
        )  # fmt: skip
        assert tag.data.hex() == expected


def test_arguments_of_authenticated_encryption_are_checked(session: Session) -> None:
    key = session.key(KEY)

    def code(algorithm: int, nonce: Any, nonce_size: int, aad: Any, aad_size: int, size: int,
             rooms: tuple[int, int] = (64, 16)) -> str:  # fmt: skip
        data, tag = Room(rooms[0]), Room(rooms[1])
        found = session.code(
            "AuthEnc", key, algorithm, nonce, nonce_size, aad, aad_size, bytes(64), size,
            data.buffer, byref(data.length), tag.buffer, byref(tag.length),
        )  # fmt: skip
        if found != "OK":
            assert bytes(data.buffer) == bytes(rooms[0]) + MARK
            assert bytes(tag.buffer) == bytes(rooms[1]) + MARK
        return found

    gcm, ccm = binding.SM4_GCM, binding.SM4_CCM
    assert code(gcm, bytes(12), 12, None, 0, 64) == "OK"
    assert code(gcm, None, 12, None, 0, 64) == "INARGERR"
    assert code(gcm, bytes(12), 0, None, 0, 64) == "INARGERR"
    assert code(gcm, bytes(12), 12, None, 1, 64) == "INARGERR"
    assert code(gcm, bytes(12), 2**32 - 1, None, 0, 64) == "INARGERR"
    assert code(gcm, bytes(12), 12, bytes(8), 2**32 - 1, 64) == "INARGERR"
    assert code(ccm, bytes(16), 16, None, 0, 64) == "INARGERR"
    assert code(gcm, bytes(12), 12, None, 0, 0) == "INARGERR"
    assert code(gcm, bytes(12), 12, None, 0, 2**32 - 1) == "INARGERR"
    assert code(gcm, bytes(12), 12, None, 0, 64, (63, 16)) == "NOBUFFER"
    assert code(gcm, bytes(12), 12, None, 0, 64, (64, 15)) == "NOBUFFER"
    assert code(binding.SM4_CBC, bytes(16), 16, None, 0, 64) == "ALGMODNOTSUPPORT"
    assert code(binding.SM1_ECB, bytes(16), 16, None, 0, 64) == "ALGNOTSUPPORT"


@pytest.mark.parametrize("algorithm", [binding.SM4_GCM, binding.SM4_CCM])
def test_authenticated_encryption_in_pieces_is_that_of_the_whole(
    session: Session, algorithm: int
) -> None:
    key, nonce, text = session.key(KEY), bytes(range(12)), os.urandom(100)
    expected = sealed(session, key, algorithm, nonce, text)
    parts = (text[:33], text[33:34], text[34:])
    start = (key, algorithm, nonce, 12, b"aad", 3)
    session.call("AuthEncInit", *start, 100)
    data = b"".join(session.output("AuthEncUpdate", one, len(one), room=len(one)) for one in parts)
    small, last, tag = Room(15), Room(100), Room(16)
    out = (last.buffer, byref(last.length))
    code = session.code("AuthEncFinal", *out, small.buffer, byref(small.length))
    assert (code, bytes(small.buffer)) == ("NOBUFFER", bytes(15) + MARK)
    last.length.value = 100
    session.call("AuthEncFinal", *out, tag.buffer, byref(tag.length))
    assert (data + last.data, tag.data) == expected

    def opened(tag: bytes, data: bytes) -> tuple[str, bytes]:
        room = Room(100)
        session.call("AuthDecInit", *start, tag, 16, 100)
        for one in (data[:50], data[50:]):
            assert session.output("AuthDecUpdate", one, len(one), room=50) == b""
        assert session.code("AuthDecFinal", None, byref(c_uint(0))) == "NOBUFFER"
        code = session.code("AuthDecFinal", room.buffer, byref(room.length))
        return code, bytes(room.buffer[:100])

    assert opened(expected[1], expected[0]) == ("OK", text)
    assert opened(bytes(16), expected[0]) == ("MACERR", bytes(100))
    changed = bytes((expected[0][0] ^ 1,)) + expected[0][1:]
    assert opened(expected[1], changed) == ("MACERR", bytes(100))


def test_authenticated_pieces_are_as_many_as_was_said(session: Session) -> None:
    key, room, tag = session.key(KEY), Room(64), Room(16)
    out = (room.buffer, byref(room.length))
    start = (key, binding.SM4_GCM, bytes(12), 12, None, 0)
    for name in ("AuthEnc", "AuthDec"):
        assert session.code(f"{name}Update", bytes(16), 16, *out) == "STEPERR"
    assert session.code("AuthDecFinal", *out) == "STEPERR"
    session.call("AuthEncInit", *start, 32)
    assert session.code("AuthEncUpdate", bytes(33), 33, *out) == "INARGERR"
    session.output("AuthEncUpdate", bytes(16), 16, room=16)
    end = (*out, tag.buffer, byref(tag.length))
    assert session.code("AuthEncFinal", *end) == "STEPERR"
    session.output("AuthEncUpdate", bytes(16), 16, room=16)
    assert session.code("AuthEncFinal", *end) == "OK"
    assert session.code("AuthEncFinal", *end) == "STEPERR"
    session.call("AuthDecInit", *start, bytes(16), 16, 32)
    assert session.code("AuthDecFinal", *out) == "STEPERR"
    assert session.code("AuthDecUpdate", bytes(33), 33, *out) == "INARGERR"
    for size in (0, 15, 17):
        assert session.code("AuthDecInit", *start, bytes(17), size, 32) == "INARGERR"
    for size in ((1 << 20) + 1, 2**32 - 1):
        assert session.code("AuthEncInit", *start, size) == "INARGERR"
    assert session.code("AuthEncInit", None, *start[1:], 32) == "KEYNOTEXIST"
    # It is one kind with encryption, and an Init begins anew.
    session.call("AuthEncInit", *start, 16)
    session.call("EncryptInit", key, binding.SM4_ECB, None, 0)
    assert session.code("AuthEncUpdate", bytes(16), 16, *out) == "STEPERR"


# --- in pieces ---------------------------------------------------------------------------------


def pieces(session: Session, name: str, key: c_void_p, algorithm: int, parts: list[bytes]) -> bytes:
    session.call(f"{name}Init", key, algorithm, iv_of(), 16)
    made = b"".join(
        session.output(f"{name}Update", part, len(part), room=len(part) + 15) for part in parts
    )
    return made + session.output(f"{name}Final", room=16)


@pytest.mark.parametrize("algorithm", sorted(MODES))
@pytest.mark.parametrize("cuts", [(), (16,), (1, 2, 17), (15, 16, 33, 40)])
def test_pieces_make_what_the_whole_makes(
    session: Session, algorithm: int, cuts: tuple[int, ...]
) -> None:
    text, key = os.urandom(64), session.key(KEY)
    ends = (0, *cuts, 64)
    for name, data, expected in (
        ("Encrypt", text, reference(algorithm, text)),
        ("Decrypt", reference(algorithm, text), text),
    ):
        parts = [data[start:end] for start, end in pairwise(ends)]
        assert pieces(session, name, key, algorithm, parts) == expected


def test_pieces_that_end_in_the_middle_of_a_block_are_refused(session: Session) -> None:
    key, room = session.key(KEY), Room(64)
    session.call("EncryptInit", key, binding.SM4_CBC, iv_of(), 16)
    assert session.output("EncryptUpdate", bytes(17), 17, room=32) == reference(
        binding.SM4_CBC, bytes(16)
    )
    assert session.code("EncryptFinal", room.buffer, byref(room.length)) == "INARGERR"
    assert session.code("EncryptFinal", room.buffer, byref(room.length)) == "STEPERR"


def test_too_little_room_for_a_piece_loses_nothing(session: Session) -> None:
    key, room = session.key(KEY), Room(10)
    session.call("EncryptInit", key, binding.SM4_ECB, None, 0)
    for buffer in (room.buffer, None):
        room.length.value = 10
        code = session.code("EncryptUpdate", bytes(32), 32, buffer, byref(room.length))
        assert (code, room.length.value) == ("NOBUFFER", 47)
    assert bytes(room.buffer) == bytes(10) + MARK
    made = session.output("EncryptUpdate", bytes(32), 32, room=47)
    assert made + session.output("EncryptFinal", room=0) == reference(binding.SM4_ECB, bytes(32))


def test_steps_out_of_order_are_refused(session: Session) -> None:
    key, room = session.key(KEY), Room(64)
    out = (room.buffer, byref(room.length))
    for name in ("Encrypt", "Decrypt"):
        assert session.code(f"{name}Update", bytes(16), 16, *out) == "STEPERR"
        assert session.code(f"{name}Final", *out) == "STEPERR"
        assert session.code(f"{name}Init", key, binding.SM4_CBC, iv_of(), 15) == "INARGERR"
        assert session.code(f"{name}Init", key, binding.SM4_MAC, iv_of(), 16) == "ALGMODNOTSUPPORT"
        assert session.code(f"{name}Init", None, binding.SM4_CBC, iv_of(), 16) == "KEYNOTEXIST"
    for name in ("Hash", "HMAC", "CalculateMAC"):
        assert session.code(f"{name}Update", bytes(16), 16) == "STEPERR"
        assert session.code(f"{name}Final", *out) == "STEPERR"


def test_operations_in_pieces_go_on_beside_each_other_and_beside_whole_ones(user: Session) -> None:
    key, text = user.key(KEY), bytes(range(32))
    user.call("EncryptInit", key, binding.SM4_CBC, iv_of(), 16)
    user.call("DecryptInit", key, binding.SM4_CTR, iv_of(), 16)
    user.call("HashInit", binding.SM3, None, None, 0)
    user.call("HMACInit", key, binding.SM3)
    for part in (text[:16], text[16:]):
        user.call("HashUpdate", part, 16)
        user.call("HMACUpdate", part, 16)
        user.output("EncryptUpdate", part, 16, room=31)
        assert user.crypt("Encrypt", key, binding.SM4_ECB, part) == reference(binding.SM4_ECB, part)
        signed(user, DIGEST)
    digest = hashes.Hash(hashes.SM3())
    digest.update(text)
    assert user.output("HashFinal") == digest.finalize()
    expected = hmac.HMAC(KEY, hashes.SM3())
    expected.update(text)
    assert user.output("HMACFinal") == expected.finalize()
    assert user.output("DecryptUpdate", text, 32, room=47) == reference(binding.SM4_CTR, text)
    assert user.output("EncryptFinal", room=0) == b""


def test_beginning_again_forgets_what_was_begun(session: Session) -> None:
    key = session.key(KEY)
    session.call("HashInit", binding.SM3, None, None, 0)
    session.call("HashUpdate", b"forgotten", 9)
    assert session.hash(b"abc").hex().startswith("66c7f0f462eeedd9")
    session.call("EncryptInit", key, binding.SM4_CBC, iv_of(), 16)
    session.output("EncryptUpdate", bytes(5), 5, room=20)
    session.call("CalculateMACInit", key, binding.SM4_MAC, iv_of(), 16)
    assert session.code("EncryptFinal", Room(16).buffer, byref(c_uint(16))) == "STEPERR"
    session.call("CalculateMACUpdate", bytes(16), 16)
    assert session.output("CalculateMACFinal") == reference(binding.SM4_CBC, bytes(16))


def test_a_key_that_was_destroyed_works_on_in_what_was_begun_with_it(session: Session) -> None:
    key = session.key(KEY)
    session.call("EncryptInit", key, binding.SM4_ECB, None, 0)
    session.call("DestroyKey", key)
    assert session.output("EncryptUpdate", bytes(16), 16, room=31) == reference(
        binding.SM4_ECB, bytes(16)
    )


# --- digests -----------------------------------------------------------------------------------


def test_the_standards_examples_of_sm3(session: Session, vector: Callable[[str], bytes]) -> None:
    for case in json.loads(vector("crypto/gmt/sm3_sm4_gmt.json"))["sm3"]:
        message = case["msg_ascii"].encode()
        assert session.hash(message).hex() == case["md"]
        assert session.hash(message[:5], message[5:]).hex() == case["md"]


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [(binding.SM3, hashes.SM3()), (binding.SHA1, hashes.SHA1()), (binding.SHA256, hashes.SHA256())],
)
def test_digests(session: Session, algorithm: int, name: hashes.HashAlgorithm) -> None:
    text = os.urandom((1 << 20) + 5)
    digest = hashes.Hash(name)
    digest.update(text)
    assert session.hash(text, b"", algorithm=algorithm) == digest.finalize()


def test_too_little_room_for_a_digest_loses_nothing(session: Session) -> None:
    session.call("HashInit", binding.SM3, None, None, 0)
    session.call("HashUpdate", b"abc", 3)
    room = Room(31)
    assert session.code("HashFinal", room.buffer, byref(room.length)) == "NOBUFFER"
    assert room.length.value == 32
    assert session.code("HashFinal", None, byref(room.length)) == "NOBUFFER"
    assert bytes(room.buffer) == bytes(31) + MARK
    assert session.output("HashFinal", room=32).hex().startswith("66c7f0f4")


@pytest.mark.parametrize("algorithm", [0, 8, binding.SM2_SIGN, binding.SM4_ECB, 2**32 - 1])
def test_other_digests_are_not_supported(session: Session, algorithm: int) -> None:
    assert session.code("HashInit", algorithm, None, None, 0) == "ALGNOTSUPPORT"


def test_a_signer_is_a_point_and_signs_sm3(session: Session) -> None:
    _, point = oracle.generate()
    off = EccPublic.of((point[0], point[1] ^ 1))
    assert session.code("HashInit", binding.SM3, byref(off), b"A", 1) == "KEYERR"
    good = EccPublic.of(point)
    assert session.code("HashInit", binding.SHA256, byref(good), b"A", 1) == "INARGERR"
    assert session.code("HashInit", binding.SM3, byref(good), None, 1) == "INARGERR"
