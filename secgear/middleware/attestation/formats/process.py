"""Evidence of the process TEE: a signed token under a local root, marked as simulated.

COSE_Sign1 (RFC 9052), ES384, the simulated root in ``x5chain`` (RFC 9360), CWT and EAT claims. The
root is nobody's but this user's: it is trusted only where a caller adds it to the anchors, under
the family ``simulated``, and a policy must allow simulation besides.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation import cbor, cose
from secgear.middleware.attestation.certificates import load_certificate
from secgear.middleware.attestation.chains import check_path
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.verification import Context

FORMAT = "secgear.process.cwt"
PROFILE = "tag:secgear,2026:process-simulated"
MAX_SIZE = 64 << 10

# CWT and EAT claim keys: RFC 8392, RFC 9711.
_IAT, _NONCE, _DEBUG_STATUS, _PROFILE = 6, 10, 263, 265
_KNOWN: frozenset[int | str] = frozenset([_IAT, _NONCE, _DEBUG_STATUS, _PROFILE]).union(
    ["tee", "simulated", "measurement", "signer", "product", "svn", "layers"]
)


class Token(msgspec.Struct, frozen=True):
    """The token's fields, as they are in it.

    certificate: DER, from ``x5chain``. debug: dbgstat is "enabled". layers: isolation layers by
    name and whether each held at the start.
    """

    message: cose.Sign1
    certificate: bytes
    issued_at: int
    report_data: bytes
    debug: bool
    measurement: bytes
    signer: bytes | None
    product: str
    svn: int
    layers: Mapping[str, bool]


def parse(data: bytes) -> Token:
    """Bytes to fields. Raises EvidenceMalformed."""
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: process evidence of {len(data)} bytes")
    message = cose.parse(data, "process evidence")
    claims = cbor.decode(message.payload, "process evidence: payload")
    certificate = message.headers.get(cose.X5CHAIN)
    if not isinstance(claims, Mapping) or not isinstance(certificate, bytes):
        raise EvidenceMalformed("format: process evidence without claims or certificate")
    if set(claims) != _KNOWN or claims[_PROFILE] != PROFILE or claims["tee"] != "process":
        raise EvidenceMalformed(f"format: not the claims of profile {PROFILE}")
    if claims["simulated"] is not True or claims[_DEBUG_STATUS] not in (0, 1):
        raise EvidenceMalformed("format: process evidence with a status out of range")
    return Token(
        message=message,
        certificate=certificate,
        issued_at=_typed(claims, _IAT, int),
        report_data=_sized(claims, _NONCE, 64),
        debug=claims[_DEBUG_STATUS] == 0,
        measurement=_sized(claims, "measurement", 48),
        signer=None if claims["signer"] is None else _typed(claims, "signer", bytes),
        product=_typed(claims, "product", str),
        svn=_typed(claims, "svn", int),
        layers=_layers(claims["layers"]),
    )


def verify(evidence: Evidence, context: Context) -> Claims:
    """Token under a simulated root that the caller pinned."""
    checks = context.checks
    token = parse(evidence.data)
    checks.passed("format", f"token of profile {PROFILE}")
    leaf = load_certificate(token.certificate)
    path = check_path(
        leaf,
        (),
        context.anchors.of("simulated"),
        at=context.at,
        crls=(),
        checks=checks,
        revocable="nothing",
    )
    key = leaf.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey):
        checks.failed("signature", "the simulated root's key is not EC")
    fault = cose.verify(token.message, key)
    checks.require(fault is None, "signature", "ES384 over the token", fault or "")
    return Claims(
        format=FORMAT,
        tee="process",
        measurements={"launch": token.measurement},
        debug=token.debug,
        simulated=True,
        report_data=token.report_data,
        root=path.root,
        checks=checks.done,
        signer=token.signer,
        product=token.product,
        svn=token.svn,
        evidence_time=datetime.datetime.fromtimestamp(token.issued_at, datetime.UTC),
        details={"layers": dict(token.layers)},
    )


_MAX_TIME = 253_402_300_799  # the last second of the year 9999, where Python's time ends


def _typed(claims: Mapping[Any, Any], key: int | str, kind: type[Any]) -> Any:
    value = claims[key]
    if type(value) is not kind or (kind is int and not 0 <= value <= _MAX_TIME):
        raise EvidenceMalformed(f"format: claim {key} of process evidence is no {kind.__name__}")
    return value


def _sized(claims: Mapping[Any, Any], key: int | str, size: int) -> bytes:
    value: bytes = _typed(claims, key, bytes)
    if len(value) != size:
        raise EvidenceMalformed(f"format: claim {key} has {len(value)} bytes, not {size}")
    return value


def _layers(value: object) -> Mapping[str, bool]:
    if not isinstance(value, Mapping) or len(value) > 64:
        raise EvidenceMalformed("format: layers of process evidence are no small map")
    for name, holds in value.items():
        if not isinstance(name, str) or not isinstance(holds, bool):
            raise EvidenceMalformed("format: a layer of process evidence is neither up nor down")
    return dict(value)
