"""SGX and TDX against dcap-qvl, an independent implementation: same verdict, status, advisories.

Where the two may differ is listed in `DIFFERENCES`, each with its reason; anything else is a bug in
one of them.
"""

from __future__ import annotations

import datetime
import functools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import pytest

from secgear.base.tee import Evidence
from secgear.errors import CollateralError, EvidenceRefused
from secgear.middleware.attestation.anchors import Anchors, builtin_anchors
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.checks import Check
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.formats.dcap import quote as quotes
from secgear.middleware.attestation.formats.dcap.exchange import collateral_from_dcap_qvl
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.intel import SEPT_VE_DISABLE, Intel
from tests.adversary.vendors.intel_cases import PLATFORM, generated, relaunching
from tests.adversary.vendors.intel_documents import (
    MONTH,
    Pieces,
    level,
    qe_identity,
    revocation_list,
    tcb_info,
)
from tests.adversary.vendors.pki import NOW

dcap_qvl = pytest.importorskip("dcap_qvl", reason="dcap-qvl, the second opinion, is not installed")

SECOND = datetime.timedelta(seconds=1)
GENERATED = 1800
MUTATED = 250  # of each vector

# Why one of the two refuses what the other accepts: part of the refusal's text, by name.
# "theirs:" dcap-qvl refuses; "ours:" this package does; "both:" they accept with another status.
DIFFERENCES: Mapping[str, tuple[str, ...]] = {
    # Authentic all the same: here these are claims, and the policy judges them.
    "theirs: debug": ("Debug mode is enabled",),
    "theirs: profiling": ("TD profiling is enabled",),
    "theirs: pages may vanish": ("SEPT_VE_DISABLE is not enabled",),
    "theirs: migration": ("TD migration is enabled",),
    "theirs: unknown attributes": ("Reserved bits in TD attributes are set",),
    "theirs: service TD": ("Invalid MR service TD",),
    "theirs: revoked TCB": ("TCB status is invalid: Revoked",),
    # Formats that Intel defines and its own library reads.
    "theirs: SGX in v4 and v5": ("SGX TEE quote must have version 3",),
    "theirs: size of authentication data": ("Invalid QE auth data length",),
    # RFC 5280 includes the last second of a list; dcap-qvl does not.
    "theirs: last second of a list": ("CrlExpired",),
    # Bytes that nobody signed, or that must be zero.
    "ours: bytes after the quote": ("bytes after its end that are no padding",),
    "ours: sizes and types of certification data": (
        "quote signature data: ",
        "quotes v4 and v5 have type 6 here",
    ),
    "ours: reserved bytes": ("is reserved and not zero",),
    "ours: QE report data": ("the quoting enclave's report is about another attestation key",),
    # Intel's Attestation Library: 4.1.2.4.10, 4.1.2.9.6, and the names of certificates in 4.1.2.4.
    "ours: PCEID": ("no TCB information that is given is of use",),
    "ours: attributes outside the mask": ("ATTRIBUTES differs",),
    "ours: names of certificates": ("not the chain of a PCK certificate",),
    # What nobody here knows the meaning of.
    "ours: QE identity v3": ("QE identity of version 3",),
    # A list that is not valid yet says nothing about now.
    "ours: list of the future": ("is not current",),
    # Every certificate that is given must be one; dcap-qvl skips the root's, which is pinned.
    "ours: no certificate beside the chain": ("certificate", "PEM"),
    # An intermediate certificate may come with the collateral instead.
    "theirs: chain in the quote only": ("certificate chain", "certs", "certificates"),
    # The module was replaced under a running TD. Intel's library asks for the newer one only to
    # find out whether launching the TD again would help (4.1.2.4.17.4); dcap-qvl judges it too.
    "both: replaced module": (),
}

Outcome = tuple[str, frozenset[str]] | str


@dataclass(frozen=True)
class Case:
    """One quote with its collateral, and what both should say about it."""

    tee: str
    quote: bytes
    file: dict[str, str]
    at: datetime.datetime = NOW
    root: bytes | None = None
    anchors: Anchors | None = None

    @functools.cached_property
    def claims(self) -> Claims | str:
        """Of this package; the refusal's text if it refuses."""
        try:
            return verify(
                Evidence(f"intel.{self.tee}.quote", self.quote),
                at=self.at,
                collateral=collateral_from_dcap_qvl(json.dumps(self.file).encode()),
                anchors=self.anchors or builtin_anchors(),
            )
        except EvidenceRefused as refusal:
            last = refusal.checks[-1] if refusal.checks else None
            found = f" {last.found}" if isinstance(last, Check) else ""
            return f"{refusal}{found}"
        except CollateralError as error:
            return str(error)

    @property
    def ours(self) -> Outcome:
        claims = self.claims
        if isinstance(claims, str):
            return claims
        if claims.not_checked:
            return "not checked"
        return claims.tcb.status.value, frozenset(claims.tcb.advisories)

    @functools.cached_property
    def theirs(self) -> Outcome:
        try:
            collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(self.file))
            seconds = int(self.at.timestamp())
            if self.root is None:
                report = dcap_qvl.verify(self.quote, collateral, seconds)
            else:
                report = dcap_qvl.verify_with_root_ca(self.quote, collateral, self.root, seconds)
        except ValueError as error:
            return str(error)
        return report.status, frozenset(report.advisory_ids)

    def difference(self) -> str | None:
        """Its name, None if both agree. Raises AssertionError for one without a name."""
        ours, theirs = self.ours, self.theirs
        both_refuse = isinstance(ours, str) and isinstance(theirs, str)
        if ours == theirs or both_refuse:
            return None
        side, text = ("theirs", theirs) if isinstance(theirs, str) else ("ours", ours)
        if isinstance(text, str):
            for name, words in DIFFERENCES.items():
                fits = name.startswith(side) and any(word in text for word in words)
                if fits and self._shown(name):
                    return name
        if self._module_replaced():
            return "both: replaced module"
        raise AssertionError(f"ours: {ours}\ntheirs: {theirs}\nquote: {self.quote.hex()}")

    def _module_replaced(self) -> bool:
        try:
            body = quotes.parse(self.quote).body
        except EvidenceRefused:
            return False
        replaced = getattr(body, "tee_tcb_svn2", None)
        return replaced not in (None, getattr(body, "tee_tcb_svn", None))

    def _shown(self, name: str) -> bool:
        """What they refuse and we do not must at least be visible in our claims."""
        claims = self.claims
        if isinstance(claims, str):
            return True
        return {
            "theirs: debug": claims.debug,
            "theirs: profiling": claims.debug,
            "theirs: migration": claims.migratable,
            "theirs: pages may vanish": "SEPT_VE_DISABLE"
            not in claims.details.get("td_attribute_flags", ()),
            "theirs: unknown attributes": any(
                flag.startswith("bit ") for flag in claims.details.get("td_attribute_flags", ())
            ),
            "theirs: service TD": "mrservicetd" in claims.measurements,
            "theirs: revoked TCB": claims.tcb.status.value == "Revoked",
        }.get(name, True)


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel()


def case(intel: Intel, tee: str, quote: bytes, pieces: Pieces, at: datetime.datetime = NOW) -> Case:
    return Case(tee, quote, pieces.dcap_qvl(), at, intel.root.certificate.der, intel.anchors)


# --- each named difference is real ----------------------------------------


def named(intel: Intel) -> Iterator[tuple[str, Case]]:
    sgx, tdx = intel.pieces("sgx"), intel.pieces("tdx")
    plain = intel.sgx_quote()

    def td(attributes: int) -> Case:
        return case(intel, "tdx", intel.td_quote(td_attributes=attributes), tdx)

    debug = bytes([7]) + bytes(15)
    yield "theirs: debug", case(intel, "sgx", intel.sgx_quote(attributes=debug), sgx)
    yield "theirs: debug", td(SEPT_VE_DISABLE | 1)
    yield "theirs: profiling", td(SEPT_VE_DISABLE | 1 << 5)
    yield "theirs: pages may vanish", td(0)
    yield "theirs: migration", td(SEPT_VE_DISABLE | 1 << 29)
    yield "theirs: unknown attributes", td(SEPT_VE_DISABLE | 1 << 9)
    service = intel.td_quote(5, newer=True, mrservicetd=b"v" * 48)
    yield "theirs: service TD", case(intel, "tdx", service, tdx)
    revoked = intel.pieces("sgx", tcb_info("sgx", level("Revoked")))
    yield "theirs: revoked TCB", case(intel, "sgx", plain, revoked)
    yield "theirs: SGX in v4 and v5", case(intel, "sgx", intel.sgx_quote(4), sgx)
    short = intel.sgx_quote(auth_data=bytes(31))
    yield "theirs: size of authentication data", case(intel, "sgx", short, sgx)
    ending = replace(sgx, root_crl=revocation_list(intel.root, end=NOW))
    yield "theirs: last second of a list", case(intel, "sgx", plain, ending)
    yield "ours: bytes after the quote", case(intel, "sgx", plain + b"x", sgx)
    other = intel.td_quote(outer_type=5)
    yield "ours: sizes and types of certification data", case(intel, "tdx", other, tdx)
    reserved = intel.sgx_quote(reserved2=b"\1" * 32)
    yield "ours: reserved bytes", case(intel, "sgx", reserved, sgx)
    yield "ours: QE report data", case(intel, "sgx", _loose_binding(intel), sgx)
    other = intel.pieces("sgx", tcb_info("sgx", pceId="0100"))
    yield "ours: PCEID", case(intel, "sgx", plain, other)
    outside = qe_identity("sgx", attributes="1500000000000000" + "01" + "00" * 7)
    yield (
        "ours: attributes outside the mask",
        case(intel, "sgx", plain, intel.pieces("sgx", identity=outside)),
    )
    nameless = Intel(root=intel.root, ca_name="Intel SGX Something CA")
    yield (
        "ours: names of certificates",
        case(intel, "sgx", nameless.sgx_quote(), nameless.pieces("sgx")),
    )
    third = intel.pieces("tdx", identity=qe_identity("tdx", version=3))
    yield "ours: QE identity v3", case(intel, "tdx", intel.td_quote(), third)
    future = revocation_list(intel.root, start=NOW + SECOND, end=NOW + MONTH)
    yield "ours: list of the future", case(intel, "sgx", plain, replace(sgx, root_crl=future))

    broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    start = b"".join(to_pem(one) for one in intel.chain[:2])
    quote = intel.sgx_quote(certification=(5, start + broken))
    yield "ours: no certificate beside the chain", case(intel, "sgx", quote, sgx)
    gap = to_pem(intel.pck) + to_pem(intel.root.certificate)
    quote = intel.sgx_quote(certification=(5, gap))
    yield "theirs: chain in the quote only", case(intel, "sgx", quote, sgx)
    quote = intel.td_quote(5, newer=True, tee_tcb_svn2=b"\5\4" + bytes(14))
    yield "both: replaced module", case(intel, "tdx", quote, tdx)


def _loose_binding(intel: Intel) -> bytes:
    import hashlib

    from tests.adversary.vendors.intel import AUTH_DATA, raw_point

    digest = hashlib.sha256(raw_point(intel.attestation_key) + AUTH_DATA).digest()
    return intel.sgx_quote(qe={"report_data": digest + b"\1" * 32})


def test_every_named_difference_is_real(intel: Intel) -> None:
    seen = [(name, one.difference()) for name, one in named(intel)]
    assert seen == [(name, name) for name, _ in seen]
    assert {name for name, _ in seen} == set(DIFFERENCES)


# --- generated quotes and collateral under a fake root ----------------------------------------


def survey(cases: Iterator[Case]) -> tuple[Counter[str], Counter[str]]:
    """How often each difference, and each outcome, occurred. Raises AssertionError for a bug."""
    differences: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for one in cases:
        name = one.difference()
        if name is not None:
            differences[name] += 1
        outcomes[
            one.ours
            if isinstance(one.ours, str) and one.ours == "not checked"
            else ("refused" if isinstance(one.ours, str) else one.ours[0])
        ] += 1
    return differences, outcomes


def test_generated_quotes_are_judged_alike(intel: Intel) -> None:
    _, outcomes = survey(case(intel, *generated(intel, seed)) for seed in range(GENERATED))
    every = {*PLATFORM, "refused"}
    assert every - set(outcomes) == set()  # the generator reaches everything
    assert GENERATED * 0.2 < outcomes["refused"] < GENERATED * 0.8


def test_launching_again_is_advised_alike(intel: Intel) -> None:
    differences, outcomes = survey(case(intel, *relaunching(intel, seed)) for seed in range(200))
    assert differences.keys() <= {"theirs: revoked TCB"}
    assert {"TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"} <= set(outcomes)


# --- real quotes, changed ----------------------------------------

VECTORS = {
    "sgx/dcapqvl-sgx_quote": datetime.datetime(2025, 6, 19, 12, tzinfo=datetime.UTC),
    "tdx/dcapqvl-tdx_quote": datetime.datetime(2025, 6, 19, 11, 32, tzinfo=datetime.UTC),
    "tdx/dcapqvl-tdx_quote_outdated": datetime.datetime(2026, 2, 20, tzinfo=datetime.UTC),
}


def mutated(name: str, quote: bytes, file: dict[str, str], seed: int) -> Case:
    choose = random.Random(seed)
    changed, documents, at = bytearray(quote), dict(file), VECTORS[name]
    kind = choose.random()
    if kind < 0.6:
        for _ in range(choose.choice((1, 1, 2))):
            changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    elif kind < 0.7:
        del changed[choose.randrange(len(changed)) :]
    elif kind < 0.95:
        member = choose.choice(sorted(documents))
        text = documents[member]
        place = choose.randrange(len(text))
        documents[member] = text[:place] + choose.choice("0aZ \n{}") + text[place + 1 :]
    else:
        at += datetime.timedelta(days=choose.randint(-400, 400))
    return Case(name[:3], bytes(changed), documents, at)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_and_their_mutations_are_judged_alike(
    vector: Callable[[str], bytes], name: str
) -> None:
    quote, file = vector(name), json.loads(vector(f"{name}_collateral.json"))
    assert Case(name[:3], quote, file, VECTORS[name]).difference() is None
    survey(mutated(name, quote, file, seed) for seed in range(MUTATED))
