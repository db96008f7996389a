"""TCB levels: what Intel thinks of a platform, and what it lacks for something better.

Intel's "Attestation Library", sections 4.1.2.4.17 and 4.1.2.9, as its quote verification library
does it: the first level that the platform reaches counts; the states of TDX module and quoting
enclave (QE) can only make it worse.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import msgspec

from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.claims import Tcb, TcbStatus
from secgear.middleware.attestation.formats.dcap.pck import COMPONENTS, Pck
from secgear.middleware.attestation.formats.dcap.qeidentity import QeIdentity
from secgear.middleware.attestation.formats.dcap.quote import TdReport
from secgear.middleware.attestation.formats.dcap.report import SgxReport
from secgear.middleware.attestation.formats.dcap.tcbinfo import (
    Component,
    EnclaveLevel,
    Level,
    ModuleIdentity,
    TcbInfo,
)

_CONFIGURATION = frozenset(
    (
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    )
)
_CLEAN = frozenset(
    (
        TcbStatus.UP_TO_DATE,
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    )
)
_OLD = frozenset((TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED))
_SGX_NAMES = tuple(f"sgx{index:02}" for index in range(1, COMPONENTS + 1))
_TDX_NAMES = tuple(f"tdx{index:02}" for index in range(1, COMPONENTS + 1))
_REMEDIES = {
    "BIOS": "; cleared by a newer BIOS",
    "OS/VMM": "; cleared by a newer microcode, module or host system",
}
_MEANINGS = {
    TcbStatus.SW_HARDENING_NEEDED: "the program itself must be hardened against the advisories",
    TcbStatus.CONFIGURATION_NEEDED: "the platform's configuration must change, in the BIOS",
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: "the platform's configuration must change, in "
    "the BIOS, and the program be hardened against the advisories",
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: "besides, the platform's configuration must change,"
    " in the BIOS",
    TcbStatus.TD_RELAUNCH_ADVISED: "the platform is up to date now; launch the TD again",
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: "the platform's software is up to date now;"
    " launch the TD again after its configuration has changed, in the BIOS",
    TcbStatus.REVOKED: "Intel no longer trusts this TCB",
}


class Platform(msgspec.Struct, frozen=True):
    """What is to be judged.

    body: of a TDX quote. module: the identity of its TDX module; None for modules of major version
    0. qe: the level of the quoting enclave, None if nobody could tell; with it, what the enclave
    lacks for the newest level, and the identity's tcbEvaluationDataNumber.
    """

    pck: Pck
    body: TdReport | None = None
    module: ModuleIdentity | None = None
    qe: EnclaveLevel | None = None
    qe_shortfalls: tuple[str, ...] = ()
    qe_evaluation: int | None = None

    @property
    def svns(self) -> bytes | None:
        """TEE_TCB_SVN: the SVNs of the TDX components."""
        return self.body.tee_tcb_svn if self.body else None


def with_qe(
    platform: Platform, identity: QeIdentity, report: SgxReport, checks: Checks
) -> Platform:
    """The same with its quoting enclave, after comparing that. Records ``qe-identity``."""
    fault = identity.fault(report)
    if fault is not None:
        what, expected, found = fault
        checks.failed(
            "qe-identity",
            f"the quoting enclave is not one of Intel's: {what} differs",
            expected=expected,
            found=found,
        )
    level = enclave_level(identity.levels, report.svn)
    if level is None:
        checks.failed(
            "qe-identity",
            f"the quoting enclave's ISVSVN {report.svn} is below all that Intel lists",
            fix="update the platform's quoting enclave",
        )
    checks.passed("qe-identity", f"Intel's quoting enclave, {level.status.value}")
    lacks = enclave_shortfall("ISVSVN of the quoting enclave", identity.levels, report.svn)
    return msgspec.structs.replace(
        platform, qe=level, qe_shortfalls=lacks, qe_evaluation=identity.evaluation
    )


def with_module(platform: Platform, info: TcbInfo, body: TdReport, checks: Checks) -> Platform:
    """The same with its TDX module, after comparing that. Records ``tdx-module``.

    The module's major version, byte 1 of TEE_TCB_SVN, selects the identity; version 0 has none of
    its own. Intel's "Attestation Library", 4.1.2.4.11.
    """
    version = body.tee_tcb_svn[1]
    identity = _identity(info, version, checks)
    expected = identity or info.module
    if expected is None or expected.mrsigner != body.mrsignerseam:
        checks.failed(
            "tdx-module",
            "the TDX module is not signed by whom Intel says (MRSIGNERSEAM)",
            expected=expected.mrsigner.hex() if expected else "",
            found=body.mrsignerseam.hex(),
        )
    if any(body.seam_attributes) or expected.attributes != body.seam_attributes:
        checks.failed(
            "tdx-module",
            "the TDX module's attributes are not what Intel says (SEAMATTRIBUTES)",
            expected=expected.attributes.hex(),
            found=body.seam_attributes.hex(),
        )
    checks.passed("tdx-module", f"TDX module of major version {version}, signed by Intel")
    return msgspec.structs.replace(platform, module=identity)


def components(pck: Pck, body: TdReport | None) -> dict[str, int]:
    """The security versions by name, as the claims state them."""
    found = dict(zip(_SGX_NAMES, pck.components, strict=True))
    found["pcesvn"] = pck.pce_svn
    if body is not None:
        found |= zip(_TDX_NAMES, body.tee_tcb_svn, strict=True)
    return found


def assess(info: TcbInfo, platform: Platform, checks: Checks) -> Tcb:
    """The platform's TCB. Records ``tcb``, which fails where no level matches.

    Its evaluation number is that of the older document: a policy that asks for newer ones must not
    be content with one of them.
    """
    candidates = [level for level in info.levels if _reaches_sgx(level, platform.pck)]
    matched = next((level for level in candidates if _reaches_tdx(level, platform.svns)), None)
    if matched is None:
        misses = [_short(level, platform) for level in info.levels]
        nearest = min(misses, key=len)
        checks.failed(
            "tcb",
            "No matching TCB level found: the platform reaches none that Intel lists; it misses "
            f"the nearest: {'; '.join(nearest)}",
            fix="update the platform",
        )
    module = _module_level(platform, checks)
    status = _worse(matched.status, module)
    if _relaunch_helps(info, platform, (candidates[0].status, status), module, checks):
        needed = {candidates[0].status, status} & _CONFIGURATION
        status = (
            TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
            if needed
            else TcbStatus.TD_RELAUNCH_ADVISED
        )
    status = _worse(status, platform.qe)
    numbers = [info.evaluation, platform.qe_evaluation]
    evaluation = min(number for number in numbers if number is not None)
    checks.passed(
        "tcb", f"{status.value}, by Intel's level of {matched.date.date()} (data {evaluation})"
    )
    parts = [part for part in (matched, module, platform.qe) if part is not None]
    return Tcb(
        status=status,
        components=components(platform.pck, platform.body),
        advisories=tuple(dict.fromkeys(item for part in parts for item in part.advisories)),
        shortfalls=_explain(info, platform, status),
        as_of=matched.date,
        evaluation=evaluation,
    )


def enclave_level(levels: Sequence[EnclaveLevel], svn: int) -> EnclaveLevel | None:
    """The first level that `svn` reaches; None if it is below all."""
    return next((level for level in levels if svn >= level.svn), None)


def enclave_shortfall(what: str, levels: Sequence[EnclaveLevel], svn: int) -> tuple[str, ...]:
    """What a module or enclave lacks for its newest level."""
    newest = levels[0]
    if svn >= newest.svn:
        return ()
    return (f"{what} is {svn}, the level of {newest.date.date()} needs {newest.svn}",)


def _identity(info: TcbInfo, version: int, checks: Checks) -> ModuleIdentity | None:
    if version == 0:
        return None
    name = f"TDX_{version:02X}"
    found = next((item for item in info.module_identities if item.name == name), None)
    if found is None:
        known = ", ".join(item.name for item in info.module_identities) or "none"
        checks.failed(
            "tdx-module",
            f"Intel's TCB information knows no TDX module of major version {version}",
            expected=known,
            found=name,
            fix="newer TCB information, if the module is newer than it",
        )
    return found


def _module_level(platform: Platform, checks: Checks) -> EnclaveLevel | None:
    identity, svns = platform.module, platform.svns
    if identity is None or svns is None:
        return None
    found = enclave_level(identity.levels, svns[0])
    if found is None:
        checks.failed(
            "tcb",
            f"No matching TCB level found: TDX module {identity.name} of version {svns[0]} is "
            "below all that Intel lists",
            fix="update the TDX module",
        )
    return found


def _worse(platform: TcbStatus, part: EnclaveLevel | None) -> TcbStatus:
    """The platform's status with that of an enclave or module that it relies on."""
    if part is None or part.status is TcbStatus.UP_TO_DATE:
        return platform
    if part.status is TcbStatus.REVOKED:
        return TcbStatus.REVOKED
    if platform in (TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED):
        return TcbStatus.OUT_OF_DATE
    if platform in _CONFIGURATION:
        return TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED
    return platform


def _relaunch_helps(
    info: TcbInfo,
    platform: Platform,
    statuses: tuple[TcbStatus, TcbStatus],
    module: EnclaveLevel | None,
    checks: Checks,
) -> bool:
    """Whether only the TD is old: launched under a module that was replaced while it ran.

    statuses: of the first level that the SGX components reach, and of the platform with its module.
    Intel's "Attestation Library", 4.1.2.4.17.4; TEE_TCB_SVN2 is the module as it is now.
    """
    sgx, tdx = statuses
    current = platform.body.tee_tcb_svn2 if platform.body else None
    if current is None or module is None or module.status is not TcbStatus.OUT_OF_DATE:
        return False
    qe_old = platform.qe is not None and platform.qe.status is not TcbStatus.UP_TO_DATE
    if sgx not in _CLEAN or tdx not in _OLD or qe_old:
        return False
    newest = info.levels[0].tdx or ()
    identity = _identity(info, current[1], checks)
    needed = newest[0].svn if identity is None else identity.levels[0].svn
    return current[0] >= needed and current[2] >= newest[2].svn


def _explain(info: TcbInfo, platform: Platform, status: TcbStatus) -> tuple[str, ...]:
    if status is TcbStatus.UP_TO_DATE:
        return ()
    best = (level for level in info.levels if level.status is TcbStatus.UP_TO_DATE)
    lines = _short(next(best, info.levels[0]), platform)
    if platform.module is not None and platform.svns is not None:
        what = f"TDX module {platform.module.name}"
        lines += enclave_shortfall(what, platform.module.levels, platform.svns[0])
    lines += platform.qe_shortfalls
    if status in _MEANINGS:
        lines.append(f"{status.value}: {_MEANINGS[status]}")
    return tuple(lines)


def _reaches_sgx(level: Level, pck: Pck) -> bool:
    return pck.pce_svn >= level.pce_svn and all(map(operator.ge, pck.components, level.sgx_svns))


def _reaches_tdx(level: Level, svns: bytes | None) -> bool:
    if svns is None or level.tdx_svns is None:
        return True
    first = _first(svns)
    return all(map(operator.ge, svns[first:], level.tdx_svns[first:]))


def _first(svns: bytes) -> int:
    """From module version 1 on, the module's identity judges the first two components instead."""
    return 2 if svns[1] else 0


def _short(level: Level, platform: Platform) -> list[str]:
    """One line for each component that is below the level."""
    date = level.date.date()
    rows = [
        ("SGX", index, svn, level.sgx[index]) for index, svn in enumerate(platform.pck.components)
    ]
    if platform.svns is not None and level.tdx is not None:
        first = _first(platform.svns)
        pairs = list(enumerate(platform.svns))[first:]
        rows += [("TDX", index, svn, level.tdx[index]) for index, svn in pairs]
    lines = [
        f"{kind} component {index + 1}{_called(needed)} is {svn}, the level of {date} needs "
        f"{needed.svn}{_REMEDIES.get(needed.category, '')}"
        for kind, index, svn, needed in rows
        if svn < needed.svn
    ]
    if platform.pck.pce_svn < level.pce_svn:
        lines.append(
            f"PCESVN is {platform.pck.pce_svn}, the level of {date} needs {level.pce_svn}"
            f"{_REMEDIES['OS/VMM']}"
        )
    return lines


def _called(component: Component) -> str:
    names = ", ".join(filter(None, (component.type, component.category)))
    return f" ({names})" if names else ""
