"""Gramine's /dev/attestation: an SGX quote through pseudo-files of the library OS.

Gramine documentation, "Attestation and Secret Provisioning", low-level interface.
"""

from __future__ import annotations

from secgear.base.tee import Evidence
from secgear.errors import CollectionFailed
from secgear.middleware.attestation.collect.system import System

FOLDER = "/dev/attestation"


def available(system: System) -> str:
    """Why a quote can't be had this way; empty if it can."""
    if not (system.path(FOLDER) / "attestation_type").exists():
        return f"{FOLDER} is not there: not inside Gramine with SGX"
    return ""


def collect_gramine(report_data: bytes, system: System) -> Evidence:
    """An SGX quote with `report_data` (64 bytes). Raises CollectionFailed."""
    folder = system.path(FOLDER)
    try:
        kind = system.read(folder / "attestation_type").decode("ascii", "replace").strip()
        if kind != "dcap":
            raise CollectionFailed(
                f'gramine: attestation type {kind[:16]!r}; set sgx.remote_attestation = "dcap" in '
                "the manifest"
            )
        system.write(folder / "user_report_data", report_data)
        quote = system.read(folder / "quote")
    except OSError as error:
        raise CollectionFailed(f"gramine: {error.filename}: {error.strerror or error}") from error
    if not quote:
        raise CollectionFailed("gramine: an empty quote; is the quoting enclave reachable?")
    return Evidence("intel.sgx.quote", quote)
