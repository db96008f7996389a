"""A fake NVIDIA: chips with certificates, reports about any measurement, manifests, OCSP."""

from __future__ import annotations

import datetime
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from secgear.base.tee import Evidence
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.certificates import Certificate, to_pem
from secgear.middleware.attestation.collateral import Collateral, Document
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key, opaque

DAY = datetime.timedelta(days=1)
NONCE = bytes(range(32))
FWID = b"\xf1" * 48
MEASURED = {index: bytes([index + 1]) * 48 for index in range(64)}
DRIVER, VBIOS = "550.144.03", "96.00.5E.00.01"
DRIVER_RIM = f"NV_GPU_DRIVER_GH100_{DRIVER}"
VBIOS_RIM = "NV_GPU_VBIOS_1010_0200_882_96005E0001"
SWITCH_RIM = "NV_SWITCH_BIOS_5612_0002_890_9610550001"
OPAQUE: Mapping[int, bytes] = {
    6: bytes.fromhex("005e009601000000"),
    15: b"882\0\0\0\0\0\0",
    17: b"1010\0",
    18: b"0200\0",
    3: f"{DRIVER}\0".encode(),
    11: b"\xaa",
    20: FWID,
    21: b"\x55",
    34: b"\1\0",
    36: b"\0\0",
}
SWITCH_OPAQUE: Mapping[int, bytes] = {6: b"96.10.55.00.01\0", 20: FWID, 22: bytes(8)}
_SIGNS = x509.KeyUsage(True, *[False] * 8)
_SHA384_FWID = bytes.fromhex("06096086480165030402020430")


def der(tag: int, *parts: bytes) -> bytes:
    """One DER element."""
    body = b"".join(parts)
    size = len(body)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + body


def composite_device_id(fwid: bytes = FWID) -> bytes:
    """The extension of Hopper's leaf."""
    return der(0x30, b"\2\1\1", der(0x30, b"\5\0"), der(0x30, _SHA384_FWID + fwid))


def tcb_info(fwid: bytes = FWID) -> bytes:
    """The extension of Blackwell's leaf: DiceTcbInfo with vendor and fwids."""
    return der(0x30, der(0x80, b"NVIDIA"), der(0xA6, der(0x30, _SHA384_FWID + fwid)))


def tlv(entries: Mapping[int, bytes] | Sequence[tuple[int, bytes]]) -> bytes:
    """NVIDIA's opaque data."""
    items = entries.items() if isinstance(entries, Mapping) else entries
    return b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in items)


def block(index: int, value: bytes, *, specification: int = 1, kind: int = 1) -> bytes:
    """One measurement block; `index` from zero."""
    body = struct.pack("<BH", kind, len(value)) + value
    return struct.pack("<BBH", index + 1, specification, len(body)) + body


def messages(
    *,
    nonce: bytes = NONCE,
    blocks: Sequence[bytes] | None = None,
    count: int | None = None,
    entries: bytes | None = None,
    request: bytes = b"\x11\xe0\x01\xff",
    answer: bytes = b"\x11\x60\x00\x00",
    slot: int = 0,
) -> bytes:
    """Request and answer without the signature."""
    if blocks is None:
        blocks = [block(index, value) for index, value in MEASURED.items()]
    entries = tlv(OPAQUE) if entries is None else entries
    record = b"".join(blocks)
    return b"".join(
        (
            request + nonce + bytes([slot]),
            answer + bytes([len(blocks) if count is None else count]),
            len(record).to_bytes(3, "little") + record,
            b"\xa5" * 32,
            struct.pack("<H", len(entries)) + entries,
        )
    )


@dataclass
class Chip:
    """A device with the usual five certificates. `model`: of the chip's certificate."""

    model: str = "GH100 A01 GSP BROM"
    format: str = "nvidia.gpu"
    root: Authority = field(default_factory=lambda: Authority("fake NVIDIA Device Identity CA"))
    extension: tuple[str, bytes] | None = ("2.23.133.5.4.1", composite_device_id())
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = ((_SIGNS, True),)
    key: ec.EllipticCurvePrivateKey = field(default_factory=ec_key)

    def __post_init__(self) -> None:
        self.identity = Authority("fake GH100 Identity", issuer=self.root)
        self.provisioner = Authority("fake GH100 Provisioner", issuer=self.identity)
        self.brom = Authority(self.model, issuer=self.provisioner)
        extra = [(opaque(*self.extension), False)] if self.extension else []
        self.leaf = self.brom.issue(
            "GH100 A01 GSP FMC LF",
            self.key.public_key(),
            extensions=[*self.extensions, *extra],
        )

    @property
    def anchors(self) -> Anchors:
        return Anchors((self.root.anchor("fake-nvidia", "nvidia"),))

    @property
    def issuers(self) -> tuple[Authority, ...]:
        """From the chip to the root."""
        return (self.brom, self.provisioner, self.identity, self.root)

    @property
    def chain(self) -> bytes:
        return b"".join(
            to_pem(item) for item in (self.leaf, *(issuer.certificate for issuer in self.issuers))
        )

    def sign(self, unsigned: bytes, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        r, s = decode_dss_signature((key or self.key).sign(unsigned, ec.ECDSA(hashes.SHA384())))
        return unsigned + r.to_bytes(48, "big") + s.to_bytes(48, "big")

    def evidence(self, *, signed: bytes | None = None, **changes: Any) -> Evidence:
        """A report; `changes` are those of `messages`."""
        if signed is None:
            if self.format == "nvidia.nvswitch":
                changes.setdefault("entries", tlv(SWITCH_OPAQUE))
            signed = self.sign(messages(**changes))
        return Evidence(self.format, signed, attachments={"chain": self.chain})

    def responses(self, **changes: Any) -> tuple[bytes, ...]:
        """Good OCSP responses for chip, provisioner and identity; `changes`: of `respond`."""
        return tuple(
            respond(below.certificate, above, **changes)
            for below, above in zip(self.issuers, self.issuers[1:], strict=False)
        )


def respond(
    certificate: Certificate,
    issuer: Authority,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
    start: datetime.datetime = NOW - DAY,
    end: datetime.datetime | None = NOW + DAY,
    responder: tuple[Certificate, ec.EllipticCurvePrivateKey] | None = None,
    attach: bool = True,
    by_hash: bool = False,
    named_issuer: Authority | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
) -> bytes:
    """An OCSP response about one certificate, of the issuer itself or of `responder`.

    attach: the responder's certificate comes along. named_issuer: whose certificate the CertID
    says it is about, where that shall be another.
    """
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    signer, key = responder or (issuer.certificate, issuer.key)
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=certificate.parsed,
            issuer=(named_issuer or issuer).certificate.parsed,
            algorithm=algorithm or hashes.SHA1(),
            cert_status=status,
            this_update=start,
            next_update=end,
            revocation_time=start if revoked else None,
            revocation_reason=reason,
        )
        .responder_id(
            ocsp.OCSPResponderEncoding.HASH if by_hash else ocsp.OCSPResponderEncoding.NAME,
            signer.parsed,
        )
    )
    if responder and attach:
        builder = builder.certificates([signer.parsed])
    response = builder.sign(key, hashes.SHA384())
    return response.public_bytes(serialization.Encoding.DER)


def appointed(
    issuer: Authority, *, purpose: bool = True, end: datetime.datetime = NOW + YEAR / 2
) -> tuple[Certificate, ec.EllipticCurvePrivateKey]:
    """A responder's certificate of `issuer`, for OCSP signing if `purpose`."""
    key = ec_key()
    usage = ExtendedKeyUsageOID.OCSP_SIGNING if purpose else ExtendedKeyUsageOID.SERVER_AUTH
    return issuer.issue(
        "fake responder",
        key.public_key(),
        end=end,
        extensions=[(x509.ExtendedKeyUsage([usage]), False)],
    ), key


_MANIFEST = """<SoftwareIdentity xmlns="{swid}" xmlns:ns0="{swid}" xmlns:ns2="{hashes}" name="GPU">
<ns0:Entity name="NVIDIA Corporation" role="softwareCreator tagCreator"/>
<ns0:Meta xmlns:ns1="{rim}" colloquialVersion="{version}" product="{product}" \
ns1:PlatformManufacturerId="{manufacturer}"/>
<ns0:Payload>{resources}</ns0:Payload>
</SoftwareIdentity>"""
SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASHES = "http://www.w3.org/2001/04/xmlenc#sha384"
RIM = (
    "https://trustedcomputinggroup.org/resource/"
    "tcg-reference-integrity-manifest-rim-information-model/"
)


def resource(
    index: int,
    *values: bytes,
    active: str = "True",
    alternatives: int | None = None,
    size: int | str = 48,
    kind: str = "Measurement",
) -> str:
    """A golden measurement."""
    digests = " ".join(f'ns2:Hash{number}="{value.hex()}"' for number, value in enumerate(values))
    count = len(values) if alternatives is None else alternatives
    return (
        f'<ns0:Resource type="{kind}" index="{index}" active="{active}" alternatives="{count}" '
        f'{digests} name="Measurement_{index}" size="{size}"/>'
    )


def manifest(
    version: str = DRIVER,
    golden: Mapping[int, bytes | Sequence[bytes]] | None = None,
    *,
    product: str = "GH100",
    manufacturer: str = "5703",
    resources: str | None = None,
) -> bytes:
    """An unsigned manifest."""
    if resources is None:
        golden = {7: MEASURED[7], 35: MEASURED[35]} if golden is None else golden
        resources = "".join(
            resource(index, *([value] if isinstance(value, bytes) else value))
            for index, value in golden.items()
        ) + resource(60, bytes(48), active="False")
    return _MANIFEST.format(
        swid=SWID,
        hashes=HASHES,
        rim=RIM,
        version=version,
        product=product,
        manufacturer=manufacturer,
        resources=resources,
    ).encode()


@dataclass
class ManifestSigner:
    """Signs manifests as NVIDIA does: a signer below three authorities, all in the signature."""

    root: Authority = field(default_factory=lambda: Authority("fake NVIDIA CoRIM signing Root CA"))
    key: ec.EllipticCurvePrivateKey = field(default_factory=ec_key)

    def __post_init__(self) -> None:
        self.product = Authority("fake Reference Value GH100 CA", issuer=self.root)
        self.series = Authority("fake Reference Value L3", issuer=self.product)
        self.certificate = self.series.issue("fake RIM L4 Signer", self.key.public_key())

    @property
    def anchors(self) -> Anchors:
        return Anchors((self.root.anchor("fake-nvidia-rim", "nvidia-rim"),))

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        return (
            self.certificate,
            *(item.certificate for item in (self.series, self.product, self.root)),
        )

    def sign(
        self,
        unsigned: bytes,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        certificates: Sequence[Certificate] | None = None,
        method: str = "ECDSA_SHA384",
        digest: str = "SHA384",
        reference: str = "",
    ) -> bytes:
        """A signed manifest. `reference`: of what is signed, if not the whole document."""
        import signxml
        from lxml import etree

        root = etree.fromstring(unsigned)
        signer = signxml.XMLSigner(
            signature_algorithm=signxml.SignatureMethod[method],
            digest_algorithm=signxml.DigestAlgorithm[digest],
            c14n_algorithm="http://www.w3.org/2006/12/xml-c14n11",
        )
        chain = self.certificates if certificates is None else certificates
        signed = signer.sign(
            root,
            key=key or self.key,
            cert=[item.parsed for item in chain],
            reference_uri=reference or None,
            always_add_key_value=False,
        )
        return bytes(etree.tostring(signed))

    def document(self, name: str, unsigned: bytes, **changes: Any) -> Document:
        """Collateral under `name`; `changes`: of `sign`."""
        return Document(kind="nvidia.rim", name=name, data=self.sign(unsigned, **changes))

    def responses(self) -> tuple[bytes, ...]:
        """Good OCSP responses about the signer and its authorities."""
        return (
            respond(self.certificate, self.series),
            respond(self.series.certificate, self.product),
            respond(self.product.certificate, self.root),
        )


@dataclass
class Nvidia:
    """Everything together: a GPU, the manifests about it, and nothing revoked."""

    chip: Chip = field(default_factory=Chip)
    signer: ManifestSigner = field(default_factory=ManifestSigner)

    @property
    def anchors(self) -> Anchors:
        return self.chip.anchors.adding(*self.signer.anchors.roots)

    def collateral(self, *documents: Document) -> Collateral:
        """`documents`, or the manifests that the report wants; OCSP responses for everything."""
        return Collateral(
            ocsp=(*self.chip.responses(), *self.signer.responses()),
            documents=documents
            or (
                self.signer.document(DRIVER_RIM, manifest()),
                self.signer.document(VBIOS_RIM, manifest(VBIOS, {0: MEASURED[0]})),
            ),
        )
