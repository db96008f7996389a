"""Claims: what authenticated evidence means, in one form for all TEEs.

A `Claims` object exists only after verification: the signature was checked up to a root that the
caller trusts. Whether the claims are good enough is another question, and a policy answers it.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from secgear.middleware.attestation.checks import Check, Outcome

# What must have passed before anything may be called a claim.
ESSENTIAL = ("format", "signature", "root")


class TcbStatus(enum.Enum):
    """State of the platform's trusted computing base. The first nine are Intel's words."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    NOT_ASSESSED = "NotAssessed"  # nobody said what would be up to date; components are known


class Tcb(msgspec.Struct, frozen=True, omit_defaults=True):
    """The platform's trusted computing base and what is known about it.

    components: security versions by name, as the evidence states them.
    advisories: identifiers, for example ``INTEL-SA-00289``.
    shortfalls: one line each: which component is short of what, and what would clear it.
    as_of: date of the level that matched; evaluation: Intel's tcbEvaluationDataNumber.
    """

    status: TcbStatus = TcbStatus.NOT_ASSESSED
    components: Mapping[str, int] = {}
    advisories: tuple[str, ...] = ()
    shortfalls: tuple[str, ...] = ()
    as_of: datetime.datetime | None = None
    evaluation: int | None = None


class Root(msgspec.Struct, frozen=True):
    """The trust anchor that the evidence led to.

    name: for example ``amd-milan``. fingerprint: SHA-256 of its certificate or key.
    builtin: whether it is one of the vendor roots in this package; False for a root that the caller
    added, as tests and laboratories do.
    """

    name: str
    fingerprint: bytes
    builtin: bool


class Claims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one piece of evidence says, once it is known to be authentic. Immutable.

    format: identifier of the evidence format. tee: ``snp``, ``tdx``, ``sgx``, ``cca``, ``nitro``,
    ``tpm``, ``gpu``, ``nvswitch``, ``itrustee``, ``virtcca``, ``psa``, ``csv``, ``process``,
    ``vm``.
    measurements: digests by name; ``launch`` is the program or machine as it was started (SNP's
    measurement, MRENCLAVE, MRTD, RIM, PCR0 of Nitro); registers have their own names (``rtmr0``,
    ``pcr7``).
    signer: identity of who signed the program (MRSIGNER, ID key digest, key of the image).
    product: product or image identity that the signer chose; svn: its security version number.
    debug: the host can look inside. simulated: no hardware stands behind it. migratable: it may
    move to other machines. Each is stated, never assumed: a format without the notion says False.
    report_data: what the enclave put in to be bound: nonce, hash of keys. Never empty in evidence
    that can prove freshness.
    platform: identity of the machine by name (``chip_id``, ``fmspc``, ``ueid``), in hexadecimal
    where it is bytes.
    evidence_time: when the evidence says it was made, if it does.
    details: what else the format carries, as JSON values, for people and fine policies.
    checks: everything that was looked at. parts: claims of devices bound to this evidence.
    """

    format: str
    tee: str
    measurements: Mapping[str, bytes]
    debug: bool
    simulated: bool
    report_data: bytes
    root: Root
    checks: tuple[Check, ...]
    migratable: bool = False
    signer: bytes | None = None
    product: str | None = None
    svn: int | None = None
    tcb: Tcb = Tcb()
    platform: Mapping[str, str] = {}
    evidence_time: datetime.datetime | None = None
    details: Mapping[str, Any] = {}
    parts: Mapping[str, Claims] = {}

    def __post_init__(self) -> None:
        passed = {check.name for check in self.checks if check.outcome is Outcome.PASS}
        missing = [name for name in ESSENTIAL if name not in passed]
        failed = [check.name for check in self.checks if check.outcome is Outcome.FAIL]
        if missing or failed:
            raise ValueError(
                f"no claims without verification; not passed: {', '.join(missing + failed)}"
            )
        for name in ("measurements", "platform", "details", "parts"):
            msgspec.structs.force_setattr(self, name, _frozen(getattr(self, name)))

    @property
    def not_checked(self) -> tuple[Check, ...]:
        """What was not performed, and why."""
        return tuple(check for check in self.checks if check.outcome is Outcome.NOT_PERFORMED)

    def every(self, name: str = "") -> Iterator[tuple[str, Claims]]:
        """These claims and, below, those of all parts, each with its path (empty for the top)."""
        yield name, self
        for part, claims in self.parts.items():
            yield from claims.every(f"{name}.{part}" if name else part)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold: bytes in hexadecimal, times in ISO 8601."""
        return {
            name: _plain(getattr(self, name)) for name in self.__struct_fields__ if name != "parts"
        } | {"parts": {name: part.to_dict() for name, part in self.parts.items()}}


_IMMUTABLE = frozenset((bool, bytes, float, int, str, type(None)))


def _frozen(value: Any) -> Any:
    kind = type(value)
    if kind in _IMMUTABLE or kind is MappingProxyType:  # such a view only this function makes
        return value
    # Nearly all are plain; asking an abstract class, or calling for each item, takes long.
    if kind is dict or isinstance(value, Mapping):
        return MappingProxyType(
            {
                key: item if type(item) in _IMMUTABLE else _frozen(item)
                for key, item in value.items()
            }
        )
    if isinstance(value, list | tuple):
        return tuple(item if type(item) in _IMMUTABLE else _frozen(item) for item in value)
    return value


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case datetime.datetime():
            return value.isoformat()
        case enum.Enum():
            return value.value
        case msgspec.Struct():
            return _plain(msgspec.structs.asdict(value))
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case _:
            return value
