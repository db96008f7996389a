"""Genuine evidence, damaged: refused wherever a signature covers it, the same claims elsewhere.

Each vector that is accepted is changed by one bit in many places, cut off at many lengths, and made
longer. A verifier has three ways out: refuse, or accept because the byte means nothing and then say
exactly what it said before; anything else (another exception, other claims, taking its time) fails
here.
"""

from __future__ import annotations

import datetime
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused
from secgear.middleware.attestation import verify
from tests.adversary.mutation import flipped, resized
from tests.middleware.attestation.test_vectors import VECTORS, Read

ACCEPTED = [name for name, case in VECTORS.items() if not case.refused]
HANG = 20  # seconds; all of them take milliseconds


def _before_the_pem(data: bytes) -> Iterable[int]:
    """A quote up to the PEM chain at its end, whose line breaks no signature covers."""
    return range(data.index(b"-----BEGIN"))


def _runtime_claims(data: bytes) -> Iterable[int]:
    """Of an HCL report the claims: report data are their hash. A TDX machine's quote is beside."""
    return range(data.index(b'{"keys"'), data.rindex(b"}") + 1)


def _report_and_claims(data: bytes) -> Iterable[int]:
    """Of an HCL report the SEV-SNP report behind its header, and the claims."""
    return itertools.chain(range(32, 32 + 1184), _runtime_claims(data))


# Where every byte of the evidence itself is signed or hashed; all of it unless said.
SIGNED: dict[str, Callable[[bytes], Iterable[int]]] = {
    "intel.tdx.quote": _before_the_pem,
    "intel.sgx.quote": _before_the_pem,
    "azure.snp": _report_and_claims,
    "azure.tdx": _runtime_claims,
}


def _signed(evidence: Evidence) -> frozenset[int]:
    find = SIGNED.get(evidence.format, lambda data: range(len(data)))
    return frozenset(find(evidence.data))


@contextmanager
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError("the verifier hangs")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("name", ACCEPTED)
def test_damage_is_refused_or_means_nothing(name: str, vector: Read) -> None:
    case = VECTORS[name]
    evidence = case.evidence(vector)
    arguments: dict[str, Any] = {
        "at": datetime.datetime.fromisoformat(case.at).replace(tzinfo=datetime.UTC),
        "collateral": case.collateral(vector),
        "anchors": case.anchors(vector),
    }
    said = _without_record(verify(evidence, **arguments).to_dict())
    signed = _signed(evidence)
    refused = 0
    for damaged in itertools.chain(
        flipped(evidence, at_most=600),
        flipped(evidence, at_most=150, bit=0x80),
        resized(evidence, at_most=80),
    ):
        where = f"{damaged.part} at {damaged.position}"
        with _in_time():
            try:
                claims = verify(damaged.evidence, **arguments)
            except EvidenceRefused:
                refused += 1
                continue
        assert damaged.part != "data" or damaged.position not in signed, f"accepted: {where}"
        assert _without_record(claims.to_dict()) == said, f"other claims: {where}"
    assert refused > len(signed) / len(evidence.data) * 500, "hardly anything was refused"


@pytest.mark.parametrize("name", VECTORS)
def test_evidence_under_another_formats_name_is_refused(name: str, vector: Read) -> None:
    """Type confusion: the bytes of one format judged as each of the others."""
    case = VECTORS[name]
    evidence = case.evidence(vector)
    at = datetime.datetime.fromisoformat(case.at).replace(tzinfo=datetime.UTC)
    for other in {one.evidence(vector).format for one in VECTORS.values()} - {evidence.format}:
        with _in_time(), pytest.raises(EvidenceRefused):
            verify(Evidence(other, evidence.data, evidence.attachments), at=at)


def _without_record(claims: dict[str, Any]) -> dict[str, Any]:
    """The claims without the record of how they came about, which may quote the chain."""
    return {name: value for name, value in claims.items() if name != "checks"}
