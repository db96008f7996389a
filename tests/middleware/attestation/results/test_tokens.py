"""Verifying tokens: every way in which one can be wrong, and none that passes."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto import jwk, jws

from secgear.errors import KeyFileError, ResultInvalid
from secgear.middleware.attestation.results import (
    ResultKey,
    issue_cwt,
    issue_jwt,
    keys,
    new_key,
    public_keys,
    verify_cwt,
    verify_jwt,
)
from secgear.middleware.attestation.verdict import Verdict
from tests.adversary.claims import NOW

Arguments = dict[str, Any]
MINUTE = datetime.timedelta(minutes=1)
BOTH = pytest.mark.parametrize(
    ("issue", "verify"), [(issue_jwt, verify_jwt), (issue_cwt, verify_cwt)]
)


@pytest.fixture
def verdict(judge: Callable[..., Verdict]) -> Verdict:
    return judge()


@pytest.fixture
def jwt(verdict: Verdict, key: ResultKey, issuing: Arguments) -> str:
    return issue_jwt(verdict, key, **issuing)


@pytest.fixture
def cwt(verdict: Verdict, key: ResultKey, issuing: Arguments) -> bytes:
    return issue_cwt(verdict, key, **issuing)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "==")


def signed(key: ResultKey, header: str, payload: bytes) -> str:
    """A JWS by the right key over any header and payload."""
    to_sign = f"{encoded(header.encode())}.{encoded(payload)}"
    r, s = decode_dss_signature(key.private.sign(to_sign.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{to_sign}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@BOTH
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_keys_on_both_curves_sign(
    verdict: Verdict,
    issuing: Arguments,
    reading: Arguments,
    curve: ec.EllipticCurve,
    issue: Callable[..., Any],
    verify: Callable[..., Any],
) -> None:
    key = new_key(curve)
    token = issue(verdict, key, **issuing)
    verify(token, {new_key().kid: new_key().public, key.kid: key.public}, **reading)


@BOTH
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"audience": "somebody else"}, "meant for"),
        ({"issuer": "https://evil.example"}, "issued by"),
        ({"nonce": b"m" * 32}, "nonce"),
        ({"now": NOW + 5 * MINUTE + datetime.timedelta(seconds=30)}, "expired"),
        ({"now": NOW - MINUTE}, "future"),
    ],
)
def test_a_result_for_another_reader_time_or_challenge_is_refused(
    verdict: Verdict,
    key: ResultKey,
    issuing: Arguments,
    reading: Arguments,
    change: Arguments,
    reason: str,
    issue: Callable[..., Any],
    verify: Callable[..., Any],
) -> None:
    with pytest.raises(ResultInvalid, match=reason):
        verify(issue(verdict, key, **issuing), {key.kid: key.public}, **(reading | change))


@BOTH
def test_clocks_may_differ_by_half_a_minute(
    verdict: Verdict,
    key: ResultKey,
    issuing: Arguments,
    reading: Arguments,
    issue: Callable[..., Any],
    verify: Callable[..., Any],
) -> None:
    token = issue(verdict, key, **issuing)
    for now in (NOW - MINUTE / 2, NOW + 5 * MINUTE + datetime.timedelta(seconds=29)):
        verify(token, {key.kid: key.public}, **(reading | {"now": now}))


@BOTH
def test_a_result_without_a_nonce_does_not_answer_one(
    verdict: Verdict,
    key: ResultKey,
    issuing: Arguments,
    reading: Arguments,
    issue: Callable[..., Any],
    verify: Callable[..., Any],
) -> None:
    token = issue(verdict, key, **(issuing | {"nonce": None}))
    with pytest.raises(ResultInvalid, match="nonce"):
        verify(token, {key.kid: key.public}, **reading)
    assert verify(token, {key.kid: key.public}, **(reading | {"nonce": None})).nonce is None


@BOTH
def test_a_key_that_is_not_trusted_is_refused(
    verdict: Verdict,
    key: ResultKey,
    issuing: Arguments,
    reading: Arguments,
    issue: Callable[..., Any],
    verify: Callable[..., Any],
) -> None:
    stranger = new_key()
    token = issue(verdict, stranger, **issuing)
    for trusted in ({}, {key.kid: key.public}):
        with pytest.raises(ResultInvalid, match="not known"):
            verify(token, trusted, **reading)
    with pytest.raises(ResultInvalid, match="signature"):
        verify(token, {stranger.kid: key.public}, **reading)


HEADERS = {
    "none": '{"alg":"none","kid":"KID","typ":"eat+jwt"}',
    "hmac": '{"alg":"HS256","kid":"KID","typ":"eat+jwt"}',
    "other curve": '{"alg":"ES384","kid":"KID","typ":"eat+jwt"}',
    "no kid": '{"alg":"ES256","typ":"eat+jwt"}',
    "no typ": '{"alg":"ES256","kid":"KID"}',
    "other typ": '{"alg":"ES256","kid":"KID","typ":"JWT"}',
    "jku": '{"alg":"ES256","kid":"KID","typ":"eat+jwt","jku":"https://evil.example"}',
    "jwk": '{"alg":"ES256","kid":"KID","typ":"eat+jwt","jwk":{}}',
    "x5u": '{"alg":"ES256","kid":"KID","typ":"eat+jwt","x5u":"https://evil.example"}',
    "crit": '{"alg":"ES256","kid":"KID","typ":"eat+jwt","crit":["exp"]}',
    "unencoded": '{"alg":"ES256","kid":"KID","typ":"eat+jwt","b64":false}',
    "kid twice": '{"alg":"ES256","kid":"x","kid":"KID","typ":"eat+jwt"}',
    "kid of another kind": '{"alg":"ES256","kid":7,"typ":"eat+jwt"}',
    "no object": "[]",
    "nothing": "",
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_with_anything_else_is_refused_though_the_signature_holds(
    key: ResultKey, jwt: str, reading: Arguments, name: str
) -> None:
    header = HEADERS[name].replace("KID", key.kid)
    token = signed(key, header, decoded(jwt.split(".")[1]))
    with pytest.raises(ResultInvalid):
        verify_jwt(token, {key.kid: key.public}, **reading)


def test_the_forging_test_makes_good_tokens_too(
    key: ResultKey, jwt: str, reading: Arguments
) -> None:
    header = f'{{"alg":"ES256","kid":"{key.kid}","typ":"EAT+JWT"}}'
    token = signed(key, header, decoded(jwt.split(".")[1]))
    verify_jwt(token, {key.kid: key.public}, **reading)


def test_a_mac_under_the_public_key_is_no_signature(
    key: ResultKey, jwt: str, reading: Arguments
) -> None:
    public = jwk.JWK.from_pyca(key.public).export_to_pem()
    secret = jwk.JWK(kty="oct", k=encoded(public))
    message = jws.JWS(decoded(jwt.split(".")[1]))
    header = {"alg": "HS256", "kid": key.kid, "typ": "eat+jwt"}
    message.add_signature(secret, None, protected=json.dumps(header))
    with pytest.raises(ResultInvalid, match="HS256"):
        verify_jwt(message.serialize(compact=True), {key.kid: key.public}, **reading)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"aud":"a","aud":"relying-party"}',
        b'{"iat":NaN}',
        b'{"iat":1e999}',
        b"[" * 100_000,
        b'{"iat":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"iat":' + b"9" * 5000 + b"}",
    ],
)
def test_a_payload_that_is_not_strict_json_is_refused(
    key: ResultKey, reading: Arguments, payload: bytes
) -> None:
    header = f'{{"alg":"ES256","kid":"{key.kid}","typ":"eat+jwt"}}'
    with pytest.raises(ResultInvalid):
        verify_jwt(signed(key, header, payload), {key.kid: key.public}, **reading)


def test_a_claim_twice_is_refused_even_if_the_last_one_is_right(
    key: ResultKey, jwt: str, reading: Arguments
) -> None:
    header = f'{{"alg":"ES256","kid":"{key.kid}","typ":"eat+jwt"}}'
    payload = decoded(jwt.split(".")[1]).replace(b'{"eat', b'{"aud":"x","eat', 1)
    with pytest.raises(ResultInvalid, match="strict"):
        verify_jwt(signed(key, header, payload), {key.kid: key.public}, **reading)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token + "=",
        lambda token: token + ".",
        lambda token: token.replace(".", "", 1),
        lambda token: " " + token,
        lambda token: token + "\n",
        lambda token: token.rsplit(".", 1)[0] + ".",
        lambda token: json.dumps({"payload": token}),
        lambda token: "a" * 300_000,
        lambda token: "\u00e9" + token,
    ],
)
def test_a_jwt_has_one_spelling(
    key: ResultKey, jwt: str, reading: Arguments, spoil: Callable[[str], str]
) -> None:
    with pytest.raises(ResultInvalid):
        verify_jwt(spoil(jwt), {key.kid: key.public}, **reading)


def test_no_changed_letter_of_a_jwt_is_accepted(
    key: ResultKey, jwt: str, reading: Arguments
) -> None:
    for place in range(0, len(jwt), 5):
        changed = jwt[:place] + ("A" if jwt[place] != "A" else "B") + jwt[place + 1 :]
        with pytest.raises(ResultInvalid):
            verify_jwt(changed, {key.kid: key.public}, **reading)


def test_no_changed_bit_and_no_truncation_of_a_cwt_is_accepted(
    key: ResultKey, cwt: bytes, reading: Arguments
) -> None:
    for place in range(0, len(cwt), 3):
        changed = bytearray(cwt)
        changed[place] ^= 1 << place % 8
        with pytest.raises(ResultInvalid):
            verify_cwt(bytes(changed), {key.kid: key.public}, **reading)
    for length in range(0, len(cwt), 41):
        with pytest.raises(ResultInvalid):
            verify_cwt(cwt[:length], {key.kid: key.public}, **reading)


def rewritten(cwt: bytes, key: ResultKey, **changes: Any) -> bytes:
    """The CWT with other headers, signed anew by the right key."""
    header, unprotected, payload, _ = cbor2.loads(cwt).value
    protected = changes.get("protected", header)
    if isinstance(protected, dict):
        protected = cbor2.dumps(cbor2.loads(header) | protected)
    to_sign = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.private.sign(to_sign, ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    message = [protected, changes.get("unprotected", unprotected), payload, signature]
    return cbor2.dumps(cbor2.CBORTag(changes.get("tag", 18), message))


@pytest.mark.parametrize(
    "changes",
    [
        {"protected": {1: -35}},
        {"protected": {1: 5}},
        {"protected": {1: None}},
        {"protected": {4: b"another"}},
        {"protected": {4: "text"}},
        {"protected": {16: "application/cwt"}},
        {"protected": {2: [1]}},
        {"protected": {33: b"x5chain"}},
        {"protected": cbor2.dumps({})},
        {"protected": cbor2.dumps([1])},
        {"protected": b""},
        {"unprotected": {4: b"kid"}},
        {"unprotected": {99: 1}},
        {"tag": 17},
    ],
)
def test_a_cose_header_with_anything_else_is_refused_though_the_signature_holds(
    key: ResultKey, cwt: bytes, reading: Arguments, changes: Arguments
) -> None:
    verify_cwt(rewritten(cwt, key), {key.kid: key.public}, **reading)
    with pytest.raises(ResultInvalid):
        verify_cwt(rewritten(cwt, key, **changes), {key.kid: key.public}, **reading)


def test_the_cwt_tag_may_be_around_the_cose_tag_only(
    key: ResultKey, cwt: bytes, reading: Arguments
) -> None:
    message = cbor2.loads(cwt)
    wrapped = cbor2.dumps(cbor2.CBORTag(61, message))
    verify_cwt(wrapped, {key.kid: key.public}, **reading)
    for bad in (cbor2.CBORTag(61, message.value), cbor2.CBORTag(61, cbor2.CBORTag(61, message))):
        with pytest.raises(ResultInvalid):
            verify_cwt(cbor2.dumps(bad), {key.kid: key.public}, **reading)


KEY = new_key()


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(data: bytes) -> None:
    reading: Arguments = {"audience": "a", "issuer": "i", "nonce": None, "now": NOW}
    for verify, token in ((verify_cwt, data), (verify_jwt, data.decode("latin-1"))):
        with pytest.raises(ResultInvalid):
            verify(token, {KEY.kid: KEY.public}, **reading)  # type: ignore[operator]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_signed_json_is_read_or_refused_but_never_a_crash(value: object) -> None:
    header = f'{{"alg":"ES256","kid":"{KEY.kid}","typ":"eat+jwt"}}'
    payload = json.dumps(value).encode()
    with pytest.raises(ResultInvalid):
        verify_jwt(
            signed(KEY, header, payload),
            {KEY.kid: KEY.public},
            audience="a",
            issuer="i",
            nonce=None,
            now=NOW,
        )


def test_a_thumbprint_is_that_of_rfc_7638() -> None:
    # jwcrypto computes the same from its own form of the key.
    for key in (new_key(), new_key(ec.SECP384R1())):
        assert jwk.JWK.from_pyca(key.public).thumbprint() == key.kid
        assert "private" not in repr(key)


def test_a_jwk_set_gives_the_keys_back_by_name() -> None:
    made = [new_key(), new_key(ec.SECP384R1())]
    jwks = json.dumps({"keys": [keys.public_jwk(key.public) for key in made]}).encode()
    assert {kid: key.public_numbers() for kid, key in public_keys(jwks).items()} == {
        key.kid: key.public.public_numbers() for key in made
    }


GOOD_JWK = keys.public_jwk(KEY.public)


@pytest.mark.parametrize(
    "jwks",
    [
        b"",
        b"{}",
        b'{"keys": []}',
        b'{"keys": 7}',
        json.dumps({"keys": [GOOD_JWK | {"kid": "another"}]}).encode(),
        json.dumps({"keys": [GOOD_JWK | {"crv": "P-521"}]}).encode(),
        json.dumps({"keys": [GOOD_JWK | {"kty": "RSA"}]}).encode(),
        json.dumps({"keys": [GOOD_JWK | {"d": "AAAA"}]}).encode(),
        json.dumps({"keys": [GOOD_JWK | {"x": GOOD_JWK["y"]}]}).encode(),
        json.dumps({"keys": [GOOD_JWK | {"x": 7}]}).encode(),
        json.dumps({"keys": [GOOD_JWK | {"x": ""}]}).encode(),
        json.dumps({"keys": [GOOD_JWK] * 17}).encode(),
    ],
)
def test_a_jwk_set_that_is_none_is_refused(jwks: bytes) -> None:
    with pytest.raises(KeyFileError):
        public_keys(jwks)


def test_private_keys_survive_a_file_in_their_order() -> None:
    made = [new_key(), new_key(ec.SECP384R1()), new_key()]
    assert [key.kid for key in keys.from_pem(keys.to_pem(made))] == [key.kid for key in made]


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"rubbish",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        keys.to_pem([KEY]) * 17,
    ],
)
def test_a_file_without_usable_keys_is_refused(pem: bytes) -> None:
    with pytest.raises(KeyFileError):
        keys.from_pem(pem)


def test_other_kinds_of_key_do_not_sign_results() -> None:
    from cryptography.hazmat.primitives import serialization

    other = rsa.generate_private_key(65537, 2048)
    pem = other.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(KeyFileError, match="EC"):
        keys.from_pem(pem)
    with pytest.raises(KeyFileError, match="P-384"):
        ResultKey(ec.generate_private_key(ec.SECP521R1()))
