"""The attestation report: bytes to fields.

SEV Secure Nested Paging Firmware ABI Specification (AMD publication 56860), section 7.3, table 23.
Version 2 knows neither the processor's identity nor mitigation vectors; 3 brought the first, 5 the
second.
"""

from __future__ import annotations

import msgspec

from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.formats.snp.tcb import Product, TcbVersion
from secgear.middleware.attestation.reader import Reader

SIZE = 1184
SIGNED = 0x2A0  # bytes at the front that the signature covers
VERSIONS = (2, 3, 5)

_ECDSA_P384_SHA384 = 1
_LEAST_PRIVILEGED = 3  # VMPL
_COMPONENT = 72  # bytes of r and of s, little-endian
_P384 = 48

_POLICY_SMT, _POLICY_RESERVED_ONE, _POLICY_MIGRATE_MA, _POLICY_DEBUG = 16, 17, 18, 19
_POLICY_SINGLE_SOCKET, _POLICY_CXL, _POLICY_AES256, _POLICY_RAPL_DIS = 20, 21, 22, 23
_POLICY_CIPHERTEXT_HIDING, _POLICY_PAGE_SWAP_DISABLE = 24, 25
_POLICY_KNOWN = (1 << 26) - 1


class GuestPolicy(msgspec.Struct, frozen=True):
    """What the guest's owner allowed (table 10)."""

    value: int

    @property
    def abi(self) -> str:
        """Least firmware ABI version, as major.minor."""
        return f"{(self.value >> 8) & 0xFF}.{self.value & 0xFF}"

    @property
    def debug(self) -> bool:
        """The host may read and write the guest's memory."""
        return self._bit(_POLICY_DEBUG)

    @property
    def migrate_ma(self) -> bool:
        """A migration agent may be associated: the guest may move."""
        return self._bit(_POLICY_MIGRATE_MA)

    def to_dict(self) -> dict[str, object]:
        """All of it by name, for claims."""
        return {
            "abi": self.abi,
            "smt": self._bit(_POLICY_SMT),
            "migrate_ma": self.migrate_ma,
            "debug": self.debug,
            "single_socket": self._bit(_POLICY_SINGLE_SOCKET),
            "cxl": self._bit(_POLICY_CXL),
            "mem_aes_256_xts": self._bit(_POLICY_AES256),
            "rapl_dis": self._bit(_POLICY_RAPL_DIS),
            "ciphertext_hiding": self._bit(_POLICY_CIPHERTEXT_HIDING),
            "page_swap_disable": self._bit(_POLICY_PAGE_SWAP_DISABLE),
        }

    def _bit(self, index: int) -> bool:
        return bool(self.value >> index & 1)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed report. Digests and identifiers are bytes as the report has them.

    signing_key: 0 VCEK, 1 VLEK. mask_chip_key: the host had the chip id masked.
    family, model, stepping: of the processor, from version 3 on. r, s: the signature.
    """

    raw: bytes
    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    platform_info: int
    author_key_en: bool
    mask_chip_key: bool
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    family: int | None
    model: int | None
    stepping: int | None
    chip_id: bytes
    product: Product
    current_tcb: TcbVersion
    reported_tcb: TcbVersion
    committed_tcb: TcbVersion
    launch_tcb: TcbVersion
    current_firmware: str
    committed_firmware: str
    r: int
    s: int


def parse(data: bytes) -> Report:
    """Read a report. Raises EvidenceMalformed, EvidenceUnsupported."""
    if len(data) != SIZE:
        raise EvidenceMalformed(f"format: an SEV-SNP report has {SIZE} bytes, this has {len(data)}")
    reader = Reader(data, "SEV-SNP report")
    version = reader.integer(4, "version")
    if version not in VERSIONS:
        raise EvidenceUnsupported(
            f"format: SEV-SNP report version {version}; known: {', '.join(map(str, VERSIONS))}"
        )
    guest_svn = reader.integer(4, "guest svn")
    policy = _policy(reader.integer(8, "policy"))
    family_id, image_id = reader.take(16, "family id"), reader.take(16, "image id")
    vmpl = reader.integer(4, "vmpl")
    if vmpl > _LEAST_PRIVILEGED:
        # All ones: the host has asked for the report, and has chosen its report data.
        raise EvidenceUnsupported(f"format: SEV-SNP report: VMPL {vmpl:#x} is no guest's")
    algorithm = reader.integer(4, "signature algorithm")
    if algorithm != _ECDSA_P384_SHA384:
        raise EvidenceUnsupported(f"format: SEV-SNP report: signature algorithm {algorithm}")
    current = reader.take(8, "current TCB")
    platform_info = reader.integer(8, "platform info")
    key_info = reader.integer(4, "key info")
    if key_info >> 5:
        raise EvidenceMalformed(f"format: SEV-SNP report: reserved bits in key info {key_info:#x}")
    reader.zeros(4, "bytes after key info")
    report_data = reader.take(64, "report data")
    measurement = reader.take(48, "measurement")
    host_data = reader.take(32, "host data")
    id_key_digest = reader.take(48, "id key digest")
    author_key_digest = reader.take(48, "author key digest")
    report_id = reader.take(32, "report id")
    report_id_ma = reader.take(32, "report id of the migration agent")
    reported = reader.take(8, "reported TCB")
    family, model, stepping = _identity(reader, version)
    chip_id = reader.take(64, "chip id")
    product = Product.of(family, model)
    if version > 2 and product is Product.UNSTATED:
        raise EvidenceUnsupported(
            f"format: SEV-SNP report of an unknown processor, family {family}, model {model}"
        )
    committed = reader.take(8, "committed TCB")
    current_firmware = _firmware(reader)
    committed_firmware = _firmware(reader)
    launch = reader.take(8, "launch TCB")
    if version >= 5:
        reader.take(16, "mitigation vectors")
    reader.zeros(SIGNED - reader.position, "bytes before the signature")
    r, s = _signature_part(reader, "r"), _signature_part(reader, "s")
    reader.zeros(SIZE - reader.position, "bytes after the signature")
    return Report(
        raw=bytes(data),
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family_id,
        image_id=image_id,
        vmpl=vmpl,
        platform_info=platform_info,
        author_key_en=bool(key_info & 1),
        mask_chip_key=bool(key_info >> 1 & 1),
        signing_key=key_info >> 2 & 7,
        family=family,
        model=model,
        stepping=stepping,
        chip_id=chip_id,
        product=product,
        current_firmware=current_firmware,
        committed_firmware=committed_firmware,
        r=r,
        s=s,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        id_key_digest=id_key_digest,
        author_key_digest=author_key_digest,
        report_id=report_id,
        report_id_ma=report_id_ma,
        current_tcb=TcbVersion.read(current, product),
        reported_tcb=TcbVersion.read(reported, product),
        committed_tcb=TcbVersion.read(committed, product),
        launch_tcb=TcbVersion.read(launch, product),
    )


def _policy(value: int) -> GuestPolicy:
    if not value >> _POLICY_RESERVED_ONE & 1 or value & ~_POLICY_KNOWN:
        raise EvidenceMalformed(f"format: SEV-SNP report: reserved bits in policy {value:#x}")
    return GuestPolicy(value)


def _identity(reader: Reader, version: int) -> tuple[int | None, int | None, int | None]:
    """Family (base and extended together), model, stepping; reserved in version 2."""
    if version == 2:
        reader.zeros(24, "bytes after the reported TCB")
        return None, None, None
    family, model, stepping = reader.take(3, "processor identity")
    reader.zeros(21, "bytes after the processor identity")
    return family, model, stepping


def _firmware(reader: Reader) -> str:
    build, minor, major = reader.take(3, "firmware version")
    reader.zeros(1, "byte after the firmware version")
    return f"{major}.{minor}.{build}"


def _signature_part(reader: Reader, name: str) -> int:
    value = int.from_bytes(reader.take(_COMPONENT, name), "little")
    if value >> (8 * _P384):
        raise EvidenceMalformed(f"format: SEV-SNP report: {name} is larger than P-384 has it")
    return value
