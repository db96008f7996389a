"""Claim sets of Arm's tokens: PSA (RFC 9783), CCA platform and CCA realm.

CCA: Realm Management Monitor specification (Arm DEN0137), section A7.2, and
draft-ffm-rats-cca-token. Huawei's virtCCA uses the realm's set with keys of its own. The sets are
closed: a claim that the profile does not know is refused, for nobody could judge what it means.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation import cbor, cose

HASHES: Mapping[str, str] = {"sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
# Bytes of a digest, of a challenge, and of the two identifiers.
DIGEST_SIZES = (32, 48, 64)
IMPLEMENTATION_ID_SIZE = 32
INSTANCE_ID_SIZE = 33  # a UEID of type RAND (RFC 9711, section 4.2.1)
_UEID_RAND = 1

_MAX_COMPONENTS = 64
_MAX_TEXT = 256  # characters
_MAX_CONFIG = 1024  # bytes
_MAX_KEY = 1024  # bytes

# RFC 9783, section 4.3.1; the same numbers in CCA. The low byte is the implementation's.
_LIFECYCLES: Mapping[int, str] = {
    0x00: "unknown",
    0x10: "assembly-and-test",
    0x20: "provisioning",
    0x30: "secured",
    0x40: "application-debug",
    0x50: "recoverable-debug",
    0x60: "decommissioned",
}

# CCA platform
_CHALLENGE, _INSTANCE_ID, _PROFILE = 10, 256, 265
_LIFECYCLE, _IMPLEMENTATION_ID, _COMPONENTS, _SERVICE = 2395, 2396, 2399, 2400
_CONFIG, _HASH = 2401, 2402
_PLATFORM_REQUIRED = frozenset(
    (
        _PROFILE,
        _CHALLENGE,
        _IMPLEMENTATION_ID,
        _INSTANCE_ID,
        _CONFIG,
        _LIFECYCLE,
        _COMPONENTS,
        _HASH,
    )
)
PLATFORM_PROFILES = ("http://arm.com/CCA-SSD/1.0.0", "tag:arm.com,2023:cca_platform#1.0.0")

# CCA realm
_PERSONALIZATION, _REALM_HASH, _REALM_KEY = 44235, 44236, 44237
_INITIAL, _EXTENSIBLE, _REALM_KEY_HASH = 44238, 44239, 44240
_REALM_REQUIRED = frozenset(
    (_CHALLENGE, _PERSONALIZATION, _REALM_HASH, _REALM_KEY, _INITIAL, _EXTENSIBLE, _REALM_KEY_HASH)
)
REALM_PROFILE = "tag:arm.com,2023:realm#1.0.0"
_REALM_CHALLENGE_SIZE = 64
_PERSONALIZATION_SIZE = 64
_REGISTERS = 4


class Component(msgspec.Struct, frozen=True):
    """A measured piece of firmware. Texts are empty where the token has none."""

    name: str
    measurement: bytes
    version: str
    signer: bytes
    algorithm: str

    def to_dict(self) -> dict[str, str]:
        """Values that JSON can hold."""
        return {
            "name": self.name,
            "measurement": self.measurement.hex(),
            "version": self.version,
            "signer": self.signer.hex(),
            "algorithm": self.algorithm,
        }


class Lifecycle(msgspec.Struct, frozen=True):
    """Security lifecycle: the number as in the token, and what it means."""

    value: int

    @property
    def name(self) -> str:
        """One of the states of RFC 9783."""
        return _LIFECYCLES[self.value >> 8]

    @property
    def secured(self) -> bool:
        """The only state in which nobody can debug."""
        return self.name == "secured"


class Platform(msgspec.Struct, frozen=True):
    """Claims of a CCA platform token. challenge: the digest of the realm's key."""

    profile: str
    challenge: bytes
    implementation_id: bytes
    instance_id: bytes
    config: bytes
    lifecycle: Lifecycle
    components: tuple[Component, ...]
    hash: str
    service: str

    def to_dict(self) -> dict[str, Any]:
        """What claims show of it under ``platform``."""
        return {
            "profile": self.profile,
            "lifecycle": self.lifecycle.name,
            "config": self.config.hex(),
            "hash": self.hash,
            "verification_service": self.service,
            "software": [component.to_dict() for component in self.components],
        }


class Realm(msgspec.Struct, frozen=True):
    """Claims of a realm token.

    profile: empty for the legacy one. public_key: the claim's bytes, which the platform digests
    with `key_hash` (a name of `hashlib`). initial and registers: the realm's measurements.
    """

    profile: str
    challenge: bytes
    personalization: bytes
    initial: bytes
    registers: tuple[bytes, ...]
    hash: str
    public_key: bytes
    key_hash: str

    @property
    def measurements(self) -> dict[str, bytes]:
        """``launch``, and ``rem0`` to ``rem3``."""
        return {"launch": self.initial} | {
            f"rem{index}": value for index, value in enumerate(self.registers)
        }


def signed(item: object, what: str, algorithms: Collection[int]) -> cose.Sign1:
    """A COSE_Sign1 whose protected header names one of `algorithms`.

    Raises EvidenceMalformed; EvidenceUnsupported for another algorithm or none.
    """
    if not isinstance(item, bytes):
        raise EvidenceMalformed(f"format: {what} is no byte string")
    message = cose.parse(item, what)
    header = cbor.decode(message.protected, what) if message.protected else {}
    algorithm = header.get(cose.ALG)
    if type(algorithm) is not int or algorithm not in algorithms:
        raise EvidenceUnsupported(f"format: {what}: signature algorithm {str(algorithm)[:40]!r}")
    return message


def platform(payload: bytes, what: str = "CCA platform token") -> Platform:
    """Claims of a platform token. Raises EvidenceMalformed, EvidenceUnsupported (profile, hash)."""
    claims = claim_set(payload, what)
    profile = claims.get(_PROFILE)
    if profile not in PLATFORM_PROFILES:
        raise EvidenceUnsupported(f"format: {what}: profile {str(profile)[:80]!r}")
    exactly(claims, _PLATFORM_REQUIRED, {_SERVICE}, what)
    return Platform(
        profile=profile,
        challenge=binary(claims, _CHALLENGE, what, DIGEST_SIZES),
        implementation_id=binary(claims, _IMPLEMENTATION_ID, what, (IMPLEMENTATION_ID_SIZE,)),
        instance_id=instance_id(claims, _INSTANCE_ID, what),
        config=binary(claims, _CONFIG, what, range(_MAX_CONFIG + 1)),
        lifecycle=lifecycle(claims, _LIFECYCLE, what),
        components=components(claims, _COMPONENTS, what),
        hash=_digest_name(claims, _HASH, what),
        service=text(claims, _SERVICE, what) if _SERVICE in claims else "",
    )


def realm(payload: bytes, what: str = "CCA realm token") -> Realm:
    """Claims of a realm token. Raises EvidenceMalformed, EvidenceUnsupported (profile, hash)."""
    claims = claim_set(payload, what)
    profile = claims.get(_PROFILE)
    if _PROFILE in claims and profile != REALM_PROFILE:
        raise EvidenceUnsupported(f"format: {what}: profile {str(profile)[:80]!r}")
    exactly(claims, _REALM_REQUIRED, {_PROFILE}, what)
    registers = claims[_EXTENSIBLE]
    if not isinstance(registers, list) or len(registers) != _REGISTERS:
        raise EvidenceMalformed(f"format: {what}: claim {_EXTENSIBLE} is no list of {_REGISTERS}")
    return Realm(
        profile=profile or "",
        challenge=binary(claims, _CHALLENGE, what, (_REALM_CHALLENGE_SIZE,)),
        personalization=binary(claims, _PERSONALIZATION, what, (_PERSONALIZATION_SIZE,)),
        initial=binary(claims, _INITIAL, what, DIGEST_SIZES),
        registers=tuple(_bytes(item, _EXTENSIBLE, what, DIGEST_SIZES) for item in registers),
        hash=_digest_name(claims, _REALM_HASH, what),
        public_key=binary(claims, _REALM_KEY, what, range(1, _MAX_KEY + 1)),
        key_hash=_digest_name(claims, _REALM_KEY_HASH, what),
    )


def claim_set(payload: bytes, what: str) -> Mapping[int, Any]:
    """A map whose keys are all integers."""
    claims = cbor.decode(payload, f"{what}: payload")
    if not isinstance(claims, Mapping) or not all(type(key) is int for key in claims):
        raise EvidenceMalformed(f"format: {what}: no map of numbered claims")
    return claims


def exactly(
    claims: Mapping[int, Any], required: Iterable[int], optional: Iterable[int], what: str
) -> None:
    """Refuse a set that lacks a required claim or has one that is neither."""
    missing = sorted(set(required) - claims.keys())
    unknown = sorted(claims.keys() - set(required) - set(optional))
    if missing:
        raise EvidenceMalformed(f"format: {what}: claims missing: {_listed(missing)}")
    if unknown:
        raise EvidenceMalformed(f"format: {what}: claims that nobody knows: {_listed(unknown)}")


def binary(claims: Mapping[int, Any], key: int, what: str, sizes: Collection[int]) -> bytes:
    """A byte string of one of `sizes`."""
    return _bytes(claims[key], key, what, sizes)


def text(claims: Mapping[int, Any], key: int, what: str) -> str:
    """A short text."""
    value = claims[key]
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise EvidenceMalformed(f"format: {what}: claim {key} is no short text")
    return value


def instance_id(claims: Mapping[int, Any], key: int, what: str) -> bytes:
    """The UEID that names the machine's key."""
    value = binary(claims, key, what, (INSTANCE_ID_SIZE,))
    if value[0] != _UEID_RAND:
        raise EvidenceMalformed(f"format: {what}: the instance id is no UEID of type RAND")
    return value


def lifecycle(claims: Mapping[int, Any], key: int, what: str) -> Lifecycle:
    """The security lifecycle."""
    value = claims[key]
    if type(value) is not int or value >> 8 not in _LIFECYCLES:
        raise EvidenceMalformed(f"format: {what}: claim {key} is no lifecycle state")
    return Lifecycle(value)


def components(claims: Mapping[int, Any], key: int, what: str) -> tuple[Component, ...]:
    """The measured firmware: at least one piece."""
    value = claims[key]
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_COMPONENTS:
        raise EvidenceMalformed(
            f"format: {what}: claim {key} is no list of 1 to {_MAX_COMPONENTS} components"
        )
    return tuple(_component(item, f"{what}: component {at}") for at, item in enumerate(value))


def _component(item: object, what: str) -> Component:
    if not isinstance(item, Mapping) or not all(type(key) is int for key in item):
        raise EvidenceMalformed(f"format: {what}: no map of numbered entries")
    exactly(item, {2, 5}, {1, 4, 6}, what)
    return Component(
        name=text(item, 1, what) if 1 in item else "",
        measurement=binary(item, 2, what, DIGEST_SIZES),
        version=text(item, 4, what) if 4 in item else "",
        signer=binary(item, 5, what, DIGEST_SIZES),
        algorithm=text(item, 6, what) if 6 in item else "",
    )


def _digest_name(claims: Mapping[int, Any], key: int, what: str) -> str:
    name = text(claims, key, what)
    if name not in HASHES:
        raise EvidenceUnsupported(f"format: {what}: hash algorithm {name[:40]!r}")
    return name


def _bytes(value: object, key: int, what: str, sizes: Collection[int]) -> bytes:
    if not isinstance(value, bytes) or len(value) not in sizes:
        raise EvidenceMalformed(f"format: {what}: claim {key} is no byte string of its size")
    return value


def _listed(keys: list[int]) -> str:
    return ", ".join(str(key)[:20] for key in keys[:8])
