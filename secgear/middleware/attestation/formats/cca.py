"""Arm CCA: a platform token and a realm token that it vouches for.

CBOR tag 399 around a map of the two (Arm DEN0137, section A7.2; draft-ffm-rats-cca-token). The
platform token is signed with the machine's key (CPAK), which its owner provisions, and its
challenge is the digest of the realm's key (RAK); that one signs the realm token. Tokens of
emulators and test boards look the same: only whose key it is tells them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import cbor2
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation import cbor, cose
from secgear.middleware.attestation.claims import Claims, Root
from secgear.middleware.attestation.formats import arm_claims
from secgear.middleware.attestation.formats.arm_keys import check_signature
from secgear.middleware.attestation.verification import Context

FORMAT = "arm.cca"
MAX_SIZE = 64 << 10  # bytes
TAG = 399
PLATFORM, REALM = 44234, 44241

_WHAT = "CCA token"


class Token(msgspec.Struct, frozen=True):
    """Both tokens: as they were signed, and their claims. realm_key: the realm's public_key."""

    platform_message: cose.Sign1
    platform: arm_claims.Platform
    realm_message: cose.Sign1
    realm: arm_claims.Realm
    realm_key: ec.EllipticCurvePublicKey


def collection(data: bytes, what: str) -> Mapping[int, object]:
    """The tokens of a tag 399 collection by number. Raises EvidenceMalformed."""
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: {what} of {len(data)} bytes; at most {MAX_SIZE}")
    item = cbor.decode(data, what)
    if not isinstance(item, cbor2.CBORTag) or item.tag != TAG:
        raise EvidenceMalformed(f"format: {what}: not CBOR tag {TAG}")
    tokens = item.value
    if not isinstance(tokens, Mapping) or not all(type(key) is int for key in tokens):
        raise EvidenceMalformed(f"format: {what}: no map of numbered tokens")
    return tokens


def parse(data: bytes) -> Token:
    """Bytes to fields. Raises EvidenceMalformed; EvidenceUnsupported for unknown profiles."""
    tokens = collection(data, _WHAT)
    if set(tokens) != {PLATFORM, REALM}:
        raise EvidenceMalformed(f"format: {_WHAT}: not one platform token and one realm token")
    platform = arm_claims.signed(tokens[PLATFORM], "CCA platform token", cose.ALGORITHMS)
    realm = arm_claims.signed(tokens[REALM], "CCA realm token", cose.ALGORITHMS)
    claims = arm_claims.realm(realm.payload)
    return Token(
        platform_message=platform,
        platform=arm_claims.platform(platform.payload),
        realm_message=realm,
        realm=claims,
        realm_key=_realm_key(claims),
    )


def authenticate(token: Token, context: Context) -> Root:
    """Platform token under a provisioned key, realm's key under it, realm token under that."""
    root = check_signature(
        token.platform_message, token.platform.instance_id, context, check="platform.signature"
    )
    checks = context.checks
    digest = hashlib.new(arm_claims.HASHES[token.realm.key_hash], token.realm.public_key).digest()
    checks.require(
        digest == token.platform.challenge,
        "binding.realm-key",
        f"the platform vouches for the {token.realm.key_hash} digest of the realm's key",
        "the platform token vouches for another realm's key",
        expected=digest.hex(),
        found=token.platform.challenge.hex(),
    )
    fault = cose.verify(token.realm_message, token.realm_key)
    checks.require(fault is None, "signature", "the realm's key over the realm token", fault or "")
    return root


def verify(evidence: Evidence, context: Context) -> Claims:
    """Token under a key of family ``arm`` that is provisioned for the platform's instance id.

    Debug is claimed in every lifecycle state but "secured".
    """
    token = parse(evidence.data)
    platform, realm = token.platform, token.realm
    context.checks.passed("format", f"tokens of {platform.profile} and {realm.profile or 'legacy'}")
    root = authenticate(token, context)
    return Claims(
        format=FORMAT,
        tee="cca",
        measurements=realm.measurements,
        debug=not platform.lifecycle.secured,
        simulated=False,
        report_data=realm.challenge,
        root=root,
        checks=context.checks.done,
        platform={
            "instance_id": platform.instance_id.hex(),
            "implementation_id": platform.implementation_id.hex(),
        },
        details={
            "platform": platform.to_dict(),
            "realm": {
                "profile": realm.profile,
                "personalization": realm.personalization.hex(),
                "hash": realm.hash,
            },
        },
    )


def _realm_key(realm: arm_claims.Realm) -> ec.EllipticCurvePublicKey:
    """A raw point in the legacy profile, a COSE_Key in the newer one."""
    what = "CCA realm key"
    if not realm.profile:
        return cose.key_from_point(realm.public_key, what)
    key = cbor.decode(realm.public_key, what)
    if not isinstance(key, Mapping):
        raise EvidenceMalformed(f"format: {what}: no COSE_Key")
    return cose.key_from_map(key, what)
