"""An application: one client's sessions, logins and session objects, as PKCS#11 has them.

Logged in is an application on a token, with all of its sessions there. Nothing of this outlives the
connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, final

from secgear.services.crypto.pkcs11.constants import SessionFlag, State, UserType
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template
from secgear.services.crypto.token import users
from secgear.services.crypto.token.authority import Badge
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.schema import KEYS
from secgear.services.crypto.token.session import Session
from secgear.services.crypto.token.slot import Slot
from secgear.services.crypto.token.state import NamedUser, Right
from secgear.services.crypto.token.users import Who

MAX_SESSIONS: Final = 1024  # of one application
MAX_SESSION_OBJECTS: Final = 4096  # of one application
MAX_SESSION_BYTES: Final = 32 << 20  # of all their attributes
MAX_HELD: Final = 64 << 20  # bytes that operations keep until they have all of their data


@final
class NoRight(CryptokiError):
    """The user who has logged in has no right to a call."""

    def __init__(self) -> None:
        super().__init__(Rv.ACTION_PROHIBITED)


@final
class Application:
    """One client. actor: who it is, for the audit trail, as the host tells.

    Token objects have even handles, session objects odd ones.
    """

    def __init__(self, module: Module, actor: str, *, initialised: bool = False) -> None:
        self.module = module
        self.actor = actor
        self.initialised = initialised
        self._lock = threading.RLock()
        self._sessions: dict[int, Session] = {}
        self._last_session = 0
        self._logins: dict[int, UserType] = {}
        self._named: dict[int, bytes] = {}  # ids of users with names, by slot
        self._since: dict[int, int] = {}  # numbers of the logins, by slot
        self._last_login = 0
        self._call = threading.local()  # the login before it
        self.badge = Badge()
        self._objects: dict[int, tuple[Object, Session]] = {}
        self._last_object = -1
        self._gone = False
        module.joined()

    def __repr__(self) -> str:
        return f"<Application {self.actor}>"

    # --- sessions --------------------------------------------------------------------------------

    def open_session(self, slot: Slot, flags: int) -> Session:
        """C_OpenSession. Raises CryptokiError."""
        if not flags & SessionFlag.SERIAL_SESSION:
            raise CryptokiError(Rv.SESSION_PARALLEL_NOT_SUPPORTED)
        write = bool(flags & SessionFlag.RW_SESSION)
        with self._lock:
            if not write and self._logins.get(slot.number) is UserType.SO:
                raise CryptokiError(Rv.SESSION_READ_WRITE_SO_EXISTS)
            if len(self._sessions) >= MAX_SESSIONS:
                raise CryptokiError(Rv.SESSION_COUNT)
            if self._gone:  # nobody would ever close it, and the token could not begin anew
                raise CryptokiError(Rv.DEVICE_REMOVED)
            self._last_session += 1
            session = Session(self._last_session, slot, write=write)
            self._sessions[session.handle] = session
            self._end_outdated(slot, session.generation)
        return session

    def session(self, handle: int) -> Session:
        """A session by its handle. Raises CryptokiError."""
        session = self._sessions.get(handle)
        if session is None:
            raise CryptokiError(Rv.SESSION_HANDLE_INVALID)
        generation = session.slot.generation
        if session.generation != generation:
            self._end_outdated(session.slot, generation)
            raise CryptokiError(Rv.SESSION_HANDLE_INVALID)
        return session

    def _end_outdated(self, slot: Slot, generation: int) -> None:
        """The token has begun anew: sessions and logins of before are over."""
        with self._lock:
            old = [one for one in self._of(slot) if one.generation < generation]
            for session in old:
                self._close(session)
            if old:
                self._log_out(slot)

    def check_held(self) -> None:
        """Whether the operations of all sessions keep too much. Raises CryptokiError."""
        with self._lock:
            if sum(session.held for session in self._sessions.values()) > MAX_HELD:
                raise CryptokiError(Rv.DEVICE_MEMORY)

    def close_session(self, handle: int) -> None:
        """C_CloseSession: with the last one of a token its login ends."""
        with self._lock:
            session = self._sessions.get(handle)
            if session is None:
                raise CryptokiError(Rv.SESSION_HANDLE_INVALID)
            self._close(session)

    def _close(self, session: Session) -> None:
        del self._sessions[session.handle]
        for number in [n for n, (_, owner) in self._objects.items() if owner is session]:
            del self._objects[number]
        if not self._of(session.slot):
            self._log_out(session.slot)
        session.slot.closed(session.generation, write=session.write)

    def close_all(self, slot: Slot | None = None) -> None:
        """C_CloseAllSessions of one token, or of all of them."""
        with self._lock:
            for session in list(self._sessions.values()):
                if slot is None or session.slot is slot:
                    self._close(session)

    def leave(self) -> None:
        """The client is gone, though a call of its may still be under way."""
        with self._lock:
            if not self._gone:
                self.module.joined(-1)
            self._gone = True
            self.close_all()

    def state(self, session: Session) -> State:
        """CKS_ of a session."""
        match self._logins.get(session.slot.number):
            case UserType.SO:
                return State.RW_SO_FUNCTIONS
            case UserType.USER:
                return State.RW_USER_FUNCTIONS if session.write else State.RO_USER_FUNCTIONS
            case _:
                return State.RW_PUBLIC_SESSION if session.write else State.RO_PUBLIC_SESSION

    def _of(self, slot: Slot) -> list[Session]:
        return [session for session in self._sessions.values() if session.slot is slot]

    # --- logins ----------------------------------------------------------------------------------

    def enter(self) -> None:
        """A call begins, on this thread: it is made by who is logged in now.

        Who logs in while it is under way may have fewer rights than it was let in with.
        """
        self._call.login = self._last_login

    def is_user(self, slot: Slot) -> bool:
        """Whether the user is logged in on the token, or one with a name, who is still there."""
        number = slot.number
        if self._logins.get(number) is not UserType.USER:
            return False
        if self._since.get(number, 0) > getattr(self._call, "login", self._last_login):
            return False
        return slot.number not in self._named or self.named_user(slot) is not None

    @property
    def named(self) -> bool:
        """Whether users with names are logged in."""
        return bool(self._named)

    def named_user(self, slot: Slot) -> NamedUser | None:
        """The user with a name who is logged in on the token."""
        id = self._named.get(slot.number)
        return None if id is None else users.with_id(slot.state, id)

    def rights(self, slot: Slot) -> Right:
        """What who is logged in may do with keys, as far as it is the token's to say."""
        if slot.number not in self._named:
            return Right.USE | Right.MANAGE
        user = self.named_user(slot)
        return Right(user.rights if user is not None else 0)

    def all_rights(self) -> Right:
        """The rights that the application has on every token it has logged in to."""
        rights = Right.USE | Right.MANAGE
        for number in list(self._named):
            rights &= self.rights(self.module.slots[number])
        return rights

    def user_name(self, slot: Slot) -> str:
        """Who is logged in on the token, as the audit trail has it."""
        user = self.named_user(slot)
        if user is not None:
            return user.name
        login = self._logins.get(slot.number)
        return "nobody" if login is None else login.name

    def is_so(self, slot: Slot) -> bool:
        """Whether the security officer is."""
        return self._logins.get(slot.number) is UserType.SO

    def _somebody(self, slot: Slot) -> bool:
        return self.is_user(slot) or self.is_so(slot)

    def login(self, session: Session, user: int, pin: bytes, name: str = "") -> None:
        """C_Login, and C_LoginUser with a name. Raises CryptokiError."""
        if user == UserType.CONTEXT_SPECIFIC:
            self._login_again(session, pin)
            return
        if user not in (UserType.SO, UserType.USER):
            raise CryptokiError(Rv.USER_TYPE_INVALID)
        self._check_login(session.slot, UserType(user))
        if name and user != UserType.USER:
            raise CryptokiError(Rv.USER_TYPE_INVALID)
        session.slot.login(name or UserType(user), pin, self.actor)
        one = users.named(session.slot.state, name) if name else None
        if name and one is None:
            raise CryptokiError(Rv.PIN_INCORRECT)  # the officer has removed them just now
        with self._lock:
            self._check_login(session.slot, UserType(user))  # nothing waited meanwhile
            if session.handle not in self._sessions:
                raise CryptokiError(Rv.SESSION_HANDLE_INVALID)
            number = session.slot.number
            # Last of all that somebody is logged in: calls look without the lock.
            if one is not None:
                self._named[number] = one.id
            self._last_login += 1
            self._since[number] = self._last_login
            self._logins[number] = UserType(user)

    def _check_login(self, slot: Slot, user: UserType) -> None:
        with self._lock:
            present = self._logins.get(slot.number)
            if present is user:
                raise CryptokiError(Rv.USER_ALREADY_LOGGED_IN)
            if present is not None:
                raise CryptokiError(Rv.USER_ANOTHER_ALREADY_LOGGED_IN)
            if user is UserType.SO and not all(session.write for session in self._of(slot)):
                raise CryptokiError(Rv.SESSION_READ_ONLY_EXISTS)

    def _login_again(self, session: Session, pin: bytes) -> None:
        waiting = session.waiting_for_login()
        if not waiting:
            raise CryptokiError(Rv.OPERATION_NOT_INITIALIZED)
        if not self.is_user(session.slot):
            raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
        named = self.named_user(session.slot)
        session.slot.login(named.name if named else UserType.USER, pin, self.actor)
        waiting[-1].login = False  # of the one that has begun last: a login is for one use

    def _log_out(self, slot: Slot) -> bool:
        """Whether anybody was logged in."""
        login = self._logins.pop(slot.number, None)  # first: calls look without the lock
        self._named.pop(slot.number, None)
        return login is not None

    def who(self, slot: Slot) -> Who:
        """Whose PIN it is that C_SetPIN changes: with nobody logged in the user's."""
        if self.is_so(slot):
            return UserType.SO
        named = self.named_user(slot)
        return named.name if named is not None else UserType.USER

    def logout(self, session: Session) -> None:
        """C_Logout: private session objects are destroyed, operations with private keys end."""
        with self._lock:
            if not self._log_out(session.slot):
                raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
            sessions = self._of(session.slot)
            for number, (item, owner) in list(self._objects.items()):
                if owner.slot is session.slot and item.private:
                    del self._objects[number]
        # One that has found its key just before begins first, and ends here.
        for other in sessions:
            with other.lock:
                other.cancel()

    # --- objects ---------------------------------------------------------------------------------

    def find(self, session: Session, handle: int, error: Rv) -> Object:
        """The object behind a handle, if this session may see it. Raises CryptokiError(error)."""
        item: Object | None
        if handle & 1:
            entry = self._objects.get(handle)
            item = entry[0] if entry is not None and entry[1].slot is session.slot else None
        else:
            item = session.slot.table.get(handle >> 1)
        if item is None or (item.private and not self.is_user(session.slot)):
            raise CryptokiError(error)
        return item

    def search(self, session: Session, template: Template) -> list[int]:
        """Handles of all objects that match and that this session may see."""
        user = self.is_user(session.slot)
        handles = [
            item.id << 1 for item in session.slot.table.find(template) if user or not item.private
        ]
        with self._lock:
            own = list(self._objects.items())
        handles += [
            handle
            for handle, (item, owner) in own
            if owner.slot is session.slot and (user or not item.private) and item.matches(template)
        ]
        return handles

    def check_access(self, session: Session, item: Object) -> None:
        """Whether the session may make or change this object. Raises CryptokiError.

        Keys on the token take a login, also those that are not private: in the place of a pair's
        public half somebody could put their own, and be sent what is encrypted for the other half.
        """
        if item.token and not session.write:
            raise CryptokiError(Rv.SESSION_READ_ONLY)
        if item.private and not self.is_user(session.slot):
            raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
        # The guard has seen the call's own template only.
        if item.token and not self.rights(session.slot) & Right.MANAGE:
            raise NoRight
        if item.token and item.object_class in KEYS and not self._somebody(session.slot):
            raise CryptokiError(Rv.USER_NOT_LOGGED_IN)

    def add(self, session: Session, items: list[Object], event: Event) -> list[int]:
        """Keep new objects: all of them on the token or for the session. Returns their handles."""
        for item in items:
            self.check_access(session, item)
        kept = iter(
            session.slot.keep([item for item in items if item.token], event, session.generation)
            if any(item.token for item in items)
            else ()
        )
        handles = []
        with self._lock:
            if session.handle not in self._sessions:
                raise CryptokiError(Rv.SESSION_HANDLE_INVALID)
            for item in items:
                if item.token:
                    handles.append(next(kept).id << 1)
                    continue
                self._check_room(item)
                self._last_object += 2
                self._objects[self._last_object] = (item.numbered(self._last_object), session)
                handles.append(self._last_object)
        return handles

    def _check_room(self, item: Object) -> None:
        """Whether one more session object fits. Raises CryptokiError."""
        held = sum(one.size for one, _ in self._objects.values())
        if len(self._objects) >= MAX_SESSION_OBJECTS or held + item.size > MAX_SESSION_BYTES:
            raise CryptokiError(Rv.DEVICE_MEMORY)

    def modify(
        self, session: Session, handle: int, change: Callable[[Object], Object], event: Event
    ) -> None:
        """Put what `change` makes of an object in its place."""
        if not handle & 1:
            session.slot.modify(handle >> 1, change, event)
            return
        with self._lock:
            entry = self._objects.get(handle)
            if entry is None:
                raise CryptokiError(Rv.OBJECT_HANDLE_INVALID)
            new = change(entry[0])
            if new.size > entry[0].size:
                self._check_room(new)
            self._objects[handle] = (new, entry[1])

    def remove(self, session: Session, handle: int, item: Object, event: Event) -> None:
        """Destroy an object."""
        if item.token:
            session.slot.destroy(item.id, event)
        else:
            with self._lock:
                if self._objects.pop(handle, None) is None:
                    raise CryptokiError(Rv.OBJECT_HANDLE_INVALID)
