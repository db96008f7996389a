"""The cryptographic module's program inside the TEE: everything in this file and below `token`.

The host carries messages in, keeps what it can't read, and is believed in nothing. Clients that
come through the attested channel are heard by this program alone; of those that come by the host's
own socket the host hears every word.
"""

from __future__ import annotations

import datetime
import itertools
import logging
import os
import threading
from typing import Final

import msgspec

from secgear import App, Session
from secgear.base import context
from secgear.base.tee import SealingPolicy
from secgear.errors import CryptoModuleError, SecGearError
from secgear.middleware.sealing import CallCounter
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.buffer import OWN, VERSIONS
from secgear.services.crypto.rpc.frames import MAX_BODY
from secgear.services.crypto.rpc.messages import build_error
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.dispatch import answer
from secgear.services.crypto.token.module import MAX_SLOTS, Module
from secgear.services.crypto.token.state import Change, Row
from secgear.services.crypto.token.vault import Vault

app = App(
    "secgear-crypto",
    version="0.1",
    product="secgear-crypto",
    requires=["cbor2", "cryptography", "msgspec"],
    threads=16,
    log="warning",
)
app.sessions.configure(limit=1024, per_client=256, idle=3600.0)

MAX_CONNECTIONS: Final = 4096
TORN: Final = 70
"""Exit status when what is kept and what is known have come apart: the next start reads it anew."""
_COUNTER: Final = b"secgear crypto counter v1"
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
def store_commit(
    head: bytes,
    put: list[tuple[int, int, bytes]],
    gone: list[int],
    records: list[tuple[int, bytes, bytes, bytes]],
) -> None:
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


class _HostStore:
    """`Store`, by OCALLs."""

    def head(self) -> bytes:
        return store_head()

    def rows(self, after: int) -> list[Row]:
        return [Row(*row) for row in store_rows(after)]

    def commit(self, change: Change) -> None:
        store_commit(
            change.head,
            [(row.id, row.slot, row.blob) for row in change.put],
            list(change.delete),
            [(one.seq, one.body, one.hash, one.signature) for one in change.records],
        )


# --- the module ----------------------------------------------------------------------------------

_lock = threading.Lock()
_module: Module | None = None
_connections: dict[int, Application] = {}
_numbers = itertools.count(1)


@app.ecall(raises=[Refused])
def found(slots: int, policy: str) -> None:
    """Begin a new module. policy: to whom it is sealed, ``measurement`` or ``signer``."""
    if not 1 <= slots <= MAX_SLOTS:
        raise Refused(f"a module has 1 to {MAX_SLOTS} slots")
    try:
        _vault(policy).found(slots)
    except SecGearError as error:
        raise Refused(f"{error.code}: {error}") from None


@app.ecall(raises=[Refused])
def open_module(policy: str) -> Status:
    """Read everything that the host has kept, and find it whole and the newest."""
    global _module  # noqa: PLW0603  (an enclave has one module)
    with _lock:
        if _module is None:
            try:
                _module = Module(_vault(policy))
            except SecGearError as error:
                raise Refused(f"{error.code}: {error}") from None
    return status()


@app.ecall(raises=[Refused])
def status() -> Status:
    """What the module tells about itself."""
    module = _opened()
    head = module.vault.head
    return Status(
        slots=len(module.slots),
        objects=sum(len(slot.table) for slot in module.slots),
        connections=len(_connections),
        audit_key=module.vault.audit_key,
        audit_seq=head.audit_seq,
        audit_hash=head.audit_hash,
    )


# --- clients of the host's socket ----------------------------------------------------------------


@app.ecall(raises=[Refused])
def connect(actor: str, resumed: bool) -> int:
    """A client of the host's: the number of its connection.

    actor: who it is, as the host tells. resumed: it was connected to an enclave before this one,
    and has called C_Initialize there.
    """
    with _lock:
        if len(_connections) >= MAX_CONNECTIONS:
            raise Refused("too many connections")
        number = next(_numbers)
        _connections[number] = Application(_opened(), actor[:160], initialised=resumed)
    return number


@app.ecall
def exchange(connection: int, version: int, body: bytes) -> bytes:
    """The answer to one message of a client. The hot path: whoever calls it decides how."""
    client = _connections.get(connection)
    if client is None or version not in (*VERSIONS, OWN) or len(body) > MAX_BODY:
        return build_error(Rv.DEVICE_ERROR)
    return _answer(client, body, version)


@app.ecall
def disconnect(connection: int) -> None:
    """A client is gone, and everything it did not put on a token."""
    with _lock:
        client = _connections.pop(connection, None)
    if client is not None:
        client.leave()


# --- clients of the attested channel -------------------------------------------------------------


@app.session(name="pkcs11")
def serve(session: Session) -> None:
    """A client that has verified this enclave: the first message is its version, then calls."""
    key = session.peer.key
    name = f"key {key.hex()[:32]}" if key is not None else f"channel {session.peer.address}"
    client = Application(_opened(), name[:160])
    first = session.recv()
    version = first[0] if len(first) == 1 else -1
    if version not in (*VERSIONS, OWN):
        return
    try:
        for message in session:
            session.send(_answer(client, message, version))
    finally:
        client.leave()


def _answer(client: Application, body: bytes, version: int) -> bytes:
    try:
        return answer(client, body, version)
    except CryptoModuleError as error:
        _logger.error("the module starts again: %s", error)
        os._exit(TORN)


def _opened() -> Module:
    if _module is None:
        raise Refused("the module is not open")
    return _module


def _vault(policy: str) -> Vault:
    return Vault(
        _HostStore(),
        CallCounter(_COUNTER, counter_read, counter_advance),
        guest=context.guest(),
        policy=SealingPolicy(policy),
        now=lambda: datetime.datetime.now(datetime.UTC),
    )
