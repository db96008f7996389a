"""The cryptographic module's program inside the TEE: this file, and all below `token` and `rest`.

The host carries messages in, keeps what it can't read, and is believed in nothing. Clients that
come through the attested channel are heard by this program alone; of those that come by the host's
own socket the host hears every word.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Final, NoReturn

import msgspec

from secgear import App, Session
from secgear.base import context
from secgear.base.handover.enclave import Connection
from secgear.base.tee import SealingPolicy
from secgear.errors import CryptoModuleError, SecGearError
from secgear.middleware.attestation import collateral as collaterals
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.sealing import CallCounter, Counter, RemoteCounter
from secgear.services.crypto.local import Clients
from secgear.services.crypto.pkcs11.rv import CryptokiError
from secgear.services.crypto.rest.service import Service
from secgear.services.crypto.roles.operations import parse_founders
from secgear.services.crypto.rpc.buffer import OWN, VERSIONS
from secgear.services.crypto.rpc.marks import INTRODUCTION
from secgear.services.crypto.token import membership, rotation
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.dispatch import answer
from secgear.services.crypto.token.module import MAX_SLOTS, Module
from secgear.services.crypto.token.roles import Roles
from secgear.services.crypto.token.state import (
    Change,
    Founding,
    MemberRow,
    News,
    Record,
    Root,
    Row,
)
from secgear.services.crypto.token.tally import BOUNDS, Counts
from secgear.services.crypto.token.vault import Vault

app = App(
    "secgear-crypto",
    version="0.1",
    product="secgear-crypto",
    requires=["cbor2", "cryptography", "h11", "msgspec", "pycryptodomex"],
    threads=16,
    log="warning",
)
app.sessions.configure(limit=1024, per_client=256, idle=3600.0)

SEALED_TO: Final = SealingPolicy.MEASUREMENT
"""To whom the module is sealed. An image that is to be signed says SIGNER here (`host.found`).

So it is measured, and the host is not believed in it: it could sign the image itself, and then
another program that would read what this one has sealed to its signer.
"""
MAX_CONNECTIONS: Final = 4096
TORN: Final = 70
"""Exit status when what is kept and what is known have come apart: the next start reads it anew."""
_COUNTER: Final = b"secgear crypto counter v1"
_PAUSE: Final = 0.5  # seconds after a host that can't say what is new
_logger = logging.getLogger("secgear.crypto")


class Refused(Exception):
    """The module can't be founded or opened; the text says why, to the administrator."""


class Status(msgspec.Struct, frozen=True):
    """What the module tells about itself. audit_key: verifies its audit trail."""

    slots: int
    objects: int
    connections: int
    audit_key: bytes
    audit_seq: int
    audit_hash: bytes


# --- what the host keeps -------------------------------------------------------------------------
# Bodies of OCALLs are never run.


@app.ocall
def store_head() -> bytes:
    """See `Store.head`."""
    raise NotImplementedError


@app.ocall
def store_rows(after: int) -> list[tuple[int, int, bytes]]:
    """See `Store.rows`: id, slot, blob of each."""
    raise NotImplementedError


@app.ocall
def store_since(epoch: int) -> tuple[bytes, list[tuple[int, int, bytes]], list[int], bool]:
    """See `Store.since`: head, changed rows, ids of those that are gone, whether that is all."""
    raise NotImplementedError


@app.ocall
def store_trail(after: int) -> list[tuple[int, bytes, bytes, bytes]]:
    """See `Store.trail`: number, body, hash, signature of each."""
    raise NotImplementedError


@app.ocall
def store_members() -> list[tuple[bytes, bytes, bytes]]:
    """See `Store.members`: id, credential, grant of each."""
    raise NotImplementedError


@app.ocall
def store_commit(
    epoch: int,
    head: bytes,
    *,
    put: list[tuple[int, int, bytes]],
    gone: list[int],
    records: list[tuple[int, bytes, bytes, bytes]],
    members: list[tuple[bytes, bytes, bytes]],
    expelled: list[bytes],
) -> bool:
    """See `Store.commit`."""
    raise NotImplementedError


@app.ocall
def counter_read() -> tuple[int, bytes]:
    """See `Counter.read`."""
    raise NotImplementedError


@app.ocall
def counter_advance(value: int, mark: bytes) -> tuple[int, bytes]:
    """See `Counter.advance`."""
    raise NotImplementedError


@app.ocall
def witness_exchange(message: bytes) -> bytes:
    """Carries a message to the witness that keeps the counter, and its answer back."""
    raise NotImplementedError


@app.ocall
def store_news(epoch: int, load: int) -> int:
    """How far the store is: when it is beyond that epoch, or after a while. Negative: never mind.

    load: how many clients this enclave has.
    """
    raise NotImplementedError


class _HostStore:
    """`Store`, by OCALLs."""

    def head(self) -> bytes:
        return store_head()

    def rows(self, after: int) -> list[Row]:
        return _rows(store_rows(after))

    def since(self, epoch: int) -> News:
        head, rows, gone, whole = store_since(epoch)
        return News(head, tuple(_rows(rows)), tuple(map(_number, gone)), whole)

    def trail(self, after: int) -> list[Record]:
        return [Record(*row) for row in store_trail(after)]

    def members(self) -> list[MemberRow]:
        return [MemberRow(*row) for row in store_members()]

    def commit(self, change: Change) -> bool:
        return store_commit(
            change.epoch,
            change.head,
            put=[(row.id, row.slot, row.blob) for row in change.put],
            gone=list(change.delete),
            records=[(one.seq, one.body, one.hash, one.signature) for one in change.records],
            members=[(one.id, one.credential, one.grant) for one in change.members],
            expelled=list(change.expelled),
        )


def _rows(rows: list[tuple[int, int, bytes]]) -> list[Row]:
    """Rows that can be what they say. Raises CryptoModuleError."""
    if any(not 0 <= slot < MAX_SLOTS for _, slot, _ in rows):
        raise CryptoModuleError("the store's objects are in slots that no module has")
    return [Row(_number(id), slot, blob) for id, slot, blob in rows]


def _number(id: int) -> int:
    if not 0 < id < 1 << 63:
        raise CryptoModuleError("the store's objects have numbers that no object has")
    return id


# --- the module ----------------------------------------------------------------------------------

_lock = threading.Lock()
_module: Module | None = None
_clients = Clients()
_rest: Service | None = None


@app.ecall(raises=[Refused])
def found(
    slots: int,
    policy: str,
    roots: list[tuple[str, str, str, str]],
    witness: bytes,
    founders: bytes,
) -> None:
    """Begin a new module.

    policy: to whom it is sealed, ``measurement`` or ``signer``. roots: family, name, PEM, subject
    of each that vouches for members besides the vendors. witness: public key of the one that keeps
    the counter; b"" where the host does. founders: who is to have which role, as a document.
    """
    if not 1 <= slots <= MAX_SLOTS:
        raise Refused(f"a module has 1 to {MAX_SLOTS} slots")
    seed = os.urandom(32) if witness else b""
    founding = Founding(tuple(Root(*root) for root in roots), witness, seed)
    with _refusing():
        said = parse_founders(founders)
        roles = Roles(os.urandom(16), **msgspec.structs.asdict(said))
        _vault(policy).found(slots, founding, roles)


@app.ecall(raises=[Refused])
def open_module(policy: str) -> Status:
    """Read everything that the host has kept, and find it whole and the newest."""
    global _module, _rest  # noqa: PLW0603  (an enclave has one module)
    with _lock:
        if _module is None:
            with _refusing():
                _module = Module(_vault(policy))
            threading.Thread(target=_hear, args=(_module,), name="news", daemon=True).start()
            _rest = Service(_module, _end)
    return status()


@app.ecall(raises=[Refused])
def status() -> Status:
    """What the module tells about itself."""
    module = _opened()
    head = module.vault.known
    return Status(
        slots=len(module.slots),
        objects=sum(len(slot.table) for slot in module.slots),
        connections=module.clients,
        audit_key=module.vault.audit_key,
        audit_seq=head.audit_seq,
        audit_hash=head.audit_hash,
    )


class Metrics(msgspec.Struct, frozen=True):
    """What the module has to do. bounds: ends of the buckets, in seconds."""

    connections: int
    sessions: int
    objects: int
    counts: Counts
    bounds: tuple[float, ...] = BOUNDS


@app.ecall(raises=[Refused])
def metrics() -> Metrics:
    """How much the module has to do, and what came of it; see `Tally`."""
    module = _opened()
    return Metrics(
        connections=module.clients,
        sessions=sum(slot.sessions[0] for slot in module.slots),
        objects=sum(len(slot.table) for slot in module.slots),
        counts=module.tally.counts(),
    )


# --- the domain ----------------------------------------------------------------------------------


class MemberStatus(msgspec.Struct, frozen=True):
    """A member of the domain. own: whether it is the platform that this enclave runs on."""

    id: bytes
    tee: str
    measurement: bytes
    own: bool


@app.ecall(raises=[Refused])
def members() -> list[MemberStatus]:
    """Whose enclaves may open the module."""
    vault = _opened().vault
    return [
        MemberStatus(one.id, one.tee, one.measurement, one.id == vault.member)
        for one in vault.known.members
    ]


@app.ecall(raises=[Refused])
def apply(policy: str, roots: list[tuple[str, str, str, str]]) -> tuple[bytes, bytes]:
    """See `membership.apply`: for an enclave that has not opened a module."""
    with _refusing():
        return membership.apply(
            context.guest(), _sealed_to(policy), tuple(Root(*root) for root in roots), _now()
        )


@app.ecall(raises=[Refused])
def admit(
    application: bytes, collateral: bytes, request: bytes = b"", approvals: bytes = b""
) -> bytes:
    """See `membership.admit`. collateral: JSON, b"" for none."""
    with _refusing():
        return membership.admit(
            _opened().vault,
            application,
            _collateral(collateral),
            context.guest(),
            _now(),
            (request, approvals),
        )


@app.ecall(raises=[Refused])
def accept(policy: str, pending: bytes, welcome: bytes, collateral: bytes) -> tuple[bytes, bytes]:
    """See `membership.accept`."""
    with _refusing():
        return membership.accept(
            pending,
            welcome,
            collateral=_collateral(collateral),
            guest=context.guest(),
            policy=_sealed_to(policy),
            at=_now(),
        )


@app.ecall(raises=[Refused])
def expel(member: bytes) -> None:
    """See `membership.expel`."""
    with _refusing():
        membership.expel(_opened().vault, member)


@app.ecall(raises=[Refused])
def rotate() -> int:
    """See `rotation.rotate`."""
    with _refusing():
        return rotation.rotate(_opened().vault)


def _collateral(data: bytes) -> Collateral:
    return collaterals.from_json(data) if data else collaterals.Collateral()


def _hear(module: Module) -> None:
    """Hear from the host what others have changed, at once; the vault looks for itself as well.

    On a thread of its own: those of calls may all wait for a change that waits for this.
    """
    heard = module.vault.known.epoch
    while heard >= 0:
        try:
            heard = store_news(heard, module.clients)
        except SecGearError:
            time.sleep(_PAUSE)
            continue
        module.vault.note(heard)


# --- clients of the host's socket ----------------------------------------------------------------


@app.connection(name="pkcs11", limit=MAX_CONNECTIONS)
def take(connection: Connection, note: bytes) -> None:
    """A client of the host's, whom it introduces by `note`."""
    who = INTRODUCTION.decode(note)
    client = Application(_opened(), who.actor[:160], initialised=who.version is not None)
    _clients.take(connection, who.version, partial(_answer, client), client.leave)


# --- clients of the attested channel -------------------------------------------------------------


@app.session(name="pkcs11")
def serve(session: Session) -> None:
    """A client that has verified this enclave: the first message is its version, then calls."""
    client = Application(_opened(), _actor(session)[:160])
    first = session.recv()
    version = first[0] if len(first) == 1 else -1
    if version not in (*VERSIONS, OWN):
        return
    try:
        for message in session:
            session.send(_answer(client, message, version))
    finally:
        client.leave()


@app.session(name="http")
def serve_http(session: Session) -> None:
    """The same for REST: the messages are pieces of streams of HTTP/1.1."""
    _opened()
    if _rest is not None:
        _rest.serve(session, _actor(session))


def _actor(session: Session) -> str:
    key = session.peer.key
    return f"key {key.hex()[:32]}" if key is not None else f"channel {session.peer.address}"


def _answer(client: Application, body: bytes, version: int) -> bytes:
    try:
        return answer(client, body, version)
    except CryptoModuleError as error:
        _end(error)


def _end(error: CryptoModuleError) -> NoReturn:
    _logger.error("the module starts again: %s", error)
    os._exit(TORN)


def _opened() -> Module:
    if _module is None:
        raise Refused("the module is not open")
    return _module


def _vault(policy: str) -> Vault:
    return Vault(
        _HostStore(),
        _counter,
        guest=context.guest(),
        policy=_sealed_to(policy),
        now=_now,
    )


def _sealed_to(policy: str) -> SealingPolicy:
    """What is measured, if the host means the same. Raises CryptoModuleError."""
    if policy != SEALED_TO.value:
        raise CryptoModuleError(f"this image seals to its {SEALED_TO.value}, not to its {policy}")
    return SEALED_TO


def _counter(founding: Founding) -> Counter:
    if founding.witness:
        return RemoteCounter(founding.seed, founding.witness, witness_exchange)
    return CallCounter(_COUNTER, counter_read, counter_advance)


def _now() -> datetime.datetime:
    """By the host's clock."""
    return datetime.datetime.now(datetime.UTC)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What goes wrong, as the administrator is told."""
    try:
        yield
    except SecGearError as error:
        raise Refused(f"{error.code}: {error}") from None
    except CryptokiError as error:
        raise Refused(f"the store does not do its work: CKR_{error.rv.name}") from None
