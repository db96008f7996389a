"""The rules of a policy, each as a function of claims that gives named checks.

Pure. Nothing is raised: an appraisal tells all that is wrong, not only the first thing.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims, TcbStatus
from secgear.middleware.attestation.policy.model import Accept, Rules, identifies
from secgear.middleware.attestation.reference import ReferenceValue, ReferenceValues

# Their vendors publish no levels that a TCB could be measured against: what counts is in the
# measurements, or in the vendor's manifest. Any other TEE must be assessed.
_WITHOUT_TCB_LEVELS = frozenset(
    ("nitro", "psa", "tpm", "gpu", "nvswitch", "itrustee", "virtcca", "process", "vm")
)
_LEVELS_BY_INTEL = frozenset(("sgx", "tdx"))

_LEVEL = "vmpl"  # in the details of SEV-SNP's claims

# The checks in which verifiers compare what runs with a manifest that its vendor signed.
VENDOR_MEASUREMENTS = "measurements"


def judge(
    claims: Claims, rules: Rules, values: ReferenceValues | None, at: datetime.datetime
) -> Iterator[Check]:
    """Hold one set of claims, without its parts, against `rules`."""
    yield _tee(claims, rules.accept)
    yield check(
        identifies(rules),
        "policy.identity",
        "the policy says what may run",
        "the policy does not say what may run",
        fix="[accept] measurements, signers, registers, reference_values or vendor_measurements",
    )
    yield from _identity(claims, rules.accept, values or ReferenceValues(), at)
    yield from _tcb(claims, rules, values or ReferenceValues(), at)
    yield from _allowed(claims, rules)
    yield from _level(claims, rules)
    for name, accepted in rules.platforms.items():
        found = claims.platform.get(name)
        yield check(
            found is not None and found.lower() in {item.lower() for item in accepted},
            "policy.platform",
            f"{name} {found} is accepted",
            f"{name} of this machine is not accepted" if found else f"no {name} in the evidence",
            expected=_choice(accepted),
            found=found or "",
            fix=f"add it to [platforms] {name}, if you know the machine",
        )
    for path, value in rules.details.items():
        present = _at_path(claims.details, path)
        yield check(
            _same(value, present),
            "policy.details",
            f"{path} is {value!r}",
            f"{path} is not what the policy wants",
            expected=repr(value),
            found="" if present is _ABSENT else repr(present),
        )


def check(
    holds: bool,
    name: str,
    detail: str,
    reason: str,
    *,
    expected: str = "",
    found: str = "",
    fix: str = "",
) -> Check:
    """A check that passed with `detail`, or failed with `reason`."""
    if holds:
        return Check(name, Outcome.PASS, detail)
    return Check(name, Outcome.FAIL, reason, expected=expected, found=found, fix=fix)


def unassessed_but_bounded(
    claims: Claims, rules: Rules, values: ReferenceValues | None, at: datetime.datetime
) -> bool:
    """Whether nobody assessed the TCB and the policy brings what it is to be held against.

    The verifier's check ``tcb`` can be missing then: ``policy.tcb`` decides instead of it. Not for
    Intel's TEEs: there the TCB information says besides which module is genuine and what is known
    to be broken, and whoever brings the collateral could just leave it out.
    """
    if claims.tee in _LEVELS_BY_INTEL:
        return False
    return claims.tcb.status is TcbStatus.NOT_ASSESSED and (
        _minimum(claims, rules.tcb.minimum) is not None
        or _known_platform(claims, rules, values or ReferenceValues(), at) is not None
    )


def _tee(claims: Claims, accept: Accept) -> Check:
    tees = accept.tees or ()
    return check(
        claims.tee in tees,
        "policy.tee",
        f"{claims.tee} is accepted",
        f"{claims.tee} is not accepted" if tees else "the policy accepts no TEE",
        expected=_choice(tees),
        found=claims.tee,
        fix="[accept] tees",
    )


def _identity(
    claims: Claims, accept: Accept, values: ReferenceValues, at: datetime.datetime
) -> Iterator[Check]:
    if accept.measurements is not None or accept.reference_values:
        yield _measurement(claims, accept, values, at)
    if accept.vendor_measurements:
        yield check(
            any(
                item.name == VENDOR_MEASUREMENTS and item.outcome is Outcome.PASS
                for item in claims.checks
            ),
            "policy.vendor-measurements",
            "what runs is what its vendor signed",
            "what runs was not compared with what its vendor signed",
            fix="collateral: the vendor's reference manifests",
        )
    for name, accepted in accept.registers.items():
        found = claims.measurements.get(name)
        yield check(
            found is not None and found in accepted,
            "policy.register",
            f"{name} is accepted",
            f"{name} is not accepted" if found is not None else f"no {name} in the evidence",
            expected=_choice(item.hex() for item in accepted),
            found=_hex(found),
            fix=f"[accept.registers] {name}",
        )
    if accept.signers is not None:
        yield check(
            claims.signer is not None and claims.signer in accept.signers,
            "policy.signer",
            f"{_hex(claims.signer)} is accepted",
            "its signer is not accepted" if claims.signer else "nobody signed what runs",
            expected=_choice(item.hex() for item in accept.signers),
            found=_hex(claims.signer),
            fix="[accept] signers",
        )
    if accept.products is not None:
        yield check(
            claims.product is not None and claims.product in accept.products,
            "policy.product",
            f"{claims.product} is accepted",
            "the product is not accepted",
            expected=_choice(accept.products),
            found=claims.product or "",
            fix="[accept] products",
        )
    if accept.min_svn is not None:
        yield check(
            claims.svn is not None and claims.svn >= accept.min_svn,
            "policy.svn",
            f"{claims.svn}, at least {accept.min_svn}",
            "the security version is too low" if claims.svn is not None else "no security version",
            expected=f"at least {accept.min_svn}",
            found="" if claims.svn is None else str(claims.svn),
            fix="a newer release of the program",
        )


def _measurement(
    claims: Claims, accept: Accept, values: ReferenceValues, at: datetime.datetime
) -> Check:
    launch = claims.measurements.get("launch")
    listed = accept.measurements or ()
    if launch is not None and launch in listed:
        return Check("policy.measurement", Outcome.PASS, f"{launch.hex()} is accepted")
    matched = values.match(claims, at) if accept.reference_values else None
    if matched is not None:
        detail = f"reference value {matched.name!r}"
        return Check("policy.measurement", Outcome.PASS, detail)
    count = len(values.values) if accept.reference_values else 0
    among = f"; none of {count} reference values fits" if accept.reference_values else ""
    return Check(
        "policy.measurement",
        Outcome.FAIL,
        f"what was launched is not accepted{among}",
        expected=_choice(item.hex() for item in listed),
        found=_hex(launch),
        fix="[accept] measurements"
        + (", or a reference value for it" if accept.reference_values else ""),
    )


def _tcb(
    claims: Claims, rules: Rules, values: ReferenceValues, at: datetime.datetime
) -> Iterator[Check]:
    tcb, wanted = claims.tcb, rules.tcb
    assessed = tcb.status is not TcbStatus.NOT_ASSESSED
    minimum = _minimum(claims, wanted.minimum)
    if assessed:
        yield check(
            tcb.status in wanted.statuses,
            "policy.tcb",
            tcb.status.value,
            "; ".join((f"the TCB is {tcb.status.value}", *tcb.shortfalls)),
            expected=_choice(status.value for status in wanted.statuses),
            found=tcb.status.value,
            fix="firmware and microcode updates; or [tcb] statuses, if you take the risk",
        )
    elif claims.tee in _LEVELS_BY_INTEL:
        yield check(
            False,
            "policy.tcb",
            "",
            "nobody assessed the TCB: Intel's TCB information is missing",
            fix="TCB information for this platform, as collateral",
        )
    if minimum is not None:
        short = [
            f"{name} {tcb.components.get(name, 'missing')}, at least {least}"
            for name, least in minimum.items()
            if tcb.components.get(name, -1) < least
        ]
        yield check(
            not short,
            "policy.tcb-minimum" if assessed or claims.tee in _LEVELS_BY_INTEL else "policy.tcb",
            "every component has its least version",
            "; ".join(short),
            expected=_components(minimum),
            found=_components({name: tcb.components.get(name, -1) for name in minimum}),
            fix="a firmware update",
        )
    elif not assessed and claims.tee not in _LEVELS_BY_INTEL:
        known = _known_platform(claims, rules, values, at)
        bare = claims.tee in _WITHOUT_TCB_LEVELS and not tcb.components
        yield check(
            bare or known is not None,
            "policy.tcb",
            f"reference value {known.name!r}" if known else f"{claims.tee} has no TCB levels",
            "nobody assessed the TCB, and the policy has no minimum for it",
            found=_components(tcb.components),
            fix=f"[tcb.minimum.{claims.tee}] with the least version of each component; or a "
            "reference value about the platform",
        )
    untolerated = [name for name in tcb.advisories if name not in wanted.advisories]
    if tcb.advisories:
        yield check(
            not untolerated,
            "policy.advisories",
            f"all tolerated: {', '.join(tcb.advisories)}",
            f"not tolerated: {', '.join(untolerated)}",
            expected=_choice(wanted.advisories),
            found=", ".join(tcb.advisories),
            fix="updates that clear them; or [tcb] advisories, if you take the risk",
        )
    if wanted.min_evaluation is not None and claims.tee in _LEVELS_BY_INTEL:
        yield check(
            tcb.evaluation is not None and tcb.evaluation >= wanted.min_evaluation,
            "policy.tcb-evaluation",
            f"{tcb.evaluation}, at least {wanted.min_evaluation}",
            "the TCB information is older than the policy accepts",
            expected=f"at least {wanted.min_evaluation}",
            found="" if tcb.evaluation is None else str(tcb.evaluation),
            fix="newer TCB information as collateral",
        )


def _known_platform(
    claims: Claims, rules: Rules, values: ReferenceValues, at: datetime.datetime
) -> ReferenceValue | None:
    return values.match(claims, at, "platform") if rules.accept.reference_values else None


def _minimum(claims: Claims, minimum: Mapping[str, Mapping[str, int]]) -> Mapping[str, int] | None:
    product = claims.details.get("product")
    if isinstance(product, str):
        exact = minimum.get(f"{claims.tee}/{product.lower()}")
        if exact is not None:
            return exact
    return minimum.get(claims.tee)


def _allowed(claims: Claims, rules: Rules) -> Iterator[Check]:
    allow, root = rules.allow, claims.root
    for name, set_, allowed, meaning in (
        ("debug", claims.debug, allow.debug, "the host can look inside: debug is on"),
        ("simulated", claims.simulated, allow.simulated, "simulated: no hardware stands behind it"),
        ("migratable", claims.migratable, allow.migratable, "it may move to other machines"),
    ):
        yield check(
            not set_ or allowed,
            f"policy.{name}",
            f"{meaning}; the policy allows it" if set_ else f"not {name}",
            meaning,
            expected=f"not {name}",
            found=name,
            fix=f"[allow] {name} = true, for tests only",
        )
    named = {root.name, root.fingerprint.hex()} & {item.lower() for item in allow.roots} or (
        root.name in allow.roots
    )
    yield check(
        root.builtin or allow.test_roots or bool(named),
        "policy.root",
        f"{root.name} {'is built in' if root.builtin else 'is allowed by the policy'}",
        f"{root.name} is none of the vendors' roots that are built in",
        expected=_choice(("a built-in root", *allow.roots)),
        found=f"{root.name}, SHA-256 {root.fingerprint.hex()}",
        fix="[allow] roots with its SHA-256, if you provisioned it; test_roots = true for tests",
    )


def _level(claims: Claims, rules: Rules) -> Iterator[Check]:
    """SEV-SNP: what was launched is at VMPL 0; who asks from above it can be anybody it runs."""
    level = claims.details.get(_LEVEL)
    if claims.tee == "snp" and level is not None:
        yield check(
            level == 0 or _LEVEL in rules.details,  # then policy.details decides
            "policy.vmpl",
            f"the report is of VMPL {level}",
            "the report was asked for from a level that the launch measurement does not speak for",
            expected="0",
            found=str(level),
            fix=f"[details] {_LEVEL} = {level}, if you know what runs there",
        )


class _Absent:
    pass


_ABSENT = _Absent()


def _at_path(details: Mapping[str, Any], path: str) -> object:
    """The value at a dotted path; a key that has dots itself is found whole."""
    if path in details:
        return details[path]
    head, _, rest = path.partition(".")
    inner = details.get(head)
    return _at_path(inner, rest) if rest and isinstance(inner, Mapping) else _ABSENT


def _same(wanted: object, found: object) -> bool:
    """Equal, and of the same kind: True is not 1."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return wanted.keys() == found.keys() and all(
            _same(wanted[key], found[key]) for key in wanted
        )
    if isinstance(wanted, list | tuple) and isinstance(found, list | tuple):
        return len(wanted) == len(found) and all(map(_same, wanted, found))
    return type(wanted) is type(found) and wanted == found


def _hex(value: bytes | None) -> str:
    return "" if value is None else value.hex()


def _components(components: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in components.items() if value >= 0)


def _choice(values: Iterable[str]) -> str:
    """The accepted values in one line; a long list by its beginning."""
    listed = list(values)
    shown = " or ".join(listed[:3])
    return f"{shown} or {len(listed) - 3} more" if len(listed) > 3 else shown
