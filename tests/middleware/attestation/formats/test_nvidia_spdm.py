"""Parsing SPDM measurements: what is read, and that nothing else is."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.formats.nvidia import spdm
from secgear.middleware.attestation.formats.nvidia.spdm import Field
from tests.adversary.vendors.nvidia import MEASURED, NONCE, OPAQUE, block, messages, tlv

SIGNATURE = b"\x5a" * 96


def read(**changes: object) -> spdm.Report:
    return spdm.parse(messages(**changes) + SIGNATURE)


def malformed(kind: type[EvidenceRefused] = EvidenceMalformed, **changes: object) -> str:
    with pytest.raises(kind, match=r"^format: ") as caught:
        read(**changes)
    return str(caught.value)


def test_request_and_answer_are_read() -> None:
    report = read()
    assert report.nonce == NONCE
    assert report.answer_nonce == b"\xa5" * 32
    assert report.measurements == MEASURED
    assert report.opaque == OPAQUE
    assert report.signature == SIGNATURE
    assert report.signed == messages()
    assert report.text(Field.DRIVER_VERSION) == "550.144.03"
    assert report.text(Field.CHIP_SKU) == "882"
    assert report.text(Field.CHIP_INFO) is None


def test_blocks_are_counted_from_zero_and_sorted() -> None:
    report = read(blocks=[block(3, b"d" * 48), block(0, b"a" * 48, kind=0x81)])
    assert [(item.index, item.kind) for item in report.blocks] == [(0, 0x81), (3, 1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"request": b"\x11\x84\x01\xff"},
        {"request": b"\x11\xe0\x00\xff"},
        {"request": b"\x11\xe0\x03\xff"},
        {"request": b"\x11\xe0\x01\x01"},
        {"request": b"\x11\xe0\x01\x00"},
        {"slot": 8},
        {"slot": 1},
        {"answer": b"\x11\x7f\x00\x00"},
        {"answer": b"\x11\x60\x40\x00"},
        {"answer": b"\x11\x60\x00\x01"},
    ],
)
def test_other_messages_than_all_signed_measurements_are_refused(changes: dict[str, bytes]) -> None:
    malformed(**changes)


@pytest.mark.parametrize("version", [0x10, 0x12, 0x13, 0xFF])
def test_other_versions_of_spdm_are_refused(version: int) -> None:
    malformed(EvidenceUnsupported, request=bytes([version]) + b"\xe0\x01\xff")
    malformed(EvidenceUnsupported, answer=bytes([version]) + b"\x60\x00\x00")


def test_a_duplicate_block_index_is_refused() -> None:
    blocks = [block(0, b"a" * 48), block(1, b"b" * 48), block(0, b"c" * 48)]
    assert "twice" in malformed(blocks=blocks)


def test_fewer_and_more_blocks_than_announced_are_refused() -> None:
    blocks = [block(0, b"a" * 48), block(1, b"b" * 48)]
    malformed(blocks=blocks, count=1)
    malformed(blocks=blocks, count=3)
    malformed(blocks=[], count=0)
    malformed(blocks=blocks, count=255)


def test_reserved_indices_are_refused() -> None:
    malformed(blocks=[block(-1, b"a" * 48)])
    malformed(blocks=[block(254, b"a" * 48)])


def test_blocks_of_another_specification_are_refused() -> None:
    malformed(EvidenceUnsupported, blocks=[block(0, b"a" * 48, specification=2)])


def test_a_value_longer_or_shorter_than_its_block_is_refused() -> None:
    for size in (47, 49, 0xFFFF):
        body = struct.pack("<BH", 1, size) + b"a" * 48
        malformed(blocks=[struct.pack("<BBH", 1, 1, len(body)) + body])
    malformed(blocks=[block(0, b"")])


@pytest.mark.parametrize(
    "entries",
    [
        b"\3",
        b"\3\0\1",
        b"\3\0\5\0abc",
        b"\3\0\xff\xffabc",
        tlv([(3, b"a"), (3, b"b")]),
        tlv(OPAQUE)[:-1],
        tlv(OPAQUE) + b"\0",
    ],
)
def test_opaque_data_that_overflow_or_repeat_are_refused(entries: bytes) -> None:
    malformed(entries=entries)


def test_opaque_data_of_newer_forms_are_refused() -> None:
    malformed(EvidenceUnsupported, entries=b"NVDAOD\1\0\0\0")
    malformed(EvidenceUnsupported, entries=tlv({34: b"\3\0"}))


def test_unknown_entries_are_kept_and_change_nothing() -> None:
    assert read(entries=tlv({**OPAQUE, 999: b"new"})).opaque[999] == b"new"


@pytest.mark.parametrize("text", [b"550 144", b"../x", b"a\0b", b"\xff", b"x" * 65, b"a/b\0"])
def test_text_that_is_no_identifier_is_refused(text: bytes) -> None:
    report = read(entries=tlv({3: text}))
    with pytest.raises(EvidenceMalformed, match=r"^format: .*DRIVER_VERSION"):
        report.text(Field.DRIVER_VERSION)


def test_absent_and_empty_text_is_none() -> None:
    assert read(entries=tlv({3: b"\0\0"})).text(Field.DRIVER_VERSION) is None
    assert read(entries=b"").text(Field.DRIVER_VERSION) is None


def test_bytes_after_the_signature_are_refused() -> None:
    with pytest.raises(EvidenceMalformed, match="after its end"):
        spdm.parse(messages() + SIGNATURE + b"\0")
    with pytest.raises(EvidenceMalformed):
        spdm.parse(bytes(spdm.MAX_SIZE + 1))


def test_every_truncation_is_refused() -> None:
    data = messages() + SIGNATURE
    for size in range(0, len(data), 7):
        with pytest.raises(EvidenceRefused, match=r"^format: "):
            spdm.parse(data[:size])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_never_crash(data: bytes) -> None:
    for prefix in (b"", b"\x11\xe0\x01\xff" + NONCE + b"\0\x11\x60\0\0"):
        with contextlib.suppress(EvidenceRefused):
            spdm.parse(prefix + data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 4000), st.integers(1, 255))
def test_flipped_bytes_never_crash(at: int, flip: int) -> None:
    data = bytearray(messages() + SIGNATURE)
    data[at % len(data)] ^= flip
    with contextlib.suppress(EvidenceRefused):
        spdm.parse(bytes(data))
