"""Keys of a fake enclave, whose evidence a fake vendor signs, and trust in them."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import pytest

from secgear.base.tee import Evidence
from secgear.middleware.attestation import Policy, load_policy
from secgear.middleware.envelopes import HYBRID, EnclaveKeyPair, TrustedKey, verify_key
from tests.adversary.vendors.simulated import SimulatedVendor

MEASUREMENT = b"m" * 48


class FakeGuest:
    """An enclave's TEE services; `claims` replace what the evidence says."""

    tee = "process"

    def __init__(self, vendor: SimulatedVendor, **claims: object) -> None:
        self._vendor = vendor
        self._claims = claims

    def evidence(self, report_data: bytes) -> Evidence:
        claims = self._vendor.claims(**self._claims)
        return self._vendor.evidence(claims, report_data=report_data)


@pytest.fixture(scope="session")
def vendor() -> SimulatedVendor:
    return SimulatedVendor()


@pytest.fixture(scope="session")
def guest(vendor: SimulatedVendor) -> FakeGuest:
    return FakeGuest(vendor)


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load_policy(
        f"""
        name = "envelopes"
        [accept]
        tees = ["process"]
        measurements = ["{MEASUREMENT.hex()}"]
        [allow]
        simulated = true
        test_roots = true
        """.encode()
    )


@pytest.fixture
def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="session")
def pair(guest: FakeGuest) -> EnclaveKeyPair:
    return EnclaveKeyPair.create(HYBRID, guest=guest)


Trust = Callable[[EnclaveKeyPair], TrustedKey]


@pytest.fixture(scope="session")
def trust(vendor: SimulatedVendor, policy: Policy) -> Trust:
    def verified(pair: EnclaveKeyPair) -> TrustedKey:
        now = datetime.datetime.now(datetime.UTC)
        return verify_key(pair.key.to_cbor(), policy, at=now, anchors=vendor.anchors)

    return verified


@pytest.fixture(scope="session")
def recipient(pair: EnclaveKeyPair, trust: Trust) -> TrustedKey:
    return trust(pair)
