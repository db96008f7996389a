"""Output into a caller's room (PKCS#11 3.2, section 5.2), and data of any size."""

from __future__ import annotations

import hashlib
from ctypes import addressof, byref, c_ulong, create_string_buffer, sizeof
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.services.crypto.pkcs11.constants import UNAVAILABLE, Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.rv import Rv
from tests.services.crypto.library.cryptoki import (
    Attribute,
    Library,
    Mechanism,
    Refused,
    Session,
    buffer_of,
    mechanism_of,
    raw_of,
    template,
)
from tests.services.crypto.library.parameters import GcmParams

LARGE = 9 << 20
"""Bytes that are too many for one message, and not a multiple of anything."""
LARGE += 12345
P256 = bytes.fromhex("06082a8648ce3d030107")


def secret(session: Session, value: bytes, kind: KeyType = KeyType.AES, **attributes: Any) -> int:
    return session.create(
        CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=kind, VALUE=value, SENSITIVE=False, **attributes
    )


def test_who_has_no_buffer_is_told_the_size(session: Session) -> None:
    size = c_ulong(1)
    session.call("C_DigestInit", byref(Mechanism(Mech.SHA256)))
    session.call("C_Digest", b"abc", 3, None, byref(size))
    assert size.value == 32
    buffer = buffer_of(64)
    for room in (0, 31):
        size.value = room
        assert session.rv("C_Digest", b"abc", 3, buffer, byref(size)) == Rv.BUFFER_TOO_SMALL
        assert size.value == 32
    assert not any(buffer)
    size.value = 64
    session.call("C_Digest", b"abc", 3, buffer, byref(size))
    assert size.value == 32
    assert bytes(buffer[:32]) == hashlib.sha256(b"abc").digest()
    assert not any(buffer[32:])
    assert session.rv("C_Digest", b"abc", 3, buffer, byref(size)) == Rv.OPERATION_NOT_INITIALIZED


def test_lists_of_slots_and_mechanisms_follow_the_same_rule(ready: Library) -> None:
    for name, arguments in (("C_GetSlotList", (1,)), ("C_GetMechanismList", (0,))):
        count = c_ulong(99)
        ready.call(name, *arguments, None, byref(count))
        number = count.value
        assert number >= 2
        items = (c_ulong * (number + 1))(*[4711] * (number + 1))
        count.value = number - 1
        assert ready.rv(name, *arguments, items, byref(count)) == Rv.BUFFER_TOO_SMALL
        assert count.value == number
        assert set(items) == {4711}
        ready.call(name, *arguments, items, byref(count))
        assert count.value == number
        assert items[number] == 4711
        assert len(set(items)) == number + 1


def test_a_slot_list_has_the_slots(ready: Library) -> None:
    slots, count = (c_ulong * 8)(), c_ulong(8)
    ready.call("C_GetSlotList", 0, slots, byref(count))
    assert list(slots[: count.value]) == [0, 1]


@pytest.mark.parametrize("size", [0, 1, 16, 4096, (3 << 20) + 5])  # the token decrypts up to 4 MiB
def test_gcm_encrypts_and_decrypts_any_size(session: Session, size: int) -> None:
    value, iv, aad = bytes(range(32)), bytes(12), b"not secret"
    key = secret(session, value)
    plain = hashlib.shake_128(b"x").digest(size)
    parameter = GcmParams.of(iv, aad, 128)
    made = session.run("Encrypt", Mech.AES_GCM, key, plain, parameter)
    assert made == AESGCM(value).encrypt(iv, plain, aad)
    assert session.run("Decrypt", Mech.AES_GCM, key, made, GcmParams.of(iv, aad, 128)) == plain
    session.call("C_DecryptInit", byref(mechanism_of(Mech.AES_GCM, parameter)), key)
    broken = bytearray(made)
    broken[-1] ^= 1
    buffer, room = buffer_of(len(made)), c_ulong(len(made))
    rv = session.rv("C_Decrypt", bytes(broken), len(broken), buffer, byref(room))
    assert rv == Rv.ENCRYPTED_DATA_INVALID


@pytest.mark.parametrize("size", [15, 16, 5000, LARGE])
def test_cbc_in_pieces_is_cbc_as_a_whole(session: Session, size: int) -> None:
    key = secret(session, bytes(16))
    plain = hashlib.shake_128(b"y").digest(size)
    whole = session.run("Encrypt", Mech.AES_CBC_PAD, key, plain, bytes(16))
    assert len(whole) == (size // 16 + 1) * 16
    session.call("C_EncryptInit", byref(mechanism_of(Mech.AES_CBC_PAD, bytes(16))), key)
    made = session.sized("C_EncryptUpdate", plain[:7], 7)
    made += session.sized("C_EncryptUpdate", plain[7:], size - 7)
    made += session.sized("C_EncryptFinal")
    assert made == whole
    assert session.run("Decrypt", Mech.AES_CBC_PAD, key, whole, bytes(16)) == plain


@pytest.mark.parametrize("size", [0, 100, LARGE])
def test_digests_and_signatures_take_any_size(session: Session, size: int) -> None:
    data = hashlib.shake_128(b"z").digest(size)
    session.call("C_DigestInit", byref(Mechanism(Mech.SHA384)))
    assert session.sized("C_Digest", data, size) == hashlib.sha384(data).digest()
    session.call("C_DigestInit", byref(Mechanism(Mech.SHA384)))
    session.call("C_DigestUpdate", data, size)
    assert session.sized("C_DigestFinal") == hashlib.sha384(data).digest()
    public, private = session.pair(
        Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256, "VERIFY": True}, {"SIGN": True}
    )
    signature = session.run("Sign", Mech.ECDSA_SHA256, private, data)
    session.call("C_VerifyInit", byref(Mechanism(Mech.ECDSA_SHA256)), public)
    session.call("C_Verify", data, size, signature, len(signature))
    session.call("C_VerifyInit", byref(Mechanism(Mech.ECDSA_SHA256)), public)
    session.call("C_VerifyUpdate", data, size)
    session.call("C_VerifyUpdate", b"more", 4)
    rv = session.rv("C_VerifyFinal", signature, len(signature))
    assert rv == Rv.SIGNATURE_INVALID


def test_room_that_is_too_small_for_large_data_costs_nothing(session: Session) -> None:
    key = secret(session, bytes(16))
    plain = bytes(LARGE)
    session.call("C_EncryptInit", byref(mechanism_of(Mech.AES_CBC_PAD, bytes(16))), key)
    buffer, size = buffer_of(LARGE + 16), c_ulong(LARGE)
    assert session.rv("C_Encrypt", plain, LARGE, buffer, byref(size)) == Rv.BUFFER_TOO_SMALL
    needed = (LARGE // 16 + 1) * 16
    assert size.value == needed
    assert not any(buffer)
    session.call("C_Encrypt", plain, LARGE, buffer, byref(size))
    assert size.value == needed


def test_random_bytes_come_in_any_number(session: Session) -> None:
    buffer = buffer_of((3 << 20) + 8)
    session.call("C_GenerateRandom", buffer, 3 << 20)
    made = bytes(buffer)
    assert made[3 << 20 :] == bytes(8)
    assert len({made[at : at + 32] for at in range(0, 3 << 20, 1 << 18)}) == 12
    session.call("C_GenerateRandom", buffer, 0)


def test_a_search_fills_the_room_it_is_given(session: Session) -> None:
    count = 1500  # more than the module tells at once
    for number in range(count):
        session.create(CLASS=ObjectClass.DATA, LABEL=b"many", VALUE=raw_of(number))
    wanted = template(LABEL=b"many")
    session.call("C_FindObjectsInit", wanted, 1)
    handles, found = (c_ulong * 2000)(), c_ulong(0)
    session.call("C_FindObjects", handles, 2000, byref(found))
    assert found.value == count
    assert len(set(handles[:count])) == count
    session.call("C_FindObjects", handles, 2000, byref(found))
    assert found.value == 0
    session.call("C_FindObjectsFinal")


# --- attributes ----------------------------------------------------------------------------------


def asked(*wanted: tuple[int, Any]) -> Any:
    """CK_ATTRIBUTEs with these buffers: a size, or None to ask for it."""
    made = (Attribute * len(wanted))()
    made.kept = [create_string_buffer(room) if room else None for _, room in wanted]
    for place, (attr, room), buffer in zip(made, wanted, made.kept, strict=True):
        place.type, place.size = attr, room or 0
        place.value = addressof(buffer) if buffer is not None else None
    return made


def test_each_attribute_is_answered_by_itself(session: Session) -> None:
    key = session.create(
        CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.AES, VALUE=bytes(16), LABEL=b"a label"
    )
    wanted = asked((Attr.LABEL, 3), (Attr.VALUE, 64), (Attr.CLASS, 8), (Attr.TOKEN, 1))
    rv = session.rv("C_GetAttributeValue", key, wanted, 4)
    assert rv in (Rv.ATTRIBUTE_SENSITIVE, Rv.BUFFER_TOO_SMALL)
    assert [one.size for one in wanted] == [UNAVAILABLE, UNAVAILABLE, 8, 1]
    assert wanted.kept[2].raw == raw_of(ObjectClass.SECRET_KEY)
    assert wanted.kept[0].raw == bytes(3)
    assert wanted.kept[1].raw == bytes(64)


@pytest.mark.parametrize(
    ("attr", "room", "expected"),
    [
        (Attr.VALUE, 64, Rv.ATTRIBUTE_SENSITIVE),
        (Attr.VALUE, None, Rv.ATTRIBUTE_SENSITIVE),
        (Attr.MODULUS, 64, Rv.ATTRIBUTE_TYPE_INVALID),
        (0x7FFFFFFF, 64, Rv.ATTRIBUTE_TYPE_INVALID),
        (1 << 40, 64, Rv.ATTRIBUTE_TYPE_INVALID),
        (Attr.LABEL, 1, Rv.BUFFER_TOO_SMALL),
        (Attr.CLASS, 7, Rv.BUFFER_TOO_SMALL),
    ],
)
def test_an_attribute_that_can_not_be_had_is_marked(
    session: Session, attr: int, room: int | None, expected: Rv
) -> None:
    key = session.create(
        CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.AES, VALUE=bytes(16), LABEL=b"a label"
    )
    wanted = asked((attr, room))
    assert session.rv("C_GetAttributeValue", key, wanted, 1) == expected
    assert wanted[0].size == UNAVAILABLE


def test_an_empty_attribute_has_a_size_of_nothing(session: Session) -> None:
    handle = session.create(CLASS=ObjectClass.DATA)
    wanted = asked((Attr.LABEL, None), (Attr.VALUE, 4), (Attr.TOKEN, None), (Attr.CLASS, None))
    session.call("C_GetAttributeValue", handle, wanted, 4)
    assert [one.size for one in wanted] == [0, 0, 1, 8]


def test_mechanisms_and_templates_are_attributes_too(session: Session) -> None:
    inner = template(SENSITIVE=True, KEY_TYPE=KeyType.AES, LABEL=b"inner")
    made = template(VALUE_LEN=32, WRAP=True, ALLOWED_MECHANISMS=[Mech.AES_KEY_WRAP, Mech.AES_GCM])
    whole = (Attribute * 4)(*made.array)
    whole[3] = Attribute(Attr.WRAP_TEMPLATE, addressof(inner.array), 3 * sizeof(Attribute))
    key = session.number("C_GenerateKey", byref(Mechanism(Mech.AES_KEY_GEN)), whole, 4)
    assert session.get(key, Attr.ALLOWED_MECHANISMS) == raw_of([Mech.AES_KEY_WRAP, Mech.AES_GCM])
    asking = asked((Attr.WRAP_TEMPLATE, None))
    session.call("C_GetAttributeValue", key, asking, 1)
    assert asking[0].size == 3 * sizeof(Attribute)
    # First the types and sizes, then the values: as a program does it.
    nested = (Attribute * 3)()
    asking[0].value = addressof(nested)
    session.call("C_GetAttributeValue", key, asking, 1)
    sizes = {one.type: one.size for one in nested}
    assert sizes == {Attr.SENSITIVE: 1, Attr.KEY_TYPE: 8, Attr.LABEL: 5}
    buffers = [create_string_buffer(one.size) for one in nested]
    for one, buffer in zip(nested, buffers, strict=True):
        one.value = addressof(buffer)
    session.call("C_GetAttributeValue", key, asking, 1)
    values = {one.type: buffer.raw for one, buffer in zip(nested, buffers, strict=True)}
    assert values == {
        Attr.SENSITIVE: b"\1", Attr.KEY_TYPE: raw_of(KeyType.AES), Attr.LABEL: b"inner",
    }  # fmt: skip
    asking[0].size = 2 * sizeof(Attribute)
    assert session.rv("C_GetAttributeValue", key, asking, 1) == Rv.BUFFER_TOO_SMALL
    assert asking[0].size == UNAVAILABLE


def test_a_template_in_a_template_in_a_template_is_refused(session: Session) -> None:
    third = (Attribute * 1)(Attribute(Attr.WRAP_TEMPLATE, None, 0))
    second = (Attribute * 1)(Attribute(Attr.WRAP_TEMPLATE, addressof(third), sizeof(third)))
    first = (Attribute * 1)(Attribute(Attr.WRAP_TEMPLATE, addressof(second), sizeof(second)))
    with pytest.raises(Refused) as refused:
        session.number("C_GenerateKey", byref(Mechanism(Mech.AES_KEY_GEN)), first, 1)
    assert refused.value.rv == Rv.ATTRIBUTE_VALUE_INVALID


def test_what_is_set_is_read_and_found(session: Session) -> None:
    key = session.generate(Mech.AES_KEY_GEN, VALUE_LEN=16, LABEL=b"before")
    session.call("C_SetAttributeValue", key, template(LABEL=b"after"), 1)
    assert session.get(key, Attr.LABEL) == b"after"
    assert session.find(LABEL=b"after") == [key]
    assert session.find(LABEL=b"before") == []
    session.call("C_DestroyObject", key)
    assert session.rv("C_DestroyObject", key) == Rv.OBJECT_HANDLE_INVALID
