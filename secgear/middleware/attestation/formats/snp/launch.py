"""The launch digest that a guest should report, computed from what it is launched with.

SEV Secure Nested Paging Firmware ABI Specification (56860), section 8.17.2 (PAGE_INFO): the digest
is a chain; each page that goes into the guest replaces it by SHA-384 over the digest so far, the
page's own digest, its kind and its address. The order is the hypervisor's: the firmware's image,
what its metadata asks for, the processors' state.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from secgear.errors import PolicyError
from secgear.middleware.attestation.formats.snp.firmware import (
    PAGE,
    Firmware,
    Kind,
    Section,
    read_firmware,
)
from secgear.middleware.attestation.formats.snp.vmsa import (
    RESET_VECTOR,
    Hypervisor,
    processor_signature,
    save_area,
)

SNP_ACTIVE = 0x1  # the SEV_FEATURES of a guest without further ones
MAX_VCPUS = 4096

# What QEMU calls processors; versions of one (EPYC-Milan-v2) have its signature.
PROCESSORS: Mapping[str, int] = MappingProxyType(
    {
        "EPYC": processor_signature(0x17, 0x01, 2),
        "EPYC-Rome": processor_signature(0x17, 0x31, 0),
        "EPYC-Milan": processor_signature(0x19, 0x01, 1),
        "EPYC-Genoa": processor_signature(0x19, 0x11, 0),
        "EPYC-Turin": processor_signature(0x1A, 0x00, 0),
    }
)

_NORMAL, _VMSA, _ZERO, _UNMEASURED, _SECRETS, _CPUID = range(1, 7)
_NOTHING = bytes(48)
_PAGE_INFO = struct.Struct(
    "<48s48sHB5xQ"
)  # digests, length, kind, no flags or permissions, address
# All ones, of which the processor keeps a page's address in 48 bits.
_VMSA_ADDRESS = 0xFFFF_FFFF_F000

# QEMU, target/i386/sev.c: struct SevHashTable.
_HASH_TABLE = uuid.UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le
_HASH_KERNEL = uuid.UUID("4de79437-abd2-427f-b835-d5b172d2045b").bytes_le
_HASH_INITRD = uuid.UUID("44baf731-3a2f-4bd7-9af1-41e29169781d").bytes_le
_HASH_CMDLINE = uuid.UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a").bytes_le
_HASH_ENTRY = struct.Struct("<16sH32s")


class DirectBoot(msgspec.Struct, frozen=True):
    """A kernel that the hypervisor hands over and the firmware checks: SHA-256 of each piece."""

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    @classmethod
    def of(cls, kernel: bytes, initrd: bytes = b"", cmdline: str = "") -> DirectBoot:
        """From the pieces as QEMU gets them; no initrd is an empty one."""
        pieces = (kernel, initrd, cmdline.encode() + b"\0")
        return cls(*(hashlib.sha256(piece).digest() for piece in pieces))

    def table(self) -> bytes:
        """The table as it lies in the guest's memory."""
        named = (
            (_HASH_CMDLINE, self.cmdline),
            (_HASH_INITRD, self.initrd),
            (_HASH_KERNEL, self.kernel),
        )
        entries = b"".join(_HASH_ENTRY.pack(guid, _HASH_ENTRY.size, value) for guid, value in named)
        return struct.pack("<16sH", _HASH_TABLE, 18 + len(entries)) + entries


def launch_digest(
    firmware: bytes,
    *,
    vcpus: int,
    processor: int = PROCESSORS["EPYC"],
    boot: DirectBoot | None = None,
    features: int = SNP_ACTIVE,
    hypervisor: Hypervisor = Hypervisor.QEMU,
) -> bytes:
    """The measurement that a guest reports if it was launched with exactly this. 48 bytes.

    firmware: the OVMF image. vcpus: virtual processors at launch.
    processor: signature of the virtual processor's model, one of `PROCESSORS` or of
    `processor_signature`; QEMU's only. boot: kernel, initrd and command line, if the firmware is to
    check them (QEMU's ``kernel-hashes=on``).
    features: the guest's SEV_FEATURES. Linux sets 1; kernels with debug swapping, 0x21.

    Raises PolicyError for firmware that is not OVMF for SEV-SNP or has no room for what is asked.
    """
    if not 1 <= vcpus <= MAX_VCPUS:
        raise PolicyError(f"launch digest: {vcpus} virtual processors; 1 to {MAX_VCPUS}")
    if not (0 <= processor < 1 << 32 and 0 <= features < 1 << 64):
        raise PolicyError("launch digest: a processor has 32 bits, features have 64")
    read = read_firmware(firmware)
    digest = _Digest()
    digest.contents(read.address, read.image)
    _prepare(digest, read, boot, hypervisor)
    for start in _starts(read, vcpus):
        page = save_area(start, processor=processor, features=features, hypervisor=hypervisor)
        digest.contents(_VMSA_ADDRESS, page, _VMSA)
    return digest.value


class _Digest:
    """The chain."""

    def __init__(self) -> None:
        self.value = _NOTHING

    def contents(self, address: int, data: bytes, kind: int = _NORMAL) -> None:
        """Pages whose contents count."""
        for offset in range(0, len(data), PAGE):
            page = hashlib.sha384(data[offset : offset + PAGE]).digest()
            self._extend(page, kind, address + offset)

    def blank(self, section: Section, kind: int) -> None:
        """Pages of which only the kind and the place count."""
        for offset in range(0, section.size, PAGE):
            self._extend(_NOTHING, kind, section.address + offset)

    def _extend(self, page: bytes, kind: int, address: int) -> None:
        info = _PAGE_INFO.pack(self.value, page, _PAGE_INFO.size, kind, address)
        self.value = hashlib.sha384(info).digest()


def _prepare(
    digest: _Digest, firmware: Firmware, boot: DirectBoot | None, hypervisor: Hypervisor
) -> None:
    """What the metadata asks for, in its order; Amazon's hypervisor leaves CPUID to the end."""
    kinds = {
        Kind.MEMORY: _UNMEASURED if hypervisor is Hypervisor.GCE else _ZERO,
        Kind.CALLING_AREA: _ZERO,
        Kind.SECRETS: _SECRETS,
        Kind.CPUID: _CPUID,
        Kind.KERNEL_HASHES: _ZERO,
    }
    sections = firmware.sections
    if hypervisor is Hypervisor.EC2:
        sections = tuple(sorted(sections, key=lambda section: section.kind is Kind.CPUID))
    hashed = boot is None
    for section in sections:
        if boot is not None and section.kind is Kind.KERNEL_HASHES:
            digest.contents(section.address, _hash_page(firmware, section, boot))
            hashed = True
        else:
            digest.blank(section, kinds[section.kind])
    if not hashed:
        raise PolicyError("launch digest: this firmware has no place for the kernel's hashes")


def _hash_page(firmware: Firmware, section: Section, boot: DirectBoot) -> bytes:
    """The page with the table of hashes where the firmware looks for it."""
    table = boot.table()
    wanted = firmware.hash_table
    if wanted is None or not 0 <= (offset := wanted - section.address) <= PAGE - len(table):
        raise PolicyError("launch digest: this firmware does not look for the hashes in their page")
    return (bytes(offset) + table).ljust(PAGE, b"\0")


def _starts(firmware: Firmware, vcpus: int) -> tuple[int, ...]:
    """Where each processor starts: the first at the reset vector, the others where it is said."""
    if vcpus == 1:
        return (RESET_VECTOR,)
    if firmware.reset_address is None:
        raise PolicyError("launch digest: this firmware does not say where processors start")
    return (RESET_VECTOR, *(firmware.reset_address,) * (vcpus - 1))
