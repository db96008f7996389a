"""What a policy is made of. Immutable values; `reading` makes them from TOML.

Everything here only ever allows: a policy without a rule for something refuses it. An empty list is
a rule that accepts nothing; a missing one (None) is no rule.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec

from secgear.middleware.attestation.claims import TcbStatus
from secgear.middleware.attestation.values import Duration, Hex, to_plain

MAX_MODULE = 256 << 10  # bytes of one Rego module
_QUERY = re.compile(r"data(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
MAX_REGO_TIME = 60  # seconds
_TEES_WITH_COMPONENTS = ("snp", "tdx", "sgx", "cca")
_PRODUCTS: Mapping[str, tuple[str, ...]] = {"snp": ("milan", "genoa", "turin")}
MAX_PART_DEPTH = 3  # as in verification: parts of parts of parts


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of a policy. Its maps can't be changed afterwards."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, Mapping):
                msgspec.structs.force_setattr(self, field, MappingProxyType(dict(value)))


class Accept(_Section, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What may run, and where. All rules that are given must hold.

    tees: names of TEEs, as in `Claims.tee`; required at the top.
    measurements: of the program or machine as launched (`Claims.measurements["launch"]`).
    reference_values: accept besides these what the reference values given at appraisal list.
    registers: further measurements by name, each with its accepted values.
    vendor_measurements: accept what the device's vendor has signed as good (a GPU's reference
    manifest), provided that the verifier has compared it.
    signers, products, min_svn: who signed the program, which of theirs, from which version on.
    """

    tees: tuple[str, ...] | None = None
    measurements: tuple[Hex, ...] | None = None
    reference_values: bool = False
    registers: Mapping[str, tuple[Hex, ...]] = {}
    vendor_measurements: bool = False
    signers: tuple[Hex, ...] | None = None
    products: tuple[str, ...] | None = None
    min_svn: Annotated[int, msgspec.Meta(ge=0)] | None = None


class TcbRules(_Section, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which states of the platform's TCB are good enough.

    statuses: accepted states, where the vendor tells one. advisories: tolerated ones; any other
    refuses. minimum: least security version by component, by TEE (``snp``) or by TEE and product
    (``snp/milan``, which then counts alone); it makes up for a state that nobody assessed, but for
    Intel's TEEs, where TCB information always has to be there.
    min_evaluation: least tcbEvaluationDataNumber of Intel's TCB information.
    """

    statuses: tuple[TcbStatus, ...] = (TcbStatus.UP_TO_DATE,)
    advisories: tuple[str, ...] = ()
    minimum: Mapping[str, Mapping[str, int]] = {}
    min_evaluation: Annotated[int, msgspec.Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if TcbStatus.REVOKED in self.statuses:
            raise ValueError("Revoked can't be accepted: the vendor has withdrawn its word")
        if TcbStatus.NOT_ASSESSED in self.statuses:
            raise ValueError(
                "NotAssessed is no state to accept; give [tcb.minimum.<tee>] with the least "
                "versions that will do"
            )
        for place, components in self.minimum.items():
            _check_minimum(place, components)


def _check_minimum(place: str, components: Mapping[str, int]) -> None:
    """A misspelt rule would be no rule: places are known, and something is demanded there."""
    tee, slash, product = place.partition("/")
    if tee not in _TEES_WITH_COMPONENTS:
        known = ", ".join(_TEES_WITH_COMPONENTS)
        raise ValueError(f"[tcb.minimum] {place!r}: components are known of {known}")
    if slash and product not in _PRODUCTS.get(tee, ()):
        known = ", ".join(f"{tee}/{name}" for name in _PRODUCTS.get(tee, ())) or "none"
        raise ValueError(f"[tcb.minimum] {place!r}: products with a rule of their own: {known}")
    if not components:
        raise ValueError(f"[tcb.minimum] {place!r} demands nothing")
    for name, least in components.items():
        if not 0 <= least < 1 << 32:
            raise ValueError(f"[tcb.minimum] {place!r}: {name} = {least} is no security version")


class Freshness(_Section, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the evidence shows that it is new.

    report_data: ``required``: it must carry the data that the appraiser expects; ``optional``: the
    appraiser may have no expectation. One that is given always counts.
    max_age: of evidence that states its time; evidence that does not is refused then.
    """

    report_data: Literal["required", "optional"] = "required"
    max_age: Duration | None = None


class Allow(_Section, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is refused unless it is named.

    test_roots: any root that does not come with this package, whoever added it. roots: certain ones
    by name or by SHA-256 in hexadecimal, as provisioned platform keys need it.
    """

    debug: bool = False
    simulated: bool = False
    migratable: bool = False
    test_roots: bool = False
    roots: tuple[str, ...] = ()


class Unchecked(_Section, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Names of checks that may be missing, for example ``revocation``."""

    allow: tuple[str, ...] = ()


class Parts(_Section, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Devices bound to the evidence: how many of a TEE there must be, and the rules for each."""

    require: Mapping[str, Annotated[int, msgspec.Meta(ge=1)]] = {}
    policy: Mapping[str, Rules] = {}

    def for_tee(self, tee: str) -> Rules | None:
        """The rules for parts of that TEE, which these thereby accept; None if there are none."""
        found = self.policy.get(tee)
        if found is None or found.accept.tees is not None:
            return found
        return msgspec.structs.replace(
            found, accept=msgspec.structs.replace(found.accept, tees=(tee,))
        )


class Rules(_Section, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What holds for one set of claims.

    platforms: accepted identities of the machine by name (``chip_id``); all names must fit.
    details: exact values in `Claims.details`, by dotted path.
    """

    accept: Accept = Accept()
    tcb: TcbRules = TcbRules()
    allow: Allow = Allow()
    unchecked: Unchecked = Unchecked()
    platforms: Mapping[str, tuple[str, ...]] = {}
    details: Mapping[str, Any] = {}
    parts: Parts = Parts()


class Rego(_Section, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A policy in Rego that must agree besides the rules here, and may tell what may run.

    module: its text. query: what must be literally true. timeout: after which it counts as false.
    """

    module: str
    query: str = "data.policy.allow"
    timeout: Duration = Duration(seconds=5)

    def __post_init__(self) -> None:
        if len(self.module.encode()) > MAX_MODULE:
            raise ValueError(f"a Rego module of more than {MAX_MODULE} bytes")
        if not _QUERY.fullmatch(self.query):
            raise ValueError("query is a reference such as data.policy.allow")
        if self.timeout.total_seconds() > MAX_REGO_TIME:
            raise ValueError(f"a Rego timeout of more than {MAX_REGO_TIME} s")


class Policy(Rules, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A whole policy. ``Policy()`` trusts nothing."""

    name: str = "unnamed"
    description: str = ""
    freshness: Freshness = Freshness()
    rego: Rego | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256 of the meaning: equal for equal policies, whatever comments and layout."""
        text = msgspec.json.encode(to_plain(self), order="deterministic")
        return hashlib.sha256(text).digest()


def identifies(policy: Rules) -> bool:
    """Whether these rules say what may run."""
    accept = policy.accept
    rego = policy.rego if isinstance(policy, Policy) else None
    return (
        accept.measurements is not None
        or accept.signers is not None
        or accept.reference_values
        or accept.vendor_measurements
        or bool(accept.registers)
        or rego is not None
    )
