"""A fake Intel: a platform that quotes whatever it is told, and the collateral for it."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.certificates import Certificate, to_pem
from tests.adversary.vendors.intel_documents import (
    COMPONENTS,
    FMSPC,
    PCE_ID,
    PCE_SVN,
    QE_SIGNER,
    TEE_TCB_SVN,
    Pieces,
    qe_identity,
    revocation_list,
    tcb_info,
)
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key, opaque

PPID = bytes(range(16))
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
AUTH_DATA = bytes(range(32))
SGX, TDX = 0, 0x81
SEPT_VE_DISABLE = 1 << 28

_EXTENSION = "1.2.840.113741.1.13.1"


def p256() -> ec.EllipticCurvePrivateKey:
    return ec_key(ec.SECP256R1())


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


# --- DER -----------------------------------------------------------------------------------------


def tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + value


def number(value: int, tag: int = 0x02) -> bytes:
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def pair(oid: str, value: bytes) -> bytes:
    first, second, *arcs = (int(arc) for arc in oid.split("."))
    encoded = bytes([first * 40 + second])
    for arc in arcs:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        encoded += bytes(reversed(groups))
    return tlv(0x30, tlv(0x06, encoded) + value)


def sgx_extension(
    *,
    components: Sequence[int] = COMPONENTS,
    pce_svn: int = PCE_SVN,
    fmspc: bytes = FMSPC,
    pce_id: bytes = PCE_ID,
    ppid: bytes = PPID,
    sgx_type: int = 1,
    platform: bool = True,
    more: bytes = b"",
) -> bytes:
    """The PCK certificate's extension; `platform`: with what multi-package platforms have."""
    tcb = b"".join(
        pair(f"{_EXTENSION}.2.{index}", number(svn)) for index, svn in enumerate(components, 1)
    )
    tcb += pair(f"{_EXTENSION}.2.17", number(pce_svn))
    tcb += pair(f"{_EXTENSION}.2.18", tlv(0x04, bytes(components)))
    fields = [
        pair(f"{_EXTENSION}.1", tlv(0x04, ppid)),
        pair(f"{_EXTENSION}.2", tlv(0x30, tcb)),
        pair(f"{_EXTENSION}.3", tlv(0x04, pce_id)),
        pair(f"{_EXTENSION}.4", tlv(0x04, fmspc)),
        pair(f"{_EXTENSION}.5", number(sgx_type, 0x0A)),
    ]
    if platform:
        flags = b"".join(pair(f"{_EXTENSION}.7.{flag}", tlv(0x01, b"\xff")) for flag in (1, 2, 3))
        fields.append(pair(f"{_EXTENSION}.6", tlv(0x04, bytes(range(16, 32)))))
        fields.append(pair(f"{_EXTENSION}.7", tlv(0x30, flags)))
    return tlv(0x30, b"".join(fields) + more)


# --- reports -------------------------------------------------------------------------------------


def enclave_report(**changes: Any) -> bytes:
    """384 bytes; fields by the names below."""
    known: dict[str, Any] = {
        "cpu_svn": bytes(COMPONENTS),
        "miscselect": 0,
        "reserved1": bytes(12),
        "ext_product_id": bytes(16),
        "attributes": bytes.fromhex("0500000000000000e700000000000000"),
        "mrenclave": b"E" * 32,
        "reserved2": bytes(32),
        "mrsigner": b"S" * 32,
        "reserved3": bytes(32),
        "config_id": bytes(64),
        "product_id": 11,
        "svn": 3,
        "config_svn": 0,
        "reserved4": bytes(42),
        "family_id": bytes(16),
        "report_data": b"nonce".ljust(64, b"\0"),
    }
    widths = {"miscselect": 4, "product_id": 2, "svn": 2, "config_svn": 2}
    return _layout(known, widths, changes)


def td_report(*, newer: bool = False, **changes: Any) -> bytes:
    """584 bytes, or 648 with `newer`; fields by the names below."""
    known: dict[str, Any] = {
        "tee_tcb_svn": TEE_TCB_SVN,
        "mrseam": b"M" * 48,
        "mrsignerseam": bytes(48),
        "seam_attributes": bytes(8),
        "td_attributes": SEPT_VE_DISABLE,
        "xfam": 0x602E7,
        "mrtd": b"T" * 48,
        "mrconfigid": bytes(48),
        "mrowner": bytes(48),
        "mrownerconfig": bytes(48),
        "rtmr0": b"0" * 48,
        "rtmr1": b"1" * 48,
        "rtmr2": b"2" * 48,
        "rtmr3": bytes(48),
        "report_data": b"nonce".ljust(64, b"\0"),
    }
    if newer:
        known |= {"tee_tcb_svn2": changes.get("tee_tcb_svn", TEE_TCB_SVN), "mrservicetd": bytes(48)}
    return _layout(known, {"td_attributes": 8, "xfam": 8}, changes)


def _layout(known: dict[str, Any], widths: Mapping[str, int], changes: Mapping[str, Any]) -> bytes:
    assert set(changes) <= set(known), f"no such fields: {set(changes) - set(known)}"
    fields = known | dict(changes)
    return b"".join(
        value.to_bytes(widths[name], "little") if isinstance(value, int) else value
        for name, value in fields.items()
    )


QE_FIELDS: Mapping[str, Any] = {
    "attributes": bytes.fromhex("1500000000000000e700000000000000"),
    "mrenclave": b"Q" * 32,
    "mrsigner": QE_SIGNER,
    "product_id": 2,
    "svn": 6,
}


@dataclass
class Intel:
    """Root, PCK CA, one platform, and who signs documents.

    extension: arguments of `sgx_extension`, or its bytes. pck_dates, signer_dates, ca_end:
    validity.
    """

    root: Authority = field(
        default_factory=lambda: Authority("Intel SGX Root CA", p256(), digest=hashes.SHA256())
    )
    extension: Mapping[str, Any] | bytes = field(default_factory=dict)
    pck_name: str = "Intel SGX PCK Certificate"
    ca_name: str = "Intel SGX PCK Platform CA"
    signer_name: str = "Intel SGX TCB Signing"
    pck_dates: tuple[datetime.datetime, datetime.datetime] = (NOW - YEAR / 2, NOW + YEAR / 2)
    signer_dates: tuple[datetime.datetime, datetime.datetime] = (NOW - YEAR / 2, NOW + YEAR / 2)
    ca_end: datetime.datetime = NOW + YEAR
    signer_issuer: Authority | None = None

    def __post_init__(self) -> None:
        self.ca = Authority(
            self.ca_name, p256(), issuer=self.root, end=self.ca_end, digest=hashes.SHA256()
        )
        self.pck_key, self.attestation_key, self.signer_key = p256(), p256(), p256()
        extension = self.extension
        if not isinstance(extension, bytes):
            extension = sgx_extension(**extension)
        leaf = (x509.BasicConstraints(False, None), True)
        self.pck = self.ca.issue(
            self.pck_name,
            self.pck_key.public_key(),
            start=self.pck_dates[0],
            end=self.pck_dates[1],
            extensions=[leaf, (opaque(_EXTENSION, extension), False)] if extension else [leaf],
        )
        self.signer = (self.signer_issuer or self.root).issue(
            self.signer_name,
            self.signer_key.public_key(),
            start=self.signer_dates[0],
            end=self.signer_dates[1],
            extensions=[leaf],
        )

    @property
    def anchors(self) -> Anchors:
        return Anchors((self.root.anchor("fake-intel", "intel"),))

    @property
    def chain(self) -> tuple[Certificate, ...]:
        return (self.pck, self.ca.certificate, self.root.certificate)

    def pieces(
        self,
        tee: str,
        info: Mapping[str, Any] | bytes | None = None,
        identity: Mapping[str, Any] | bytes | None = None,
        *,
        revoked_by_root: Iterable[Certificate] = (),
        revoked_by_ca: Iterable[Certificate] = (),
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Pieces:
        """Collateral for `tee`. Bodies may be given as objects or, to be signed so, as bytes.
        `key`: sign documents with another key than the signer's."""
        bodies = [
            body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
            for body in (info or tcb_info(tee), identity or qe_identity(tee))
        ]
        signatures = [raw_signature(key or self.signer_key, body) for body in bodies]
        return Pieces(
            tcb_body=bodies[0],
            tcb_signature=signatures[0],
            qe_body=bodies[1],
            qe_signature=signatures[1],
            signer=(self.signer, self.root.certificate),
            ca_chain=(self.ca.certificate, self.root.certificate),
            root_crl=revocation_list(self.root, *revoked_by_root),
            ca_crl=revocation_list(self.ca, *revoked_by_ca),
        )

    def pem_chain(self) -> bytes:
        return b"".join(to_pem(certificate) for certificate in self.chain)

    def sgx_quote(self, version: int = 3, **knobs: Any) -> bytes:
        """A quote over an enclave's report; knobs of `quote`, all others are report fields."""
        mine, fields = _sorted(knobs)
        return self.quote(enclave_report(**fields), SGX, version, **mine)

    def td_quote(self, version: int = 4, *, newer: bool = False, **knobs: Any) -> bytes:
        """A quote over a TD's report; likewise. `newer`: a TDX 1.5 body, in a v5 quote."""
        mine, fields = _sorted(knobs)
        return self.quote(td_report(newer=newer, **fields), TDX, version, **mine)

    def quote(
        self,
        body: bytes,
        tee_type: int,
        version: int,
        *,
        vendor: bytes = QE_VENDOR,
        key_type: int = 2,
        user_data: bytes = b"I" * 16 + bytes(4),
        body_type: int | None = None,
        body_size: int | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        point: bytes | None = None,
        auth_data: bytes = AUTH_DATA,
        qe: Mapping[str, Any] | None = None,
        qe_key: ec.EllipticCurvePrivateKey | None = None,
        certification: tuple[int, bytes] | None = None,
        outer_type: int = 6,
        padding: bytes = b"",
    ) -> bytes:
        """A signed quote.

        key: signs the quote. point: the attestation key as stated. qe: fields of the QE's report;
        qe_key: signs that. certification: type and data. outer_type: of v4 and v5 quotes.
        """
        signed = version.to_bytes(2, "little") + key_type.to_bytes(2, "little")
        signed += tee_type.to_bytes(4, "little") + bytes(4) + vendor + user_data
        if version >= 5:
            kind = body_type or {384: 1, 584: 2, 648: 3}[len(body)]
            size = len(body) if body_size is None else body_size
            signed += kind.to_bytes(2, "little") + size.to_bytes(4, "little")
        signed += body
        signature = raw_signature(key or self.attestation_key, signed)
        point = point or raw_point(self.attestation_key)
        digest = hashlib.sha256(raw_point(self.attestation_key) + auth_data).digest()
        qe_report = enclave_report(**{**QE_FIELDS, "report_data": digest + bytes(32), **(qe or {})})
        kind, data = certification or (5, self.pem_chain())
        certified = qe_report + raw_signature(qe_key or self.pck_key, qe_report)
        certified += len(auth_data).to_bytes(2, "little") + auth_data
        certified += kind.to_bytes(2, "little") + len(data).to_bytes(4, "little") + data
        if version >= 4:
            size = len(certified).to_bytes(4, "little")
            certified = outer_type.to_bytes(2, "little") + size + certified
        section = signature + point + certified
        return signed + len(section).to_bytes(4, "little") + section + padding


_KNOBS = frozenset(
    [
        "vendor",
        "key_type",
        "user_data",
        "body_type",
        "body_size",
        "key",
        "point",
        "auth_data",
        "qe",
        "qe_key",
        "certification",
        "outer_type",
        "padding",
    ]
)


def _sorted(knobs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    mine = {name: value for name, value in knobs.items() if name in _KNOBS}
    return mine, {name: value for name, value in knobs.items() if name not in _KNOBS}
