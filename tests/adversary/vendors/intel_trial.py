"""Bringing fake quotes before the verifier, and what is expected of it."""

from __future__ import annotations

import datetime

import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.intel import PPID, Intel
from tests.adversary.vendors.intel_documents import COMPONENTS, PCE_SVN, Pieces
from tests.adversary.vendors.pki import NOW


def check(
    intel: Intel,
    quote: bytes,
    collateral: Collateral | Pieces,
    *,
    tee: str = "sgx",
    at: datetime.datetime = NOW,
) -> Claims:
    if isinstance(collateral, Pieces):
        collateral = collateral.collateral()
    evidence = Evidence(f"intel.{tee}.quote", quote)
    return verify(evidence, at=at, collateral=collateral, anchors=intel.anchors)


def refused(
    intel: Intel,
    quote: bytes,
    collateral: Collateral | Pieces,
    name: str,
    *,
    tee: str = "sgx",
    at: datetime.datetime = NOW,
) -> Check:
    """Assert that check `name` refuses the evidence; its record."""
    with pytest.raises(EvidenceRefused) as caught:
        check(intel, quote, collateral, tee=tee, at=at)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (name, Outcome.FAIL), str(caught.value)
    return last


def replaced(collateral: Collateral, **changes: object) -> Collateral:
    """The same collateral with other members."""
    fields = ("certificates", "crls", "documents")
    return Collateral(**({name: getattr(collateral, name) for name in fields} | changes))


def named(kind: int, ppid: bytes = PPID, pce_svn: int = PCE_SVN) -> bytes:
    """Certification data of type 1 to 3, for the fake platform."""
    identifier = ppid if kind == 1 else b"x" * (256 if kind == 2 else 384)
    return identifier + bytes(COMPONENTS) + pce_svn.to_bytes(2, "little") + bytes(2)
