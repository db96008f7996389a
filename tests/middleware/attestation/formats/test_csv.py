"""Hygon CSV: read exactly, never trusted."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation import verify
from secgear.middleware.attestation.checks import Outcome
from secgear.middleware.attestation.formats import csv
from secgear.middleware.attestation.recognition import recognise

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ANONCE = bytes.fromhex("0badcafe")
SERIAL = b"CHIP42".ljust(64, b"\0")


def _masked(data: bytes) -> bytes:
    return bytes(byte ^ ANONCE[at % 4] for at, byte in enumerate(data))


def _page(**changes: bytes) -> bytes:
    """A report's page as the processor makes one; `changes` replace fields."""
    fields = {
        "user_key_digest": b"k" * 32,
        "vm_id": b"i" * 16,
        "vm_version": b"v" * 16,
        "report_data": b"r" * 64,
        "nonce": b"n" * 16,
        "measurement": b"m" * 32,
        "policy": (0x45).to_bytes(4, "little"),
        "usage": (0x1002).to_bytes(4, "little"),
        "algorithm": (4).to_bytes(4, "little"),
    }
    rest = {
        "signature": b"s" * 144,
        "pek": b"p" * 2084,
        "serial": SERIAL,
        "reserved": bytes(32),
        "mac": b"a" * 32,
    }
    for name, value in changes.items():
        (fields if name in fields else rest)[name] = value
    page = _masked(b"".join(fields.values())) + ANONCE + b"".join(rest.values())
    return page.ljust(4096, b"\0")


def _json(page: bytes, **changes: Any) -> bytes:
    report = {"data": list(page), "flags": 0, "magic": [0] * 16}
    whole = {
        "attestation_report": report | changes.pop("report", {}),
        "cert_chain": {"pek": {}},
        "serial_number": list(SERIAL),
        "cc_eventlog": None,
    }
    return json.dumps(whole | changes).encode()


def test_masked_fields_are_read() -> None:
    report = csv.parse(_json(_page()))
    assert report.measurement == b"m" * 32
    assert report.report_data == b"r" * 64
    assert (report.policy, report.signature_algorithm) == (0x45, 4)
    assert report.serial == "CHIP42"
    assert report.pek_certificate == b"p" * 2084


def test_well_formed_evidence_is_refused_because_its_signature_is_sm2() -> None:
    with pytest.raises(EvidenceRefused, match="SM2") as caught:
        verify(recognise(_json(_page())), at=NOW)
    assert [(check.name, check.outcome) for check in caught.value.checks] == [
        ("format", Outcome.PASS),
        ("signature", Outcome.FAIL),
    ]


def test_genuine_evidence_is_read_and_refused_for_its_signature(
    vector: Callable[[str], bytes],
) -> None:
    data = vector("csv/trustee-csv_evidence.json")
    assert csv.parse(data).serial == "KPA64911240507"
    assert csv.parse(data).report_data == bytes(64)
    with pytest.raises(EvidenceRefused, match="SM2"):
        verify(recognise(data), at=NOW)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_json(_page(serial=b"CHIP43".ljust(64, b"\0"))), "serial number beside it"),
        (_json(_page(serial=b"\xff" * 64)), "no text"),
        (_json(_page(reserved=b"\1" * 32)), "reserved"),
        (_json(_page()[:-1] + b"\1"), "padding"),
        (_json(_page()[:-1]), "length"),
        (_json(_page(), serial_number=[0] * 63), "length"),
        (_json(_page(), extra=1), "unknown field"),
        (_json(_page(), report={"data": [256] * 4096}), "255"),
        (b"[" * 100_000, "CSV report"),
        (b'{"attestation_report": "\xff"}', "CSV report"),
    ],
)
def test_anything_else_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(EvidenceMalformed, match=reason):
        csv.parse(data)


def test_the_extended_report_is_another_form() -> None:
    for report in ({"flags": 1}, {"magic": [*b"ATTESTATION_EXT\0"]}):
        with pytest.raises(EvidenceUnsupported, match="extended"):
            csv.parse(_json(_page(), report=report))


@given(st.data())
def test_hostile_pages_are_refused_in_order(data: st.DataObject) -> None:
    page = bytearray(_page())
    for at in data.draw(st.lists(st.integers(0, 4095), max_size=8)):
        page[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EvidenceRefused):
        verify(Evidence("hygon.csv", _json(bytes(page))), at=NOW)


@given(st.binary(max_size=300))
def test_rubbish_is_malformed(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        csv.parse(data)
