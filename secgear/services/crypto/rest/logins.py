"""Who has logged in over a channel: tokens as Vault has them, in the enclave's memory only.

A token counts in the channel in which it was given, and ends with it. It stands for one
`Application` in which the user is logged in, as a connection does for a client of PKCS#11. Its text
is never kept: what is kept is its digest, which finds it.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from typing import Final, final

from secgear.services.crypto.pkcs11.constants import UserType
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rest.refusals import Refusal, of
from secgear.services.crypto.rest.work import BOTH, call
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.slot import Slot

TTL: Final = 3600.0  # seconds that a token counts, and by which it is renewed
MAX_TTL: Final = 86_400.0  # seconds after which it can't be renewed any more
MAX_LOGINS: Final = 64
"""Of one channel. One more ends the one that was not used for the longest time."""
_PREFIX: Final = "sg."
_WRONG: Final = frozenset(
    {Rv.PIN_INCORRECT, Rv.PIN_LEN_RANGE, Rv.PIN_INVALID, Rv.USER_PIN_NOT_INITIALIZED}
)


@final
class Login:
    """A token that counts. Times are of `time.monotonic`, `issued` of the host's clock."""

    def __init__(self, app: Application, slot: Slot, user: str, key: bytes) -> None:
        self.app, self.slot, self.user = app, slot, user
        self.key = key
        self.began = self.used = time.monotonic()
        self.ends = self.began + TTL
        self.issued = time.time()

    @property
    def left(self) -> int:
        """Seconds until it ends."""
        return max(0, int(self.ends - time.monotonic()))

    def renew(self, seconds: float | None) -> None:
        """Let it count for as long from now on, within `MAX_TTL`."""
        wanted = TTL if seconds is None else max(1.0, seconds)
        self.ends = min(time.monotonic() + wanted, self.began + MAX_TTL)


@final
class Logins:
    """All tokens of a channel. peer: who is at its other end, for the audit trail."""

    def __init__(self, module: Module, peer: str) -> None:
        self._module = module
        self._peer = peer
        self._lock = threading.Lock()
        self._logins: dict[bytes, Login] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._logins)

    def slot(self, namespace: str | None) -> Slot:
        """The slot that a namespace is: its number, or its token's label; the first one for none.

        A label is whatever a token's officer likes: none stands for another slot's number, nor two
        tokens for one namespace. Raises Refusal.
        """
        slots = self._module.slots
        wanted = (namespace or "").strip("/")
        if not wanted:
            return slots[0]
        for slot in slots:
            if wanted == str(slot.number):
                return slot
        found = [slot for slot in slots if slot.state.label.rstrip() == wanted]
        if len(found) == 1:
            return found[0]
        if found:
            raise Refusal(400, "several tokens have this label: the namespace is a slot's number")
        raise Refusal(404, "there is no such namespace: it is a slot's number or a token's label")

    def begin(self, slot: Slot, user: str, pin: str) -> tuple[str, Login]:
        """Log in: a new token's text. Raises Refusal; failures count towards the PIN's lock-out."""
        app = Application(self._module, f"rest {user[:32]}, {self._peer}"[:160], initialised=True)
        try:
            session = call("C_OpenSession", app, slot.number, BOTH)
            if user == "user":
                call("C_Login", app, session, UserType.USER, pin.encode())
            else:
                call("C_LoginUser", app, session, UserType.USER, pin.encode(), user.encode())
        except CryptokiError as error:
            app.leave()
            if error.rv in _WRONG:
                raise Refusal(400, "invalid username or password") from None
            raise of(error) from None
        except BaseException:
            app.leave()
            raise
        text = _PREFIX + secrets.token_urlsafe(32)
        login = Login(app, slot, user, _digest(text))
        with self._lock:
            gone = self._oldest() if not self._closed else [login]
            if not self._closed:
                self._logins[login.key] = login
        self._leave(gone)
        return text, login

    def find(self, text: str | None) -> Login:
        """Whose token this is. Raises Refusal(403)."""
        login = self.known(text)
        if login is None:
            raise Refusal(403, "permission denied")
        login.used = time.monotonic()
        return login

    def known(self, text: str | None) -> Login | None:
        """The same, None where it is nobody's."""
        login = self._logins.get(_digest(text)) if text else None
        return login if login is not None and login.left > 0 else None

    def end(self, login: Login) -> None:
        """The token does not count any more. Idempotent."""
        with self._lock:
            self._logins.pop(login.key, None)
        self._leave([login])

    def sweep(self) -> None:
        """End those that are over also where nobody asks: their sessions keep a token from anew."""
        with self._lock:
            over = [login for login in self._logins.values() if login.left <= 0]
            for login in over:
                del self._logins[login.key]
        self._leave(over)

    def close(self) -> None:
        """End all of them, for good."""
        with self._lock:
            self._closed = True
            over = list(self._logins.values())
            self._logins.clear()
        self._leave(over)

    def _oldest(self) -> list[Login]:
        """Take out the login that has to make room, inside of the lock."""
        if len(self._logins) < MAX_LOGINS:
            return []
        oldest = min(self._logins.values(), key=lambda login: login.used)
        del self._logins[oldest.key]
        return [oldest]

    @staticmethod
    def _leave(logins: list[Login]) -> None:
        for login in logins:
            login.app.leave()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
