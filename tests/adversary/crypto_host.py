"""A host for the cryptographic module that keeps everything in memory, and can lie about it."""

from __future__ import annotations

import datetime
import hashlib
import threading
from typing import ClassVar, Self

from secgear.base.sandbox.secret import SecretMemory, SecretPool
from secgear.base.tee import Evidence, Guest, SealingPolicy
from secgear.errors import ServiceError
from secgear.middleware.sealing.counters import NO_MARK, Standing
from secgear.services.crypto.client import Caller
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.dispatch import answer
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.state import Change, MemberRow, News, Record, Row
from secgear.services.crypto.token.vault import Vault

SO_PIN, PIN = b"so-pin-1234", b"user-pin-1234"
_POOL = SecretPool()


class MemoryGuest(Guest):
    """Seals for whoever has the same name."""

    tee: ClassVar[str] = "fake"
    svn = 1

    def __init__(self, name: str = "module") -> None:
        self._name = name

    def evidence(self, report_data: bytes) -> Evidence:
        return Evidence("fake", report_data)

    def sealing_key(self, policy: SealingPolicy, svn: int | None = None) -> SecretMemory:
        key = _POOL.allocate(32)
        key.write(hashlib.sha256(f"{self._name}/{policy.value}/{svn}".encode()).digest())
        return key

    def random(self, size: int) -> bytes:
        return bytes(size)


class MemoryStore:
    """`Store` and `Counter` in one. refuse: the next changes are not kept. forget: they are kept,
    and the host says that they are not. stuck: the counter does not move.
    """

    identity = b"memory"

    def __init__(self) -> None:
        self.sealed = b""
        self.epoch = 0
        self.objects: dict[int, Row] = {}
        self.changed: dict[int, int] = {}  # epoch of each object's last change
        self.gone: dict[int, int] = {}
        self.kept_members: dict[bytes, MemberRow] = {}
        self.records: list[Record] = []
        self.value, self.mark = 0, NO_MARK
        self.changes = 0
        self._lock = threading.Lock()
        self.refuse = self.forget = self.stuck = False

    def copy(self) -> Self:
        other = type(self)()
        other.__dict__.update(self.__dict__)
        for name in ("objects", "changed", "gone", "kept_members"):
            setattr(other, name, dict(getattr(self, name)))
        other.records = list(self.records)
        return other

    def head(self) -> bytes:
        return self.sealed

    def rows(self, after: int) -> list[Row]:
        return [self.objects[id] for id in sorted(self.objects) if id > after][:3]

    def since(self, epoch: int) -> News:
        rows = [self.objects[id] for id, at in self.changed.items() if at > epoch]
        gone = [id for id, at in self.gone.items() if at > epoch]
        return News(self.sealed, tuple(rows), tuple(gone))

    def trail(self, after: int) -> list[Record]:
        return self.records[after : after + 3]

    def members(self) -> list[MemberRow]:
        return list(self.kept_members.values())

    def commit(self, change: Change) -> bool:
        if self.refuse:
            raise ServiceError("the disk is full")
        with self._lock:
            if self.sealed and change.epoch != self.epoch + 1:
                return False
            self.epoch = change.epoch
            self.changes += 1
            self.sealed = change.head
            for row in change.put:
                self.objects[row.id], self.changed[row.id] = row, change.epoch
                self.gone.pop(row.id, None)
            for id in change.delete:
                del self.objects[id]
                del self.changed[id]
                self.gone[id] = change.epoch
            for member in change.members:
                before = self.kept_members.get(member.id)
                credential = member.credential or (before.credential if before else b"")
                self.kept_members[member.id] = MemberRow(member.id, credential, member.grant)
            for member_id in change.expelled:
                del self.kept_members[member_id]
            self.records += change.records
        if self.forget:
            raise ServiceError("the connection was lost")
        return True

    def read(self) -> Standing:
        return Standing(self.value, self.mark)

    def advance(self, value: int, mark: bytes) -> Standing:
        if self.stuck:
            raise ServiceError("the counter does not answer")
        with self._lock:
            if value == self.value + 1:
                self.value, self.mark = value, mark
            return self.read()


def vault_of(store: MemoryStore, guest: Guest | None = None) -> Vault:
    return Vault(
        store,
        lambda _: store,
        guest=guest or MemoryGuest(),
        policy=SealingPolicy.MEASUREMENT,
        now=lambda: datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC),
    )


def open_module(store: MemoryStore) -> Module:
    return Module(vault_of(store))


def connect(module: Module, actor: str = "test", version: int = OWN) -> Caller:
    """A client, whose calls go through the protocol's bytes."""
    app = Application(module, actor)
    caller = Caller(lambda body: answer(app, body, version), version)
    caller.initialise()
    return caller


def prepared(slots: int = 2) -> MemoryStore:
    """A module whose first slot has an initialised token with both PINs."""
    store = MemoryStore()
    vault_of(store).found(slots)
    caller = connect(open_module(store))
    caller.call("C_InitToken", 0, SO_PIN, b"first".ljust(32))
    session = caller.one("C_OpenSession", 0, 6)
    caller.call("C_Login", session, 0, SO_PIN)
    caller.call("C_InitPIN", session, PIN)
    caller.call("C_Finalize")
    return store
