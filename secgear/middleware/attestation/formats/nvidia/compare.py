"""Measurements of a device against the golden values of NVIDIA's manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from secgear.middleware.attestation.formats.nvidia.rim import Manifest
from secgear.middleware.attestation.formats.nvidia.spdm import Field, Report

# Measurement 35 is of the video decoder's firmware, which runs only where the decoder is enabled.
DECODER_INDEX = 35
DECODER_ENABLED, DECODER_DISABLED = b"\xaa", b"\x55"


class Mismatch(msgspec.Struct, frozen=True):
    """A measurement without a golden value. found: empty if the device has no such measurement."""

    index: int
    expected: tuple[bytes, ...]
    found: bytes

    def __str__(self) -> str:
        """For people."""
        return f"{self.index:02}"


class Comparison(msgspec.Struct, frozen=True):
    """compared: indices that have a golden value which was looked at. skipped: those left out."""

    compared: tuple[int, ...]
    skipped: tuple[int, ...]
    mismatches: tuple[Mismatch, ...]


class Conflict(Exception):
    """Two manifests claim the same measurement, or the report is unclear about what to compare."""


def compare(report: Report, manifests: Iterable[Manifest]) -> Comparison:
    """Hold every active golden measurement against the report. Raises Conflict.

    Each measurement belongs to one manifest: of the driver, or of the VBIOS. Measurements without
    a golden value say nothing, as NVIDIA defines it.
    """
    golden: dict[int, tuple[bytes, ...]] = {}
    for manifest in manifests:
        for index, entry in manifest.measurements.items():
            if index in golden:
                raise Conflict(f"two manifests have golden values for measurement {index}")
            golden[index] = entry.values
    skipped = (DECODER_INDEX,) if DECODER_INDEX in golden and not _decoder_runs(report) else ()
    compared = tuple(index for index in sorted(golden) if index not in skipped)
    return Comparison(compared, skipped, _mismatches(report.measurements, golden, compared))


def _mismatches(
    measured: Mapping[int, bytes], golden: Mapping[int, tuple[bytes, ...]], indices: Iterable[int]
) -> tuple[Mismatch, ...]:
    return tuple(
        Mismatch(index, golden[index], measured.get(index, b""))
        for index in indices
        if measured.get(index, b"") not in golden[index]
    )


def _decoder_runs(report: Report) -> bool:
    """Switches have no such decoder and no entry; then nothing is skipped."""
    status = report.raw(Field.NVDEC0_STATUS)
    if status not in (None, DECODER_ENABLED, DECODER_DISABLED):
        raise Conflict("the report does not say whether the video decoder is enabled")
    return status != DECODER_DISABLED
