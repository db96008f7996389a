"""Arm PSA: the initial attestation token of a microcontroller or a secure world (RFC 9783).

COSE_Sign1 under the device's initial attestation key, which its maker or owner provisions. Besides
the claims of RFC 9783 those of its two predecessors are read: PSA_IOT_PROFILE_1, whose claims have
private numbers, and ``http://arm.com/psa/2.0.0``. Tokens with a MAC instead of a signature can be
verified only by who could forge them, and are not supported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation import cose
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.formats import arm_claims
from secgear.middleware.attestation.formats.arm_keys import check_signature
from secgear.middleware.attestation.verification import Context

FORMAT = "arm.psa"
MAX_SIZE = 64 << 10  # bytes

_WHAT = "PSA token"
_MAC0 = 0xD1  # CBOR tag 17
_BOOT_SEED_SIZES = range(8, 33)
_CLIENT_IDS = range(-(1 << 31), 1 << 31)


class _Numbers(msgspec.Struct, frozen=True):
    """Where a profile keeps each claim. without: says "no software was measured"; 0 for none."""

    profile: int
    client: int
    lifecycle: int
    implementation: int
    boot_seed: int
    certification: int
    components: int
    without: int
    nonce: int
    instance: int
    service: int

    @property
    def optional(self) -> frozenset[int]:
        """Claims that may be absent."""
        return frozenset((self.profile, self.boot_seed, self.certification, self.service))


_RFC9783 = _Numbers(265, 2394, 2395, 2396, 268, 2398, 2399, 0, 10, 256, 2400)
_PSA2 = _Numbers(265, 2394, 2395, 2396, 2397, 2398, 2399, 0, 10, 256, 2400)
_PSA1 = _Numbers(
    *(-75000, -75001, -75002, -75003, -75004, -75005, -75006, -75007, -75008, -75009, -75010)
)
_PROFILES: Mapping[str, _Numbers] = {
    "tag:psacertified.org,2023:psa#tfm": _RFC9783,
    "http://arm.com/psa/2.0.0": _PSA2,
    "PSA_IOT_PROFILE_1": _PSA1,
}


class Token(msgspec.Struct, frozen=True):
    """The token's claims, whatever their numbers. Optional texts and bytes are empty if absent.

    client_id: who asked for the token: negative for the non-secure side.
    components: measured software; none if the token says that none was measured.
    """

    message: cose.Sign1
    profile: str
    client_id: int
    lifecycle: arm_claims.Lifecycle
    implementation_id: bytes
    instance_id: bytes
    boot_seed: bytes
    certification: str
    components: tuple[arm_claims.Component, ...]
    nonce: bytes
    service: str

    @property
    def measurements(self) -> dict[str, bytes]:
        """``software.NAME`` of each component, ``software#PLACE`` if that is not its alone."""
        names = Counter(component.name for component in self.components)
        return {
            f"software.{component.name}"
            if component.name and names[component.name] == 1
            else f"software#{place}": component.measurement
            for place, component in enumerate(self.components)
        }


def parse(data: bytes) -> Token:
    """Bytes to fields. Raises EvidenceMalformed; EvidenceUnsupported for unknown profiles."""
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: {_WHAT} of {len(data)} bytes; at most {MAX_SIZE}")
    if data[:1] == bytes([_MAC0]):
        raise EvidenceUnsupported(f"format: {_WHAT}: authenticated with a MAC, not signed")
    message = arm_claims.signed(data, _WHAT, cose.ALGORITHMS)
    claims = arm_claims.claim_set(message.payload, _WHAT)
    profile, numbers = _profile(claims)
    measured = numbers.without not in claims
    last = numbers.components if measured else numbers.without
    required = {numbers.client, numbers.lifecycle, numbers.implementation, numbers.nonce}
    arm_claims.exactly(claims, {*required, numbers.instance, last}, numbers.optional, _WHAT)
    client = claims[numbers.client]
    if type(client) is not int or client not in _CLIENT_IDS:
        raise EvidenceMalformed(f"format: {_WHAT}: the client id is no 32-bit number")
    if not measured and (type(claims[last]) is not int or claims[last] != 1):
        raise EvidenceMalformed(f"format: {_WHAT}: claim {last} is not 1")
    return Token(
        message=message,
        profile=profile,
        client_id=client,
        lifecycle=arm_claims.lifecycle(claims, numbers.lifecycle, _WHAT),
        implementation_id=arm_claims.binary(
            claims, numbers.implementation, _WHAT, (arm_claims.IMPLEMENTATION_ID_SIZE,)
        ),
        instance_id=arm_claims.instance_id(claims, numbers.instance, _WHAT),
        boot_seed=arm_claims.binary(claims, numbers.boot_seed, _WHAT, _BOOT_SEED_SIZES)
        if numbers.boot_seed in claims
        else b"",
        certification=_text(claims, numbers.certification),
        components=arm_claims.components(claims, last, _WHAT) if measured else (),
        nonce=arm_claims.binary(claims, numbers.nonce, _WHAT, arm_claims.DIGEST_SIZES),
        service=_text(claims, numbers.service),
    )


def verify(evidence: Evidence, context: Context) -> Claims:
    """Token under a key of family ``arm`` that is provisioned for the token's instance id.

    Debug is claimed in every lifecycle state but "secured". There is no ``launch``: no single
    component stands for the whole.
    """
    token = parse(evidence.data)
    context.checks.passed("format", f"token of profile {token.profile}")
    root = check_signature(token.message, token.instance_id, context)
    return Claims(
        format=FORMAT,
        tee="psa",
        measurements=token.measurements,
        debug=not token.lifecycle.secured,
        simulated=False,
        report_data=token.nonce,
        root=root,
        checks=context.checks.done,
        platform={
            "instance_id": token.instance_id.hex(),
            "implementation_id": token.implementation_id.hex(),
        },
        details={
            "profile": token.profile,
            "client_id": token.client_id,
            "lifecycle": token.lifecycle.name,
            "boot_seed": token.boot_seed.hex(),
            "certification_reference": token.certification,
            "verification_service": token.service,
            "software": [component.to_dict() for component in token.components],
        },
    )


def _profile(claims: Mapping[int, Any]) -> tuple[str, _Numbers]:
    """RFC 9783, section 4.5.2: a token without the claim is of PSA_IOT_PROFILE_1."""
    name = claims.get(_RFC9783.profile, claims.get(_PSA1.profile, "PSA_IOT_PROFILE_1"))
    numbers = _PROFILES.get(name) if isinstance(name, str) else None
    if numbers is None or (numbers is _PSA1) == (_RFC9783.profile in claims):
        raise EvidenceUnsupported(f"format: {_WHAT}: profile {str(name)[:80]!r}")
    if numbers is _PSA2 and _PSA2.boot_seed not in claims:
        numbers = _RFC9783  # the later drafts of 2.0.0 moved the boot seed
    return str(name), numbers


def _text(claims: Mapping[int, Any], key: int) -> str:
    return arm_claims.text(claims, key, _WHAT) if key in claims else ""
