"""The state that a virtual processor starts in, as the page that is measured.

AMD64 Architecture Programmer's Manual, volume 2 (24593), table B-4: layout of the VM save area;
section 14.1.3: state after INIT. Hypervisors differ in what they leave of the latter.
"""

from __future__ import annotations

import enum
import struct

from secgear.middleware.attestation.formats.snp.firmware import PAGE

RESET_VECTOR = 0xFFFF_FFF0  # where the first processor starts

_LIMIT = 0xFFFF
# Attributes of a segment register, in the save area's twelve bits.
_CODE, _DATA, _LDT, _BUSY_TSS_32, _BUSY_TSS_16 = 0x9B, 0x93, 0x82, 0x8B, 0x83
_CODE_UNTOUCHED, _DATA_UNTOUCHED = 0x9A, 0x92
_PAT_AT_RESET, _PAT_OF_GCE = 0x0007_0406_0007_0406, 0x0007_0106
_SIGNATURE_OF_INIT = 0x600


class Hypervisor(enum.Enum):
    """Who launches the guest. QEMU with KVM, Amazon EC2, Google Compute Engine."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


def save_area(start: int, *, processor: int, features: int, hypervisor: Hypervisor) -> bytes:
    """The page of a processor that starts at guest address `start`.

    processor: signature as of CPUID Fn0000_0001_EAX, which only QEMU puts into RDX.
    features: SEV_FEATURES; bit 0 is SNP itself.
    """
    page = bytearray(PAGE)
    code, stack, task = _CODE, _DATA, _BUSY_TSS_32
    if hypervisor is Hypervisor.EC2:
        code = _CODE_UNTOUCHED if start == RESET_VECTOR else _CODE
        stack, task = _DATA_UNTOUCHED, _BUSY_TSS_16
    segments = {
        0x00: (0, _DATA, 0),  # ES
        0x10: (0xF000, code, start & 0xFFFF_0000),  # CS
        0x20: (0, stack, 0),  # SS
        0x30: (0, _DATA, 0),  # DS
        0x40: (0, _DATA, 0),  # FS
        0x50: (0, _DATA, 0),  # GS
        0x60: (0, 0, 0),  # GDTR
        0x70: (0, _LDT, 0),  # LDTR
        0x80: (0, 0, 0),  # IDTR
        0x90: (0, task, 0),  # TR
    }
    for offset, (selector, attributes, base) in segments.items():
        struct.pack_into("<HHIQ", page, offset, selector, attributes, _LIMIT, base)
    qemu = hypervisor is Hypervisor.QEMU
    registers = {
        0x0D0: 0x1000,  # EFER: SVME, which KVM enables
        0x148: 0x40,  # CR4: MCE, which KVM enables
        0x158: 0x10,  # CR0: ET
        0x160: 0x400,  # DR7
        0x168: 0xFFFF_0FF0,  # DR6
        0x170: 0x2,  # RFLAGS
        0x178: start & 0xFFFF,  # RIP
        0x268: _PAT_OF_GCE if hypervisor is Hypervisor.GCE else _PAT_AT_RESET,
        0x310: processor if qemu else _SIGNATURE_OF_INIT,  # RDX
        0x3B0: features,
        0x3E8: 0x1,  # XCR0: x87
    }
    for offset, value in registers.items():
        struct.pack_into("<Q", page, offset, value)
    if qemu:
        struct.pack_into("<I", page, 0x408, 0x1F80)  # MXCSR
        struct.pack_into("<H", page, 0x410, 0x37F)  # x87 control word
    return bytes(page)


def processor_signature(family: int, model: int, stepping: int) -> int:
    """CPUID Fn0000_0001_EAX of a processor (CPUID Specification, 25481).

    family: base and extended together, 0x19 for Milan. model: likewise, 8 bits.
    """
    base, extended = min(family, 0xF), max(family - 0xF, 0)
    return (
        extended << 20 | (model >> 4 & 0xF) << 16 | base << 8 | (model & 0xF) << 4 | stepping & 0xF
    )
