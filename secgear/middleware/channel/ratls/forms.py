"""The encodings of evidence in certificates: identifiers, tags, and claims about the key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import cbor2

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation import cbor, envelope

INTEROPERABLE_OID: Final = "2.23.133.5.4.9"
"""Evidence, "tcg-dice-conceptual-message-wrapper"; the form of the CCC's interoperable RA-TLS."""
INTEL_TEE_QUOTE: Final = 60000
"""CBOR tag of ``[quote, claims]``, a quote of SGX or TDX (IANA's registry of CBOR tags)."""
ENVELOPE: Final = 0x73676561
"""CBOR tag of ``[evidence envelope, claims]``, for all that has no registered one. Ours, from the
range for first come, first served; not registered."""

PUBKEY_HASH: Final = "pubkey-hash"
NONCE: Final = "nonce"
MAX_CLAIMS: Final = 4 << 10  # bytes
HASHES: Final[Mapping[int, str]] = {1: "sha256", 7: "sha384", 8: "sha512"}
"""By their numbers in IANA's registry of named information hashes."""


def claims_about(spki: bytes, more: Mapping[str, bytes] | None = None) -> bytes:
    """The claims' bytes for a key: a map with its SHA-256. more: other claims, by name."""
    digest = cbor2.dumps([1, hashlib.sha256(spki).digest()])
    return cbor2.dumps({PUBKEY_HASH: digest, **(more or {})})


def vouches(claims: Mapping[str, bytes], spki: bytes) -> bool:
    """Whether claims are about the key `spki`. Raises EvidenceMalformed, EvidenceUnsupported."""
    match cbor.decode(claims[PUBKEY_HASH], PUBKEY_HASH, max_size=128, max_depth=2):
        case [int() as number, bytes() as digest]:
            name = HASHES.get(number)
            if name is None:
                raise EvidenceUnsupported(f"format: a key's digest by algorithm {number}")
            return hashlib.new(name, spki).digest() == digest
        case _:
            raise EvidenceMalformed(f"format: {PUBKEY_HASH} is no algorithm and digest")


def pack(evidence: Evidence, claims: bytes) -> bytes:
    """The extension's value. Quotes of Intel's go without attachments, as others expect them."""
    if evidence.format in ("intel.sgx.quote", "intel.tdx.quote"):
        return cbor2.dumps(cbor2.CBORTag(INTEL_TEE_QUOTE, [evidence.data, claims]))
    return cbor2.dumps(cbor2.CBORTag(ENVELOPE, [envelope.to_cbor(evidence), claims]))


def unpack(value: bytes) -> tuple[Evidence, bytes]:
    """Evidence and the claims' bytes. Raises EvidenceMalformed, EvidenceUnsupported."""
    item: Any = cbor.decode(value, "RA-TLS extension", max_depth=3)
    if not isinstance(item, cbor2.CBORTag):
        raise EvidenceMalformed("format: an RA-TLS extension without its tag")
    match item.value:
        case [bytes() as data, bytes() as claims] if len(claims) <= MAX_CLAIMS:
            pass
        case _:
            raise EvidenceMalformed("format: an RA-TLS extension that is no evidence and claims")
    if item.tag == INTEL_TEE_QUOTE:
        return Evidence(quote_format(data), data), claims
    if item.tag == ENVELOPE:
        return envelope.from_cbor(data), claims
    raise EvidenceUnsupported(f"format: an RA-TLS extension with the tag {item.tag}")


def read_claims(data: bytes) -> Mapping[str, bytes]:
    """Custom claims by name; that of the key is there. Raises EvidenceMalformed."""
    item = cbor.decode(data, "RA-TLS claims", max_size=MAX_CLAIMS, max_depth=1)
    if not isinstance(item, Mapping) or not all(
        isinstance(name, str) and isinstance(value, bytes | str) for name, value in item.items()
    ):
        raise EvidenceMalformed("format: RA-TLS claims that are no names and bytes")
    claims = {
        name: value if isinstance(value, bytes) else value.encode() for name, value in item.items()
    }
    if not isinstance(item.get(PUBKEY_HASH), bytes):
        raise EvidenceMalformed(f"format: RA-TLS claims without {PUBKEY_HASH}")
    return claims


def quote_format(data: bytes) -> str:
    """Whether a quote is of SGX or TDX, by its header; its verifier checks the rest."""
    tdx = data[:2] in (b"\4\0", b"\5\0") and data[4:8] == b"\x81\0\0\0"
    return "intel.tdx.quote" if tdx else "intel.sgx.quote"
