"""What the module keeps, kept by a host that is believed in nothing, for several enclaves at once.

Objects are encrypted one by one under the domain key, bound to their id and slot, their attributes
inside. The head holds the tokens' PINs, the end of the audit trail and a digest over all objects;
it is encrypted under the domain key too, and its digest is the mark of a monotonic counter. So the
host can neither change an object, nor bring back an old state of one, nor of them all, unless it
sets back the counter as well.

Every enclave of the domain may write. Each change is made of a certain state and takes the place of
that state alone, in the store and in the counter: who was too late learns what has changed, and
makes its change again of that. The counter decides; the store only makes it quick.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar, final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secgear.base.tee import Guest, SealingPolicy
from secgear.errors import CryptoModuleError, RolledBack, SecGearError
from secgear.middleware.sealing import Counter
from secgear.middleware.sealing.format import mark_of
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token import keyring
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.keyring import Credential, Keyring
from secgear.services.crypto.token.ledger import Event, write
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.roles import Roles
from secgear.services.crypto.token.snapshot import Snapshot, sealed_row
from secgear.services.crypto.token.state import (
    HEADS,
    Change,
    Founding,
    Head,
    Member,
    MemberRow,
    Record,
    Row,
    Store,
    TokenState,
    encode,
)
from secgear.services.crypto.token.table import Table
from secgear.services.crypto.token.tree import Tree
from secgear.services.crypto.token.wishes import Wish

MAX_OBJECTS: Final = 1 << 20
LEASE: Final = 5.0
"""Seconds for which an enclave relies on what the counter has said last."""
_RECENT: Final = 16  # marks of earlier heads that a head carries
_TOGETHER: Final = 1 << 20  # bytes of objects after which a change takes in no others
_TRIES: Final = 200  # times that others may be faster before a change is given up
_READS: Final = 50  # times that others may change the store while one reads it
_PAUSES: Final = (0.1, 0.3, 0.9)  # seconds before the counter is asked again
_HEAD: Final = b"secgear crypto head v2"
_PLAIN: Final = Founding()

T = TypeVar("T")


class _Outdone(Exception):
    """Somebody else has changed the store meanwhile."""


@final
class Vault:
    """The module's durable state, in one of its enclaves.

    counter: makes the counter of what was settled at founding. tables: the objects by slot, as they
    are durable; kept here, because others change them too.
    """

    def __init__(
        self,
        store: Store,
        counter: Callable[[Founding], Counter],
        *,
        guest: Guest,
        policy: SealingPolicy,
        now: Callable[[], datetime.datetime],
    ) -> None:
        self.tables: tuple[Table, ...] = ()
        self._lock = threading.RLock()
        self._wishes: deque[Wish[Any]] = deque()
        self._store, self._make_counter = store, counter
        self.guest, self.policy = guest, policy
        self._now = now
        self._counter: Counter
        self._credential: Credential
        self._state = Snapshot(Head(b"", b"", ()), b"", Keyring(0, {}))
        self._tree = Tree()
        self._older: set[int] = set()  # ids of objects under a domain key that is not the newest
        self._noted = 0  # the epoch that the host has told of, and up to which one was looked
        self._looked = 0
        self._due = 0.0
        self.shared = False

    def __repr__(self) -> str:
        return "<Vault>"

    # --- looking ---------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """The state as it is durable, caught up with what other enclaves have done.

        Raises CryptokiError(DEVICE_ERROR) when that can't be had.
        """
        if self._noted > self._looked or time.monotonic() >= self._due:
            self.catch_up()
        return self._state.head

    @property
    def known(self) -> Head:
        """The state that this enclave knows, however old."""
        return self._state.head

    def now(self) -> datetime.datetime:
        """The time, by the host's clock."""
        return self._now()

    @property
    def member(self) -> bytes:
        """This platform's id as a member."""
        return self._credential.id

    @property
    def audit_key(self) -> bytes:
        """The public key that verifies the audit trail, 32 bytes."""
        return self._credential.audit

    def records(self, after: int) -> list[Record]:
        """What the host shows of the audit trail behind a number. Raises CryptokiError."""
        with _device_errors():
            return self._store.trail(after)

    def note(self, epoch: int) -> None:
        """The host says that there is something newer. Waits for nothing."""
        self._noted = max(self._noted, epoch)

    # --- beginning -------------------------------------------------------------------------------

    def found(self, slots: int, founding: Founding = _PLAIN, roles: Roles | None = None) -> None:
        """Begin a new module, by default one that nobody administrates.

        Raises CryptoModuleError where there is one already.
        """
        with self._lock:
            if self._store.head():
                raise CryptoModuleError("the store holds a module already")
            signer = Ed25519PrivateKey.generate()
            audit = signer.public_key().public_bytes_raw()
            self._credential = own = Credential(keyring.new_secret(), audit)
            self._counter = self._make_counter(founding)
            now = self._counter.read()
            head = Head(
                os.urandom(keyring.KEY_SIZE),
                signer.private_bytes_raw(),
                tuple(TokenState(os.urandom(8).hex()) for _ in range(slots)),
                epoch=now.value,
                founding=founding,
                roles=roles or Roles(os.urandom(16)),
                members=(Member(own.id, own.public, self.guest.tee, b""),),
            )
            self._state = Snapshot(head, now.mark, Keyring.of(head))
            self.tables = tuple(Table() for _ in range(slots))
            draft = Draft(head, self.tables)
            credential = own.sealed(self.guest, self.policy)
            draft.members.append(MemberRow(own.id, credential, keyring.grant(head, own.public)))
            draft.record(Event("module founded", "host"))
            if not self._made(draft):
                raise CryptoModuleError("the store holds a module already")

    def open(self) -> None:
        """Read everything.

        Raises SealingError for what is not ours or not the newest, CryptoModuleError for objects
        that were changed, removed or put in.
        """
        with self._lock:
            sealed = self._store.head()
            if not sealed:
                raise CryptoModuleError("the store holds no module; found one first")
            self._credential = keyring.own_credential(
                self._store.members(), self.guest, self.policy
            )
            first = self._read_head(sealed)
            self._counter = self._make_counter(first.head.founding)
            self._state = first
            self.tables = tuple(Table() for _ in first.head.tokens)
            for _ in range(_READS):
                asked = time.monotonic()
                with contextlib.suppress(_Outdone):
                    self._load()
                    self._due = asked + LEASE
                    return
            raise CryptoModuleError("the store changes faster than it can be read")

    def _load(self) -> None:
        """Read all objects. Raises as `open`, and _Outdone when there is newer data already."""
        first = self._read_head(self._store.head())
        rows: dict[int, Row] = {}
        after = 0
        while page := self._store.rows(after):
            for row in page:
                if row.id <= after:
                    raise CryptoModuleError("the store's objects are out of order")
                after = row.id
                rows[row.id] = row
        # Others may have written while it was read; this has all that they did.
        news = self._store.since(first.head.epoch)
        if not news.whole:
            raise _Outdone
        rows.update({row.id: row for row in news.rows})
        for id in news.gone:
            rows.pop(id, None)
        state = self._read_head(news.head)
        tree = Tree()
        for row in rows.values():
            tree.put(row.id, row.slot, row.blob)
        if tree.root() != state.head.root:
            raise CryptoModuleError(
                "the store's objects are not those of its head: some were changed, removed, "
                "brought back or put in"
            )
        items = [(row.slot, state.opened(row)) for _, row in sorted(rows.items())]
        self._acknowledge(state)
        known = {item.id for table in self.tables for item in table.all()}
        self._tree = tree
        self._older = set(rows)
        newest = state.newest(rows.values())
        self._state = state
        self._reached(state, items, known - set(rows), newest)

    # --- catching up -----------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Come to know what other enclaves have done; at least, that they have done nothing.

        Raises CryptokiError(DEVICE_ERROR) when the host or the counter does not let us, and
        CryptoModuleError when the store was changed by somebody else.
        """
        with self._lock, _device_errors():
            self._catch_up()

    def _catch_up(self, *, look: bool = False) -> None:
        """look: at the store, even if the counter says that there is nothing new.

        The host may hold an answer back, so it is as old as its question.
        """
        for _ in range(_READS):
            noted, state, asked = self._noted, self._state, time.monotonic()
            now = self._counter.read()
            newest = (now.value, now.mark) == (state.head.epoch, state.mark)
            try:
                if (look or not newest) and not self._pull() and not newest:
                    raise RolledBack(
                        f"the store is at {state.head.epoch}, and the counter at {now.value}: "
                        "there is newer data"
                    )
            except _Outdone:
                continue
            self._due = asked + LEASE
            self._looked = max(self._looked, noted)  # whatever the host has said
            if time.monotonic() < self._due:
                return
        raise RolledBack("the store changes faster than it can be read, or answers come too late")

    def _pull(self) -> bool:
        """Take over what has changed; whether anything has.

        Raises _Outdone when there is newer data already.
        """
        news = self._store.since(self._state.head.epoch)
        state = self._read_head(news.head)
        if state.mark == self._state.mark:
            return False
        if state.head.epoch <= self._state.head.epoch:
            raise RolledBack(
                f"the store is at {state.head.epoch}, and was at {self._state.head.epoch}"
            )
        self.shared = True
        if not news.whole:
            self._load()
            return True
        leaves = self._planted(news.rows, news.gone)
        try:
            if self._tree.root() != state.head.root:
                raise CryptoModuleError("the store's changes are not those of its head")
            items = [(row.slot, state.opened(row)) for row in news.rows]
            self._acknowledge(state)
        except BaseException:
            self._restore(leaves)
            raise
        self._reached(state, items, news.gone, state.newest(news.rows))
        return True

    def _reached(
        self,
        state: Snapshot,
        items: Iterable[tuple[int, Object]],
        gone: Iterable[int],
        newest: Iterable[int],
    ) -> None:
        """Another state is durable and counted. newest: ids under its newest domain key."""
        for slot, item in items:
            self.tables[slot].put(item)
        for id in gone:
            for table in self.tables:
                table.delete(id)
        if state.head.generation != self._state.head.generation:
            self._older = {item.id for table in self.tables for item in table.all()}
        self._older.difference_update(newest, gone)
        self._state = state
        self._looked = max(self._looked, state.head.epoch)

    def _planted(self, rows: Iterable[Row], gone: Iterable[int]) -> dict[int, bytes | None]:
        """The tree with these changes. Returns what it was, for `_restore`."""
        rows, gone = tuple(rows), tuple(gone)
        leaves = {id: self._tree.leaf(id) for id in (*(row.id for row in rows), *gone)}
        for row in rows:
            self._tree.put(row.id, row.slot, row.blob)
        for id in gone:
            self._tree.delete(id)
        return leaves

    def _restore(self, leaves: dict[int, bytes | None]) -> None:
        for id, leaf in leaves.items():
            self._tree.restore(id, leaf)

    def _acknowledge(self, state: Snapshot) -> None:
        """Make sure that this is the newest state, by the counter.

        One that the counter does not know yet was stored just now, or before a crash: it is counted
        here, so that whatever else was stored in its place is refused from now on. Raises _Outdone,
        RolledBack.
        """
        epoch = state.head.epoch
        now = self._counter.read()
        if now.value == epoch - 1 and state.head.recent[:1] == (now.mark,):
            now = self._counter.advance(epoch, state.mark)
        if now.value > epoch:
            if mark_of(self._store.head()) != state.mark:
                raise _Outdone
            raise RolledBack(
                f"the store is at {epoch}, and the counter at {now.value}: there is newer data"
            )
        if (now.value, now.mark) != (epoch, state.mark):
            raise RolledBack(
                f"the store is at {epoch}, and the counter at {now.value} with other data"
            )

    def _read_head(self, sealed: bytes) -> Snapshot:
        """Raises CryptoModuleError for what is none of this domain's."""
        mark, keys = mark_of(sealed), self._state.keys
        if mark == self._state.mark:
            return self._state
        try:
            if keyring.generation_of(sealed) != keys.generation:
                keys = self._granted()
            head = HEADS.decode(keys.open(sealed, _HEAD))
        except (InvalidTag, KeyError, msgspec.DecodeError):
            raise CryptoModuleError(
                "the store's head was changed, or is another domain's"
            ) from None
        if head.svn > self.guest.svn:  # there may be more in it than this version knows
            raise CryptoModuleError(
                f"version {head.svn} has written to the module; this is {self.guest.svn}"
            )
        if all(member.id != self.member for member in head.members):
            raise CryptoModuleError("this platform is no member of the module's domain any more")
        return Snapshot(head, mark, Keyring.of(head))

    def _granted(self) -> Keyring:
        for row in self._store.members():
            if row.id == self.member:
                return keyring.accepted(self._credential, row.grant)
        raise CryptoModuleError("this platform is no member of the module's domain any more")

    # --- changing --------------------------------------------------------------------------------

    def transact(self, function: Callable[[Draft], T], *, first: bool = False) -> T:
        """Make a change durable: what `function` writes to a draft. Returns what it returns.

        `function` is run again when another enclave was faster, and may refuse by raising. Changes
        that several threads wait for are made durable together, so it may be run by another thread,
        with locks held: it takes none. first: it looks at `tables` as well, which know nothing of
        what others have written to the same draft, so nobody comes before it. Raises
        CryptokiError(DEVICE_ERROR) when the host has not kept it, or does not let us know: then it
        has happened in full or not at all. Raises CryptoModuleError when it is kept and the counter
        can't be moved: the enclave has to start again then, because its change could be undone.
        """
        wish = Wish(function, first=first)
        self._wishes.append(wish)
        with self._lock:
            # Whoever has waited for the lock has waited with others: one change is for them all.
            while not wish.settled:
                self._settle([self._wishes.popleft() for _ in range(len(self._wishes))])
        return wish.result()

    def _settle(self, wishes: list[Wish[Any]]) -> None:
        """Make what is wished for durable, in one change: each in full or not at all."""
        error: BaseException | None = None
        try:
            if self._noted > self._looked:
                self.catch_up()
            for attempt in range(_TRIES):
                before = self._state
                draft = Draft(before.head, self.tables)
                for number, wish in enumerate(wishes):
                    if number and (wish.first or draft.size > _TOGETHER):
                        self._wishes.extendleft(reversed(wishes[number:]))
                        del wishes[number:]
                        break
                    draft = wish.tried(draft)
                if self._state is not before:
                    continue  # somebody's look has brought news: this is of an older state
                if not draft.changed or self._made(draft):
                    return
                time.sleep(random.random() * min(attempt, 20) / 1000)  # noqa: S311  (no secret)
            raise CryptokiError(Rv.DEVICE_ERROR)
        except BaseException as caught:  # noqa: BLE001  (everybody who waits gets it)
            error = caught
        finally:
            for wish in wishes:
                wish.settle(error)

    def outdated(self, most: int) -> list[tuple[int, int]]:
        """Slot and id of some objects that are under an older domain key."""
        with self._lock:
            some = itertools.islice(self._older, most)
            return [(slot, id) for id in some for slot, t in enumerate(self.tables) if t.get(id)]

    def _made(self, draft: Draft) -> bool:
        """Whether the change has taken the place of the state it was made of."""
        keys = Keyring.of(draft.head)
        rows = tuple(sealed_row(keys, slot, item) for slot, item in draft.written.values())
        leaves = self._planted(rows, draft.deleted)
        try:
            state, change = self._drawn_up(draft, keys, rows)
        except BaseException:
            self._restore(leaves)
            raise
        failure: SecGearError | None = None
        asked = time.monotonic()
        try:
            kept = self._store.commit(change)
        except SecGearError as error:
            kept, failure = False, error
        if kept and self._counted(state):
            self._due = asked + LEASE
            self._reached(state, draft.written.values(), draft.deleted, draft.written)
            return True
        # What has become of it is in what others have made of it.
        self._restore(leaves)
        try:
            self._catch_up(look=True)
            if self._state.includes(state):
                return True
            if kept:
                raise RolledBack("other data was counted")
        except SecGearError as error:
            if kept:
                raise CryptoModuleError("a change is kept, but not counted") from error
            failure = failure or error
        if isinstance(failure, CryptoModuleError):
            raise failure
        if failure is not None:
            raise CryptokiError(Rv.DEVICE_ERROR) from failure
        return False

    def _counted(self, state: Snapshot) -> bool:
        """Whether the counter has acknowledged what is kept; False if it is beyond that."""
        pauses = iter(_PAUSES)
        while True:
            try:
                now = self._counter.advance(state.head.epoch, state.mark)
                return (now.value, now.mark) == (state.head.epoch, state.mark)
            except SecGearError as error:
                pause = next(pauses, None)
                if pause is None or isinstance(error, RolledBack):
                    raise CryptoModuleError("a change is kept, but not counted") from error
            time.sleep(pause)

    def _drawn_up(
        self, draft: Draft, keys: Keyring, rows: tuple[Row, ...]
    ) -> tuple[Snapshot, Change]:
        """The state after the change, and what the host is asked to keep."""
        before, head = self._state, draft.head
        records = write(
            tuple(draft.events),
            seq=head.audit_seq,
            previous=head.audit_hash,
            key=Ed25519PrivateKey.from_private_bytes(head.audit_key),
            now=self._now(),
        )
        new = msgspec.structs.replace(
            head,
            epoch=before.head.epoch + 1,
            root=self._tree.root(),
            audit_seq=records[-1].seq if records else head.audit_seq,
            audit_hash=records[-1].hash if records else head.audit_hash,
            recent=(before.mark, *before.head.recent[: _RECENT - 1]),
            svn=max(head.svn, self.guest.svn),
        )
        sealed = keys.seal(encode(new), _HEAD)
        change = Change(
            epoch=new.epoch,
            head=sealed,
            put=rows,
            delete=tuple(draft.deleted),
            records=records,
            members=tuple(draft.members),
            expelled=tuple(draft.expelled),
        )
        return Snapshot(new, mark_of(sealed), keys), change


@contextlib.contextmanager
def _device_errors() -> Iterator[None]:
    """What the host fails to do is a failure of the device, but for a store that was changed."""
    try:
        yield
    except CryptoModuleError:
        raise
    except SecGearError as error:
        raise CryptokiError(Rv.DEVICE_ERROR) from error
