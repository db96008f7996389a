"""All doors to evidence, in the order in which ``auto`` tries them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from secgear.base.context import guest
from secgear.base.tee import Evidence
from secgear.errors import CollectionFailed, GuestError
from secgear.middleware.attestation.collect import devices, gramine, tsm
from secgear.middleware.attestation.collect.system import System
from secgear.middleware.attestation.collect.tpm import DEVICES, collect_tpm

SIZE = 64  # bytes of report data


class Source(msgspec.Struct, frozen=True):
    """A door to evidence. reason: why it is closed; empty if it is open."""

    name: str
    reason: str

    @property
    def available(self) -> bool:
        """Whether evidence can be asked for there."""
        return not self.reason


def sources(system: System | None = None) -> tuple[Source, ...]:
    """Every door, first choice first. Looks without asking for evidence."""
    machine = system or System()
    return tuple(Source(name, closed(machine)) for name, (closed, _) in _DOORS.items())


def collect(report_data: bytes, *, source: str = "auto", system: System | None = None) -> Evidence:
    """Evidence about this guest with `report_data` (64 bytes) in it.

    source: a name of `sources`, or ``auto`` for the first that is open. The TPM is never chosen by
    itself: its quote says nothing about memory encryption.
    Raises CollectionFailed with the reason, for ``auto`` with all of them.
    """
    if len(report_data) != SIZE:
        raise CollectionFailed(f"report data has {SIZE} bytes, not {len(report_data)}")
    machine = system or System()
    if source != "auto":
        if source not in _DOORS:
            raise CollectionFailed(f"no source is called {source!r}; there are {', '.join(_DOORS)}")
        closed, ask = _DOORS[source]
        reason = closed(machine)
        if reason:
            raise CollectionFailed(f"{source}: {reason}")
        return ask(report_data, machine)
    reasons = []
    for name, (closed, ask) in _DOORS.items():
        reason = "ask for it by name" if name == "tpm" else closed(machine)
        if not reason:
            return ask(report_data, machine)
        reasons.append(f"{name}: {reason}")
    raise CollectionFailed("no evidence can be had here; " + "; ".join(reasons))


def _no_enclave(system: System) -> str:
    del system
    try:
        guest()
    except GuestError:
        return "not inside an enclave of this framework"
    return ""


def _ask_guest(report_data: bytes, system: System) -> Evidence:
    del system
    try:
        return guest().evidence(report_data)
    except GuestError as error:
        raise CollectionFailed(f"enclave: {error}") from error


def _missing(name: str) -> Callable[[System], str]:
    def reason(system: System) -> str:
        return "" if system.path(name).exists() else f"{name} is not there"

    return reason


def _no_tpm(system: System) -> str:
    if any(system.path(name).exists() for name in DEVICES):
        return ""
    return f"neither {' nor '.join(DEVICES)} is there"


def _ask_tpm(report_data: bytes, system: System) -> Evidence:
    device = next((str(system.path(name)) for name in DEVICES if system.path(name).exists()), None)
    return collect_tpm(report_data, device=device)


_Door = tuple[Callable[[System], str], Callable[[bytes, System], Evidence]]
_DOORS: Mapping[str, _Door] = {
    "enclave": (_no_enclave, _ask_guest),
    "tsm": (tsm.available, tsm.collect_tsm),
    "sev-guest": (_missing(devices.SEV_GUEST), devices.collect_sev_guest),
    "gramine": (gramine.available, gramine.collect_gramine),
    "nsm": (_missing(devices.NSM), devices.collect_nsm),
    "tdx-guest": (_missing(devices.TDX_GUEST), devices.collect_tdx_guest),
    "tpm": (_no_tpm, _ask_tpm),
}
