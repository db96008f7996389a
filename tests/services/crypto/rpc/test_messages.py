"""Requests and answers: what is written is read again, and nothing else is."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.services.crypto.pkcs11.calls import BY_NAME, CALLS, Call, split
from secgear.services.crypto.pkcs11.constants import Attr, Mech
from secgear.services.crypto.pkcs11.mechanism import (
    CcmParams,
    ChachaParams,
    ContextParams,
    CtrParams,
    EcdhParams,
    EddsaParams,
    GcmParams,
    HkdfParams,
    KdfParams,
    LengthParam,
    Mechanism,
    Mechanisms,
    MessageParams,
    OaepParams,
    PssParams,
    RsaAesParams,
    Sm2ExchangeParams,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import KINDS, MAX_ATTRIBUTES, Kind
from secgear.services.crypto.rpc.attributes import Filled, Room
from secgear.services.crypto.rpc.buffer import OWN, VERSIONS, MalformedMessage, Writer
from secgear.services.crypto.rpc.frames import (
    HEADER,
    MAX_BODY,
    MAX_OPTIONS,
    build_frame,
    negotiate,
    parse_header,
)
from secgear.services.crypto.rpc.messages import (
    Size,
    build_answer,
    build_error,
    build_request,
    parse_answer,
    parse_request,
)

REFUSALS = (MalformedMessage, CryptokiError)
ALL_VERSIONS = (*VERSIONS, OWN)
ulongs = st.integers(0, 2**64 - 1)
octets = st.binary(max_size=64)

P11KIT_PARAMETERS = st.one_of(
    st.sampled_from([Mech.RSA_PKCS, Mech.ECDSA, Mech.SHA256, Mech.AES_KEY_GEN]).map(Mechanism),
    st.binary(min_size=16, max_size=16).map(lambda iv: Mechanism(Mech.AES_CBC, iv)),
    st.builds(PssParams, ulongs, ulongs, ulongs).map(lambda p: Mechanism(Mech.RSA_PKCS_PSS, p)),
    st.builds(OaepParams, ulongs, ulongs, ulongs, octets).map(
        lambda p: Mechanism(Mech.RSA_PKCS_OAEP, p)
    ),
    st.builds(OaepParams, ulongs, ulongs, ulongs, octets).flatmap(
        lambda oaep: st.builds(RsaAesParams, ulongs, st.just(oaep)).map(
            lambda p: Mechanism(Mech.RSA_AES_KEY_WRAP, p)
        )
    ),
    st.builds(CcmParams, ulongs, octets, octets, ulongs).map(lambda p: Mechanism(Mech.AES_CCM, p)),
    st.builds(HkdfParams, st.booleans(), st.booleans(), ulongs, ulongs, octets, ulongs, octets).map(
        lambda p: Mechanism(Mech.HKDF_DERIVE, p)
    ),
    st.builds(Sm2ExchangeParams, st.booleans(), ulongs, octets, octets, octets, octets).map(
        lambda p: Mechanism(Mech.SM2_EXCHANGE, p)
    ),
    st.builds(KdfParams, ulongs, ulongs, octets, octets).map(
        lambda p: Mechanism(Mech.SP800_108_COUNTER_KDF, p)
    ),
    st.builds(CtrParams, ulongs, octets).map(lambda p: Mechanism(Mech.AES_CTR, p)),
    st.builds(GcmParams, octets, octets, ulongs).map(lambda p: Mechanism(Mech.AES_GCM, p)),
    st.builds(EcdhParams, ulongs, octets, octets).map(lambda p: Mechanism(Mech.ECDH1_DERIVE, p)),
    st.builds(EddsaParams, st.booleans(), octets).map(lambda p: Mechanism(Mech.EDDSA, p)),
    st.builds(ContextParams, ulongs, octets).map(lambda p: Mechanism(Mech.ML_DSA, p)),
    st.builds(ChachaParams, octets, octets).map(lambda p: Mechanism(Mech.CHACHA20_POLY1305, p)),
    st.builds(LengthParam, ulongs).map(lambda p: Mechanism(Mech.SHA256_HMAC_GENERAL, p)),
)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.BOOL: st.booleans(),
    Kind.ULONG: ulongs,
    Kind.BYTES: octets,
    Kind.DATE: st.sampled_from([b"", b"20261128"]),
    Kind.MECHANISMS: st.lists(ulongs, max_size=5).map(tuple),
}
flat = st.dictionaries(
    st.sampled_from([attr for attr in Attr if KINDS[attr] is not Kind.TEMPLATE]).map(int),
    st.none(),
    max_size=6,
).flatmap(lambda keys: st.fixed_dictionaries({key: VALUES[KINDS[key]] for key in keys}))
templates = st.one_of(
    flat, flat.map(lambda inner: {int(Attr.CLASS): 4, int(Attr.WRAP_TEMPLATE): inner})
)
ARGUMENTS: dict[str, st.SearchStrategy[Any]] = {
    "u": ulongs,
    "y": st.integers(0, 255),
    "z": octets,
    "ay": octets,
    "aA": templates,
    "fy": st.integers(0, 2**32 - 1),
    "fu": st.integers(0, 2**32 - 1),
    "fA": st.lists(
        st.builds(
            Room,
            st.sampled_from([a for a in Attr if KINDS[a] is not Kind.TEMPLATE]).map(int),
            st.integers(0, 2**32 - 1),
        ),
        max_size=5,
    ),
    "M": P11KIT_PARAMETERS,
    "aM": st.one_of(
        st.lists(st.builds(GcmParams, octets, octets, ulongs), min_size=1, max_size=5).map(
            lambda given: Mechanisms(Mech.AES_GCM, tuple(given))
        ),
        st.lists(octets, max_size=5).map(lambda given: Mechanisms(Mech.SM2_SM3, tuple(given))),
        st.integers(1, 5).map(lambda count: Mechanisms(Mech.ECDSA, (None,) * count)),
    ),
    "ab": st.lists(octets, max_size=5),
    "P": st.builds(MessageParams, octets, ulongs, ulongs, octets, ulongs, ulongs),
}


def arguments(call: Call) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(ARGUMENTS[form] for form in split(call.request)))


requests = st.sampled_from(list(CALLS.values())).flatmap(
    lambda call: st.tuples(st.just(call), arguments(call))
)


@given(requests, st.sampled_from(ALL_VERSIONS))
def test_what_is_asked_is_what_is_read(asked: tuple[Call, tuple[Any, ...]], version: int) -> None:
    call, values = asked
    body = build_request(call, values, version)
    if call.since > version:
        with pytest.raises(CryptokiError) as refused:
            parse_request(body, version)
        assert refused.value.rv is Rv.FUNCTION_NOT_SUPPORTED
        return
    request = parse_request(body, version)
    assert request.call is call
    assert request.arguments == values


@given(requests, st.sampled_from(ALL_VERSIONS), st.data())
def test_no_part_of_a_request_is_a_request(
    asked: tuple[Call, tuple[Any, ...]], version: int, data: st.DataObject
) -> None:
    call, values = asked
    body = build_request(call, values, version)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(REFUSALS):
        parse_request(body[:cut], version)
    with pytest.raises(REFUSALS):
        parse_request(body + b"\0", version)


@given(st.binary(max_size=400), st.sampled_from(ALL_VERSIONS))
def test_any_bytes_are_a_request_or_refused(body: bytes, version: int) -> None:
    with contextlib.suppress(REFUSALS):
        parse_request(body, version)


@given(requests, st.sampled_from(ALL_VERSIONS), st.data())
def test_a_changed_request_is_read_or_refused(
    asked: tuple[Call, tuple[Any, ...]], version: int, data: st.DataObject
) -> None:
    call, values = asked
    body = bytearray(build_request(call, values, version))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(REFUSALS):
        parse_request(bytes(body), version)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_templates_nest_once_and_no_deeper(version: int) -> None:
    call = BY_NAME["C_CreateObject"]
    nested = {int(Attr.WRAP_TEMPLATE): {int(Attr.TOKEN): True}}
    request = parse_request(build_request(call, (1, nested), version), version)
    assert request.arguments[1] == nested
    deeper = build_request(call, (1, {int(Attr.WRAP_TEMPLATE): nested}), version)
    with pytest.raises(MalformedMessage):
        parse_request(deeper, version)


def test_room_for_nested_attributes_is_read_and_left() -> None:
    writer = Writer(1)
    call = BY_NAME["C_GetAttributeValue"]
    writer.u32(call.id)
    writer.array(call.request.encode())
    writer.u64(1)
    writer.u64(2)
    for number in (2, Attr.WRAP_TEMPLATE, 48, 2, Attr.CLASS, 8, Attr.TOKEN, 1, Attr.LABEL, 9):
        writer.u32(number)
    request = parse_request(writer.done(), 1)
    assert request.arguments[2] == [Room(Attr.WRAP_TEMPLATE, 48), Room(Attr.LABEL, 9)]


def test_more_attributes_than_the_limit_are_refused_before_they_are_read() -> None:
    call = BY_NAME["C_CreateObject"]
    head = build_request(call, (1, {}), 0)[:-4]
    with pytest.raises(MalformedMessage):
        parse_request(head + (MAX_ATTRIBUTES + 1).to_bytes(4, "big"), 0)
    with pytest.raises(MalformedMessage):
        parse_request(head + b"\xff\xff\xff\xff", 0)


def test_an_attribute_given_twice_is_inconsistent() -> None:
    call = BY_NAME["C_CreateObject"]
    one = build_request(call, (1, {int(Attr.TOKEN): True}), 0)
    entry = one[-10:]
    twice = one[:-14] + (2).to_bytes(4, "big") + entry + entry
    with pytest.raises(CryptokiError) as refused:
        parse_request(twice, 0)
    assert refused.value.rv is Rv.TEMPLATE_INCONSISTENT


@pytest.mark.parametrize(
    ("mechanism", "version", "expected"),
    [
        # No parameter: an empty array in versions 0 and 1, nothing in version 2.
        (Mechanism(Mech.RSA_PKCS), 0, "00000001ffffffff"),
        (Mechanism(Mech.RSA_PKCS), 1, "00000001ffffffff"),
        (Mechanism(Mech.RSA_PKCS), 2, "00000001"),
        # A parameter: by itself, or after a byte that says so.
        (Mechanism(Mech.AES_CBC, bytes(16)), 1, "00001082 00000010" + "00" * 16),
        (Mechanism(Mech.AES_CBC, bytes(16)), 2, "00001082 01 00000010" + "00" * 16),
        (
            Mechanism(Mech.AES_GCM, GcmParams(b"\1" * 12, b"ad", 128)),
            1,
            "00001087 0000000c" + "01" * 12 + "0000000000000060 00000002 6164 0000000000000080",
        ),
        (
            Mechanism(Mech.RSA_PKCS_PSS, PssParams(0x250, 2, 32)),
            2,
            "0000000d 01 0000000000000250 0000000000000002 0000000000000020",
        ),
        (None, 2, "ffffffff"),
    ],
)
def test_mechanisms_have_the_form_that_p11_kit_gives_them(
    mechanism: Mechanism | None, version: int, expected: str
) -> None:
    call = BY_NAME["C_SignInit"]
    body = build_request(call, (1, mechanism, 2), version)
    head, tail = len(b"\0\0\0\x2a\0\0\0\3uMu") + 8, 8
    assert body[head:-tail] == bytes.fromhex(expected)
    assert parse_request(body, version).arguments == (1, mechanism, 2)


def test_an_unknown_mechanism_is_refused_by_name() -> None:
    call = BY_NAME["C_SignInit"]
    body = build_request(call, (1, Mechanism(Mech.RSA_PKCS), 2), 0)
    unknown = body.replace(b"\0\0\0\1\xff\xff\xff\xff", b"\0\0\2\x10\xff\xff\xff\xff")
    with pytest.raises(CryptokiError) as refused:
        parse_request(unknown, 0)
    assert refused.value.rv is Rv.MECHANISM_INVALID


def test_a_call_under_another_signature_is_refused() -> None:
    body = build_request(BY_NAME["C_CloseSession"], (1,), 0)
    with pytest.raises(MalformedMessage):
        parse_request(body.replace(b"\1u\0", b"\1y\0"), 0)


RESULTS: dict[str, st.SearchStrategy[Any]] = {
    "u": ulongs,
    "v": st.tuples(st.integers(0, 255), st.integers(0, 255)),
    "s": octets,
    "ay": st.one_of(octets, st.integers(0, 2**32 - 1).map(Size)),
    "au": st.one_of(st.lists(ulongs, max_size=5), st.integers(0, 2**32 - 1).map(Size)),
    "ar": st.lists(st.one_of(octets, st.sampled_from(Rv)), max_size=5),
}


@given(
    st.sampled_from([c for c in CALLS.values() if "A" not in c.response]).flatmap(
        lambda call: st.tuples(
            st.just(call), st.tuples(*(RESULTS[form] for form in split(call.response)))
        )
    ),
    st.sampled_from(ALL_VERSIONS),
)
def test_what_is_answered_is_what_is_read(
    answered: tuple[Call, tuple[Any, ...]], version: int
) -> None:
    call, results = answered
    assert parse_answer(call, build_answer(call, results, version), version) == results


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_attributes_come_back_as_values_sizes_or_not_at_all(version: int) -> None:
    call = BY_NAME["C_GetAttributeValue"]
    results = [
        Filled(Attr.LABEL, b"key"),
        Filled(Attr.LABEL, b"key", fits=False),
        Filled(Attr.VALUE, None),
        Filled(Attr.SENSITIVE, True),
        Filled(Attr.DESTROYABLE, True),
        Filled(Attr.KEY_TYPE, 3),
        Filled(Attr.ALLOWED_MECHANISMS, (1, 2)),
    ]
    body = build_answer(call, (results, Rv.ATTRIBUTE_SENSITIVE), version)
    filled, rv = parse_answer(call, body, version)
    assert rv == Rv.ATTRIBUTE_SENSITIVE
    assert filled == [
        (Attr.LABEL, 3, b"key"),
        (Attr.LABEL, 3, None),
        (Attr.VALUE, -1, None),
        (Attr.SENSITIVE, 1, True),
        (Attr.DESTROYABLE, 1, True),
        (Attr.KEY_TYPE, 8, 3),
        (Attr.ALLOWED_MECHANISMS, 16, (1, 2)),
    ]


def test_an_error_is_its_return_value() -> None:
    call = BY_NAME["C_Sign"]
    with pytest.raises(CryptokiError) as raised:
        parse_answer(call, build_error(Rv.PIN_LOCKED), 0)
    assert raised.value.rv is Rv.PIN_LOCKED
    unknown = build_error(Rv.PIN_LOCKED)[:-8] + (2**40).to_bytes(8, "big")
    with pytest.raises(CryptokiError) as raised:
        parse_answer(call, unknown, 0)
    assert raised.value.rv is Rv.DEVICE_ERROR


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(body: bytes) -> None:
    for call in (BY_NAME["C_Sign"], BY_NAME["C_GetAttributeValue"], BY_NAME["C_GetTokenInfo"]):
        with contextlib.suppress(REFUSALS):
            parse_answer(call, body, 0)


def test_frames_within_the_limits_are_read_and_others_end_the_stream() -> None:
    frame = build_frame(7, b"body", b"client")
    header = parse_header(frame[: HEADER.size])
    assert (header.code, header.options, header.body) == (7, 6, 4)
    assert frame[HEADER.size :] == b"clientbody"
    for options, body in ((MAX_OPTIONS + 1, 0), (0, MAX_BODY + 1), (2**32 - 1, 2**32 - 1)):
        with pytest.raises(MalformedMessage):
            parse_header(HEADER.pack(1, options, body))


@pytest.mark.parametrize(
    ("offered", "spoken"), [(0, 0), (1, 1), (2, 2), (3, 2), (255, 2), (OWN, OWN)]
)
def test_the_version_spoken_is_one_that_the_client_knows(offered: int, spoken: int) -> None:
    assert negotiate(offered) == spoken
