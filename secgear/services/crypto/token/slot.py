"""A slot with its token: who may log in, what it holds, which sessions it has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final, final

import msgspec

from secgear.services.crypto.pkcs11.constants import TokenFlag, UserType
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token import pins
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.state import Pin, TokenState
from secgear.services.crypto.token.table import Table
from secgear.services.crypto.token.vault import MAX_OBJECTS, Vault

LABEL_SIZE: Final = 32
_LOW: Final = 3  # tries that are left when a PIN's count is called low


@final
class Slot:
    """One slot. Its token is always present; whether it is initialised is its state's to say."""

    def __init__(self, number: int, vault: Vault) -> None:
        self.number = number
        self.table = Table()
        self._vault = vault
        self._lock = threading.Lock()
        # One try of a PIN at a time: those under way count as failures, and too many would lock it.
        self._trying = threading.Lock()
        self._sessions: dict[bool, int] = {True: 0, False: 0}  # by whether they may write

    def __repr__(self) -> str:
        return f"<Slot {self.number}>"

    @property
    def state(self) -> TokenState:
        """The token as it is durable."""
        return self._vault.head.tokens[self.number]

    @property
    def flags(self) -> TokenFlag:
        """CKF_ of CK_TOKEN_INFO."""
        state = self.state
        flags = TokenFlag.RNG | TokenFlag.LOGIN_REQUIRED
        if state.so is not None:
            flags |= TokenFlag.TOKEN_INITIALIZED
            flags |= _tries(state.so, TokenFlag.SO_PIN_COUNT_LOW)
        if state.user is not None:
            flags |= TokenFlag.USER_PIN_INITIALIZED
            flags |= _tries(state.user, TokenFlag.USER_PIN_COUNT_LOW)
        return flags

    # --- sessions --------------------------------------------------------------------------------

    @property
    def sessions(self) -> tuple[int, int]:
        """Sessions of all applications: all of them, and those that may write."""
        return sum(self._sessions.values()), self._sessions[True]

    def opened(self, *, write: bool) -> None:
        """A session was opened."""
        with self._lock:
            self._sessions[write] += 1

    def closed(self, *, write: bool) -> None:
        """A session was closed."""
        with self._lock:
            self._sessions[write] -= 1

    # --- PINs ------------------------------------------------------------------------------------

    def initialise(self, pin: bytes, label: bytes, actor: str) -> None:
        """C_InitToken: everything on the token is destroyed, and the user has no PIN any more."""
        name = label[:LABEL_SIZE].ljust(LABEL_SIZE).decode("utf-8", "replace")
        with self._trying:
            if self.state.so is None:
                so = pins.made(pin)
            else:
                so = self._proven(UserType.SO, pin, "token initialisation attempted", actor)
            self._begin_anew(name, so, actor)

    def _begin_anew(self, name: str, so: Pin, actor: str) -> None:
        with self._vault.lock:
            if sum(self._sessions.values()):
                raise CryptokiError(Rv.SESSION_EXISTS)
            gone = [item.id for item in self.table.all()]
            new = msgspec.structs.replace(self.state, label=name, so=so, user=None)
            event = Event("token initialised", actor, self.number, {"destroyed": len(gone)})
            self._vault.change(delete=gone, tokens=self._with(new), events=[event])
            for id in gone:
                self.table.delete(id)

    def login(self, user: UserType, pin: bytes, actor: str) -> None:
        """Check a PIN. Raises CryptokiError."""
        event = Event("login", actor, self.number, {"as": user.name})
        with self._trying:
            proven = self._proven(user, pin, "login attempted", actor)
            with self._vault.lock:
                if self._pin(user).digest != proven.digest:
                    raise CryptokiError(Rv.PIN_INCORRECT)  # the officer has changed it meanwhile
                self._set_pin(user, proven, event)

    def init_pin(self, pin: bytes, actor: str) -> None:
        """C_InitPIN: the security officer gives the user a PIN."""
        new = pins.made(pin)
        with self._vault.lock:
            self._set_pin(UserType.USER, new, Event("user PIN initialised", actor, self.number))

    def change_pin(self, user: UserType, old: bytes, pin: bytes, actor: str) -> None:
        """C_SetPIN. Raises CryptokiError."""
        new = pins.made(pin)
        event = Event("PIN changed", actor, self.number, {"of": user.name})
        with self._trying:
            proven = self._proven(user, old, "PIN change attempted", actor)
            with self._vault.lock:
                if self._pin(user).digest != proven.digest:
                    raise CryptokiError(Rv.PIN_INCORRECT)
                self._set_pin(user, new, event)

    def _pin(self, user: UserType) -> Pin:
        record = self.state.so if user is UserType.SO else self.state.user
        if record is None:
            raise CryptokiError(Rv.USER_PIN_NOT_INITIALIZED)
        return record

    def _proven(self, user: UserType, given: bytes, attempt: str, actor: str) -> Pin:
        """The PIN's record, cleared of failures, once `given` was found to be the PIN."""
        with self._vault.lock:
            counted = pins.counted(self._pin(user))
            event = Event(attempt, actor, self.number, {"as": user.name, "try": counted.failures})
            # A failure, durably, before anybody knows whether it is one.
            self._set_pin(user, counted, event)
        if not pins.fits(counted, given):  # takes its time, and nobody waits for it
            raise CryptokiError(Rv.PIN_INCORRECT)
        return pins.cleared(counted)

    def _set_pin(self, user: UserType, record: Pin, event: Event) -> None:
        if user is UserType.SO:
            new = msgspec.structs.replace(self.state, so=record)
        else:
            new = msgspec.structs.replace(self.state, user=record)
        self._vault.change(tokens=self._with(new), events=[event])

    def _with(self, state: TokenState) -> list[TokenState]:
        tokens = list(self._vault.head.tokens)
        tokens[self.number] = state
        return tokens

    # --- objects ---------------------------------------------------------------------------------

    def keep(
        self, items: Iterable[Object], event: Event, *, replaced: Iterable[Object] = ()
    ) -> list[Object]:
        """Make new objects durable. Returns them as they are now, with their ids.

        replaced: newer states of objects that are there, in the same change.
        """
        with self._vault.lock:
            first = self._vault.new_id()
            new = [item.numbered(first + at) for at, item in enumerate(items)]
            if len(self.table) + len(new) > MAX_OBJECTS:
                raise CryptokiError(Rv.DEVICE_MEMORY)
            self._put([*replaced, *new], event)
            return new

    def modify(self, id: int, change: Callable[[Object], Object], event: Event) -> None:
        """Make a change of an object durable. `change` is given its newest state."""
        with self._vault.lock:
            before = self.table.get(id)
            if before is None:
                raise CryptokiError(Rv.OBJECT_HANDLE_INVALID)
            self._put([change(before)], event)

    def _put(self, items: list[Object], event: Event) -> None:
        self._vault.change(put=[(self.number, item) for item in items], events=[event])
        for item in items:
            self.table.put(item)

    def destroy(self, id: int, event: Event) -> None:
        """Remove an object for good."""
        with self._vault.lock:
            if self.table.get(id) is None:
                raise CryptokiError(Rv.OBJECT_HANDLE_INVALID)
            self._vault.change(delete=[id], events=[event])
            self.table.delete(id)

    def record(self, event: Event) -> None:
        """Write something down that changes nothing."""
        self._vault.change(events=[event])


def _tries(pin: Pin, low: TokenFlag) -> TokenFlag:
    """What the flags say about a PIN's failures: low, final try and locked are neighbours."""
    left = pins.MAX_FAILURES - pin.failures
    flags = TokenFlag(0)
    if left < _LOW:
        flags |= low
    if left == 1:
        flags |= TokenFlag(low << 1)
    if left <= 0:
        flags |= TokenFlag(low << 2)
    return flags
