"""Quotes with collateral by the number: everything that TCB assessment must tell apart."""

from __future__ import annotations

import datetime
import random
from typing import Any

from tests.adversary.vendors.intel import SEPT_VE_DISABLE, Intel, p256
from tests.adversary.vendors.intel_documents import (
    COMPONENTS,
    MONTH,
    TEE_TCB_SVN,
    Pieces,
    iso,
    level,
    module_identity,
    qe_identity,
    svn_level,
    tcb_info,
)
from tests.adversary.vendors.pki import NOW, YEAR

SECOND = datetime.timedelta(seconds=1)

Trial = tuple[str, bytes, Pieces, datetime.datetime]  # TEE, quote, collateral, time


def generated(intel: Intel, seed: int) -> Trial:
    """Around what matters: components near the levels, every status, all kinds of collateral."""
    choose = random.Random(seed)
    tee = choose.choice(("sgx", "tdx", "tdx"))
    svns = bytes([choose.randint(4, 6), choose.choice((0, 0, 1, 1, 3)), choose.randint(6, 8)])
    knobs: dict[str, Any] = {"qe": {"svn": choose.randint(5, 8)}}
    newer = False
    version = 3
    if tee == "tdx":
        version = choose.choice((4, 5))
        newer = version == 5 and choose.random() < 0.6
        knobs["tee_tcb_svn"] = svns.ljust(16, b"\0")
        if newer:
            now = bytes([choose.randint(4, 8), choose.choice((0, 1, 1, 3, 4)), 8])
            replaced = choose.random() < 0.4
            knobs["tee_tcb_svn2"] = now.ljust(16, b"\0") if replaced else knobs["tee_tcb_svn"]
    if choose.random() < 0.08:
        knobs |= choose.choice(
            (
                {"key": p256()},
                {"qe_key": p256()},
                {"vendor": b"V" * 16},
                {"key_type": 3},
                {"padding": bytes(7)},
                {"qe": {"mrsigner": b"X" * 32}},
                {"qe": {"miscselect": 1}},
                {"qe": {"product_id": 9}},
                {"qe": {"attributes": bytes.fromhex("1700000000000000e700000000000000")}},
            )
        )
    if tee == "tdx" and choose.random() < 0.05:
        knobs |= choose.choice(
            (
                {"mrsignerseam": b"X" * 48},
                {"seam_attributes": b"\1" + bytes(7)},
                {"td_attributes": SEPT_VE_DISABLE | 1 << choose.randint(0, 63)},
                {"td_attributes": 0},
            )
        )
    quote = (
        intel.sgx_quote(version, **knobs)
        if tee == "sgx"
        else intel.td_quote(version, newer=newer, **knobs)
    )
    pieces = intel.pieces(
        tee,
        _some_info(choose, tee),
        _some_identity(choose, tee),
        revoked_by_root=[intel.signer] if choose.random() < 0.02 else (),
        revoked_by_ca=[intel.pck] if choose.random() < 0.02 else (),
        key=p256() if choose.random() < 0.02 else None,
    )
    at = NOW + choose.choice((-YEAR, -MONTH * 2, MONTH, YEAR)) if choose.random() < 0.04 else NOW
    return tee, quote, pieces, at


PLATFORM = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
ENCLAVE = ("UpToDate", "UpToDate", "OutOfDate", "OutOfDate", "Revoked")


def _advisories(choose: random.Random) -> list[str]:
    return [f"INTEL-SA-{choose.randint(1, 5):05}" for _ in range(choose.choice((0, 0, 1, 2)))]


def _some_info(choose: random.Random, tee: str) -> dict[str, Any]:
    levels = []
    for index in range(choose.randint(1, 4)):
        sgx, tdx = list(COMPONENTS), list(TEE_TCB_SVN)
        for components in (sgx, tdx):
            if choose.random() < 0.5:
                place = choose.choice((0, 1, 2, 7, 15))
                components[place] = max(0, components[place] + choose.choice((-1, 1)))
        status = choose.choice(PLATFORM) if index else choose.choice(PLATFORM[:4])
        levels.append(
            level(
                status,
                sgx=sgx,
                tdx=tdx,
                pce_svn=choose.choice((5, 12, 13, 13, 14)),
                advisories=_advisories(choose),
            )
        )
    changes: dict[str, Any] = {}
    if tee == "tdx":
        changes["tdxModuleIdentities"] = [
            module_identity(f"TDX_0{version}", *_some_levels(choose), **other)
            for version in (3, 1)
            if choose.random() < 0.9
            for other in [{"mrsigner": "aa" * 48} if choose.random() < 0.03 else {}]
        ]
    return tcb_info(tee, *levels, **changes) | _wrong(choose, tee)


def _wrong(choose: random.Random, tee: str) -> dict[str, Any]:
    if choose.random() > 0.05:
        return {}
    return choose.choice(
        (
            {"fmspc": "00a067110000"},
            {"id": "SGX" if tee == "tdx" else "TDX"},
            {"nextUpdate": iso(NOW - SECOND)},
            {"nextUpdate": iso(NOW)},
            {"issueDate": iso(NOW + SECOND)},
            {"issueDate": iso(NOW)},
            {"tcbEvaluationDataNumber": 3},
            {"tcbLevels": []},
            {"more": [1, {"a": None}]},
        )
    )


def _some_levels(choose: random.Random, *, ordered: bool = True) -> list[dict[str, Any]]:
    """Of enclaves, the order in the document counts; of modules, Intel's library makes its own."""
    svns = choose.sample(range(4, 9), 3)
    if ordered:
        svns.sort(reverse=True)
    return [svn_level(svn, choose.choice(ENCLAVE), _advisories(choose)) for svn in svns]


def _some_identity(choose: random.Random, tee: str) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if choose.random() < 0.04:
        changes = choose.choice(
            (
                {"nextUpdate": iso(NOW - SECOND)},
                {"issueDate": iso(NOW + SECOND)},
                {"id": "TD_QE" if tee == "sgx" else "QE"},
                {"isvprodid": 1},
                {"mrsigner": "00" * 32},
                {"miscselect": "01000000", "miscselectMask": "01000000"},
                {"version": 1},
            )
        )
    return qe_identity(tee, *_some_levels(choose, ordered=choose.random() < 0.9), **changes)


def relaunching(intel: Intel, seed: int) -> Trial:
    """A TD that was launched under a module that is out of date, and perhaps replaced since."""
    choose = random.Random(seed)
    current = bytes([choose.randint(5, 7), 1, choose.randint(7, 8)]) + bytes(13)
    module = module_identity("TDX_01", svn_level(6), svn_level(4, "OutOfDate", ["INTEL-SA-00001"]))
    info = tcb_info("tdx", level(choose.choice(PLATFORM)), tdxModuleIdentities=[module])
    identity = qe_identity("tdx", svn_level(6, choose.choice(ENCLAVE)))
    launched = bytes([5, 1, 7]) + bytes(13)
    quote = intel.td_quote(5, newer=True, tee_tcb_svn=launched, tee_tcb_svn2=current)
    return "tdx", quote, intel.pieces("tdx", info, identity), NOW
