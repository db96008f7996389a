"""A module and its tokens, as a data owner's program sees them."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, final

from secgear.errors import CryptoModuleError
from secgear.services.crypto.client.caller import (
    ROOM,
    SERVICE,
    Caller,
    ChannelExchange,
    Exchange,
    SocketExchange,
)
from secgear.services.crypto.client.session import Pin, Session
from secgear.services.crypto.client.talk import as_octets, asked
from secgear.services.crypto.pkcs11.constants import SessionFlag, TokenFlag
from secgear.services.crypto.rpc.messages import HANDSHAKE

if TYPE_CHECKING:
    from secgear.middleware.attestation.policy import Policy

_MAX_SLOTS: Final = 4096
_LABEL_SIZE: Final = 32  # bytes


def connect(place: str | Path, policy: Policy | None = None, **more: Any) -> Module:
    """A module. A context manager.

    place: with a policy, the address of its attested channel, ``tcp://host:port``: the enclave is
    verified first, and the host hears nothing. Without, the path of the host's socket: what is said
    there, PINs and data, passes through the host's hands.
    more: arguments of `secgear.connect`, for example ``anchors``.
    Raises Untrusted, ChannelError, CryptoModuleError, ValueError.
    """
    with contextlib.ExitStack() as stack:
        exchange: Exchange
        if policy is not None:
            from secgear.middleware.channel import connect as open_channel

            session = stack.enter_context(open_channel(str(place), policy, service=SERVICE, **more))
            exchange = ChannelExchange(session)
        elif more or "://" in str(place):
            raise ValueError("an attested channel needs a policy; a socket is a path, and has none")
        else:
            exchange = stack.enter_context(SocketExchange(Path(place)))
        module = Module(exchange)
        module._closing = stack.pop_all()
    return module


@final
class Module:
    """All tokens behind one exchange. Safe for threads, whose calls take turns.

    Calls that shall be under way at the same time need a `connect` each.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._caller = Caller(_InTurn(exchange))
        self._closing: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        asked(self._caller, "C_Initialize", HANDSHAKE, 0, b"\0")

    def __repr__(self) -> str:
        return "<Module>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it all sessions. Idempotent."""
        self._closing.__exit__(None, None, None)
        self._closing = contextlib.nullcontext()

    def tokens(self) -> list[Token]:
        """All tokens, also those that nobody has initialised."""
        slots = asked(self._caller, "C_GetSlotList", 1, _MAX_SLOTS)
        return [Token(self._caller, slot) for slot in slots]

    def token(self, label: str) -> Token:
        """The one token with this label. Raises CryptoModuleError."""
        tokens = self.tokens()
        found = [token for token in tokens if token.label == label]
        if len(found) != 1:
            there = ", ".join(repr(token.label) for token in tokens if token.initialised)
            raise CryptoModuleError(
                f"{len(found) or 'no'} tokens with the label {label!r}; there is {there or 'none'}"
            )
        return found[0]

    def attest(self, nonce: bytes = b"") -> bytes:
        """Proof of which module this is, for `secgear.services.crypto.attestation.verify`."""
        return as_octets(asked(self._caller, "S_AttestModule", nonce, ROOM))


@final
class Token:
    """One token, as it was when it was looked at. serial: its number, which stays for ever."""

    def __init__(self, caller: Caller, slot: int) -> None:
        self._caller = caller
        self.slot = slot
        info = asked(caller, "C_GetTokenInfo", slot)
        self.label = info[0].decode("utf-8", "replace").rstrip()
        self.serial = info[3].decode("ascii", "replace").rstrip()
        self.initialised = bool(info[4] & TokenFlag.TOKEN_INITIALIZED)

    def __repr__(self) -> str:
        return f"<Token {self.label!r}, {self.serial}>"

    def initialise(self, label: str, officer: Pin, user: Pin) -> Token:
        """Begin the token anew, with both PINs: everything on it is destroyed.

        officer: the security officer's PIN; for a token that has one already, that one.
        Returns the token as it is now. Raises TokenRefused, ValueError.
        """
        name = label.encode()
        if not 0 < len(name) <= _LABEL_SIZE:
            raise ValueError(f"a token's label has 1 to {_LABEL_SIZE} bytes")
        pin = officer() if callable(officer) else officer
        asked(self._caller, "C_InitToken", self.slot, pin, name.ljust(_LABEL_SIZE))
        with self.session(pin, officer=True) as session:
            session.call("C_InitPIN", user() if callable(user) else user)
        return Token(self._caller, self.slot)

    def session(
        self,
        pin: Pin | None = None,
        *,
        user: str | None = None,
        write: bool = True,
        officer: bool = False,
    ) -> Session:
        """A session, with a login where there is a PIN. A context manager.

        pin: the user's, or the security officer's. user: the user's name, where they have one.
        Whoever is logged in through this connection is
        it in all sessions on the token. Raises TokenRefused.
        """
        flags = SessionFlag.SERIAL_SESSION | (SessionFlag.RW_SESSION if write else 0)
        session = Session(self._caller, asked(self._caller, "C_OpenSession", self.slot, flags))
        if pin is None:
            return session
        try:
            session.login(pin, user=user, officer=officer)
        except BaseException:
            session.close()
            raise
        return session


class _InTurn:
    """An exchange that threads share."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._lock = threading.Lock()

    def __call__(self, body: bytes) -> bytes:
        with self._lock:
            return self._exchange(body)
