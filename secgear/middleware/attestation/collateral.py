"""Collateral: what a verifier needs besides the evidence, as one value that can be kept and sent.

Certificates, revocation lists, OCSP responses, and signed documents (Intel's TCB information, GPU
reference manifests). None of it is trusted: every verifier checks the signatures of what it uses,
so hostile collateral can make verification fail and nothing else. No verifier fetches anything;
`secgear.middleware.attestation.fetching` does, when told to, and gives one of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from secgear.errors import CollateralError
from secgear.middleware.attestation.reader import UNREADABLE

T = TypeVar("T")

VERSION = 1
MAX_SIZE = 16 << 20  # bytes of one file; NVIDIA's manifests are tens of kilobytes each
MAX_ITEMS = 512
_MARK = "secgear-collateral"


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A signed document of a vendor.

    kind: what it is: ``intel.tcb-info``, ``intel.qe-identity``, ``nvidia.rim``, ….
    name: which one of its kind, where there are many (an FMSPC, a manifest's identifier).
    data: the bytes as the vendor served them, signature included.
    chain: certificates (DER) that came with it, the signer's first.
    """

    kind: str
    data: bytes
    name: str = ""
    chain: tuple[bytes, ...] = ()


class Collateral(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A set of collateral. Certificates, CRLs and OCSP responses are DER."""

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()
    documents: tuple[Document, ...] = ()

    def __post_init__(self) -> None:
        # A list would let somebody change what caches take for the same collateral.
        for field in ("certificates", "crls", "ocsp", "documents"):
            msgspec.structs.force_setattr(self, field, tuple(getattr(self, field)))

    @property
    def size(self) -> int:
        """Bytes of everything in it, roughly."""
        parts = (*self.certificates, *self.crls, *self.ocsp)
        return sum(map(len, parts)) + sum(
            len(item.data) + sum(map(len, item.chain)) for item in self.documents
        )

    def documents_of(self, kind: str) -> tuple[Document, ...]:
        """All documents of one kind."""
        return tuple(document for document in self.documents if document.kind == kind)

    def merged(self, *others: Collateral) -> Collateral:
        """Everything of this and the others, each item once, in order of first appearance."""
        everything = (self, *others)

        return Collateral(
            certificates=_once(item for one in everything for item in one.certificates),
            crls=_once(item for one in everything for item in one.crls),
            ocsp=_once(item for one in everything for item in one.ocsp),
            documents=_once(item for one in everything for item in one.documents),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 over the JSON form: names this very set."""
        return hashlib.sha256(self.to_json()).digest()

    def to_json(self) -> bytes:
        """The file form."""
        return msgspec.json.encode({_MARK: VERSION} | msgspec.to_builtins(self))


def _once(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))


class _File(Collateral, frozen=True, forbid_unknown_fields=True):
    version: int = msgspec.field(name=_MARK, default=0)


_DECODER = msgspec.json.Decoder(_File)


def from_json(data: bytes) -> Collateral:
    """Read the file form. Raises CollateralError."""
    if len(data) > MAX_SIZE:
        raise CollateralError(f"collateral of {len(data)} bytes; at most {MAX_SIZE} are read")
    try:
        read = _DECODER.decode(data)
    except UNREADABLE as error:
        raise CollateralError(f"no collateral file: {error}") from None
    if read.version != VERSION:
        raise CollateralError(f"collateral of version {read.version}; this release reads {VERSION}")
    fields: Mapping[str, tuple[object, ...]] = {
        name: getattr(read, name) for name in ("certificates", "crls", "ocsp", "documents")
    }
    if sum(len(items) for items in fields.values()) > MAX_ITEMS:
        raise CollateralError(f"more than {MAX_ITEMS} items of collateral")
    return Collateral(read.certificates, read.crls, read.ocsp, read.documents)
