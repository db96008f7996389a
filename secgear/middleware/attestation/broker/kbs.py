"""The messages of Confidential Containers' key broker service, protocol version 0.4.0.

Request, Challenge, Attestation, Response (trustee's ``kbs_attestation_protocol.md``): the client
names its TEE, gets a nonce, sends evidence whose report data is the digest of its runtime data
(nonce, its public key, additional evidence), and receives resources as JWE to that key. This module
turns those messages into ours and back; it holds no state.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from jwcrypto import jwe, jwk
from jwcrypto.common import JWException

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.broker import kbs_snp
from secgear.middleware.attestation.reader import UNREADABLE

PROTOCOL: Final = "0.4.0"
COOKIE: Final = "kbs-session-id"
MAX_MESSAGE = 4 << 20  # bytes

_DIGESTS: Final = ("sha384", "sha512", "sha256")  # in our order of preference
_KEY_ALGORITHMS: Final = ("ECDH-ES+A256KW", "RSA-OAEP-256")
_CURVES: Final = ("P-256", "P-384", "P-521")


class Request(msgspec.Struct, frozen=True, rename="kebab"):
    """What a client begins with. tee: its platform, in the protocol's words."""

    version: str
    tee: str
    extra_params: Any = ""


class RuntimeData(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """What the evidence vouches for: the broker's nonce and the client's public key (JWK)."""

    nonce: str
    tee_pubkey: dict[str, str]


class CompositeEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """primary_evidence: JSON in the TEE's own form. additional_evidence: JSON in a string."""

    primary_evidence: Any
    additional_evidence: str = ""


class InitData(msgspec.Struct, frozen=True):
    """Configuration that the launcher measured. Accepted and not interpreted."""

    format: str
    body: str


class Attestation(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """What a client answers a challenge with."""

    runtime_data: RuntimeData
    tee_evidence: CompositeEvidence
    init_data: InitData | None = None


_REQUEST = msgspec.json.Decoder(Request)
_ATTESTATION = msgspec.json.Decoder(Attestation)


def parse_request(body: bytes) -> Request:
    """Read the first message. Raises EvidenceMalformed, EvidenceUnsupported."""
    request: Request = _decode(_REQUEST, body, "KBS request")
    if request.version != PROTOCOL:
        raise EvidenceUnsupported(
            f"format: KBS protocol {request.version!r}; this broker speaks {PROTOCOL}"
        )
    return request


def choose_digest(request: Request) -> str:
    """The digest for the report data: of those that the client names, else SHA-384."""
    named = (
        request.extra_params.get("supported-hash-algorithms")
        if isinstance(request.extra_params, dict)
        else None
    )
    if not isinstance(named, list):
        return "sha384"
    offered = {name.lower().replace("-", "") for name in named if isinstance(name, str)}
    for digest in _DIGESTS:
        if digest in offered:
            return digest
    raise EvidenceUnsupported(f"format: none of the client's digests is in {', '.join(_DIGESTS)}")


def challenge(nonce: str, digest: str) -> bytes:
    """The second message."""
    return msgspec.json.encode(
        {"nonce": nonce, "extra-params": {"selected-hash-algorithm": digest}}
    )


def parse_attestation(body: bytes) -> Attestation:
    """Read the third message. Raises EvidenceMalformed, EvidenceUnsupported."""
    attestation: Attestation = _decode(_ATTESTATION, body, "KBS attestation")
    check_key(attestation.runtime_data.tee_pubkey)
    return attestation


def expected_report_data(attestation: Attestation, digest: str) -> bytes:
    """64 bytes that the evidence must carry: the digest of the runtime data, zero-padded.

    The digest is over the canonical JSON (RFC 8785) of nonce, key and additional evidence; all of
    it is strings, for which sorted members without spaces are canonical.
    """
    runtime = {
        "additional-evidence": attestation.tee_evidence.additional_evidence,
        "nonce": attestation.runtime_data.nonce,
        "tee-pubkey": attestation.runtime_data.tee_pubkey,
    }
    canonical = json.dumps(runtime, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.new(digest, canonical.encode()).digest().ljust(64, b"\0")


def to_evidence(tee: str, attestation: Attestation) -> Evidence:
    """Primary evidence of the platforms that this broker takes, in our form.

    Raises EvidenceUnsupported for other platforms and for additional evidence, which the protocol
    binds to the primary one but this release does not appraise: it is refused, not ignored.
    """
    if attestation.tee_evidence.additional_evidence not in ("", "{}"):
        raise EvidenceUnsupported("format: additional evidence of devices is not appraised here")
    primary = attestation.tee_evidence.primary_evidence
    if isinstance(primary, str):  # some clients send the object as text
        primary = _json(primary)
    match tee, primary:
        case "tdx", {"quote": str() as quote}:
            log = primary.get("cc_eventlog")
            attachments = {"ccel": _base64(log)} if isinstance(log, str) and log else {}
            return Evidence("intel.tdx.quote", _base64(quote), attachments)
        case "sgx", {"quote": str() as quote}:
            return Evidence("intel.sgx.quote", _base64(quote))
        case "snp", {"attestation_report": report}:
            return kbs_snp.to_evidence(report, primary.get("cert_chain"))
        case "cca", {"token": token}:
            return Evidence("arm.cca", _octets(token))
        case (("az-snp-vtpm" | "az-tdx-vtpm" | "azsnpvtpm" | "aztdxvtpm"), dict()):
            from secgear.middleware.attestation.formats.tpm.azure_coco import from_coco

            converted: Evidence = from_coco(msgspec.json.encode(primary))
            return converted
        case "secgear-process", {"token": str() as token}:
            return Evidence("secgear.process.cwt", _base64(token))
        case _:
            raise EvidenceUnsupported(
                f"format: KBS evidence of {tee!r} is not one that this broker takes (snp, tdx, "
                "sgx, cca, az-snp-vtpm, az-tdx-vtpm) in the form that 0.4.0 clients send"
            )


def check_key(key: Mapping[str, str]) -> jwk.JWK:
    """The client's public key. Raises EvidenceUnsupported for kinds that can't be wrapped to."""
    algorithm = key.get("alg")
    kind = {"ECDH-ES+A256KW": "EC", "RSA-OAEP-256": "RSA"}.get(algorithm or "")
    if kind is None or key.get("kty") != kind:
        raise EvidenceUnsupported(
            f"format: keys for {algorithm!r}; resources are wrapped with "
            f"{' or '.join(_KEY_ALGORITHMS)}"
        )
    if kind == "EC" and key.get("crv") not in _CURVES:
        raise EvidenceUnsupported(f"format: a key on {key.get('crv')!r}")
    members = ("kty", "crv", "x", "y") if kind == "EC" else ("kty", "n", "e")
    try:
        public = jwk.JWK(**{name: key[name] for name in members})
        public.get_op_key("wrapKey")  # whether the point is on the curve shows only now
        size = len(base64.urlsafe_b64decode(key["n"] + "==")) if kind == "RSA" else 256
    except (JWException, KeyError, ValueError, TypeError):
        raise EvidenceMalformed("format: the client's key is no JWK") from None
    if not 256 <= size <= 1024:
        raise EvidenceUnsupported("format: an RSA key of less than 2,048 or over 8,192 bits")
    try:
        _encrypted(b"", public, str(algorithm))  # what some moduli are worth shows only now
    except (JWException, ValueError):
        raise EvidenceMalformed("format: the client's key can't be wrapped to") from None
    return public


def wrap(resource: bytes, key: Mapping[str, str]) -> bytes:
    """The fourth message: the resource as a flattened JWE (RFC 7516) to the client's key.

    The client authenticates the header as it prints it again: compact, members sorted, which is how
    it is written here.
    """
    parts = _encrypted(resource, check_key(key), key["alg"])
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    return msgspec.json.encode(dict(zip(names, parts, strict=True)))


def problem(kind: str, detail: str) -> bytes:
    """The protocol's error document."""
    return msgspec.json.encode(
        {
            "type": f"https://github.com/confidential-containers/kbs/errors/{kind}",
            "detail": detail,
        }
    )


def _encrypted(resource: bytes, public: jwk.JWK, algorithm: str) -> list[str]:
    """The five parts of a JWE, in their order."""
    protected = json.dumps(
        {"alg": algorithm, "enc": "A256GCM"}, sort_keys=True, separators=(",", ":")
    )
    token = jwe.JWE(resource, protected=protected)
    token.add_recipient(public)
    # The compact form protects the ephemeral key, too, as clients expect; theirs is the other form.
    return str(token.serialize(compact=True)).split(".")


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes, what: str) -> Any:
    if len(body) > MAX_MESSAGE:
        raise EvidenceMalformed(f"format: {what} of {len(body)} bytes; at most {MAX_MESSAGE}")
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise EvidenceMalformed(f"format: {what}: {error}") from None


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        raise EvidenceMalformed("format: primary evidence is text that is no JSON") from None


def _base64(text: str) -> bytes:
    """Standard or URL-safe, padded or not: clients differ by platform."""
    try:
        standard = text.replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise EvidenceMalformed("format: evidence that is not base64") from None


def _octets(value: object) -> bytes:
    """Bytes as serde prints them (a list of numbers), or base64."""
    if isinstance(value, str):
        return _base64(value)
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 256 for item in value):
        return bytes(value)
    raise EvidenceMalformed("format: evidence that is neither a list of bytes nor base64")
