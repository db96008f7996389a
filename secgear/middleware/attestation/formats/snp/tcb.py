"""Products, and how each packs its security versions.

SEV-SNP ABI, section 2.2 (TCB_VERSION); Versioned Chip Endorsement Key specification (AMD
publication 57230), section 3.1 and table 6.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec


class Product(enum.Enum):
    """A processor line with a root of its own. UNSTATED: version 2 reports name none."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"
    UNSTATED = "unstated"

    @classmethod
    def of(cls, family: int | None, model: int | None) -> Product:
        """The product of a processor's combined family and model; UNSTATED if it is none known."""
        if family is None or model is None:
            return cls.UNSTATED
        if family == 0x19:
            if model <= 0x0F:
                return cls.MILAN
            # Genoa, and Bergamo and Siena, which have Genoa's keys.
            if 0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF:
                return cls.GENOA
        if family == 0x1A and model <= 0x1F:
            return cls.TURIN
        return cls.UNSTATED

    @property
    def chip_id_size(self) -> int:
        """Bytes of the hardware id in a VCEK; in the report the rest is zero."""
        return 8 if self is Product.TURIN else 64


class TcbVersion(msgspec.Struct, frozen=True):
    """Security versions of one platform. fmc: of Turin only."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None
    reserved: bytes = b""

    @classmethod
    def read(cls, data: bytes, product: Product) -> TcbVersion:
        """From the report's eight bytes."""
        if product is Product.TURIN:
            return cls(data[1], data[2], data[3], data[7], data[0], data[4:7])
        return cls(data[0], data[1], data[6], data[7], None, data[2:6])

    @property
    def components(self) -> Mapping[str, int]:
        """By name."""
        named = {
            "bootloader": self.bootloader,
            "tee": self.tee,
            "snp": self.snp,
            "microcode": self.microcode,
        }
        return named if self.fmc is None else {"fmc": self.fmc} | named

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.components.items())
