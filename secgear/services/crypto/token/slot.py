"""A slot with its token: who may log in, what it holds, which sessions it has."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

import msgspec

from secgear.services.crypto.pkcs11.constants import TokenFlag, UserType
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.roles.operations import PinPolicy
from secgear.services.crypto.token import pins, users
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.state import Pin, TokenState
from secgear.services.crypto.token.table import Table
from secgear.services.crypto.token.users import Who
from secgear.services.crypto.token.vault import MAX_OBJECTS, Vault

LABEL_SIZE: Final = 32
_TRYING: Final = 5.0  # seconds after which a try of a PIN in another enclave is no longer under way
_PAUSE: Final = 0.05  # seconds between looks whether it is
_LOW: Final = 3  # tries that are left when a PIN's count is called low


class Alteration(NamedTuple):
    """Changes of a token that belong together. new: objects without a number yet. gone: ids."""

    event: Event
    new: Sequence[Object] = ()
    changed: Sequence[Object] = ()
    gone: Sequence[int] = ()


@final
class Slot:
    """One slot. Its token is always present; whether it is initialised is its state's to say."""

    def __init__(self, number: int, vault: Vault) -> None:
        self.number = number
        self._vault = vault
        self._lock = threading.Lock()
        # One try of a PIN at a time: those under way count as failures, and too many would lock it.
        self._trying = threading.Lock()
        self._locked: Pin | None = None  # a PIN that is locked, and by no try under way
        self._sessions: Counter[tuple[int, bool]] = Counter()  # generation, whether they may write

    def __repr__(self) -> str:
        return f"<Slot {self.number}>"

    @property
    def state(self) -> TokenState:
        """The token as it is durable. Raises CryptokiError when that can't be known."""
        return self._vault.head.tokens[self.number]

    @property
    def generation(self) -> int:
        """Of the token: sessions and logins of an earlier one are over."""
        return self.state.generation

    @property
    def table(self) -> Table:
        """Its objects as they are durable. Raises CryptokiError when that can't be known."""
        _ = self._vault.head
        return self._vault.tables[self.number]

    @property
    def flags(self) -> TokenFlag:
        """CKF_ of CK_TOKEN_INFO."""
        state = self.state
        flags = TokenFlag.RNG | TokenFlag.LOGIN_REQUIRED
        if state.so is not None:
            flags |= TokenFlag.TOKEN_INITIALIZED
            flags |= _tries(state.so, TokenFlag.SO_PIN_COUNT_LOW, self._policy.tries)
        if state.user is not None:
            flags |= TokenFlag.USER_PIN_INITIALIZED
            flags |= _tries(state.user, TokenFlag.USER_PIN_COUNT_LOW, self._policy.tries)
        return flags

    # --- sessions --------------------------------------------------------------------------------

    @property
    def sessions(self) -> tuple[int, int]:
        """Sessions of all applications of this enclave: all of them, and those that may write."""
        generation = self.generation
        writing = self._sessions[generation, True]
        return self._sessions[generation, False] + writing, writing

    def opened(self, *, write: bool) -> int:
        """A session was opened: of which generation."""
        while True:
            generation = self.generation
            with self._lock:
                self._sessions[generation, write] += 1
            if self.generation == generation:
                return generation
            # The token was begun anew just now, and did not see this session.
            self.closed(generation, write=write)

    def closed(self, generation: int, *, write: bool) -> None:
        """A session was closed."""
        with self._lock:
            self._sessions[generation, write] -= 1
            if not self._sessions[generation, write]:
                del self._sessions[generation, write]

    # --- PINs ------------------------------------------------------------------------------------

    def initialise(self, pin: bytes, label: bytes, actor: str) -> None:
        """C_InitToken: everything on the token is destroyed, and the user has no PIN any more.

        Refused while this enclave has sessions on the token; those in other enclaves end.
        """
        name = label[:LABEL_SIZE].ljust(LABEL_SIZE).decode("utf-8", "replace")
        with self._trying:
            before = self.state.so
            if before is None:
                so = pins.made(pin, self._policy)
            else:
                so = self._proven(UserType.SO, pin, "token initialisation attempted", actor)

            def begin(draft: Draft) -> None:
                state = draft.token(self.number)
                if (state.so.digest if state.so else None) != (before.digest if before else None):
                    raise CryptokiError(Rv.PIN_INCORRECT)  # somebody else has set it meanwhile
                if any(self._sessions[state.generation, write] for write in (True, False)):
                    raise CryptokiError(Rv.SESSION_EXISTS)
                new = msgspec.structs.replace(
                    state,
                    label=name,
                    so=so if state.so is None else pins.cleared(state.so, so),
                    user=None,
                    users=(),
                    generation=state.generation + 1,
                )
                draft.set_token(self.number, new)
                gone = draft.clear(self.number)
                draft.record(Event("token initialised", actor, self.number, {"destroyed": gone}))

            self._vault.transact(begin)

    def login(self, user: Who, pin: bytes, actor: str) -> None:
        """Check a PIN. Raises CryptokiError."""
        event = Event("login", actor, self.number, {"as": users.said(user)})
        with self._trying:
            proven = self._proven(user, pin, "login attempted", actor)
            self._replace_pin(user, proven, None, event)

    def init_pin(self, pin: bytes, actor: str) -> None:
        """C_InitPIN: the security officer gives the user a PIN."""
        new = pins.made(pin, self._policy)
        event = Event("user PIN initialised", actor, self.number)
        self._vault.transact(lambda draft: self._set_pin(draft, UserType.USER, new, event))

    def change_pin(self, user: Who, old: bytes, pin: bytes, actor: str) -> None:
        """C_SetPIN. Raises CryptokiError."""
        new = pins.made(pin, self._policy)
        event = Event("PIN changed", actor, self.number, {"of": users.said(user)})
        with self._trying:
            proven = self._proven(user, old, "PIN change attempted", actor)
            self._replace_pin(user, proven, new, event)

    def _proven(self, user: Who, given: bytes, attempt: str, actor: str) -> Pin:
        """The PIN's record with this try counted, once `given` was found to be the PIN."""

        def count(draft: Draft) -> Pin:
            counted = pins.counted(
                users.pin_of(draft.token(self.number), user), draft.head.roles.pins
            )
            event = Event(
                attempt, actor, self.number, {"as": users.said(user), "try": counted.failures}
            )
            self._set_pin(draft, user, counted, event)
            return counted

        # A failure, durably, before anybody knows whether it is one.
        counted = self._while_others_try(user, lambda: self._vault.transact(count))
        if not pins.fits(counted, given):  # takes its time, and nobody waits for it
            raise CryptokiError(Rv.PIN_INCORRECT)
        return counted

    def _while_others_try(self, user: Who, count: Callable[[], Pin]) -> Pin:
        """Tries under way in other enclaves may be what locks a PIN: they end, or it stays locked.

        Raises CryptokiError(PIN_LOCKED) when nothing happens any more.
        """
        seen, patience = None, 0.0
        while True:
            try:
                return count()
            except CryptokiError as error:
                if error.rv is not Rv.PIN_LOCKED or not self._vault.shared:
                    raise
                self._vault.catch_up()
                present = users.pin_of(self.state, user)
                if present == self._locked:
                    raise
                if present != seen:
                    seen, patience = present, time.monotonic() + _TRYING
                elif time.monotonic() > patience:
                    self._locked = present
                    raise
            time.sleep(_PAUSE)

    def _replace_pin(self, user: Who, proven: Pin, new: Pin | None, event: Event) -> None:
        """After a success. new: another PIN; None for the same, cleared of failures."""

        def clear(draft: Draft) -> None:
            present = users.pin_of(draft.token(self.number), user)
            if present.digest != proven.digest:
                raise CryptokiError(Rv.PIN_INCORRECT)  # the officer has changed it meanwhile
            self._set_pin(draft, user, new or pins.cleared(present, proven), event)

        self._vault.transact(clear)

    def _set_pin(self, draft: Draft, user: Who, record: Pin, event: Event) -> None:
        state = draft.token(self.number)
        draft.set_token(self.number, users.with_pin(state, user, record))
        draft.record(event)

    # --- what the security officer decides -------------------------------------------------------

    @property
    def _policy(self) -> PinPolicy:
        return self._vault.head.roles.pins

    def set_user(self, name: str, pin: bytes | None, rights: int, actor: str) -> None:
        """Make a user with a name, or change one. pin: None leaves it. Raises CryptokiError."""
        record = None if pin is None else pins.made(pin, self._policy)
        detail: dict[str, str | int | bool] = {
            "name": name,
            "rights": rights,
            "new PIN": record is not None,
        }
        event = Event("user set", actor, self.number, detail)

        def set_user(draft: Draft) -> None:
            state = draft.token(self.number)
            draft.set_token(self.number, users.with_user(state, name, record, rights))
            draft.record(event)

        self._vault.transact(set_user)

    def remove_user(self, name: str, actor: str) -> None:
        """Remove a user with a name; their logins are over. Raises CryptokiError."""

        def remove(draft: Draft) -> None:
            state = draft.token(self.number)
            draft.set_token(self.number, users.without_user(state, name))
            draft.record(Event("user removed", actor, self.number, {"name": name}))

        self._vault.transact(remove)

    def set_record_uses(self, wanted: bool, actor: str) -> None:
        """Whether uses of this token's keys are recorded from now on."""

        def change(draft: Draft) -> None:
            state = draft.token(self.number)
            draft.set_token(self.number, msgspec.structs.replace(state, record_uses=wanted))
            detail = {"uses are recorded": wanted}
            draft.record(Event("token policy set", actor, self.number, detail))

        self._vault.transact(change)

    # --- objects ---------------------------------------------------------------------------------

    def keep(self, items: Sequence[Object], event: Event, generation: int) -> list[Object]:
        """Make new objects durable. Returns them as they are now, with their ids.

        generation: of the session that makes them; the token must not have begun anew since.
        """

        def add(draft: Draft) -> list[Object]:
            self._check_generation(draft, generation)
            if draft.count(self.number) + len(items) > MAX_OBJECTS:
                raise CryptokiError(Rv.DEVICE_MEMORY)
            draft.record(event)
            return [draft.add(self.number, item) for item in items]

        return self._vault.transact(add)

    def modify(self, id: int, change: Callable[[Object], Object], event: Event) -> None:
        """Make a change of an object durable. `change` is given its newest state."""

        def modify(draft: Draft) -> None:
            before = draft.get(self.number, id)
            if before is None:
                raise CryptokiError(Rv.OBJECT_HANDLE_INVALID)
            draft.put(self.number, change(before))
            draft.record(event)

        self._vault.transact(modify)

    def destroy(self, id: int, event: Event) -> None:
        """Remove an object for good."""

        def destroy(draft: Draft) -> None:
            if draft.get(self.number, id) is None:
                raise CryptokiError(Rv.OBJECT_HANDLE_INVALID)
            draft.delete(self.number, id)
            draft.record(event)

        self._vault.transact(destroy)

    def alter(self, decide: Callable[[], Alteration], generation: int) -> list[Object]:
        """Make several changes durable, all of them or none. Returns the new objects.

        decide: what to change, asked when nobody else changes anything, so it looks at `table`;
        again, upon a later state, where an enclave beside this one was quicker. generation: as for
        `keep`.
        """

        def change(draft: Draft) -> list[Object]:
            self._check_generation(draft, generation)
            wanted = decide()
            new = [draft.add(self.number, item) for item in wanted.new]
            if draft.count(self.number) > MAX_OBJECTS:
                raise CryptokiError(Rv.DEVICE_MEMORY)
            for item in wanted.changed:
                draft.put(self.number, item)
            for id in wanted.gone:
                draft.delete(self.number, id)
            draft.record(wanted.event)
            return new

        return self._vault.transact(change, first=True)

    def record(self, event: Event) -> None:
        """Write something down that changes nothing."""
        self._vault.transact(lambda draft: draft.record(event))

    def _check_generation(self, draft: Draft, generation: int) -> None:
        if draft.token(self.number).generation != generation:
            raise CryptokiError(Rv.SESSION_HANDLE_INVALID)


def _tries(pin: Pin, low: TokenFlag, tries: int) -> TokenFlag:
    """What the flags say about a PIN's failures: low, final try and locked are neighbours."""
    left = tries - pin.failures
    flags = TokenFlag(0)
    if left < _LOW:
        flags |= low
    if left == 1:
        flags |= TokenFlag(low << 1)
    if left <= 0:
        flags |= TokenFlag(low << 2)
    return flags
