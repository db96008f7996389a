"""Reference values: what is known to be good, and the question which value some claims match."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from secgear.errors import PolicyError
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.values import Hex, to_plain

VERSION = 1
MAX_VALUES = 65_536
COMPONENT = "software."  # begins the names of PSA's measured components
MARK = "secgear-reference-values"


class ReferenceValue(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """One thing that is known to be good.

    name: what verdicts call it. tee: as in `Claims`.
    about: a ``program`` (or machine) that may run, or the firmware of a ``platform`` that it may
    run on; one never counts as the other.
    measurements: of a program: by name, all of them must be in the claims, and with names of
    components (``software.BL``) no other component may be. Of a platform: of its
    firmware's components; every component that the claims name must be there.
    signer, product: must be equal where given; svn: the least accepted.
    platform: identities as in `Claims.platform` that must be equal.
    not_after: until when the value counts. source: where it came from, for people.
    """

    name: str
    tee: str
    measurements: Mapping[str, Hex] = {}
    signer: Hex | None = None
    product: str | None = None
    svn: int | None = None
    about: Literal["program", "platform"] = "program"
    platform: Mapping[str, str] = {}
    not_after: datetime.datetime | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.measurements and self.signer is None:
            raise ValueError(f"{self.name!r} names neither a measurement nor a signer")
        if self.not_after is not None and self.not_after.tzinfo is None:
            raise ValueError(f"not_after of {self.name!r} has no time zone")
        for field in ("measurements", "platform"):
            frozen = MappingProxyType(dict(getattr(self, field)))
            msgspec.structs.force_setattr(self, field, frozen)

    def fits(self, claims: Claims, at: datetime.datetime) -> bool:
        """Whether `claims` are what this value describes, and it still counts at `at`."""
        return (
            (self._runs(claims) if self.about == "program" else self._covers(firmware(claims)))
            and claims.tee == self.tee
            and all(claims.platform.get(name) == it for name, it in self.platform.items())
            and (self.signer is None or claims.signer == self.signer)
            and (self.product is None or claims.product == self.product)
            and (self.svn is None or (claims.svn is not None and claims.svn >= self.svn))
            and (self.not_after is None or at <= self.not_after)
        )

    def _runs(self, claims: Claims) -> bool:
        measured = claims.measurements
        if any(name.startswith(COMPONENT) for name in self.measurements):
            # A list of components is a whole one: what runs beside them is not known to be good.
            listed = {name for name in measured if name.startswith(COMPONENT)}
            if not listed <= self.measurements.keys():
                return False
        return all(measured.get(name) == it for name, it in self.measurements.items())

    def _covers(self, components: Mapping[str, str]) -> bool:
        known = {name: value.hex() for name, value in self.measurements.items()}
        return bool(components) and all(known.get(name) == it for name, it in components.items())


def firmware(claims: Claims) -> Mapping[str, str]:
    """The measured components of the platform by name, in hexadecimal; Arm CCA states them."""
    platform = claims.details.get("platform")
    software = platform.get("software") if isinstance(platform, Mapping) else None
    named: dict[str, str] = {}
    for place, component in enumerate(software if isinstance(software, tuple) else ()):
        if isinstance(component, Mapping):
            name = str(component.get("name") or place)
            # The same name twice: the second must be listed under its place as well.
            named[f"{name}.{place}" if name in named else name] = str(component.get("measurement"))
    return named


class ReferenceValues(msgspec.Struct, frozen=True):
    """A set of reference values."""

    values: tuple[ReferenceValue, ...] = ()

    def match(
        self,
        claims: Claims,
        at: datetime.datetime,
        about: Literal["program", "platform"] = "program",
    ) -> ReferenceValue | None:
        """The first value about that which fits, or None."""
        values = (value for value in self.values if value.about == about)
        return next((value for value in values if value.fits(claims, at)), None)

    def merged(self, *others: ReferenceValues) -> ReferenceValues:
        """The values of all, each once, in order. Raises PolicyError for too many."""
        found: dict[bytes, ReferenceValue] = {}
        for values in (self, *others):
            for value in values.values:
                found.setdefault(msgspec.json.encode(to_plain(value)), value)
        if len(found) > MAX_VALUES:
            raise PolicyError(f"{len(found)} reference values; at most {MAX_VALUES}")
        return ReferenceValues(tuple(found.values()))

    def to_json(self) -> bytes:
        """The file form."""
        return msgspec.json.encode({MARK: VERSION, "values": to_plain(self.values)})
