"""From a verdict to AR4SI's words: trustworthiness vector and tier (draft-ietf-rats-ar4si).

A value of 2 to 31 affirms, 32 to 95 warns, 96 to 127 contraindicates, -1 to 1 says nothing. What a
verdict says about one set of claims becomes:

===================  ==================================================================  =====
category             when (the first that applies)                                       value
===================  ==================================================================  =====
instance-identity    ``revocation`` failed, or the vendor has revoked the TCB               96
                     ``root`` or ``policy.root`` or ``policy.platform`` failed              97
                     another check of the verifier failed (it has no claims then)           99
                     simulated                                                               0
                     else: signed up to a root that is trusted                               2
configuration        ``policy.debug``, ``policy.migratable``, ``policy.details``,
                     ``policy.vmpl`` or ``policy.rego`` failed                              96
                     debug or migratable, and the policy allows it                          32
                     ``policy.details`` passed                                               2
                     else                                                                    0
executables          ``policy.measurement``, ``.register``, ``.signer``, ``.product``,
                     ``.svn`` or ``.vendor-measurements`` failed                            33
                     one of these passed: what was loaded at the start is approved           3
                     else                                                                    0
hardware             TCB revoked, or ``policy.simulated`` or ``policy.tee`` failed          96
                     ``policy.tcb``, ``-minimum``, ``-evaluation`` or
                     ``policy.advisories`` failed                                           32
                     simulated                                                               0
                     advisories, or a TCB that is not up to date, and the policy allows it  32
                     ``policy.tcb`` passed, or the TEE has no TCB levels                     2
                     else                                                                    0
runtime-opaque       debug                                                                  96
                     debug, and the policy allows it                                        32
                     simulated                                                               0
                     a TEE that encrypts memory: sgx, tdx, snp, csv, cca                     2
                     else: the evidence does not say                                         0
file-system          never in evidence                                                       0
storage-opaque       never in evidence                                                       0
sourced-data         never in evidence                                                       0
===================  ==================================================================  =====

The tier of the whole: ``contraindicated`` unless the verdict is trusted; else the worst of the
vector, and no better than ``warning`` for simulated and debug enclaves and where a check was not
performed, whatever a policy allows or does without.
Without claims (evidence that is not authentic) only instance-identity says anything.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims, TcbStatus
from secgear.middleware.attestation.verdict import Verdict

# In the order of their labels in CBOR, 0 to 7.
CATEGORIES: Final = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)

_EXECUTABLES: Final = frozenset(
    f"policy.{name}"
    for name in ("measurement", "register", "signer", "product", "svn", "vendor-measurements")
)
_CONFIGURATION: Final = frozenset(
    ("policy.debug", "policy.migratable", "policy.details", "policy.rego", "policy.vmpl")
)
_TCB: Final = frozenset(
    ("policy.tcb", "policy.tcb-minimum", "policy.tcb-evaluation", "policy.advisories")
)
_UNKNOWN_INSTANCE: Final = frozenset(("root", "policy.root", "policy.platform"))
_ENCRYPTS_MEMORY: Final = frozenset(("sgx", "tdx", "snp", "csv", "cca"))


class Tier(enum.Enum):
    """Trustworthiness tier. Its value is its name in JSON, `code` its number in CBOR."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"

    @property
    def code(self) -> int:
        """0, 2, 32 or 96."""
        return _CODES[self]


_CODES: Final = {
    Tier.NONE: 0,
    Tier.AFFIRMING: 2,
    Tier.WARNING: 32,
    Tier.CONTRAINDICATED: 96,
}


def tier_of(value: int) -> Tier:
    """The tier that a value of the vector lies in (AR4SI, section 2.3.2)."""
    if -1 <= value <= 1:
        return Tier.NONE
    size = value if value > 0 else -value - 1  # negative values mirror: -2 to -32 affirm
    return Tier.AFFIRMING if size < 32 else Tier.WARNING if size < 96 else Tier.CONTRAINDICATED


def worst(values: Mapping[str, int]) -> Tier:
    """The tier of the least trustworthy value; `NONE` if none says anything."""
    return max((tier_of(value) for value in values.values()), key=lambda tier: tier.code)


def assess(verdict: Verdict, path: str, claims: Claims) -> tuple[Tier, dict[str, int]]:
    """Tier and vector of the claims at `path` (empty for the top) of a verdict."""
    parts = (
        tuple(f"{name}." for name, _ in verdict.claims.every() if name) if verdict.claims else ()
    )
    own = [
        check if not path else _without(check, f"{path}.")
        for check in verdict.checks
        if _owner(check.name, parts) == (f"{path}." if path else "")
    ]
    missing = {check.name for check in own if check.outcome is Outcome.NOT_PERFORMED}
    failed = {check.name for check in own if check.outcome is Outcome.FAIL}
    passed = {check.name for check in own if check.outcome is Outcome.PASS}
    vector = dict.fromkeys(CATEGORIES, 0) | {
        "instance-identity": _instance(claims, failed),
        "configuration": _configuration(claims, failed, passed),
        "executables": 33 if failed & _EXECUTABLES else 3 if passed & _EXECUTABLES else 0,
        "hardware": _hardware(claims, failed, passed),
        "runtime-opaque": _opaque(claims, failed),
    }
    if not verdict.trusted:
        return Tier.CONTRAINDICATED, vector
    if "policy.tcb" in passed:
        missing.discard("tcb")  # nobody publishes levels; the policy's own were held against it
    tolerated = claims.simulated or claims.debug or bool(missing)
    least = Tier.WARNING if tolerated else Tier.AFFIRMING
    return max(worst(vector), least, key=lambda tier: tier.code), vector


def without_claims(verdict: Verdict) -> tuple[Tier, dict[str, int]]:
    """Tier and vector of evidence that is not authentic."""
    failed = {check.name.rpartition(".")[2] for check in verdict.reasons}
    value = 96 if "revocation" in failed else 97 if "root" in failed else 99
    return Tier.CONTRAINDICATED, dict.fromkeys(CATEGORIES, 0) | {"instance-identity": value}


def _owner(name: str, parts: tuple[str, ...]) -> str:
    """The longest path of a part that a check's name begins with; empty for the top."""
    return max((part for part in parts if name.startswith(part)), key=len, default="")


def _without(check: Check, prefix: str) -> Check:
    return Check(check.name.removeprefix(prefix), check.outcome)


def _instance(claims: Claims, failed: set[str]) -> int:
    if claims.tcb.status is TcbStatus.REVOKED:
        return 96
    if failed & _UNKNOWN_INSTANCE:
        return 97
    return 0 if claims.simulated else 2


def _configuration(claims: Claims, failed: set[str], passed: set[str]) -> int:
    if failed & _CONFIGURATION:
        return 96
    if claims.debug or claims.migratable:
        return 32
    return 2 if "policy.details" in passed else 0


def _hardware(claims: Claims, failed: set[str], passed: set[str]) -> int:
    tcb = claims.tcb
    if tcb.status is TcbStatus.REVOKED or failed & {"policy.simulated", "policy.tee"}:
        return 96
    if failed & _TCB:
        return 32
    if claims.simulated:
        return 0
    if tcb.advisories or tcb.status not in {TcbStatus.UP_TO_DATE, TcbStatus.NOT_ASSESSED}:
        return 32
    return 2 if "policy.tcb" in passed or tcb.status is TcbStatus.UP_TO_DATE else 0


def _opaque(claims: Claims, failed: set[str]) -> int:
    if claims.debug:
        return 96 if "policy.debug" in failed else 32
    return 2 if claims.tee in _ENCRYPTS_MEMORY and not claims.simulated else 0
