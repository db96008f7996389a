"""What the module keeps, kept by a host that is believed in nothing.

Objects are encrypted one by one under the domain key, bound to their id and slot, their attributes
inside. The head holds the domain key, the tokens' PINs, the end of the audit trail and a digest
over all objects; it is sealed to this enclave and to the next value of a monotonic counter. So the
host can neither change an object, nor bring back an old state of one, nor of them all, unless it
sets back the counter as well.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.base.tee import Guest, SealingPolicy
from secgear.errors import CryptoModuleError, SecGearError
from secgear.middleware.sealing import Counter, commit, seal, unseal, version_of
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.ledger import Event, write
from secgear.services.crypto.token.objects import Object, pack, unpack
from secgear.services.crypto.token.state import HEADS, Change, Head, Row, Store, TokenState, encode
from secgear.services.crypto.token.tree import Tree

MAX_OBJECTS: Final = 1 << 20
_AAD: Final = b"secgear crypto head v1"
_OBJECT: Final = b"secgear crypto object v1\0"
_NONCE_SIZE: Final = 12


@final
class Vault:
    """The module's durable state. One writer at a time; see `change`."""

    def __init__(
        self,
        store: Store,
        counter: Counter,
        *,
        guest: Guest,
        policy: SealingPolicy,
        now: Callable[[], datetime.datetime],
    ) -> None:
        self.lock = threading.RLock()
        self._store, self._counter = store, counter
        self._guest, self._policy = guest, policy
        self._now = now
        self._tree = Tree()
        self._head: Head
        self._sealed = b""
        self._counted = True  # the newest head is what the counter acknowledges

    def __repr__(self) -> str:
        return "<Vault>"

    @property
    def head(self) -> Head:
        """The state as it is durable."""
        return self._head

    @property
    def guest(self) -> Guest:
        """The TEE's services, for this enclave."""
        return self._guest

    def now(self) -> datetime.datetime:
        """The time, by the host's clock."""
        return self._now()

    @property
    def audit_key(self) -> bytes:
        """The public key that verifies the audit trail, 32 bytes."""
        key = Ed25519PrivateKey.from_private_bytes(self._head.audit_key)
        return key.public_key().public_bytes_raw()

    def found(self, slots: int) -> None:
        """Begin a new module. Raises CryptoModuleError where there is one already."""
        with self.lock:
            if self._store.head():
                raise CryptoModuleError("the store holds a module already")
            tokens = tuple(TokenState(os.urandom(8).hex()) for _ in range(slots))
            self._head = Head(os.urandom(32), os.urandom(32), tokens, root=self._tree.root())
            self.change(events=[Event("module founded", "host")])

    def open(self) -> Iterator[tuple[int, Object]]:
        """Read everything: slot and object of each.

        Raises SealingError for what is not ours or not the newest, CryptoModuleError for objects
        that were changed, removed or put in.
        """
        self._sealed = self._store.head()
        if not self._sealed:
            raise CryptoModuleError("the store holds no module; found one first")
        data = unseal(self._sealed, aad=_AAD, counter=self._counter, guest=self._guest)
        self._head = HEADS.decode(data)
        after = 0
        while rows := self._store.rows(after):
            for row in rows:
                if row.id <= after:
                    raise CryptoModuleError("the store's objects are out of order")
                after = row.id
                self._tree.put(row.id, row.slot, row.blob)
                yield row.slot, self._opened(row)
        if self._tree.root() != self._head.root:
            raise CryptoModuleError(
                "the store's objects are not those of its head: some were removed, brought back "
                "or put in"
            )

    def new_id(self) -> int:
        """The next object's id, inside of the lock; taken when a change with it is durable."""
        return self._head.next_id

    def change(
        self,
        *,
        put: Iterable[tuple[int, Object]] = (),
        delete: Iterable[int] = (),
        tokens: Sequence[TokenState] | None = None,
        events: Iterable[Event] = (),
    ) -> None:
        """Make a change durable: objects of slots, ids to delete, tokens' states, audit events.

        Raises CryptokiError(DEVICE_ERROR) when the host has not kept it; it is as if nothing had
        happened then. Raises CryptoModuleError when it is kept and the counter can't be moved: the
        module has to start again then, because what it just did could be undone.
        """
        with self.lock:
            try:
                self._catch_up()
            except SecGearError as error:
                raise CryptokiError(Rv.DEVICE_ERROR) from error
            rows = tuple(self._row(slot, item) for slot, item in put)
            gone = tuple(delete)
            before = {id: self._tree.leaf(id) for id in (*(row.id for row in rows), *gone)}
            for row in rows:
                self._tree.put(row.id, row.slot, row.blob)
            for id in gone:
                self._tree.delete(id)
            try:
                self._commit(rows, gone, tokens, tuple(events))
            except BaseException:
                for id, leaf in before.items():
                    self._tree.restore(id, leaf)
                raise
            try:
                self._catch_up()
            except SecGearError as error:
                raise CryptoModuleError("a change is kept, but not counted") from error

    def _commit(
        self,
        rows: tuple[Row, ...],
        gone: tuple[int, ...],
        tokens: Sequence[TokenState] | None,
        events: tuple[Event, ...],
    ) -> None:
        head = self._head
        key = Ed25519PrivateKey.from_private_bytes(head.audit_key)
        records = write(
            events, seq=head.audit_seq, previous=head.audit_hash, key=key, now=self._now()
        )
        new = msgspec.structs.replace(
            head,
            tokens=head.tokens if tokens is None else tuple(tokens),
            next_id=max([head.next_id, *(row.id + 1 for row in rows)]),
            epoch=head.epoch + 1,
            root=self._tree.root(),
            audit_seq=records[-1].seq if records else head.audit_seq,
            audit_hash=records[-1].hash if records else head.audit_hash,
        )
        try:
            sealed = seal(
                encode(new),
                policy=self._policy,
                aad=_AAD,
                counter=self._counter,
                after=version_of(self._sealed) if self._sealed else self._counter.read().value,
                guest=self._guest,
            )
            kept = self._keep(Change(sealed, rows, gone, records))
        except SecGearError as error:
            raise CryptokiError(Rv.DEVICE_ERROR) from error
        if not kept:
            raise CryptokiError(Rv.DEVICE_ERROR)
        self._head, self._sealed, self._counted = new, sealed, False

    def _keep(self, change: Change) -> bool:
        """Whether the change is in the store, also where the host could not say so."""
        try:
            self._store.commit(change)
        except SecGearError:
            return self._store.head() == change.head
        return True

    def _catch_up(self) -> None:
        """Have the counter acknowledge the newest head, if it has not yet."""
        if not self._counted:
            commit(self._sealed, counter=self._counter)
            self._counted = True

    def _row(self, slot: int, item: Object) -> Row:
        nonce = os.urandom(_NONCE_SIZE)
        cipher = AESGCM(self._head.domain_key)
        return Row(item.id, slot, nonce + cipher.encrypt(nonce, pack(item), _aad(item.id, slot)))

    def _opened(self, row: Row) -> Object:
        nonce, sealed = row.blob[:_NONCE_SIZE], row.blob[_NONCE_SIZE:]
        try:
            data = AESGCM(self._head.domain_key).decrypt(nonce, sealed, _aad(row.id, row.slot))
        except (InvalidTag, ValueError):
            raise CryptoModuleError(f"object {row.id} of the store was changed") from None
        return unpack(data)


def _aad(id: int, slot: int) -> bytes:
    return _OBJECT + id.to_bytes(8, "big") + slot.to_bytes(4, "big")
