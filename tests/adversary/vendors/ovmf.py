"""An image with OVMF's tables around any contents, and with any mistake in them."""

from __future__ import annotations

import struct
import uuid

METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"

MEMORY, SECRETS, CPUID, CALLING_AREA, KERNEL_HASHES = 1, 2, 3, 4, 0x10
SECTIONS = (
    (0x800000, 0x9000, MEMORY),
    (0x80D000, 0x1000, SECRETS),
    (0x80E000, 0x1000, CPUID),
    (0x810000, 0x1000, KERNEL_HASHES),
    (0x811000, 0xF000, MEMORY),
)
HASHES_AT = 0x810C00
STARTS_AT = 0x80B004


def entry(guid: str, data: bytes) -> bytes:
    """One entry of the table at the end; its size and GUID come behind its data."""
    return data + struct.pack("<H16s", len(data) + 18, uuid.UUID(guid).bytes_le)


def metadata(
    sections: tuple[tuple[int, int, int], ...] = SECTIONS,
    *,
    signature: bytes = b"ASEV",
    version: int = 1,
    count: int | None = None,
) -> bytes:
    """The SEV metadata."""
    count = len(sections) if count is None else count
    head = struct.pack("<4sIII", signature, 16 + 12 * count, version, count)
    return head + b"".join(struct.pack("<III", *section) for section in sections)


def image(
    described: bytes | None = None,
    *,
    pages: int = 2,
    metadata_back: int = 0x800,
    hashes_at: int | None = HASHES_AT,
    starts_at: int | None = STARTS_AT,
    entries: tuple[bytes, ...] = (),
    footer: str = FOOTER,
    total: int | None = None,
) -> bytes:
    """An image of so many pages. total: what the table says of its own size."""
    table = b"".join(entries)
    table += entry(METADATA, struct.pack("<I", metadata_back))
    if hashes_at is not None:
        table += entry(HASH_TABLE, struct.pack("<II", hashes_at, 0x400))
    if starts_at is not None:
        table += entry(RESET_BLOCK, struct.pack("<I", starts_at))
    size = len(table) + 18 if total is None else total
    table += struct.pack("<H16s", size, uuid.UUID(footer).bytes_le)
    data = bytearray(bytes(range(256)) * (pages * 16))
    data[-32 - len(table) : -32] = table
    described = metadata() if described is None else described
    start = len(data) - metadata_back
    if start >= 0:
        data[start : start + len(described)] = described
    return bytes(data)
