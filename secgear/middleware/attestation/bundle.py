"""A bundle: everything a verdict stood on, in one file, to be judged again years later.

Evidence, collateral, policy, reference values, added roots, the time and the verdict. Nothing in it
is believed: `reverify` judges anew, offline, and the recorded verdict is only compared. What can't
be checked later is that the recorded time was the real one; who needs that lets a third party sign
and time-stamp the file.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import AttestationError, CollateralError, EvidenceMalformed
from secgear.middleware.attestation import collateral as collaterals
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.anchors import Anchors, builtin_anchors, read_anchors
from secgear.middleware.attestation.appraisal import examine
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.policy import load_policy
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.attestation.reference import ReferenceValues, load_reference_values
from secgear.middleware.attestation.verdict import Verdict

VERSION = 1
MAX_SIZE = 32 << 20  # bytes of one file
MAX_ROOTS = 64
_MARK = "secgear-bundle"


class AddedRoot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A trust anchor that the caller added: PEM, its family, the name it goes by, whose key."""

    family: str
    name: str
    pem: str
    subject: str = ""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict stands on.

    policy: the TOML text. reference_values: the JSON text, empty for none. report_data: what the
    evidence was expected to carry; None if nothing was. at: the time that was judged for.
    verdict: the recorded one, as `Verdict.to_dict` gives it.
    """

    evidence: Evidence
    collateral: Collateral
    policy: str
    at: datetime.datetime
    report_data: bytes | None = None
    reference_values: str = ""
    roots: tuple[AddedRoot, ...] = ()
    verdict: dict[str, Any] = {}

    @property
    def anchors(self) -> Anchors:
        """The built-in roots and those that were added. Raises CollateralError."""
        return anchors_with(self.roots)

    def to_json(self) -> bytes:
        """The file form."""
        return msgspec.json.encode(
            {
                _MARK: VERSION,
                "evidence": msgspec.Raw(envelope.to_json(self.evidence)),
                "collateral": msgspec.Raw(self.collateral.to_json()),
                "policy": self.policy,
                "reference_values": self.reference_values,
                "roots": self.roots,
                "report_data": self.report_data,
                "at": self.at,
                "verdict": self.verdict,
            }
        )


class _File(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    version: int = msgspec.field(name=_MARK)
    evidence: msgspec.Raw
    collateral: msgspec.Raw
    policy: str
    reference_values: str
    roots: tuple[AddedRoot, ...]
    report_data: bytes | None
    at: datetime.datetime
    verdict: dict[str, Any]


_DECODER = msgspec.json.Decoder(_File)


def make_bundle(
    evidence: Evidence,
    policy: str,
    *,
    at: datetime.datetime,
    collateral: Collateral | None = None,
    report_data: bytes | None = None,
    reference_values: str = "",
    roots: Sequence[AddedRoot] = (),
) -> Bundle:
    """Judge `evidence` and keep everything the verdict stands on, whatever the verdict is.

    policy: the text of the TOML policy; reference_values: the JSON text.
    Raises PolicyError and CollateralError for unusable texts.
    """
    bundle = Bundle(
        evidence=evidence,
        collateral=collateral or Collateral(),
        policy=policy,
        at=at,
        report_data=report_data,
        reference_values=reference_values,
        roots=tuple(roots),
    )
    return msgspec.structs.replace(bundle, verdict=reverify(bundle).to_dict())


def reverify(bundle: Bundle, *, at: datetime.datetime | None = None) -> Verdict:
    """Judge again, offline. at: another time than the recorded one.

    Raises PolicyError and CollateralError if the bundle's own texts can't be used.
    """
    values: ReferenceValues | None = None
    if bundle.reference_values:
        values = load_reference_values(bundle.reference_values.encode())
    return examine(
        bundle.evidence,
        load_policy(bundle.policy.encode()),
        at=at or bundle.at,
        report_data=bundle.report_data,
        collateral=bundle.collateral,
        anchors=bundle.anchors,
        reference_values=values,
    )


def with_rules(
    bundle: Bundle,
    policy: str,
    *,
    at: datetime.datetime,
    report_data: bytes | None,
    reference_values: str = "",
    roots: Sequence[AddedRoot] = (),
) -> Bundle:
    """The same evidence and collateral under other rules: nothing else of the bundle's own.

    at: the time to judge for. `Bundle.at` is its maker's word, who may name a time at which a key
    was not revoked yet and a TCB was up to date; new evidence does not show that it is old.
    report_data: what you expect in the evidence. What its maker expected says nothing to you, so
    with None the freshness is not checked, and a policy that requires it says no.
    """
    return msgspec.structs.replace(
        bundle,
        policy=policy,
        at=at,
        report_data=report_data,
        reference_values=reference_values,
        roots=tuple(roots),
    )


def same_verdict(bundle: Bundle, verdict: Verdict) -> bool:
    """Whether `verdict` is the recorded one in substance: the outcome of every check."""

    def outcomes(recorded: dict[str, Any]) -> list[tuple[Any, Any]]:
        checks = recorded.get("checks")
        if not isinstance(checks, list):
            return []
        return [(item.get("name"), item.get("outcome")) for item in checks if type(item) is dict]

    new = verdict.to_dict()
    return bundle.verdict.get("trusted") is new["trusted"] and outcomes(bundle.verdict) == outcomes(
        new
    )


def is_bundle(data: bytes) -> bool:
    """Whether a file claims to be a bundle."""
    return data.lstrip()[:1] == b"{" and f'"{_MARK}"'.encode() in data[:64]


def load_bundle(data: bytes) -> Bundle:
    """Read the file form. Raises AttestationError (EvidenceMalformed, CollateralError)."""
    if len(data) > MAX_SIZE:
        raise AttestationError(f"a bundle of {len(data)} bytes; at most {MAX_SIZE} are read")
    try:
        file = _DECODER.decode(data)
    except UNREADABLE as error:
        raise AttestationError(f"no bundle: {error}") from None
    if file.version != VERSION:
        raise AttestationError(f"a bundle of version {file.version}; this release reads {VERSION}")
    if file.at.tzinfo is None:
        raise AttestationError("the bundle's time has no time zone")
    return Bundle(
        evidence=envelope.from_json(bytes(file.evidence)),
        collateral=collaterals.from_json(bytes(file.collateral)),
        policy=file.policy,
        at=file.at,
        report_data=file.report_data,
        reference_values=file.reference_values,
        roots=file.roots,
        verdict=file.verdict,
    )


def anchors_with(roots: Sequence[AddedRoot]) -> Anchors:
    """The built-in roots and `roots`. Raises CollateralError."""
    if len(roots) > MAX_ROOTS:
        raise CollateralError(f"{len(roots)} added roots; at most {MAX_ROOTS}")
    anchors = builtin_anchors()
    for root in roots:
        try:
            more = read_anchors(root.family, root.name, root.pem.encode(), root.subject)
        except EvidenceMalformed as error:
            raise CollateralError(f"root {root.name}: {error}") from None
        anchors = anchors.adding(*more.roots, *more.keys)
    return anchors
