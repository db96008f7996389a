"""An app that takes sessions: `secgear.App`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from secgear.base import app as base
from secgear.errors import InterfaceError

if TYPE_CHECKING:
    from secgear.base.flow import Consumer
    from secgear.middleware.channel.session import Session
    from secgear.middleware.channel.sessions import Sessions

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[["Session"], None]

SESSION_ECALL = "secgear_session"
"""The ECALL by which a host's relay hands in connections."""
_REQUIRES = ("cbor2", "cryptography", "msgspec", "pyopenssl")


class App(base.App):
    """A trusted program, with whatever `secgear.base.app.App` has, that data owners can talk to.

    ``@app.session`` declares a handler of sessions; ``@app.remote`` offers an ECALL to clients.
    """

    _sessions: Sessions | None = None

    @property
    def sessions(self) -> Sessions:
        """Settings and state of this app's sessions; using it is what makes the app take any."""
        if self._sessions is None:
            from secgear.middleware.channel.sessions import Sessions

            self._sessions = Sessions(self)
            self.requires = (
                *self.requires,
                *(name for name in _REQUIRES if name not in self.requires),
            )
            self.ecall(_relayed_ecall(self._sessions))
        return self._sessions

    @overload
    def session(self, handler: Handler, /) -> Handler: ...
    @overload
    def session(self, /, *, name: str) -> Callable[[Handler], Handler]: ...
    def session(self, handler: Handler | None = None, /, *, name: str | None = None) -> Any:
        """Declare a handler: it is given each `Session` that a client opens for it.

        name: what clients ask for, by default the function's name; where there is one handler only,
        they need not ask. When the handler returns, the session is closed in good order; when it
        raises, the client is told that it failed, and nothing else.
        """

        def declare(handler: Handler) -> Handler:
            self.sessions.add(name if name is not None else handler.__name__, handler)
            return handler

        return declare if handler is None else declare(handler)

    def remote(self, function: Callable[P, R]) -> Callable[P, R]:
        """Offer an ECALL to clients over their sessions, too; put it above ``@app.ecall``.

        Raises InterfaceError for what is no ECALL.
        """
        name = getattr(function, "__name__", "")
        declared = self.ecalls.get(name)
        if declared is None or declared.function is not function:
            raise InterfaceError(
                f"{name or function!r} is no ECALL: put @app.remote above @app.ecall"
            )
        self.sessions.offer(name)
        return function


def _relayed_ecall(sessions: Sessions) -> Callable[..., Iterator[bytes]]:
    def secgear_session(address: str, inbound: Iterator[bytes]) -> Iterator[bytes]:
        """One relayed connection: what the client says goes in, what the enclave says comes out."""
        return sessions.take(address, cast("Consumer", inbound))  # which streams are

    return secgear_session
