"""A fake Arm machine: CCA and PSA tokens that say whatever they are told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.middleware.attestation.anchors import Anchors, KeyAnchor
from tests.adversary.vendors.aws import ES256, ES384, sign1
from tests.adversary.vendors.pki import ec_key

INSTANCE = b"\1" + bytes(range(32))
IMPLEMENTATION = b"implementation".ljust(32, b".")
SECURED, DEBUG = 0x3000, 0x5001


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as an uncompressed point."""
    return key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def cose_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as a COSE_Key."""
    curve = {"secp256r1": 1, "secp384r1": 2, "secp521r1": 3}[key.curve.name]
    whole = point(key)[1:]
    half = len(whole) // 2
    return cbor2.dumps({1: 2, -1: curve, -2: whole[:half], -3: whole[half:]})


def component(name: str = "BL", fill: int = 1) -> dict[int, Any]:
    return {1: name, 2: bytes([fill]) * 32, 4: "1.0", 5: bytes([fill + 1]) * 32, 6: "sha-256"}


def changed(claims: Mapping[Any, Any], changes: Mapping[Any, Any]) -> dict[Any, Any]:
    """`claims` with `changes`; `...` takes a claim away."""
    return {key: value for key, value in {**claims, **changes}.items() if value is not ...}


@dataclass
class Machine:
    """One machine, its CPAK or attestation key, and a realm's key.

    legacy: realm tokens without a profile, whose key is a raw point.
    """

    key: ec.EllipticCurvePrivateKey = field(default_factory=ec_key)
    realm_key: ec.EllipticCurvePrivateKey = field(default_factory=ec_key)
    instance: bytes = INSTANCE
    legacy: bool = False

    @property
    def anchors(self) -> Anchors:
        return Anchors(keys=(self.anchor(self.instance.hex()),))

    def anchor(self, subject: str = "", family: str = "arm") -> KeyAnchor:
        return KeyAnchor("fake-cpak", family, self.key.public_key(), subject)

    def realm(self, changes: Mapping[Any, Any] | None = None) -> dict[Any, Any]:
        claims: dict[Any, Any] = {
            10: b"challenge".ljust(64, b"\0"),
            44235: b"personal".ljust(64, b"\0"),
            44236: "sha-256",
            44237: point(self.realm_key) if self.legacy else cose_key(self.realm_key),
            44238: b"\x11" * 32,
            44239: [bytes([fill]) * 32 for fill in range(4)],
            44240: "sha-256",
        }
        if not self.legacy:
            claims[265] = "tag:arm.com,2023:realm#1.0.0"
        return changed(claims, changes or {})

    def platform(
        self, realm: Mapping[Any, Any], changes: Mapping[Any, Any] | None = None
    ) -> dict[Any, Any]:
        name = str(realm.get(44240)).replace("-", "")
        digest = name if name in ("sha256", "sha384", "sha512") else "sha256"
        key = realm.get(44237)
        claims = {
            10: hashlib.new(digest, key if isinstance(key, bytes) else b"").digest(),
            256: self.instance,
            265: "http://arm.com/CCA-SSD/1.0.0"
            if self.legacy
            else "tag:arm.com,2023:cca_platform#1.0.0",
            2395: SECURED,
            2396: IMPLEMENTATION,
            2399: [component("BL", 1), component("RMM", 3)],
            2400: "https://verifier.example",
            2401: b"\xcf\xcf\xcf\xcf",
            2402: "sha-256",
        }
        return changed(claims, changes or {})

    def token(
        self,
        *,
        realm: Mapping[Any, Any] | None = None,
        platform: Mapping[Any, Any] | None = None,
        realm_cose: Mapping[str, Any] | None = None,
        platform_cose: Mapping[str, Any] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        realm_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        """A CCA token. realm, platform: changes of claims. key, realm_key: who really signs."""
        claims = self.realm(realm)
        return cbor2.dumps(
            cbor2.CBORTag(
                399,
                {
                    44234: signed(
                        self.platform(claims, platform), key or self.key, platform_cose or {}
                    ),
                    44241: signed(claims, realm_key or self.realm_key, realm_cose or {}),
                },
            )
        )

    def psa(
        self,
        changes: Mapping[Any, Any] | None = None,
        *,
        claims: Mapping[Any, Any] | None = None,
        cose: Mapping[str, Any] | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        payload: bytes | None = None,
    ) -> bytes:
        """A PSA token of RFC 9783, or with other `claims` altogether."""
        base = psa_claims(self.instance) if claims is None else claims
        return signed(changed(base, changes or {}), key or self.key, cose or {}, payload=payload)


def psa_claims(instance: bytes = INSTANCE) -> dict[Any, Any]:
    return {
        10: b"nonce".ljust(32, b"\0"),
        256: instance,
        265: "tag:psacertified.org,2023:psa#tfm",
        268: b"boot seed of 32 bytes".ljust(32, b"."),
        2394: -3,
        2395: SECURED,
        2396: IMPLEMENTATION,
        2398: "1234567890123-12345",
        2399: [component("BL", 1), component("PRoT", 3)],
        2400: "https://verifier.example",
    }


def psa_legacy_claims(instance: bytes = INSTANCE) -> dict[Any, Any]:
    return {
        -75000: "PSA_IOT_PROFILE_1",
        -75001: 2,
        -75002: SECURED,
        -75003: IMPLEMENTATION,
        -75004: bytes(32),
        -75006: [component("BL", 1)],
        -75008: b"nonce".ljust(32, b"\0"),
        -75009: instance,
    }


def signed(
    claims: Mapping[Any, Any],
    key: ec.EllipticCurvePrivateKey,
    cose: Mapping[str, Any],
    *,
    payload: bytes | None = None,
    tag: int | None = 18,
) -> bytes:
    """A COSE_Sign1 over `claims` with the algorithm that fits the key, unless `cose` says more."""
    algorithm = ES256 if key.curve.name == "secp256r1" else ES384
    body = cbor2.dumps(claims) if payload is None else payload
    message = sign1(body, key, **{"algorithm": algorithm, **cose})
    return cbor2.dumps(message if tag is None else cbor2.CBORTag(tag, message))
