"""The calls of the table, for whoever is inside already: no bytes of the protocol in between."""

from __future__ import annotations

import contextlib
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Self, final

from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import SessionFlag
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rpc.messages import Size
from secgear.services.crypto.token.application import Application, NoRight
from secgear.services.crypto.token.calls import versions as calls
from secgear.services.crypto.token.calls.registry import table
from secgear.services.crypto.token.slot import Slot
from secgear.services.crypto.token.versions import Named

ROOM: Final = 16 << 20
"""Bytes of output that a call may have."""
BOTH: Final = SessionFlag.SERIAL_SESSION | SessionFlag.RW_SESSION
_FUNCTIONS: Final = table()


def call(name: str, app: Application, *arguments: Any) -> Any:
    """A call's one result, or all of them.

    Raises CryptokiError as the call does, Refusal for what the user has no right to, and
    CryptoModuleError when the module has to start again.
    """
    number = BY_NAME[name].id
    started, rv = perf_counter(), Rv.GENERAL_ERROR
    try:
        results = _FUNCTIONS[number](app, *arguments)
        rv = Rv.OK
    except NoRight as error:
        rv = error.rv
        raise Refusal(403, "permission denied") from None
    except CryptokiError as error:
        rv = error.rv
        raise
    finally:
        app.module.tally.add(number, rv, perf_counter() - started)
    return results[0] if len(results) == 1 else results


@final
class Work:
    """One request's work on a token, in a session of its own. A context manager."""

    def __init__(self, app: Application, slot: Slot) -> None:
        self.app = app
        self.slot = slot
        self.session: int = call("C_OpenSession", app, slot.number, BOTH)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(CryptokiError):  # the login has ended, and all its sessions
            self.app.close_session(self.session)

    def call(self, name: str, *arguments: Any) -> Any:
        """The call `name` in this session."""
        return call(name, self.app, self.session, *arguments)

    def run(self, what: str, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """``C_<what>Init`` and ``C_<what>``."""
        self.call(f"C_{what}Init", mechanism, key)
        output = self.call(f"C_{what}", data, ROOM)
        if isinstance(output, Size):  # no input is long enough for that
            raise MemoryError
        return bytes(output)

    def verify(self, mechanism: Mechanism, key: int, data: bytes, signature: bytes) -> None:
        """``C_VerifyInit`` and ``C_Verify``."""
        self.call("C_VerifyInit", mechanism, key)
        self.call("C_Verify", data, signature)

    def named(self, name: str) -> Named | None:
        """The key of that name as this session may see it."""
        return calls.named(self.app, self.app.session(self.session), name.encode())
