"""Arm's tokens under provisioned keys: who holds which, and whether one signed.

Arm runs no certification authority for these: whoever owns the machines registers each one's key
under its instance id (CCA's CPAK, PSA's initial attestation key).
"""

from __future__ import annotations

import base64

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.errors import CollateralError, EvidenceMalformed
from secgear.middleware.attestation import cose
from secgear.middleware.attestation.anchors import KeyAnchor
from secgear.middleware.attestation.claims import Root
from secgear.middleware.attestation.verification import Context

FAMILY = "arm"
_CURVES = {"P-256": 32, "P-384": 48, "P-521": 66}  # bytes of a coordinate


class _Jwk(msgspec.Struct):
    kty: str
    crv: str
    x: str
    y: str


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_JWK = msgspec.json.Decoder(_Jwk)


def check_signature(
    message: cose.Sign1, instance_id: bytes, context: Context, *, check: str = "signature"
) -> Root:
    """Find the provisioned key that signed `message`; records ``root`` and `check`.

    instance_id: whose keys to try, besides those provisioned for any machine.
    Raises EvidenceRefused: ``root`` if no key is provisioned, `check` if none of them signed.
    """
    checks = context.checks
    keys = context.anchors.keys_of(FAMILY, instance_id.hex())
    if not keys:
        checks.failed(
            "root",
            f"no key is provisioned for instance {instance_id.hex()}",
            fix=f"the machine's public key from its owner, as an anchor of family {FAMILY}",
        )
    faults = [(anchor, _fault(message, anchor)) for anchor in keys]
    signers = [anchor for anchor, fault in faults if fault is None]
    if not signers:
        checks.failed(check, "; ".join(f"{anchor.name}: {fault}" for anchor, fault in faults))
    signer = signers[0]
    checks.passed("root", f"{signer.name}, SHA-256 {signer.fingerprint.hex()}")
    checks.passed(check, f"signed by the key of instance {instance_id.hex()}")
    return Root(signer.name, signer.fingerprint, builtin=False)


def key_from_jwk(name: str, jwk: bytes, instance_id: bytes = b"") -> KeyAnchor:
    """A provisioned key from JSON Web Key form (RFC 7518, section 6.2), as CCA tools keep them.

    name: how verdicts shall call it. instance_id: whose it is; empty for any machine's.
    Raises CollateralError.
    """
    try:
        key = _JWK.decode(jwk)
        size = _CURVES[key.crv]
        x, y = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (key.x, key.y))
        if key.kty != "EC" or len(x) != size or len(y) != size:
            raise CollateralError(f"{name}: no EC key with a full point")
        public = cose.key_from_point(b"\x04" + x + y, name)
    except (msgspec.DecodeError, KeyError, ValueError, EvidenceMalformed) as error:
        raise CollateralError(f"{name}: no EC key in JWK form: {error}") from None
    return KeyAnchor(name, FAMILY, public, instance_id.hex())


def _fault(message: cose.Sign1, anchor: KeyAnchor) -> str | None:
    if not isinstance(anchor.key, ec.EllipticCurvePublicKey):
        return "not an EC key"
    return cose.verify(message, anchor.key)
