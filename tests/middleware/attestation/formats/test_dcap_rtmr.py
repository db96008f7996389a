"""CCEL: a TD's event log counts only if its replay gives the registers of the quote."""

from __future__ import annotations

import hashlib
import struct

import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused
from secgear.middleware.attestation.checks import Check
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.intel import Intel
from tests.adversary.vendors.pki import NOW

SHA384, EV_NO_ACTION, EV_EVENT_TAG = 0x000C, 3, 6
Extended = tuple[int, bytes]  # measurement register index in the log, and the event's data


def ccel(*events: Extended, padding: bytes = b"") -> bytes:
    """A log: the TCG's Spec ID event, then one EV_EVENT_TAG for each of `events`."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1)
    spec += struct.pack("<HHB", SHA384, 48, 0)
    log = struct.pack("<II20xI", 0, EV_NO_ACTION, len(spec)) + spec
    for register, data in events:
        log += struct.pack("<IIIH", register, EV_EVENT_TAG, 1, SHA384)
        log += hashlib.sha384(data).digest() + struct.pack("<I", len(data)) + data
    return log + padding


def registers(*events: Extended) -> dict[str, bytes]:
    """RTMR0 to RTMR3 after `events`, as fields of a quote."""
    found = {f"rtmr{index}": bytes(48) for index in range(4)}
    for register, data in events:
        name = f"rtmr{register - 1}"
        found[name] = hashlib.sha384(found[name] + hashlib.sha384(data).digest()).digest()
    return found


EVENTS: tuple[Extended, ...] = ((1, b"firmware"), (2, b"kernel"), (1, b"variables"), (4, b"app"))


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel()


def check(intel: Intel, log: bytes | None, **fields: bytes) -> Claims:
    attachments = {} if log is None else {"ccel": log}
    return verify(
        Evidence("intel.tdx.quote", intel.td_quote(**fields), attachments),
        at=NOW,
        collateral=intel.pieces("tdx").collateral(),
        anchors=intel.anchors,
    )


def refusal(intel: Intel, log: bytes, **fields: bytes) -> Check:
    with pytest.raises(EvidenceRefused) as caught:
        check(intel, log, **fields)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert last.name == "event-log"
    return last


@pytest.mark.parametrize("padding", [b"", bytes(100), b"\xff" * 100])
def test_log_whose_replay_gives_the_registers_is_accepted(intel: Intel, padding: bytes) -> None:
    claims = check(intel, ccel(*EVENTS, padding=padding), **registers(*EVENTS))
    assert "event-log" in {one.name for one in claims.checks}


def test_without_a_log_nothing_is_said_about_one(intel: Intel) -> None:
    claims = check(intel, None, **registers(*EVENTS))
    assert "event-log" not in {one.name for one in claims.checks}


@pytest.mark.parametrize(
    ("events", "register"),
    [
        (EVENTS[1:], "RTMR0"),
        (EVENTS[:3], "RTMR3"),
        ((*EVENTS, (2, b"more")), "RTMR1"),
        ((*EVENTS, (3, b"more")), "RTMR2"),
        ((EVENTS[2], EVENTS[1], EVENTS[0], EVENTS[3]), "RTMR0"),
        ((), "RTMR0"),
    ],
)
def test_log_with_other_events_is_refused(
    intel: Intel, events: tuple[Extended, ...], register: str
) -> None:
    last = refusal(intel, ccel(*events), **registers(*EVENTS))
    assert register in last.detail
    assert last.expected != last.found


@pytest.mark.parametrize("register", [0, 5])
def test_events_of_registers_that_no_quote_has_are_refused(intel: Intel, register: int) -> None:
    log = ccel(*EVENTS, (register, b"unvouched"))
    assert f"register {register}" in refusal(intel, log, **registers(*EVENTS)).detail


@pytest.mark.parametrize("log", [b"", b"\0" * 64, ccel(*EVENTS)[:-1], b"\xff" * 200])
def test_broken_log_is_refused(intel: Intel, log: bytes) -> None:
    refusal(intel, log, **registers(*EVENTS))
