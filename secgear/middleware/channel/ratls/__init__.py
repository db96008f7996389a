"""RA-TLS certificates: evidence about the key in the certificate that carries it.

They are for talking to others who know no more. Such a certificate says that a genuine enclave made
this key, and nothing about when, or about the connection it is shown in: who gets hold of the key
shows the same certificate, and it is good for ever. So nothing here opens a `Session`; see
docs/adr/0008-evidence-after-the-handshake.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secgear.middleware.channel.ratls.reading import CertificateEvidence as CertificateEvidence
    from secgear.middleware.channel.ratls.reading import Form as Form
    from secgear.middleware.channel.ratls.reading import carries_evidence as carries_evidence
    from secgear.middleware.channel.ratls.reading import examine_certificate as examine_certificate
    from secgear.middleware.channel.ratls.reading import read as read
    from secgear.middleware.channel.ratls.writing import certify as certify

# An enclave that writes one does not load what judges others.
_PUBLIC = {
    "CertificateEvidence": "reading",
    "Form": "reading",
    "carries_evidence": "reading",
    "certify": "writing",
    "examine_certificate": "reading",
    "read": "reading",
}

__all__ = [
    "CertificateEvidence",
    "Form",
    "carries_evidence",
    "certify",
    "examine_certificate",
    "read",
]


def __getattr__(name: str) -> Any:
    home = _PUBLIC.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
