"""Claims of any content, without evidence: what a verifier could have said."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims, Root, Tcb, TcbStatus

NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.UTC)
LAUNCH = b"\x11" * 48
SIGNER = b"\x22" * 32
REPORT_DATA = b"\x33" * 64
BUILTIN = Root("amd-milan", b"\x44" * 32, builtin=True)
ADDED = Root("laboratory", b"\x55" * 32, builtin=False)
PASSED = tuple(
    Check(name, Outcome.PASS, f"{name} is fine") for name in ("format", "root", "signature")
)


def claims_for_tests(
    *, not_performed: tuple[str, ...] = (), parts: Mapping[str, Claims] | None = None, **fields: Any
) -> Claims:
    """Claims of a good SNP machine; `fields` change them.

    not_performed: names of checks that are missing. parts: with their checks taken over, as
    verifiers do.
    """
    checks = [*PASSED]
    checks += [
        Check(name, Outcome.NOT_PERFORMED, f"nothing for {name}", fix=f"collateral for {name}")
        for name in not_performed
    ]
    for name, part in (parts or {}).items():
        checks += [check.within(name) for check in part.checks]
    settings: dict[str, Any] = {
        "format": "amd.sev-snp",
        "tee": "snp",
        "measurements": {"launch": LAUNCH, "pcr7": b"\x77" * 32},
        "debug": False,
        "simulated": False,
        "report_data": REPORT_DATA,
        "root": BUILTIN,
        "checks": tuple(checks),
        "signer": SIGNER,
        "product": "wordcount",
        "svn": 5,
        "tcb": Tcb(TcbStatus.UP_TO_DATE, {"bootloader": 3, "microcode": 200}),
        "platform": {"chip_id": "ab" * 32},
        "evidence_time": NOW - datetime.timedelta(minutes=2),
        "details": {"policy": {"smt": False}, "product": "Milan"},
        "parts": parts or {},
    }
    return Claims(**(settings | fields))


def gpu_for_tests(**fields: Any) -> Claims:
    """Claims of a good GPU."""
    return claims_for_tests(
        **{
            "format": "nvidia.gpu",
            "tee": "gpu",
            "signer": None,
            "product": None,
            "svn": None,
            "tcb": Tcb(),
            "evidence_time": None,
            "platform": {},
            "details": {},
            "checks": (*PASSED, Check("measurements", Outcome.PASS, "as in the manifest")),
        }
        | fields
    )
