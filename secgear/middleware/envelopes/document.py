"""The public form of an enclave's key: what a data owner gets, and has yet to verify.

A CBOR map in deterministic encoding; anything else is refused:
``{"secgear-enclave-key": 1, "suite": text, "public": bytes, "not_after": seconds since 1970,
"context": 32 bytes, "purposes": [text, sorted], "evidence": evidence envelope in CBOR}``.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import Final

import cbor2
import msgspec

from secgear.base.tee import Evidence
from secgear.errors import EnvelopeMalformed, EvidenceMalformed
from secgear.middleware.attestation import cbor, envelope
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.envelopes.format import check_purpose, prefixed
from secgear.middleware.envelopes.suites import Suite, suite_named

VERSION: Final = 1
CONTEXT_SIZE: Final = 32  # bytes
NO_CONTEXT: Final = bytes(CONTEXT_SIZE)
MAX_PURPOSES: Final = 64
MAX_SIZE: Final = envelope.MAX_SIZE + (64 << 10)  # bytes: the evidence, and what is around it
_MAX_TIME = 253_402_300_799  # the last second of the year 9999, where Python's time ends
_MARK = "secgear-enclave-key"
_REPORT_LABEL = b"secgear enclave key v1\0"
_ID_LABEL = b"secgear enclave key id v1\0"


class EnclaveKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key, and evidence that it belongs to an enclave. Nothing of it is verified.

    not_after: end of the key's life, in seconds since 1970. context: what a data owner asked to
    have in the evidence, a nonce; zeros if nobody did. purposes: what may be sealed to the key,
    sorted; empty for anything.
    """

    suite: str
    public: bytes
    not_after: int
    context: bytes = NO_CONTEXT
    purposes: tuple[str, ...] = ()
    evidence: Evidence

    def __post_init__(self) -> None:
        """Raise EnvelopeMalformed unless every field can be what it says."""
        suite_named(self.suite).check_public(self.public)
        if not 0 < self.not_after <= _MAX_TIME:
            raise EnvelopeMalformed("an enclave key whose not_after is no time")
        if len(self.context) != CONTEXT_SIZE:
            raise EnvelopeMalformed(f"a context of {len(self.context)} bytes, not {CONTEXT_SIZE}")
        if len(self.purposes) > MAX_PURPOSES or list(self.purposes) != sorted(set(self.purposes)):
            raise EnvelopeMalformed(f"purposes: at most {MAX_PURPOSES}, sorted, each once")
        for purpose in self.purposes:
            check_purpose(purpose)

    def __repr__(self) -> str:
        return f"EnclaveKey({self.suite!r}, id={self.id.hex()[:16]}…, not verified)"

    @property
    def id(self) -> bytes:
        """Names the key in envelopes: 32 bytes."""
        return key_id(suite_named(self.suite), self.public)

    @property
    def expires(self) -> datetime.datetime:
        """`not_after` as a time."""
        return datetime.datetime.fromtimestamp(self.not_after, datetime.UTC)

    @property
    def report_data(self) -> bytes:
        """What the evidence has to carry: 64 bytes."""
        return report_data(self.suite, self.public, self.not_after, self.context, self.purposes)

    def to_cbor(self) -> bytes:
        """The document."""
        return cbor2.dumps(
            {
                _MARK: VERSION,
                "suite": self.suite,
                "public": self.public,
                "not_after": self.not_after,
                "context": self.context,
                "purposes": list(self.purposes),
                "evidence": envelope.to_cbor(self.evidence),
            },
            canonical=True,
        )

    @classmethod
    def from_cbor(cls, data: bytes) -> EnclaveKey:
        """Read a document. Raises EnvelopeMalformed unless it is one in deterministic encoding."""
        try:
            content = cbor.decode(data, "enclave key", max_size=MAX_SIZE)
            read = msgspec.convert(content, _Document, builtin_types=(bytes,))
            evidence = envelope.from_cbor(read.evidence)
        except EvidenceMalformed as error:
            reason = str(error).removeprefix("format: ")
            raise EnvelopeMalformed(f"no enclave key: {reason}") from None
        except UNREADABLE as error:
            raise EnvelopeMalformed(f"no enclave key: {error}") from None
        if read.version != VERSION:
            raise EnvelopeMalformed(
                f"an enclave key of version {read.version}; this release reads {VERSION}"
            )
        key = cls(
            suite=read.suite,
            public=read.public,
            not_after=read.not_after,
            context=read.context,
            purposes=read.purposes,
            evidence=evidence,
        )
        if key.to_cbor() != data:
            raise EnvelopeMalformed("an enclave key that is not in deterministic encoding")
        return key


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    version: int = msgspec.field(name=_MARK)
    suite: str
    public: bytes
    not_after: int
    context: bytes
    purposes: tuple[str, ...]
    evidence: bytes


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DESCRIBED = msgspec.json.Decoder(_Document)


def key_id(suite: Suite, public: bytes) -> bytes:
    """SHA-256 over the label, the suite's name and the public key."""
    return hashlib.sha256(_ID_LABEL + prefixed(suite.name) + public).digest()


def report_data(
    suite: str, public: bytes, not_after: int, context: bytes, purposes: tuple[str, ...]
) -> bytes:
    """SHA-512 over the label and the fields; each is of fixed size or has its length before it."""
    content = [
        _REPORT_LABEL,
        prefixed(suite),
        public,
        not_after.to_bytes(8, "big"),
        context,
        len(purposes).to_bytes(2, "big"),
        *(prefixed(purpose) for purpose in purposes),
    ]
    return hashlib.sha512(b"".join(content)).digest()
