"""A backup on its way in: shares from custodians, records, and at last one decision.

Nothing of the backup is believed, nor read further than to decrypt it, before all of it is there
and the signature of the module that made it verifies. It is put in with the module shut: whoever
kills the enclave meanwhile leaves a module that is shut, and is restored again from the beginning.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any, Final, final

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.errors import CryptoRefused, EnvelopeError
from secgear.middleware import envelopes
from secgear.services.crypto.pkcs11.rv import CryptokiError
from secgear.services.crypto.roles import custody
from secgear.services.crypto.roles.archive import Check, digest_of
from secgear.services.crypto.roles.custody import PURPOSE, Share
from secgear.services.crypto.roles.operations import RestoreBackup
from secgear.services.crypto.token import authority
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.authority import Authorised
from secgear.services.crypto.token.backup import CONTENTS, OBJECTS, Contents
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.governing import decided
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.objects import Object, unpack
from secgear.services.crypto.token.roles import Phase
from secgear.services.crypto.token.splitting import combine
from secgear.services.crypto.token.state import Head, TokenState

MAX_TOTAL: Final = 1 << 30  # bytes of a backup's records, which wait in memory for its end
_BATCH: Final = 8 << 20  # bytes of objects that one change puts in
_ENVELOPE: Final = 8 << 10  # bytes of a share's


@final
class Restoration:
    """One backup, for one administrator's connection.

    Its key pair lives here; shares are sealed to it, once its evidence was verified.
    """

    def __init__(self, app: Application, request: bytes, approvals: bytes, manifest: bytes) -> None:
        """Raises CryptoRefused unless the request is for this backup, and the module empty."""
        self._request, self._approvals = request, approvals
        self._check = Check(manifest)
        self._digest = digest_of(manifest)
        head = app.module.vault.head
        done = self._fitting(head, authority.authorise(
            head.roles, app.badge, request, approvals, now=app.module.vault.now()
        ))  # fmt: skip
        self._module = done.roles.module
        self._pair = envelopes.EnclaveKeyPair.create(
            purposes=[PURPOSE],
            context=custody.restoring_at(self._module, self._digest),
            guest=app.module.vault.guest,
        )
        self._ledger = envelopes.MemoryLedger()
        self._shares: list[Share] = []
        self._cipher: AESGCM | None = None
        self._plain: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return "<Restoration>"

    @property
    def target(self) -> bytes:
        """The public key with evidence, for the custodians: the document of `custody.Target`."""
        return custody.Target(
            module=self._module.hex(), backup=self._digest.hex(), key=self._pair.key.to_cbor()
        ).to_bytes()

    def share(self, envelope: bytes) -> int:
        """Take a custodian's share. Returns how many more it takes. Raises CryptoRefused."""
        if self._cipher is not None:
            raise CryptoRefused("there are enough shares already")
        manifest = self._check.manifest
        if len(envelope) > _ENVELOPE:
            raise CryptoRefused("this is no share")
        try:
            data = envelopes.open(
                self._pair,
                envelope,
                purpose=PURPOSE,
                associated=self._digest,
                ledger=self._ledger,
            )
        except EnvelopeError as error:
            raise CryptoRefused(f"this is no share for this enclave: {error}") from None
        share = Share.from_bytes(bytes(data))
        if share.index > len(manifest.shares):
            raise CryptoRefused("the backup has no such share")
        backup = bytes.fromhex(manifest.id)
        shares = [*self._shares, share]
        combine(shares, backup, threshold=1)  # refuses what does not belong together
        self._shares = shares
        missing = manifest.threshold - len(shares)
        if not missing:
            self._cipher = AESGCM(combine(shares, backup, threshold=manifest.threshold))
            self._shares = []
            self._pair.close()
        return missing

    def piece(self, record: bytes) -> None:
        """Take the next record. Raises CryptoRefused."""
        if self._cipher is None:
            missing = self._check.manifest.threshold - len(self._shares)
            raise CryptoRefused(f"{missing} more shares are needed first")
        self._size += len(record)
        if self._size > MAX_TOTAL:
            raise CryptoRefused(f"the backup has more than {MAX_TOTAL} bytes")
        self._plain.append(self._check.opened(record, self._cipher)[0])

    def end(self, app: Application, signature: bytes) -> dict[str, Any]:
        """Take over everything. Returns what was taken over, in numbers. Raises CryptoRefused."""
        self._check.finish(signature)
        contents, objects = _read(self._plain)
        vault = app.module.vault
        slots = len(vault.head.tokens)
        used = len(contents.tokens)
        if used > slots:
            raise CryptoRefused(f"the backup has {used} slots and this module {slots}")

        run = os.urandom(16)  # who shuts the module later puts in what is its own alone

        def shut(draft: Draft) -> None:
            roles = draft.head.roles
            self._fitting(draft.head, authority.authorise(
                roles, app.badge, self._request, self._approvals, now=vault.now()
            ))  # fmt: skip
            for slot in range(len(draft.head.tokens)):
                draft.clear(slot)
            draft.alter(
                roles=msgspec.structs.replace(roles, phase=Phase.RESTORING, restoration=run),
                # Nobody who was there before puts anything in, even if a call is under way.
                tokens=tuple(_settled(token, None) for token in draft.head.tokens),
            )
            draft.record(
                Event("restoration begun", app.actor, None, {"backup": self._digest.hex()})
            )

        vault.transact(shut)
        for batch in _batches(objects):
            vault.transact(functools.partial(_put, batch=batch, run=run))

        def settle(draft: Draft) -> None:
            _check_run(draft, run)
            self._fitting(draft.head, decided(app, draft, self._request, self._approvals))
            own = draft.head.roles.module
            draft.alter(
                roles=msgspec.structs.replace(contents.roles, module=own, requests=()),
                tokens=tuple(
                    _settled(old, contents.tokens[at] if at < used else None)
                    for at, old in enumerate(draft.head.tokens)
                ),
                next_id=max(draft.head.next_id, contents.next_id),
            )
            draft.record(Event("module restored", app.actor, None, self._told(len(objects))))

        vault.transact(settle)
        return {"objects": len(objects), "slots": used}

    def _fitting(self, head: Head, done: Authorised) -> Authorised:
        """Whether what is authorised is this restoration, here. Raises CryptoRefused."""
        if done.operation != RestoreBackup(self._digest.hex()):
            raise CryptoRefused("the request is for something else than restoring this backup")
        if head.roles.phase is Phase.OPEN and any(token.so for token in head.tokens):
            raise CryptoRefused("a backup is restored to a new module; this one has tokens")
        return done

    def _told(self, objects: int) -> dict[str, str | int | bool]:
        manifest = self._check.manifest
        return {
            "backup": self._digest.hex(),
            "of module": manifest.module,
            "its audit key": manifest.audit_key,
            "its trail": f"{manifest.audit_seq}:{manifest.audit_hash}",
            "objects": objects,
        }


def _read(plain: list[bytes]) -> tuple[Contents, list[tuple[int, bytes, Object]]]:
    """What the records hold: objects with their slots and sizes. Raises CryptoRefused."""
    try:
        contents = CONTENTS.decode(plain[0])
        objects = [
            (slot, packed, unpack(packed))
            for piece in plain[1:]
            for slot, packed in OBJECTS.decode(piece)
        ]
    except (msgspec.DecodeError, CryptokiError, ValueError, TypeError, KeyError) as error:
        kind = type(error).__name__  # no text: it may quote what is secret
        raise CryptoRefused(
            f"what the backup holds can't be read by this version: {kind}"
        ) from None
    ids = {item.id for _, _, item in objects}
    whole = len(ids) == len(objects) == contents.objects
    if not whole or any(not 0 <= slot < len(contents.tokens) for slot, _, _ in objects):
        raise CryptoRefused("what the backup holds does not fit together")
    return contents, objects


def _batches(
    objects: list[tuple[int, bytes, Object]],
) -> Iterator[list[tuple[int, bytes, Object]]]:
    batch: list[tuple[int, bytes, Object]] = []
    size = 0
    for one in objects:
        batch.append(one)
        size += len(one[1])
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _check_run(draft: Draft, run: bytes) -> None:
    roles = draft.head.roles
    if roles.phase is not Phase.RESTORING or roles.restoration != run:
        raise CryptoRefused("the module was restored or zeroised by somebody else meanwhile")


def _put(draft: Draft, batch: list[tuple[int, bytes, Object]], run: bytes) -> None:
    _check_run(draft, run)
    for slot, _, item in batch:
        draft.put(slot, item)
    draft.alter(next_id=max(draft.head.next_id, *(item.id + 1 for _, _, item in batch)))


def _settled(old: TokenState, new: TokenState | None) -> TokenState:
    generation = old.generation + 1
    if new is None:
        return msgspec.structs.replace(old, generation=generation)
    return msgspec.structs.replace(new, generation=max(generation, new.generation + 1))
