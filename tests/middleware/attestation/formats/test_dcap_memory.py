"""What is remembered between verifications is never remembered beyond its time."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.claims import Claims, TcbStatus
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.formats.dcap.memory import Memory, Same
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.intel import Intel
from tests.adversary.vendors.intel_documents import MONTH, iso, level, revocation_list, tcb_info
from tests.adversary.vendors.pki import NOW, YEAR

SECOND = datetime.timedelta(seconds=1)


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel(pck_dates=(NOW - MONTH / 8, NOW + MONTH / 4))


@pytest.fixture(scope="module")
def quote(intel: Intel) -> bytes:
    return intel.sgx_quote()


def check(
    intel: Intel,
    quote: bytes,
    collateral: Collateral,
    at: datetime.datetime = NOW,
    anchors: Anchors | None = None,
) -> Claims:
    evidence = Evidence("intel.sgx.quote", quote)
    return verify(evidence, at=at, collateral=collateral, anchors=anchors or intel.anchors)


def refusal(
    intel: Intel,
    quote: bytes,
    collateral: Collateral,
    at: datetime.datetime = NOW,
    anchors: Anchors | None = None,
) -> str:
    with pytest.raises(EvidenceRefused) as caught:
        check(intel, quote, collateral, at, anchors)
    return str(caught.value).partition(":")[0]


def test_second_verification_records_the_same_checks(intel: Intel, quote: bytes) -> None:
    collateral = intel.pieces("sgx").collateral()
    first = check(intel, quote, collateral)
    assert check(intel, quote, collateral) == first
    assert check(intel, quote, collateral, NOW + SECOND).checks == first.checks


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (NOW + MONTH / 4 + SECOND, "validity"),
        (NOW - MONTH / 8 - SECOND, "validity"),
        (NOW + YEAR, "validity"),
    ],
)
def test_remembered_chain_is_refused_when_it_is_no_longer_valid(
    intel: Intel, quote: bytes, at: datetime.datetime, name: str
) -> None:
    collateral = intel.pieces("sgx").collateral()
    check(intel, quote, collateral)
    assert refusal(intel, quote, collateral, at) == name
    check(intel, quote, collateral)


def test_remembered_chain_is_refused_when_its_list_is_stale(intel: Intel, quote: bytes) -> None:
    ending = revocation_list(intel.ca, end=NOW + 2 * SECOND)
    collateral = replace(intel.pieces("sgx"), ca_crl=ending).collateral()
    check(intel, quote, collateral)
    check(intel, quote, collateral, NOW + 2 * SECOND)
    assert refusal(intel, quote, collateral, NOW + 3 * SECOND) == "revocation"


def test_remembered_chain_is_refused_when_a_later_list_revokes_it(
    intel: Intel, quote: bytes
) -> None:
    pieces = intel.pieces("sgx").collateral()
    later = revocation_list(intel.ca, intel.pck, start=NOW + SECOND)
    collateral = Collateral(pieces.certificates, (*pieces.crls, later), (), pieces.documents)
    check(intel, quote, collateral)
    assert refusal(intel, quote, collateral, NOW + SECOND) == "revocation"
    check(intel, quote, collateral)


def test_remembered_document_is_refused_when_it_is_no_longer_current(
    intel: Intel, quote: bytes
) -> None:
    info = tcb_info("sgx", issueDate=iso(NOW - SECOND), nextUpdate=iso(NOW + SECOND))
    collateral = intel.pieces("sgx", info).collateral()
    check(intel, quote, collateral)
    check(intel, quote, collateral, NOW + SECOND)
    assert refusal(intel, quote, collateral, NOW + 2 * SECOND) == "tcb-info.current"
    assert refusal(intel, quote, collateral, NOW - 2 * SECOND) == "tcb-info.current"


def test_newer_document_takes_over_from_a_remembered_one(intel: Intel, quote: bytes) -> None:
    old = intel.pieces("sgx", tcb_info("sgx", tcbEvaluationDataNumber=1)).collateral()
    new = tcb_info("sgx", tcbEvaluationDataNumber=2, issueDate=iso(NOW + 2 * SECOND))
    both = old.merged(intel.pieces("sgx", new).collateral())
    assert check(intel, quote, both).tcb.evaluation == 1
    assert check(intel, quote, both, NOW + 2 * SECOND).tcb.evaluation == 2
    assert check(intel, quote, both, NOW + 3 * SECOND).tcb.evaluation == 2


def test_other_anchors_know_nothing_of_what_is_remembered(intel: Intel, quote: bytes) -> None:
    collateral = intel.pieces("sgx").collateral()
    check(intel, quote, collateral)
    assert refusal(intel, quote, collateral, anchors=Intel().anchors) == "certificate-chain"
    assert refusal(intel, quote, collateral, anchors=Anchors()) == "certificate-chain"


def test_renamed_anchor_is_recorded_by_its_new_name(intel: Intel, quote: bytes) -> None:
    collateral = intel.pieces("sgx").collateral()
    check(intel, quote, collateral)
    renamed = Anchors((intel.root.anchor("renamed", "intel"),))
    details = [
        one.detail
        for one in check(intel, quote, collateral, anchors=renamed).checks
        if one.name.endswith("root")
    ]
    assert len(details) == 3
    assert all(one.startswith("renamed, ") for one in details)


def test_one_collateral_for_many_platforms_is_remembered_for_each(
    intel: Intel, quote: bytes
) -> None:
    fmspc = "00a067110000"
    other = Intel(root=intel.root, extension={"fmspc": bytes.fromhex(fmspc)})
    info = tcb_info("sgx", level("SWHardeningNeeded"), fmspc=fmspc)
    both = intel.pieces("sgx").collateral().merged(other.pieces("sgx", info).collateral())
    assert check(intel, quote, both).tcb.status is TcbStatus.UP_TO_DATE
    assert check(intel, other.sgx_quote(), both).tcb.status is TcbStatus.SW_HARDENING_NEEDED


def test_other_collateral_knows_nothing_of_what_is_remembered(intel: Intel, quote: bytes) -> None:
    check(intel, quote, intel.pieces("sgx").collateral())
    revoking = intel.pieces("sgx", revoked_by_ca=[intel.pck]).collateral()
    assert refusal(intel, quote, revoking) == "revocation"


def test_failures_are_not_remembered_and_do_not_spoil_successes(intel: Intel, quote: bytes) -> None:
    collateral = intel.pieces("sgx").collateral()
    assert refusal(intel, quote, collateral, NOW + YEAR) == "validity"
    check(intel, quote, collateral)


def test_memory_holds_between_neighbouring_dates_only() -> None:
    memory: Memory[str] = Memory()
    dates = [NOW - 5 * SECOND, NOW - SECOND, NOW + SECOND, NOW + 5 * SECOND]
    memory.keep("key", NOW, dates, (), "value")
    answers = [memory.recall("key", NOW + one * SECOND, Checks()) for one in (-1, 0, 1)]
    assert answers == [None, "value", None]
    memory.keep("edge", NOW, [NOW], (), "value")
    assert memory.recall("edge", NOW, Checks()) is None
    assert memory.recall("other", NOW, Checks()) is None


def test_memory_forgets_the_oldest() -> None:
    memory: Memory[int] = Memory()
    for index in range(100):
        memory.keep(index, NOW, [], (), index)
    assert memory.recall(0, NOW, Checks()) is None
    assert memory.recall(99, NOW, Checks()) == 99


def test_equal_collateral_is_not_the_same() -> None:
    assert Same(Collateral(crls=(b"1",))) != Same(Collateral(crls=(b"1",)))
    one = Collateral()
    assert Same(one) == Same(one)
