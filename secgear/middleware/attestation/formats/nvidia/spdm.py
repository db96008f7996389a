"""What a GPU or NVSwitch signs: an SPDM measurement request and its answer.

DSP0274 version 1.1.0: GET_MEASUREMENTS (section 10.11.1) and MEASUREMENTS (section 10.11.2), whose
measurement blocks have the DMTF form. The opaque data of the answer is NVIDIA's own: entries of
type, length and value. All integers are little-endian. Bytes to fields, nothing else.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from enum import IntEnum

import msgspec

from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.reader import Reader

VERSION = 0x11
NONCE_SIZE = 32
SIGNATURE_SIZE = 96  # bytes: ECDSA P-384, r and s, big-endian
MAX_SIZE = 64 << 10  # bytes of request and answer; four kilobytes are usual
MAX_BLOCKS = 254  # SPDM gives measurements the indices 1 to 254

_GET_MEASUREMENTS, _MEASUREMENTS = 0xE0, 0x60
_WITH_SIGNATURE, _ALL = 0x01, 0xFF
_DMTF = 0x01
_MAX_SLOT = 7
_NEW_OPAQUE_FORM = b"NVDAOD"  # opaque data of chips after Blackwell begin with this
_MAX_OPAQUE_VERSION = 2
_TEXT = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Field(IntEnum):
    """Entries of NVIDIA's opaque data that are used here. Types are NVIDIA's numbers."""

    DRIVER_VERSION = 3
    GPU_INFO = 4
    VBIOS_VERSION = 6
    NVDEC0_STATUS = 11
    CPRINFO = 13
    BOARD_ID = 14
    CHIP_SKU = 15
    CHIP_SKU_MOD = 16
    PROJECT = 17
    PROJECT_SKU = 18
    PROJECT_SKU_MOD = 19
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    PDI = 22  # of a GPU: the switches at its ports; of a switch: its own
    SWITCH_GPU_PDIS = 26
    OPAQUE_DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36


class Block(msgspec.Struct, frozen=True):
    """One measurement.

    index: from zero, as NVIDIA's manifests count; SPDM's index is one more. kind:
    DMTFSpecMeasurementValueType (DSP0274, table 45). value: the digest.
    """

    index: int
    kind: int
    value: bytes


class Report(msgspec.Struct, frozen=True):
    """A request and its answer.

    nonce: the request's, which is what the evidence is fresh by. blocks: by rising index.
    opaque: NVIDIA's entries by type. signed: the bytes under the signature: request and answer.
    """

    nonce: bytes
    answer_nonce: bytes
    slot: int
    blocks: tuple[Block, ...]
    opaque: Mapping[int, bytes]
    signature: bytes
    signed: bytes

    @property
    def measurements(self) -> Mapping[int, bytes]:
        """The values by their index from zero."""
        return {block.index: block.value for block in self.blocks}

    def raw(self, field: Field) -> bytes | None:
        """The value of an entry; None if it is absent."""
        return self.opaque.get(field)

    def text(self, field: Field) -> str | None:
        """An entry that is text, without the zero bytes at its end; None if it is absent or empty.

        Identifiers of manifests are put together from these: anything but letters, digits, dots,
        dashes and underscores raises EvidenceMalformed.
        """
        value = (self.raw(field) or b"").rstrip(b"\0")
        if not value:
            return None
        if not _TEXT.fullmatch(value):
            raise EvidenceMalformed(f"format: SPDM answer: {field.name} is no identifier")
        return value.decode("ascii")


@functools.lru_cache(maxsize=64)
def parse(data: bytes) -> Report:
    """Request and answer, and not one byte more.

    Raises EvidenceMalformed; EvidenceUnsupported for another SPDM version or form of opaque data.
    """
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: SPDM messages of {len(data)} bytes")
    reader = Reader(data, "SPDM messages")
    nonce, slot = _request(reader)
    blocks = _blocks(reader, slot)
    answer_nonce = reader.take(NONCE_SIZE, "nonce of the answer")
    opaque = _opaque(reader.take(reader.integer(2, "length of opaque data"), "opaque data"))
    signed = data[: reader.position]
    signature = reader.take(SIGNATURE_SIZE, "signature")
    reader.end()
    return Report(nonce, answer_nonce, slot, blocks, opaque, signature, signed)


def _request(reader: Reader) -> tuple[bytes, int]:
    """Nonce and certificate slot of GET_MEASUREMENTS."""
    _header(reader, _GET_MEASUREMENTS, "request")
    if reader.integer(1, "attributes") != _WITH_SIGNATURE:
        raise EvidenceMalformed("format: SPDM request: not for signed measurements")
    if reader.integer(1, "operation") != _ALL:
        raise EvidenceMalformed("format: SPDM request: not for all measurements")
    nonce = reader.take(NONCE_SIZE, "nonce of the request")
    slot = reader.integer(1, "slot")
    if slot > _MAX_SLOT:
        raise EvidenceMalformed(f"format: SPDM request: slot {slot}")
    return nonce, slot


def _blocks(reader: Reader, slot: int) -> tuple[Block, ...]:
    """The measurement record of MEASUREMENTS, with what comes before it."""
    _header(reader, _MEASUREMENTS, "answer")
    if reader.integer(1, "total number of indices") != 0:
        raise EvidenceMalformed("format: SPDM answer: to a question of how many blocks there are")
    if reader.integer(1, "slot") != slot:
        raise EvidenceMalformed("format: SPDM answer: for another slot than was asked")
    count = reader.integer(1, "number of blocks")
    if not 1 <= count <= MAX_BLOCKS:
        raise EvidenceMalformed(f"format: SPDM answer: {count} measurement blocks")
    record = Reader(
        reader.take(reader.integer(3, "length of the record"), "record"), "SPDM measurement record"
    )
    blocks: dict[int, Block] = {}
    for _ in range(count):
        block = _block(record)
        if block.index in blocks:
            raise EvidenceMalformed(f"format: SPDM answer: block {block.index} is there twice")
        blocks[block.index] = block
    record.end()
    return tuple(blocks[index] for index in sorted(blocks))


def _block(record: Reader) -> Block:
    index = record.integer(1, "index")
    if not 1 <= index <= MAX_BLOCKS:
        raise EvidenceMalformed(f"format: SPDM answer: a measurement with index {index}")
    specification = record.integer(1, "specification")
    if specification != _DMTF:
        raise EvidenceUnsupported(f"format: SPDM measurement specification {specification:#x}")
    body = Reader(record.take(record.integer(2, "size"), "measurement"), "SPDM measurement")
    kind = body.integer(1, "type")
    value = body.take(body.integer(2, "size"), "value")
    body.end()
    if not value:
        raise EvidenceMalformed(f"format: SPDM answer: measurement {index} is empty")
    return Block(index - 1, kind, value)


def _opaque(data: bytes) -> Mapping[int, bytes]:
    """NVIDIA's entries: type and length of two bytes each, then the value."""
    if data.startswith(_NEW_OPAQUE_FORM):
        raise EvidenceUnsupported("format: NVIDIA's opaque data in the form of newer chips")
    reader = Reader(data, "NVIDIA's opaque data")
    entries: dict[int, bytes] = {}
    while reader.remaining:
        kind = reader.integer(2, "type")
        value = reader.take(reader.integer(2, "length"), "value")
        if kind in entries:
            raise EvidenceMalformed(f"format: NVIDIA's opaque data: entry {kind} is there twice")
        entries[kind] = value
    version = int.from_bytes(entries.get(Field.OPAQUE_DATA_VERSION, b""), "little")
    if version > _MAX_OPAQUE_VERSION:
        raise EvidenceUnsupported("format: NVIDIA's opaque data of an unknown version")
    return entries


def _header(reader: Reader, code: int, what: str) -> None:
    version = reader.integer(1, f"version of the {what}")
    if version != VERSION:
        raise EvidenceUnsupported(f"format: SPDM version {version:#x} in the {what}, not 1.1")
    found = reader.integer(1, f"code of the {what}")
    if found != code:
        raise EvidenceMalformed(f"format: SPDM {what} with code {found:#x}, not {code:#x}")
