"""What the fields of SGX and TDX reports mean, for claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from secgear.middleware.attestation.formats.dcap.quote import TdReport
from secgear.middleware.attestation.formats.dcap.report import SgxReport

# Intel SDM, volume 3D, table 35-3 (ATTRIBUTES).
_SGX_FLAGS = {
    0: "INIT",
    1: "DEBUG",
    2: "MODE64BIT",
    4: "PROVISIONKEY",
    5: "EINITTOKEN_KEY",
    6: "CET",
    7: "KSS",
    10: "AEX_NOTIFY",
}
# Intel TDX Module ABI reference, table of ATTRIBUTES. Bits 0 to 7 are TUD: TD under debug.
_TD_FLAGS = {
    0: "DEBUG",
    4: "HGS_PLUS_PROF",
    5: "PERF_PROF",
    6: "PMT_PROF",
    16: "ICSSD",
    27: "LASS",
    28: "SEPT_VE_DISABLE",
    29: "MIGRATABLE",
    30: "PKS",
    31: "KL",
    62: "TPA",
    63: "PERFMON",
}
_UNDER_DEBUG = 0xFF
_MIGRATABLE = 1 << 29


class Description(msgspec.Struct, frozen=True):
    """A TD report in words of claims."""

    measurements: Mapping[str, bytes]
    debug: bool
    migratable: bool
    details: Mapping[str, Any]


def describe_sgx(report: SgxReport) -> dict[str, Any]:
    """Details of an enclave's report."""
    return {
        "attributes": f"{report.flags:016x}",
        "attribute_flags": _flags(report.flags, _SGX_FLAGS),
        "xfrm": f"{report.xfrm:016x}",
        "miscselect": f"{report.miscselect:08x}",
        "cpu_svn": report.cpu_svn.hex(),
        "config_id": report.config_id.hex(),
        "config_svn": report.config_svn,
        "isv_ext_prod_id": report.ext_product_id.hex(),
        "isv_family_id": report.family_id.hex(),
    }


def describe_td(report: TdReport) -> Description:
    """Measurements, flags and details of a TD. Registers that nobody set are left out.

    Any of the TUD bits makes a TD untrusted, so each means debug: Intel TDX Module ABI reference,
    ATTRIBUTES.
    """
    measurements = {"launch": report.mrtd}
    measurements |= {f"rtmr{index}": value for index, value in enumerate(report.rtmrs)}
    measurements |= {"mrseam": report.mrseam, "mrsignerseam": report.mrsignerseam}
    optional = {
        "mrconfigid": report.mrconfigid,
        "mrowner": report.mrowner,
        "mrownerconfig": report.mrownerconfig,
        "mrservicetd": report.mrservicetd or b"",
    }
    measurements |= {name: value for name, value in optional.items() if any(value)}
    details: dict[str, Any] = {
        "td_attributes": f"{report.td_attributes:016x}",
        "td_attribute_flags": _flags(report.td_attributes, _TD_FLAGS),
        "xfam": f"{report.xfam:016x}",
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
    }
    if report.tee_tcb_svn2 is not None:
        details["tee_tcb_svn2"] = report.tee_tcb_svn2.hex()
    return Description(
        measurements=measurements,
        debug=bool(report.td_attributes & _UNDER_DEBUG),
        migratable=bool(report.td_attributes & _MIGRATABLE),
        details=details,
    )


def _flags(value: int, names: Mapping[int, str]) -> list[str]:
    """The names of the bits that are set; the number of a bit that has none."""
    return [names.get(bit, f"bit {bit}") for bit in range(64) if value >> bit & 1]
