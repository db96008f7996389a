"""An enclave's key: what its document must be, and when it is trusted."""

from __future__ import annotations

import copy
import datetime
import hashlib
import pickle
import traceback
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import EnvelopeMalformed, EnvelopeRefused, GuestError, SecGearError, Untrusted
from secgear.middleware.attestation import load_policy
from secgear.middleware.envelopes import (
    CLASSIC,
    HYBRID,
    EnclaveKey,
    EnclaveKeyPair,
    TrustedKey,
    seal,
    verify_key,
)
from tests.adversary.vendors.simulated import SimulatedVendor

HOUR = datetime.timedelta(hours=1)


@pytest.fixture(params=[HYBRID, CLASSIC])
def any_pair(request: Any, guest: Any) -> EnclaveKeyPair:
    return EnclaveKeyPair.create(request.param, purposes=["b", "a", "b"], guest=guest)


def test_document_round_trips(any_pair: EnclaveKeyPair) -> None:
    document = any_pair.key.to_cbor()
    assert EnclaveKey.from_cbor(document) == any_pair.key
    assert any_pair.key.purposes == ("a", "b")


def test_report_data_is_what_the_documentation_says(any_pair: EnclaveKeyPair) -> None:
    key = any_pair.key
    suite = key.suite.encode()
    by_hand = (
        b"secgear enclave key v1\0" + len(suite).to_bytes(2, "big") + suite + key.public
        + key.not_after.to_bytes(8, "big") + bytes(32) + b"\0\2" + b"\0\1a" + b"\0\1b"
    )  # fmt: skip
    assert key.report_data == hashlib.sha512(by_hand).digest()


def test_verified_key_knows_claims_and_expiry(
    pair: EnclaveKeyPair, policy: Any, vendor: SimulatedVendor, now: datetime.datetime
) -> None:
    trusted = verify_key(pair.key, policy, at=now, anchors=vendor.anchors, keep=HOUR)
    assert trusted.claims.measurements["launch"] == b"m" * 48
    assert trusted.expires == now + HOUR
    longer = verify_key(pair.key, policy, at=now, anchors=vendor.anchors, keep=1000 * HOUR)
    assert longer.expires == pair.key.expires


def test_policys_age_of_evidence_limits_trust_in_the_key(
    pair: EnclaveKeyPair, policy: Any, vendor: SimulatedVendor, now: datetime.datetime
) -> None:
    fresh = msgspec.structs.replace(policy.freshness, max_age=datetime.timedelta(minutes=5))
    strict = msgspec.structs.replace(policy, freshness=fresh)
    trusted = verify_key(pair.key, strict, at=now, anchors=vendor.anchors)
    made = trusted.claims.evidence_time
    assert made is not None
    assert trusted.expires == made + datetime.timedelta(minutes=5)


def test_expired_key_is_refused_at_verification_and_at_sealing(
    pair: EnclaveKeyPair, policy: Any, vendor: SimulatedVendor, now: datetime.datetime
) -> None:
    with pytest.raises(EnvelopeRefused, match="expired"):
        verify_key(pair.key, policy, at=pair.key.expires, anchors=vendor.anchors)
    trusted = verify_key(pair.key, policy, at=now, anchors=vendor.anchors, keep=HOUR)
    seal(trusted, b"data", purpose="p", at=now + HOUR - datetime.timedelta(seconds=1))
    with pytest.raises(EnvelopeRefused, match="expired"):
        seal(trusted, b"data", purpose="p", at=now + HOUR)


@pytest.mark.parametrize(
    "changes",
    [
        {"not_after": 2_000_000_000},
        {"context": b"c" * 32},
        {"purposes": ("anything",)},
        {"public": None},
        {"suite": CLASSIC, "public": b"\x09" + bytes(31)},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_changed_document_is_untrusted(
    pair: EnclaveKeyPair,
    guest: Any,
    policy: Any,
    vendor: SimulatedVendor,
    now: datetime.datetime,
    changes: dict[str, Any],
) -> None:
    if "public" in changes and changes["public"] is None:  # evidence about another key
        changes = {"public": EnclaveKeyPair.create(guest=guest).key.public}
    forged = msgspec.structs.replace(pair.key, **changes)
    with pytest.raises(Untrusted, match="report data"):
        verify_key(forged.to_cbor(), policy, at=now, anchors=vendor.anchors)


def test_data_owners_nonce_is_in_the_evidence(
    pair: EnclaveKeyPair, guest: Any, policy: Any, vendor: SimulatedVendor, now: datetime.datetime
) -> None:
    nonce = b"n" * 32
    asked = pair.attest(nonce, guest=guest)
    trusted = verify_key(asked, policy, at=now, context=nonce, anchors=vendor.anchors)
    assert trusted.key.id == pair.key.id
    with pytest.raises(EnvelopeRefused, match="context"):
        verify_key(pair.key, policy, at=now, context=nonce, anchors=vendor.anchors)
    with pytest.raises(EnvelopeMalformed, match="context"):
        pair.attest(b"short", guest=guest)


@pytest.mark.parametrize(
    ("claims", "check"),
    [({}, "policy.simulated"), ({263: 0}, "policy.debug"), ({"measurement": b"x" * 48}, "policy")],
)
def test_strict_policy_refuses_simulated_debug_and_other_enclaves(
    vendor: SimulatedVendor, now: datetime.datetime, claims: dict[Any, Any], check: str
) -> None:
    allow = "debug = true" if not claims else "simulated = true"
    policy = load_policy(
        f"""
        name = "strict"
        [accept]
        tees = ["process"]
        measurements = ["{(b"m" * 48).hex()}"]
        [allow]
        test_roots = true
        {allow}
        """.encode()
    )

    class Guest:
        def evidence(self, report_data: bytes) -> Any:
            return vendor.evidence(vendor.claims() | claims, report_data=report_data)

    made = EnclaveKeyPair.create(guest=Guest())  # type: ignore[arg-type]
    with pytest.raises(Untrusted, match=check):
        verify_key(made.key, policy, at=now, anchors=vendor.anchors)


def test_key_can_not_be_trusted_by_hand(
    pair: EnclaveKeyPair, recipient: TrustedKey, guest: Any, trust: Any
) -> None:
    other = trust(EnclaveKeyPair.create(guest=guest))
    with pytest.raises(EnvelopeRefused, match="other evidence"):
        TrustedKey(key=pair.key, verdict=other.verdict, expires=other.expires)
    moved = msgspec.structs.replace(pair.key, evidence=other.key.evidence)
    with pytest.raises(EnvelopeRefused, match="another key"):
        TrustedKey(key=moved, verdict=other.verdict, expires=recipient.expires)
    late = pair.key.expires + HOUR
    with pytest.raises(EnvelopeRefused, match="longer"):
        TrustedKey(key=pair.key, verdict=recipient.verdict, expires=late)
    refused = msgspec.structs.replace(recipient.verdict, claims=None)
    with pytest.raises(Untrusted):
        TrustedKey(key=pair.key, verdict=refused, expires=recipient.expires)
    with pytest.raises(TypeError, match="TrustedKey"):
        seal(pair.key, b"", purpose="p")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"secgear-enclave-key": 2},
        {"suite": "RSA"},
        {"public": bytes(31)},
        {"public": b"\xff" * 1216},
        {"not_after": 0},
        {"not_after": 1 << 63},
        {"not_after": -1},
        {"not_after": "tomorrow"},
        {"context": bytes(31)},
        {"purposes": ["b", "a"]},
        {"purposes": ["a", "a"]},
        {"purposes": [""]},
        {"purposes": ["x" * 256]},
        {"purposes": [f"{n:03}" for n in range(65)]},
        {"evidence": b""},
        {"evidence": {}},
        {"extra": 1},
    ],
    ids=str,
)
def test_malformed_document_is_refused(pair: EnclaveKeyPair, change: dict[str, Any]) -> None:
    content = cbor2.loads(pair.key.to_cbor()) | change
    with pytest.raises(EnvelopeMalformed):
        EnclaveKey.from_cbor(cbor2.dumps(content, canonical=True))


def test_low_order_point_is_no_key(pair: EnclaveKeyPair) -> None:
    with pytest.raises(EnvelopeMalformed):
        msgspec.structs.replace(pair.key, suite=CLASSIC, public=bytes(32))


def test_document_in_another_encoding_is_refused(pair: EnclaveKeyPair) -> None:
    content = cbor2.loads(pair.key.to_cbor())
    turned = cbor2.dumps(dict(reversed(content.items())))
    for data in (turned, pair.key.to_cbor() + b"\0", pair.key.to_cbor()[:-1], b""):
        with pytest.raises(EnvelopeMalformed):
            EnclaveKey.from_cbor(data)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_document_is_malformed_or_untrusted(data: Any) -> None:
    vendor, policy, pair = _fixed()
    document = bytearray(pair.key.to_cbor())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(document) - 1))
        document[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, 3))
    damaged = bytes(document[: len(document) - cut])
    if damaged == pair.key.to_cbor():
        return
    now = datetime.datetime.now(datetime.UTC)
    with pytest.raises((EnvelopeMalformed, EnvelopeRefused, Untrusted)):
        verify_key(damaged, policy, at=now, anchors=vendor.anchors)


@settings(deadline=None)
@given(junk=st.binary(max_size=200))
def test_junk_is_malformed(junk: bytes) -> None:
    for read in (EnclaveKey.from_cbor, EnclaveKeyPair.from_secret):
        with pytest.raises(EnvelopeMalformed):
            read(junk)


_FIXED: list[Any] = []


def _fixed() -> Any:
    """Hypothesis does not take fixtures of functions: these are made once."""
    if not _FIXED:
        vendor = SimulatedVendor()

        class Guest:
            def evidence(self, report_data: bytes) -> Any:
                return vendor.evidence(report_data=report_data)

        text = b'name = "x"\n[accept]\ntees = ["process"]\nmeasurements = ["%s"]\n' % (
            (b"m" * 48).hex().encode()
        )
        policy = load_policy(text + b"[allow]\nsimulated = true\ntest_roots = true\n")
        pair = EnclaveKeyPair.create(CLASSIC, guest=Guest())  # type: ignore[arg-type]
        _FIXED.extend((vendor, policy, pair))
    return _FIXED


@pytest.mark.parametrize(
    "arguments",
    [
        {"suite": "RSA"},
        {"lifetime": datetime.timedelta(0)},
        {"lifetime": datetime.timedelta(days=367)},
        {"purposes": [""]},
        {"purposes": ["\ud800"]},
        {"context": b"short"},
    ],
    ids=str,
)
def test_key_that_can_not_be_is_not_made(guest: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeMalformed):
        EnclaveKeyPair.create(guest=guest, **arguments)


def test_outside_an_enclave_no_key_is_made() -> None:
    with pytest.raises(GuestError):
        EnclaveKeyPair.create()


def test_key_pair_round_trips_as_a_secret(any_pair: EnclaveKeyPair) -> None:
    again = EnclaveKeyPair.from_secret(any_pair.to_secret())
    assert again.key == any_pair.key
    assert again.to_secret() == any_pair.to_secret()


def test_private_key_of_another_public_key_is_refused(pair: EnclaveKeyPair) -> None:
    content = cbor2.loads(pair.to_secret())
    for secret in (bytes(32), bytes(31)):
        with pytest.raises(EnvelopeMalformed):
            EnclaveKeyPair.from_secret(cbor2.dumps(content | {"secret": secret}, canonical=True))


def test_private_key_shows_nowhere(any_pair: EnclaveKeyPair) -> None:
    secret = cbor2.loads(any_pair.to_secret())["secret"]
    shown = [repr(any_pair), str(any_pair), repr(any_pair.key)]
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            act(any_pair)
    broken = any_pair.to_secret().replace(any_pair.key.public, bytes(len(any_pair.key.public)))
    for data in (broken, any_pair.to_secret()[:-1], any_pair.to_secret()[1:]):
        try:
            EnclaveKeyPair.from_secret(data)
        except SecGearError:
            shown.append(traceback.format_exc())
    assert len(shown) == 6
    for text in shown:
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text


def test_closed_key_pair_opens_nothing(any_pair: EnclaveKeyPair, trust: Any) -> None:
    from secgear.middleware import envelopes

    envelope = seal(trust(any_pair), b"data", purpose="a")
    any_pair.close()
    with pytest.raises(EnvelopeRefused, match="closed"):
        envelopes.open(any_pair, envelope, purpose="a")
    with pytest.raises(EnvelopeRefused, match="closed"):
        any_pair.to_secret()
