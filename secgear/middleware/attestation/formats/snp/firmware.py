"""What OVMF says of itself to whoever launches it: where its pages go and how processors start.

A table of GUIDs ends 32 bytes before the end of the image and is read backwards (edk2,
OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm). One entry points at the SEV metadata: which guest
memory is prepared how at launch (edk2, OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).
"""

from __future__ import annotations

import enum
import struct
import uuid
from collections.abc import Mapping

import msgspec

from secgear.errors import PolicyError

PAGE = 4096
MAX_SIZE = 64 << 20  # bytes of an image
MAX_SECTIONS = 64
MAX_SECTION = 64 << 20  # bytes of memory that one section prepares

_FOUR_GIB = 1 << 32  # the image ends here in the guest's memory
_FOOTER_AT = 32  # bytes between the table and the image's end
_ENTRY = struct.Struct("<H16s")  # size of the entry with this, and its GUID; they follow the data
_HEADER = struct.Struct("<4sIII")  # signature, size, version, number of sections
_SECTION = struct.Struct("<III")  # address, size, kind

_TABLE = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
_HASH_TABLE = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
_RESET_BLOCK = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le


class Kind(enum.IntEnum):
    """How a section's memory is prepared."""

    MEMORY = 1  # zeroed
    SECRETS = 2
    CPUID = 3
    CALLING_AREA = 4  # of an SVSM; zeroed
    KERNEL_HASHES = 0x10


class Section(msgspec.Struct, frozen=True):
    """Guest memory that is prepared at launch. size: bytes, whole pages."""

    address: int
    size: int
    kind: Kind


class Firmware(msgspec.Struct, frozen=True):
    """An OVMF image.

    sections: in the order of the metadata, which is the order of launch.
    hash_table: guest address of the table of kernel hashes; None if the firmware checks none.
    reset_address: where processors but the first start; None if it does not say.
    """

    image: bytes
    sections: tuple[Section, ...]
    hash_table: int | None
    reset_address: int | None

    @property
    def address(self) -> int:
        """Where the image begins in the guest's memory."""
        return _FOUR_GIB - len(self.image)


def read_firmware(image: bytes) -> Firmware:
    """Read an OVMF image that is made for SEV-SNP. Raises PolicyError."""
    if not image or len(image) % PAGE or len(image) > MAX_SIZE:
        raise PolicyError(f"firmware: an image of {len(image)} bytes; whole pages wanted")
    try:
        table = _table(image)
        sections = _sections(image, table)
        return Firmware(
            bytes(image), sections, _address(table, _HASH_TABLE), _address(table, _RESET_BLOCK)
        )
    except struct.error:
        raise PolicyError("firmware: a structure reaches beyond its end") from None


def _table(image: bytes) -> Mapping[bytes, bytes]:
    """The entries by GUID as it lies in memory."""
    end = len(image) - _FOOTER_AT - _ENTRY.size
    total, guid = _ENTRY.unpack_from(image, end)
    if guid != _TABLE:
        raise PolicyError("firmware: no table of GUIDs at its end: no OVMF image")
    start = end + _ENTRY.size - total
    if total < _ENTRY.size or start < 0:
        raise PolicyError(f"firmware: a table of GUIDs of {total} bytes")
    found: dict[bytes, bytes] = {}
    while end > start:
        if end - _ENTRY.size < start:
            raise PolicyError("firmware: an entry that is cut off in the table of GUIDs")
        size, guid = _ENTRY.unpack_from(image, end - _ENTRY.size)
        if not _ENTRY.size <= size <= end - start or guid in found:
            raise PolicyError(f"firmware: an entry of {size} bytes, or twice, in its table")
        found[guid] = image[end - size : end - _ENTRY.size]
        end -= size
    return found


def _sections(image: bytes, table: Mapping[bytes, bytes]) -> tuple[Section, ...]:
    back = _address(table, _METADATA)
    if back is None:
        raise PolicyError("firmware: no SEV metadata: not made for SEV-SNP")
    at = len(image) - back
    if at < 0:
        raise PolicyError("firmware: SEV metadata before its beginning")
    signature, size, version, count = _HEADER.unpack_from(image, at)
    if signature != b"ASEV" or version != 1:
        raise PolicyError(f"firmware: SEV metadata of version {version}; 1 is known")
    if count > MAX_SECTIONS or size < _HEADER.size + count * _SECTION.size:
        raise PolicyError(f"firmware: SEV metadata of {size} bytes with {count} sections")
    first = at + _HEADER.size
    return tuple(
        _section(*_SECTION.unpack_from(image, first + index * _SECTION.size))
        for index in range(count)
    )


def _section(address: int, size: int, kind: int) -> Section:
    if kind not in list(Kind):
        raise PolicyError(f"firmware: SEV metadata with a section of unknown kind {kind}")
    if address % PAGE or size % PAGE or not 0 < size <= MAX_SECTION:
        raise PolicyError(f"firmware: {size} bytes at {address:#x} are no section of whole pages")
    if kind in (Kind.SECRETS, Kind.CPUID, Kind.KERNEL_HASHES) and size != PAGE:
        raise PolicyError(f"firmware: a section of kind {kind} has one page, not {size} bytes")
    return Section(address, size, Kind(kind))


def _address(table: Mapping[bytes, bytes], guid: bytes) -> int | None:
    """The entry's first four bytes; None if there is no entry, or it says zero."""
    entry = table.get(guid)
    if entry is None:
        return None
    value: int = struct.unpack_from("<I", entry)[0]
    return value or None
