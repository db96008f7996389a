"""Backups under a quorum: everything comes back, in an empty module, or nothing does."""

from __future__ import annotations

import datetime
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from secgear.errors import CryptoRefused, EnvelopeError, Untrusted
from secgear.middleware import envelopes
from secgear.services.crypto.administration import Administration, inspected
from secgear.services.crypto.pkcs11.constants import Attr, Mech
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.roles import archive, custody
from secgear.services.crypto.roles.archive import digest_of
from secgear.services.crypto.roles.operations import MakeBackup, RestoreBackup, Zeroise
from secgear.services.crypto.token import backup as backups
from secgear.services.crypto.token import objects, restoring
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.roles import Phase
from tests.adversary.crypto_host import PIN, MemoryStore, connect
from tests.services.crypto.conftest import User, refusal, template
from tests.services.crypto.roles.people import PEOPLE
from tests.services.crypto.roles.world import (
    administered,
    approved,
    custodians,
    founded,
    opened,
    policy,
    released,
    with_token,
)

OTHER = b"o" * 16  # the module id of the restoring one
FOUNDERS = {"administrators": (PEOPLE["alice"], PEOPLE["frank"]), "threshold": 2}


def fetched(module: Module, threshold: int = 2) -> bytes:
    erin = administered(module, "backup-operator", "erin")
    request = erin.request(MakeBackup(threshold, custodians()), seconds=60)
    return b"".join(erin.backup(request, approved(request, "alice", "bob")))


@pytest.fixture(scope="module")
def source() -> tuple[MemoryStore, bytes, int, bytes]:
    """A module with keys, its backup, a key's handle, and something encrypted under that."""
    store = with_token(founded(2))
    module = opened(store)
    user = User(connect(module))
    key = user.aes(TOKEN=True, LABEL=b"kept")
    for _ in range(3):
        user.ec(TOKEN=True)
    sealed = user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    return store, fetched(module), key, sealed


@pytest.fixture
def target() -> MemoryStore:
    return founded(2, module=OTHER, **FOUNDERS)


def requested(module: Module, backup: bytes) -> tuple[Administration, bytes, list[bytes]]:
    manifest, _ = archive.read(io.BytesIO(backup))
    alice = administered(module)
    request = alice.request(RestoreBackup(digest_of(manifest).hex()), seconds=60)
    return alice, request, approved(request, "alice", "frank")


def begun(module: Module, backup: bytes) -> tuple[Administration, bytes, Iterator[bytes]]:
    manifest, records = archive.read(io.BytesIO(backup))
    alice, request, given = requested(module, backup)
    return alice, alice.begin_restoring(request, given, manifest), records


def restored(module: Module, backup: bytes, *names: str) -> dict[str, int]:
    alice, place, records = begun(module, backup)
    for name in names or ("one", "three"):
        missing = alice.send_share(released(backup, place, name))
    assert missing == 0
    return alice.restore(records)


def refused(function: Any, *arguments: Any) -> str:
    with pytest.raises(CryptoRefused) as error:
        function(*arguments)
    return str(error.value)


@pytest.mark.parametrize("names", [("one", "two"), ("three", "one")])
def test_everything_comes_back_in_another_module(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore, names: tuple[str, ...]
) -> None:
    store, backup, key, sealed = source
    assert restored(opened(target), backup, *names) == {"objects": 4, "slots": 2}
    module = opened(target)
    user = User(connect(module))
    assert user.run("Decrypt", Mech.AES_ECB, key, sealed) == bytes(16)
    assert user.find() == User(connect(opened(store.copy()))).find()
    one = user.get(key, Attr.UNIQUE_ID)
    assert one == User(connect(opened(store.copy()))).get(key, Attr.UNIQUE_ID)
    roles, before = module.vault.head.roles, opened(store.copy()).vault.head.roles
    assert roles == msgspec.structs.replace(before, module=OTHER, requests=())
    assert user.aes(TOKEN=True) not in user.find()[:-1]


def test_keys_of_the_two_modules_are_their_own(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    store, backup, *_ = source
    restored(opened(target), backup)
    one, other = opened(store.copy()).vault.head, opened(target).vault.head
    assert one.domain_key != other.domain_key
    assert one.audit_key != other.audit_key


def test_the_trail_goes_on_and_names_the_backup(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    _, backup, *_ = source
    before = len(target.records)
    restored(opened(target), backup)
    manifest, digest, _ = inspected(io.BytesIO(backup))
    told = [json.loads(record.body) for record in target.records[before:]]
    (done,) = [one for one in told if one["action"] == "module restored"]
    assert done["detail"]["backup"] == digest
    assert done["detail"]["its audit key"] == manifest.audit_key
    assert done["detail"]["its trail"] == f"{manifest.audit_seq}:{manifest.audit_hash}"
    module = opened(target)
    dave = administered(module, "auditor", "dave")
    assert len(list(dave.trail(module.vault.audit_key))) == len(target.records)


def test_a_restored_module_is_not_restored_again(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    _, backup, *_ = source
    module = opened(target)
    _, request, given = requested(module, backup)
    manifest, _ = archive.read(io.BytesIO(backup))
    restored(module, backup)
    alice = administered(module)
    assert "not open here" in refused(alice.begin_restoring, request, given, manifest)
    request = alice.request(RestoreBackup(digest_of(manifest).hex()), seconds=60)
    given = approved(request, "alice", "bob")
    assert "this one has tokens" in refused(alice.begin_restoring, request, given, manifest)


def test_a_request_for_one_backup_is_none_for_another(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    store, backup, *_ = source
    other = fetched(opened(store.copy()))
    alice, request, given = requested(opened(target), backup)
    manifest, _ = archive.read(io.BytesIO(other))
    said = refused(alice.begin_restoring, request, given, manifest)
    assert "something else than restoring this backup" in said


def test_shares_are_let_go_to_a_trusted_enclave_alone(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    store, backup, *_ = source
    _, place, _ = begun(opened(target), backup)
    with pytest.raises(Untrusted):
        released(backup, place, "one", policy(b"o" * 48))
    document = custody.parse_target(place)
    elsewhere = msgspec.structs.replace(document, module="00" * 16).to_bytes()
    with pytest.raises(EnvelopeError, match="not made for this context"):
        released(backup, elsewhere, "one")
    other = fetched(opened(store.copy()))
    assert "restores another backup" in refused(released, other, place, "one")


def test_wrong_shares_are_refused_one_by_one(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    store, backup, *_ = source
    alice, place, records = begun(opened(target), backup)
    first = next(records)
    assert "2 more shares" in refused(alice._asked, "S_RestorePiece", first)
    envelope = released(backup, place, "one")
    assert alice.send_share(envelope) == 1
    assert "opened before" in refused(alice.send_share, envelope)
    assert "one share is there twice" in refused(alice.send_share, released(backup, place, "one"))
    assert "1 more shares" in refused(alice._asked, "S_RestorePiece", first)
    assert "no share" in refused(alice.send_share, b"x" * 9000)
    assert "no share for this enclave" in refused(alice.send_share, envelope[:-1])
    # For another enclave's key, and of another backup.
    _, elsewhere, _ = begun(opened(founded(2, module=OTHER, **FOUNDERS)), backup)
    assert "no share for this enclave" in refused(
        alice.send_share, released(backup, elsewhere, "two")
    )
    other = fetched(opened(store.copy()))
    _, there, _ = begun(opened(founded(2, module=OTHER, **FOUNDERS)), other)
    assert "no share for this enclave" in refused(alice.send_share, released(other, there, "two"))
    assert alice.send_share(released(backup, place, "two")) == 0
    assert "enough shares" in refused(alice.send_share, released(backup, place, "three"))


def test_a_forged_share_opens_nothing_and_changes_nothing(
    source: tuple[MemoryStore, bytes, int, bytes],
    target: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, backup, *_ = source
    module = opened(target)
    alice, place, records = begun(module, backup)
    alice.send_share(released(backup, place, "one"))
    real = custody.open_share

    def forged(*arguments: Any) -> custody.Share:
        return msgspec.structs.replace(real(*arguments), part=bytes(32))

    monkeypatch.setattr(custody, "open_share", forged)
    alice.send_share(released(backup, place, "two"))
    assert "these shares are not its own" in refused(alice.restore, records)
    assert module.vault.head.roles.phase is Phase.OPEN
    monkeypatch.undo()
    assert restored(module, backup)["objects"] == 4


@pytest.mark.parametrize("damage", ["cut off", "changed", "another signature", "swapped"])
def test_a_damaged_backup_changes_nothing(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore, damage: str
) -> None:
    _, backup, *_ = source
    module = opened(target)
    alice, place, records = begun(module, backup)
    for name in ("one", "two"):
        alice.send_share(released(backup, place, name))
    pieces = list(records)
    match damage:
        case "cut off":
            del pieces[-2]
        case "changed":
            pieces[1] = pieces[1][:-1] + bytes((pieces[1][-1] ^ 1,))
        case "another signature":
            pieces[-1] = bytes(64)
        case "swapped":
            pieces[0], pieces[1] = pieces[1], pieces[0]
    refused(alice.restore, iter(pieces))
    head = module.vault.head
    assert head.roles.phase is Phase.OPEN
    assert not target.objects
    assert restored(module, backup)["objects"] == 4


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_restoration_that_ends_in_the_middle_leaves_a_module_that_is_shut(
    source: tuple[MemoryStore, bytes, int, bytes],
    target: MemoryStore,
    kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, backup, key, sealed = source
    monkeypatch.setattr(restoring, "_BATCH", 1)
    module = opened(target)
    alice, request, given = requested(module, backup)
    manifest, records = archive.read(io.BytesIO(backup))
    place = alice.begin_restoring(request, given, manifest)
    for name in ("one", "two"):
        alice.send_share(released(backup, place, name))
    real, changes = target.commit, 0

    def dies(change: Any) -> bool:
        nonlocal changes
        changes += 1
        if changes > kept:
            raise KeyboardInterrupt  # the enclave is killed
        return real(change)

    monkeypatch.setattr(target, "commit", dies)
    with pytest.raises(KeyboardInterrupt):
        alice.restore(records)
    monkeypatch.setattr(target, "commit", real)
    module = opened(target)
    assert module.vault.head.roles.phase is Phase.RESTORING
    assert refusal(connect(module).call, "C_OpenSession", 0, 6) is Rv.TOKEN_NOT_PRESENT
    # The same request is still good, from the beginning.
    alice = administered(module)
    _, records = archive.read(io.BytesIO(backup))
    place = alice.begin_restoring(request, given, manifest)
    for name in ("one", "two"):
        alice.send_share(released(backup, place, name))
    assert alice.restore(records) == {"objects": 4, "slots": 2}
    user = User(connect(opened(target)))
    assert user.run("Decrypt", Mech.AES_ECB, key, sealed) == bytes(16)


def test_what_was_in_the_module_before_is_not_in_it_afterwards(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    store, backup, *_ = source
    module = opened(target)
    stranger = User(connect(module), login=False)
    for _ in range(8):  # anybody may, on a token that nobody has initialised
        stranger.call("C_CreateObject", template(CLASS=0, TOKEN=True, PRIVATE=False))
    restored(module, backup)
    assert User(connect(opened(target))).find() == User(connect(opened(store.copy()))).find()


def test_two_restorations_at_once_do_not_mix(
    source: tuple[MemoryStore, bytes, int, bytes],
    target: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The later one begins while objects of the other are put in, and is the one that counts."""
    small = with_token(founded(2))
    User(connect(opened(small))).aes(TOKEN=True)
    module = opened(target)
    monkeypatch.setattr(restoring, "_BATCH", 1)
    real, begun_first, put_second, ended = restoring._batches, *(threading.Event() for _ in "abc")

    def batches(objects: list[Any]) -> Iterator[list[Any]]:
        for at, batch in enumerate(real(objects)):
            if at == 1:
                begun_first.set()
                assert put_second.wait(30)
            yield batch
        if len(objects) == 1:
            put_second.set()
            assert ended.wait(30)

    monkeypatch.setattr(restoring, "_batches", batches)
    ready = []
    for backup in (source[1], fetched(opened(small))):
        alice, place, records = begun(module, backup)
        for name in ("one", "two"):
            alice.send_share(released(backup, place, name))
        ready.append((alice, records))
    said: list[str] = []

    def first() -> None:
        alice, records = ready[0]
        said.append(refused(alice.restore, records))
        ended.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert begun_first.wait(30)
    alice, records = ready[1]
    assert alice.restore(records) == {"objects": 1, "slots": 2}
    thread.join(30)
    assert "by somebody else meanwhile" in said[0]
    assert len(target.objects) == 1


def test_who_was_there_before_a_restoration_is_not_there_during_it(
    source: tuple[MemoryStore, bytes, int, bytes],
    target: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call that was let in before the module was shut puts nothing among the backup's objects."""
    _, backup, *_ = source
    module = opened(target)
    stranger = Application(module, "stranger", initialised=True)
    session = stranger.open_session(module.slots[0], 6)
    item = objects.create(template(CLASS=0, TOKEN=True, PRIVATE=False), so=False)
    real = restoring._batches

    def batches(found: list[Any]) -> Iterator[list[Any]]:
        event = Event("object made", "stranger")
        with pytest.raises(CryptokiError):
            module.slots[0].keep([item], event, session.generation)
        yield from real(found)

    monkeypatch.setattr(restoring, "_batches", batches)
    assert restored(module, backup)["objects"] == 4
    assert len(target.objects) == 4


def test_a_module_that_is_shut_can_be_given_up(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    module = opened(target)
    roles = msgspec.structs.replace(module.vault.head.roles, phase=Phase.RESTORING)
    module.vault.transact(lambda draft: draft.alter(roles=roles))
    alice = administered(module)
    request = alice.request(Zeroise(), seconds=60)
    alice.execute(request, approved(request, "alice", "frank"))
    assert alice.standing().phase == "zeroised"


def test_a_module_with_fewer_slots_says_what_it_takes(
    source: tuple[MemoryStore, bytes, int, bytes],
) -> None:
    _, backup, *_ = source
    module = opened(founded(1, module=OTHER, **FOUNDERS))
    assert "the backup has 2 slots and this module 1" in refused(restored, module, backup)
    assert module.vault.head.roles.phase is Phase.OPEN


def test_a_backup_is_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "_PIECE", 1)  # an object a record
    module = opened(with_token(founded(1)))
    user = User(connect(module))
    keys = [user.aes(TOKEN=True) for _ in range(3)]
    erin = administered(module, "backup-operator", "erin")
    request = erin.request(MakeBackup(2, custodians()), seconds=60)
    pieces = erin.backup(request, approved(request, "alice", "bob"))
    written = [next(pieces), next(pieces)]
    user.call("C_DestroyObject", keys[2])
    user.aes(TOKEN=True)
    backup = b"".join([*written, *pieces])
    target = founded(1, module=OTHER, **FOUNDERS)
    assert restored(opened(target), backup)["objects"] == 3
    assert User(connect(opened(target))).find() == keys


def test_a_backup_is_fetched_in_order_by_who_has_begun_it(
    source: tuple[MemoryStore, bytes, int, bytes],
) -> None:
    module = opened(source[0].copy())
    erin = administered(module, "backup-operator", "erin")
    assert "no backup was begun" in refused(erin._asked, "S_BackupPiece", 0)
    request = erin.request(MakeBackup(2, custodians()), seconds=60)
    given = approved(request, "alice", "bob")
    pieces = erin.backup(request, given)
    next(pieces)
    assert "the next piece of the backup is 0" in refused(erin._asked, "S_BackupPiece", 1)
    assert "was executed" in refused(lambda: next(erin.backup(request, given)))
    other = administered(module, "backup-operator", "erin")
    assert "no backup was begun" in refused(other._asked, "S_BackupPiece", 0)


def test_an_empty_module_is_backed_up_and_restored() -> None:
    store = founded(1)
    backup = fetched(opened(store))
    target = founded(1, module=OTHER, **FOUNDERS)
    assert restored(opened(target), backup) == {"objects": 0, "slots": 1}
    assert administered(opened(target), name="bob").standing().threshold == 2


def test_a_backup_shows_nothing_that_is_secret(
    source: tuple[MemoryStore, bytes, int, bytes],
) -> None:
    store, backup, *_ = source
    head = opened(store.copy()).vault.head
    for secret in (head.domain_key, head.audit_key, b"kept", head.tokens[0].user.digest):
        assert secret not in backup
    manifest, digest, _ = inspected(io.BytesIO(backup))
    assert manifest.threshold == 2
    assert [one.custodian for one in manifest.shares] == ["one", "two", "three"]
    assert len(digest) == 64


def test_a_pin_of_before_is_the_pin_of_afterwards(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    restored(opened(target), source[1])
    user = User(connect(opened(target)), login=False)
    assert refusal(user.call, "C_Login", 1, b"wrong") is Rv.PIN_INCORRECT
    user.call("C_Login", 1, PIN)


def test_a_share_needs_its_purpose_and_backup(
    source: tuple[MemoryStore, bytes, int, bytes], target: MemoryStore
) -> None:
    from tests.services.crypto.roles.world import VENDOR

    _, backup, *_ = source
    alice, place, _ = begun(opened(target), backup)
    now = datetime.datetime.now(datetime.UTC)
    document = custody.parse_target(place)
    trusted = envelopes.verify_key(document.key, policy(), at=now, anchors=VENDOR.anchors)
    share = custody.Share(bytes(16), 1, bytes(32)).to_bytes()
    digest = bytes.fromhex(document.backup)
    for data, associated, said in (
        (share, digest, "belongs to another backup"),
        (b"short", digest, "is no share"),
        (share, b"", "no share for this enclave"),
    ):
        envelope = envelopes.seal(trusted, data, purpose=custody.PURPOSE, associated=associated)
        assert said in refused(alice.send_share, bytes(envelope))
