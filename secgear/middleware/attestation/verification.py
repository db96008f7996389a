"""From evidence to claims: one function for all formats.

Offline and pure: what a verifier needs besides the evidence comes in through `Context`, the time
included. A format's verifier is a function of evidence and context that lives in the format's own
room and returns `Claims`, or raises `EvidenceRefused`.
"""

from __future__ import annotations

import datetime
import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.anchors import Anchors, builtin_anchors
from secgear.middleware.attestation.checks import Check, Checks, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral

ENTRY_POINT_GROUP = "secgear.verifiers"
MAX_EVIDENCE = 4 << 20  # bytes of one piece of evidence, and of each attachment
MAX_PART_DEPTH = 3

_FORMATS = "secgear.middleware.attestation.formats"
_BUILTIN: Mapping[str, str] = {
    "secgear.process.cwt": f"{_FORMATS}.process:verify",
    "secgear.vm.tpm": f"{_FORMATS}.tpm.simulated:verify",
    "amd.sev-snp": f"{_FORMATS}.snp.verifier:verify",
    "intel.sgx.quote": f"{_FORMATS}.dcap.verifier:verify_sgx",
    "intel.tdx.quote": f"{_FORMATS}.dcap.verifier:verify_tdx",
    "aws.nitro": f"{_FORMATS}.nitro:verify",
    "arm.cca": f"{_FORMATS}.cca:verify",
    "huawei.virtcca": f"{_FORMATS}.virtcca:verify",
    "arm.psa": f"{_FORMATS}.psa:verify",
    "tpm.quote": f"{_FORMATS}.tpm.verifier:verify",
    "azure.snp": f"{_FORMATS}.tpm.azure:verify_snp",
    "azure.tdx": f"{_FORMATS}.tpm.azure:verify_tdx",
    "nvidia.gpu": f"{_FORMATS}.nvidia.verifier:verify_gpu",
    "nvidia.nvswitch": f"{_FORMATS}.nvidia.verifier:verify_switch",
    "huawei.itrustee": f"{_FORMATS}.itrustee:verify",
    "hygon.csv": f"{_FORMATS}.csv:verify",
}


@dataclass(frozen=True, slots=True)
class Context:
    """What a verifier may know.

    at: the time that everything must be valid at, with a time zone.
    """

    at: datetime.datetime
    collateral: Collateral = field(default_factory=Collateral)
    anchors: Anchors = field(default_factory=builtin_anchors)
    checks: Checks = field(default_factory=Checks)
    depth: int = 0

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError("at= needs a time zone: datetime.datetime.now(datetime.UTC)")

    def fresh(self) -> Context:
        """The same, with a record of its own: for the evidence of a part."""
        return replace(self, checks=Checks(), depth=self.depth + 1)


Verifier = Callable[[Evidence, Context], Claims]


def verify(
    evidence: Evidence,
    *,
    at: datetime.datetime,
    collateral: Collateral | None = None,
    anchors: Anchors | None = None,
) -> Claims:
    """Check that `evidence` is authentic and say what it means. Never reaches out by itself.

    at: the time to judge for; now, unless you judge the past. collateral: certificates, CRLs, TCB
    information; what is missing shows as a check that was not performed. anchors: the roots to
    trust; those built in by default.

    The claims say nothing about whether you should trust the enclave: give them to a policy.
    Raises EvidenceRefused (EvidenceMalformed, EvidenceUnsupported) with the checks so far.
    """
    return verify_within(
        evidence, Context(at, collateral or Collateral(), anchors or builtin_anchors())
    )


def verify_within(evidence: Evidence, context: Context) -> Claims:
    """`verify` with a context that exists already; parts of composite evidence come here."""
    checks = context.checks
    if context.depth > MAX_PART_DEPTH:
        checks.malformed(f"parts nested deeper than {MAX_PART_DEPTH}")
    for name, data in (("evidence", evidence.data), *evidence.attachments.items()):
        if len(data) > MAX_EVIDENCE:
            checks.malformed(f"{name} of {len(data)} bytes; at most {MAX_EVIDENCE} are read")
    try:
        claims = _verifier(evidence.format)(evidence, context)
        return _with_parts(evidence, claims, context) if evidence.parts else claims
    except EvidenceRefused as refusal:
        # Parsers know nothing of the record; the first check that fails is theirs.
        if not any(_failed(check) for check in refusal.checks):
            reason = str(refusal).removeprefix("format: ")
            failure = Check("format", Outcome.FAIL, reason)
            refusal.checks = (*checks.done, failure)
        raise
    except RecursionError:
        raise EvidenceMalformed(
            "format: nested too deeply", (*checks.done, Check("format", Outcome.FAIL, "nesting"))
        ) from None


def formats() -> tuple[str, ...]:
    """The identifiers of all formats that can be verified here."""
    return tuple(sorted({*_BUILTIN, *_plugins()}))


def _with_parts(evidence: Evidence, claims: Claims, context: Context) -> Claims:
    from secgear.middleware.attestation.composite import verify_parts

    return verify_parts(evidence, claims, context)


def _failed(check: object) -> bool:
    return isinstance(check, Check) and check.outcome is Outcome.FAIL


@functools.cache
def _verifier(name: str) -> Verifier:
    target = _BUILTIN.get(name)
    if target is None:
        target = _plugins().get(name)
    if target is None:
        known = ", ".join(formats())
        raise EvidenceUnsupported(f"format: nobody here verifies {name!r}; known: {known}")
    module, _, function = target.partition(":")
    found: Verifier = getattr(importlib.import_module(module), function)
    return found


@functools.cache
def _plugins() -> Mapping[str, str]:
    from importlib.metadata import entry_points

    return {
        entry.name: entry.value
        for entry in entry_points(group=ENTRY_POINT_GROUP)
        if entry.name not in _BUILTIN
    }
