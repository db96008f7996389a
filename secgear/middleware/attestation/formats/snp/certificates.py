"""VCEK and VLEK: what AMD writes into the certificates, and where a report's may be found.

Versioned Chip Endorsement Key specification (AMD publication 57230), section 3.1: extensions below
1.3.6.1.4.1.3704.1. Guest Hypervisor Communication Block standardization (56421), section 4.1.8.1:
the certificate table.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping
from importlib import resources

import msgspec

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.certificates import Certificate, load_certificate, load_pem
from secgear.middleware.attestation.formats.snp.tcb import Product
from secgear.middleware.attestation.reader import Reader

MAX_TABLE = 64 << 10  # bytes of a certificate table
MAX_ENTRIES = 16

_ARC = "1.3.6.1.4.1.3704.1"
_PRODUCT, _HARDWARE_ID, _CSP_ID = f"{_ARC}.2", f"{_ARC}.4", f"{_ARC}.5"
_VERSIONS = {
    "bootloader": f"{_ARC}.3.1",
    "tee": f"{_ARC}.3.2",
    "snp": f"{_ARC}.3.3",
    "microcode": f"{_ARC}.3.8",
}
_FMC = f"{_ARC}.3.9"
_OCTETS, _INTEGER, _IA5 = 0x04, 0x02, 0x16

# GUIDs of the table, as they lie in memory.
_GUIDS = {
    "vcek": uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes_le,
    "vlek": uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes_le,
}


class Endorsement(msgspec.Struct, frozen=True):
    """A VCEK or VLEK certificate and what it says of its platform.

    kind: ``vcek`` or ``vlek``. product: as AMD names it, with the stepping (``Milan-B0``).
    hardware_id: the chip's, of a VCEK. csp_id: the cloud's name, of a VLEK.
    """

    certificate: Certificate
    kind: str
    product: str
    versions: Mapping[str, int]
    hardware_id: bytes | None
    csp_id: str | None

    @property
    def line(self) -> Product:
        """The product without its stepping; UNSTATED if this package does not know it."""
        name = self.product.split("-")[0]
        return next((one for one in Product if one.value == name), Product.UNSTATED)


@functools.lru_cache(maxsize=256)
def read_endorsement(certificate: Certificate) -> Endorsement:
    """AMD's extensions. Raises EvidenceMalformed."""
    versions = {name: _integer(certificate, oid) for name, oid in _VERSIONS.items()}
    if certificate.extension(_FMC) is not None:
        versions["fmc"] = _integer(certificate, _FMC)
    product = _text(certificate, _PRODUCT)
    csp = certificate.extension(_CSP_ID)
    hardware_id = certificate.extension(_HARDWARE_ID)
    if (csp is None) == (hardware_id is None):
        raise EvidenceMalformed(
            "format: a certificate that is neither VCEK (hardware id) nor VLEK (csp id)"
        )
    if csp is not None:
        return Endorsement(
            certificate, "vlek", product, versions, None, _text(certificate, _CSP_ID)
        )
    identity = _hardware_id(hardware_id or b"")
    return Endorsement(certificate, "vcek", product, versions, identity, None)


def read_table(data: bytes) -> Mapping[str, bytes]:
    """The VCEK and VLEK in a certificate table, DER by kind. Raises EvidenceMalformed."""
    if len(data) > MAX_TABLE:
        raise EvidenceMalformed(f"format: certificate table of {len(data)} bytes")
    reader = Reader(data, "certificate table")
    found: dict[str, bytes] = {}
    for _ in range(MAX_ENTRIES + 1):
        guid = reader.take(16, "guid")
        offset, size = reader.integer(4, "offset"), reader.integer(4, "length")
        if not any(guid):
            return found
        if offset + size > len(data):
            raise EvidenceMalformed("format: certificate table: an entry beyond its end")
        kind = next((name for name, value in _GUIDS.items() if value == guid), None)
        if kind is not None:
            if kind in found:
                raise EvidenceMalformed(f"format: certificate table: {kind} twice")
            found[kind] = data[offset : offset + size]
    raise EvidenceMalformed(f"format: certificate table: more than {MAX_ENTRIES} entries")


def load_any(data: bytes) -> Certificate:
    """One certificate in DER or PEM; of a PEM chain the first. Raises EvidenceMalformed."""
    return load_pem(data)[0] if b"-----BEGIN" in data[:64] else load_certificate(data)


@functools.cache
def intermediates() -> tuple[Certificate, ...]:
    """AMD's ASK (for VCEK) and ASVK (for VLEK) of each product, which come with this package."""
    folder = resources.files("secgear.middleware.attestation.formats.snp") / "intermediates"
    return tuple(
        certificate
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".pem")
        for certificate in load_pem(file.read_bytes())
    )


def _value(certificate: Certificate, oid: str) -> bytes:
    value = certificate.extension(oid)
    if value is None:
        raise EvidenceMalformed(f"format: {certificate.subject} has no extension {oid}")
    return value


def _element(data: bytes, tag: int, what: str) -> bytes:
    """The content of the one short DER element in `data`."""
    if len(data) < 2 or data[0] != tag or data[1] != len(data) - 2 or data[1] > 127:
        raise EvidenceMalformed(
            f"format: {what} of AMD's certificate is not encoded as it should be"
        )
    return data[2:]


def _integer(certificate: Certificate, oid: str) -> int:
    """An INTEGER from 0 to 255: one byte, or two with a leading zero."""
    content = _element(_value(certificate, oid), _INTEGER, f"extension {oid}")
    if len(content) == 2 and content[0] == 0 and content[1] & 0x80:
        return content[1]
    if len(content) != 1 or content[0] & 0x80:
        raise EvidenceMalformed(f"format: extension {oid} is no security version")
    return content[0]


def _text(certificate: Certificate, oid: str) -> str:
    content = _element(_value(certificate, oid), _IA5, f"extension {oid}")
    if not content.isascii() or not content.decode().isprintable():
        raise EvidenceMalformed(f"format: extension {oid} is no printable text")
    return content.decode()


def _hardware_id(value: bytes) -> bytes:
    """64 bytes, or 8 of Turin; older certificates have it bare, newer as OCTET STRING."""
    if len(value) in (8, 64):
        return value
    content = _element(value, _OCTETS, "hardware id")
    if len(content) not in (8, 64):
        raise EvidenceMalformed(f"format: hardware id of {len(content)} bytes")
    return content
