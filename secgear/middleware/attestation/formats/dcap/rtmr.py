"""CCEL, the event log of a TD: its replay must give the registers that the quote states.

Guest-Host-Communication Interface and UEFI 2.10, 38.4: measurement register index = RTMR + 1.
"""

from __future__ import annotations

from secgear.errors import EvidenceRefused
from secgear.middleware.attestation import eventlog
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.formats.dcap.quote import TdReport

ATTACHMENT = "ccel"

_CHECK = "event-log"
_SIZE = 48  # bytes of SHA-384, which RTMRs are extended with


def check_event_log(data: bytes, report: TdReport, checks: Checks) -> None:
    """Record ``event-log``. Raises EvidenceRefused for a log of another boot or TD."""
    try:
        log = eventlog.parse(data)
        replayed = log.replay("sha384")
    except EvidenceRefused as error:
        checks.failed(_CHECK, str(error).removeprefix("format: "))
    strange = sorted(set(replayed) - set(range(1, len(report.rtmrs) + 1)))
    if strange:
        checks.failed(
            _CHECK,
            f"the event log has events of register {strange[0]}, which no quote vouches for",
        )
    for index, value in enumerate(report.rtmrs):
        found = replayed.get(index + 1, bytes(_SIZE))
        if found != value:
            checks.failed(
                _CHECK,
                f"the event log is not of this TD: its replay differs in RTMR{index}",
                expected=value.hex(),
                found=found.hex(),
            )
    checks.passed(_CHECK, f"{len(log.events)} events; their replay gives RTMR0 to RTMR3")
