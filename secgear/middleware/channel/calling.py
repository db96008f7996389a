"""The client's half of calls over a session."""

from __future__ import annotations

from typing import final

from secgear.base.connection import Connection
from secgear.base.faces import Faces
from secgear.base.interface import Interface, diff
from secgear.base.schema import HostTypes
from secgear.base.tee import Running
from secgear.base.wire import Limits
from secgear.errors import (
    EnclaveLost,
    GuestError,
    InterfaceError,
    InterfaceMismatch,
    LaunchFailed,
)
from secgear.middleware.channel.lines import CallStream
from secgear.middleware.channel.messages import Opened
from secgear.middleware.channel.session import Session

_TIMEOUT = 30.0
_CLOSING = 1.0


@final
class Calls:
    """ECALLs of the app at the other end.

    opened: its interface and what it offers, as it says. expected: what the interface has to be,
    if that is known.
    Raises InterfaceMismatch with the differences, InterfaceError for a description that is none,
    EnclaveLost when the session ends meanwhile.
    """

    def __init__(self, session: Session, opened: Opened, expected: Interface | None) -> None:
        interface = Interface.from_json(opened.interface)
        if expected is not None and expected.digest() != interface.digest():
            lines = "\n".join(diff(expected, interface))
            raise InterfaceMismatch(
                f"{interface.name}: this program was written against another interface "
                f"(- what it expects, + what the enclave has):\n{lines}"
            )
        try:
            types = HostTypes(interface)
        except RecursionError as error:
            raise InterfaceError("the interface is nested too deeply") from error
        self._connection = Connection(
            _Remote(session), interface.name, interface, types, ocalls={}, limits=Limits()
        )
        for name in self._connection.functions.keys() - set(opened.offered):
            del self._connection.functions[name]
        self.faces = Faces(self._connection, None)
        self.interface = interface
        self.types = types
        try:
            self._connection.meet(_TIMEOUT)
        except LaunchFailed as error:  # for whoever calls, nothing is launched
            self._connection.close(0)
            raise EnclaveLost(
                f"{interface.name}: the session ended before a call was made"
            ) from error

    def close(self) -> None:
        """Let the enclave know; calls that are pending end with EnclaveClosed."""
        self._connection.close(_CLOSING)


@final
class _Remote(Running):
    """An enclave that runs elsewhere, as `Connection` sees it."""

    def __init__(self, session: Session) -> None:
        self.stream = CallStream(session)
        self.shared_fd = None
        self.layers = ()
        self.pid = None
        self._session = session

    def platform(self, request: bytes) -> bytes:
        """Nobody but its own host answers for an enclave's platform."""
        raise GuestError("a platform is not asked over a channel")

    def diagnose(self) -> str:
        return "the session ended"

    def stop(self, grace: float) -> None:
        self._session.abort()
