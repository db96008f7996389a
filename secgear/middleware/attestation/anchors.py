"""Trust anchors: the vendor roots in this package, and those that a caller adds.

A root is pinned as a whole certificate, a platform key (Arm CCA's CPAK, a TPM's attestation key) as
a public key. Vendors are families: ``amd`` holds ``amd-milan``, ``amd-genoa`` and ``amd-turin``.
The roots in ``roots/`` are the vendors' own; its README tells where each comes from.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from secgear.errors import CollateralError, EvidenceMalformed
from secgear.middleware.attestation.certificates import Certificate, PublicKey, load_pem

FAMILIES = (
    "amd",  # SEV-SNP: ARK of each product
    "intel",  # SGX and TDX: Intel SGX Root CA
    "aws",  # Nitro Enclaves root G1
    "nvidia",  # NVIDIA Device Identity CA
    "nvidia-rim",  # signers of NVIDIA's reference manifests
    "huawei",  # Huawei IT Product CA, for iTrustee and virtCCA
    "hygon",  # CSV: none built in
    "arm",  # CCA platform keys and PSA attestation keys: provisioned, none built in
    "tpm",  # attestation keys and manufacturers' roots: provisioned, none built in
    "simulated",  # this user's own simulated platform: never built in
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A pinned root certificate. builtin: it came with this package."""

    name: str
    family: str
    certificate: Certificate
    builtin: bool = False

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate."""
        return self.certificate.fingerprint


@dataclass(frozen=True, slots=True)
class KeyAnchor:
    """A provisioned public key. Never built in.

    subject: whose key it is, in the form that the family uses (hexadecimal instance id, or empty
    for any).
    """

    name: str
    family: str
    key: PublicKey
    subject: str = ""

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo."""
        return hashlib.sha256(
            self.key.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).digest()


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a caller trusts. Immutable."""

    roots: tuple[Anchor, ...] = ()
    keys: tuple[KeyAnchor, ...] = ()

    def of(self, family: str) -> tuple[Anchor, ...]:
        """The root certificates of a family."""
        return tuple(root for root in self.roots if root.family == family)

    def keys_of(self, family: str, subject: str | None = None) -> tuple[KeyAnchor, ...]:
        """The provisioned keys of a family: all, or those for `subject` and for anybody."""
        return tuple(
            key
            for key in self.keys
            if key.family == family and (subject is None or key.subject in ("", subject))
        )

    def adding(self, *more: Anchor | KeyAnchor) -> Anchors:
        """These and more."""
        return replace(
            self,
            roots=self.roots + tuple(item for item in more if isinstance(item, Anchor)),
            keys=self.keys + tuple(item for item in more if isinstance(item, KeyAnchor)),
        )


@functools.cache
def builtin_anchors() -> Anchors:
    """The vendor roots that come with this package."""
    folder = resources.files("secgear.middleware.attestation") / "roots"
    found = [
        Anchor(file.name.removesuffix(".pem"), _family(file.name), certificate, builtin=True)
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".pem")
        for certificate in load_pem(file.read_bytes())
    ]
    return Anchors(tuple(found))


def read_anchors(family: str, name: str, pem: bytes, subject: str = "") -> Anchors:
    """Anchors from a PEM file: certificates, or one public key. Raises CollateralError.

    family: one of `FAMILIES`. name: how verdicts shall call it.
    """
    if family not in FAMILIES:
        raise CollateralError(f"{family!r} is no family of roots; there are {', '.join(FAMILIES)}")
    try:
        if b"BEGIN PUBLIC KEY" in pem:
            key = serialization.load_pem_public_key(pem)
            if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
                raise CollateralError(f"{name}: keys are EC or RSA, not {type(key).__name__}")
            return Anchors(keys=(KeyAnchor(name, family, key, subject),))
        certificates: Iterable[Certificate] = load_pem(pem)
    except (EvidenceMalformed, UnsupportedAlgorithm, ValueError) as error:
        raise CollateralError(f"{name}: {error}") from None
    return Anchors(tuple(Anchor(name, family, certificate) for certificate in certificates))


def _family(file: str) -> str:
    """The longest family that the file's name starts with."""
    return max((name for name in FAMILIES if file.startswith(f"{name}-")), key=len)
