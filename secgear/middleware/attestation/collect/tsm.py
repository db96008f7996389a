"""configfs-tsm: the kernel's common door to reports. Linux 6.7 and later.

Documentation/ABI/testing/configfs-tsm-report: make a directory, write ``inblob``, read
``provider``, ``outblob`` and ``auxblob``. ``generation`` counts writes: if it is another one after
reading than after writing, somebody else used the entry, and the report may be about their data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path

from secgear.base.tee import Evidence
from secgear.errors import CollectionFailed
from secgear.middleware.attestation.collect.system import System

REPORTS = "/sys/kernel/config/tsm/report"
CCEL = "/sys/firmware/acpi/tables/data/CCEL"

_FORMATS = {
    "sev_guest": "amd.sev-snp",
    "tdx_guest": "intel.tdx.quote",
    "arm_cca_guest": "arm.cca",
}
_ATTEMPTS, _PAUSE = 8, 0.05  # seconds
_REASONS = {
    errno.EFBIG: "the host's answer is larger than this kernel accepts",
    errno.EINVAL: "the kernel refuses the request",
    errno.ENXIO: "the kernel's guest driver is not loaded (sev-guest, tdx-guest, arm-cca-guest)",
    errno.EACCES: "only root may ask for reports",
    errno.EPERM: "only root may ask for reports",
    errno.ETIMEDOUT: "the host does not answer",
}


def available(system: System) -> str:
    """Why reports can't be had this way; empty if they can."""
    if not system.path(REPORTS).is_dir():
        return f"{REPORTS} is not there: Linux 6.7 with configfs mounted, and a guest driver"
    return ""


def collect_tsm(report_data: bytes, system: System, *, privlevel: int | None = None) -> Evidence:
    """A report with `report_data` (64 bytes) in it.

    privlevel: of SEV-SNP, the VMPL that the report shall be for; the least by default.
    Attached are the host's certificate table (SEV-SNP) and the event log (TDX).
    Raises CollectionFailed.
    """
    entry = system.path(REPORTS) / f"secgear-{os.getpid()}-{uuid.uuid4().hex}"
    try:
        system.mkdir(entry)
    except OSError as error:
        raise _failed(error) from error
    try:
        return _report(entry, report_data, system, privlevel)
    except OSError as error:
        raise _failed(error) from error
    finally:
        with contextlib.suppress(OSError):
            system.rmdir(entry)


def _report(entry: Path, report_data: bytes, system: System, privlevel: int | None) -> Evidence:
    if privlevel is not None:
        system.write(entry / "privlevel", str(privlevel).encode())
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE)
        system.write(entry / "inblob", report_data)
        before = _generation(entry, system)
        try:
            report = system.read(entry / "outblob")
            auxiliary = _optional(entry / "auxblob", system)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
                continue
            raise
        if _generation(entry, system) != before:
            continue
        return _evidence(entry, report, auxiliary, system)
    raise CollectionFailed(
        f"tsm: {REPORTS} was busy, or somebody else wrote to it, in {_ATTEMPTS} attempts; try again"
    )


def _evidence(entry: Path, report: bytes, auxiliary: bytes, system: System) -> Evidence:
    provider = system.read(entry / "provider").decode("ascii", "replace").strip()
    kind = _FORMATS.get(provider)
    if kind is None:
        raise CollectionFailed(f"tsm: reports of provider {provider[:32]!r} are not known here")
    if not report:
        raise CollectionFailed(f"tsm: {provider} made an empty report")
    attachments: dict[str, bytes] = {}
    if kind == "amd.sev-snp" and any(auxiliary):
        attachments["certs"] = auxiliary
    if kind == "intel.tdx.quote":
        log = _optional(system.path(CCEL), system)
        if log:
            attachments["ccel"] = log
    return Evidence(kind, report, attachments)


def _generation(entry: Path, system: System) -> bytes:
    return system.read(entry / "generation").strip()


def _optional(path: Path, system: System) -> bytes:
    """A file that may not be there, or that nobody may read: evidence stands without it."""
    try:
        return system.read(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EOPNOTSUPP):
            return b""
        raise


def _failed(error: OSError) -> CollectionFailed:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return CollectionFailed(f"tsm: {error.filename or REPORTS}: {reason}")
