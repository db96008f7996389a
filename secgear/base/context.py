"""What a program inside an enclave may ask of the runtime around it.

The runtime installs itself here before the app is imported; outside an enclave the functions say
so instead of pretending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from secgear.errors import Cancelled, GuestError, OcallFailed

if TYPE_CHECKING:
    from secgear.base.tee import Guest


class Call:
    """The ECALL that the current thread serves.

    id: number of the call on its connection, for correlating logs. function: the ECALL's name.
    """

    __slots__ = ("_cancelled", "function", "id", "owner")

    def __init__(self, id: int, function: str, owner: object = None) -> None:
        self.id = id
        self.function = function
        self.owner = owner  # the connection: ids mean nothing on another one
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given up: cancelled, past its deadline, or gone."""
        return self._cancelled

    def cancel(self) -> None:
        """Mark the call as given up. Long loops see it at their next `checkpoint`."""
        self._cancelled = True

    def checkpoint(self) -> None:
        """Raise Cancelled if the caller has given up; cheap enough for inner loops."""
        if self._cancelled:
            raise Cancelled(f"{self.function}: given up by its caller")


class SwitchlessLane(Protocol):
    """What serves switchless calls on a thread of its own."""

    @property
    def running(self) -> bool:
        """Whether a call is being served."""
        ...

    def current(self) -> Call | None:
        """The call being served."""
        ...

    def ocall(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make an OCALL in it, if it can go the same way; NotImplemented if it can't."""
        ...


class _Local(threading.local):
    """What a thread serves: a call of the stream, else what its lane serves."""

    call: Call | None = None
    lane: SwitchlessLane | None = None


_local = _Local()
_guest: Guest | None = None
_ocall: Callable[[str, tuple[Any, ...], dict[str, Any]], Any] | None = None


def current_call() -> Call:
    """The ECALL being served by this thread. Raises GuestError outside of one."""
    call = serving()
    if call is None:
        raise GuestError("current_call() works only while an ECALL is being served")
    return call


def serving() -> Call | None:
    """The call being served by this thread, if any."""
    call = _local.call
    return call if call is not None or _local.lane is None else _local.lane.current()


def serve_lane(lane: SwitchlessLane) -> None:
    """From here on this thread serves the switchless calls of `lane`."""
    _local.lane = lane


def lane() -> SwitchlessLane | None:
    """The lane that brought the innermost call this thread serves; None if it came otherwise."""
    lane = _local.lane if _local.call is None else None
    return lane if lane is not None and lane.running else None


def guest() -> Guest:
    """The TEE's services to this enclave. Raises GuestError outside an enclave."""
    if _guest is None:
        raise GuestError("guest() works only inside an enclave; launch the app to reach it")
    return _guest


def ocall(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make the OCALL `name`. Raises OcallFailed outside an enclave."""
    if _ocall is None:
        raise OcallFailed(f"{name}: OCALLs work only inside an enclave; launch the app first")
    return _ocall(name, args, kwargs)


def install(guest: Guest, ocall: Callable[[str, tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Called once by the runtime, before the app is imported."""
    global _guest, _ocall
    _guest, _ocall = guest, ocall


def enter(call: Call | None) -> Call | None:
    """Make `call` the current one of this thread; returns the one before."""
    before = _local.call
    _local.call = call
    return before
