"""The module's state in the hands of a host that loses, keeps back, changes and rolls back."""

from __future__ import annotations

import json

import pytest

from secgear.base.tee import SealingPolicy
from secgear.errors import CryptoModuleError, RolledBack, SealedForOther
from secgear.services.crypto.pkcs11.constants import Attr
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.state import Row
from secgear.services.crypto.trail import Verifier
from tests.adversary.crypto_host import (
    MemoryGuest,
    MemoryStore,
    connect,
    open_module,
    vault_of,
)
from tests.services.crypto.conftest import User, refusal


def reopened(store: MemoryStore) -> User:
    return User(connect(open_module(store)))


def test_everything_comes_back_as_it_was(store: MemoryStore) -> None:
    user = reopened(store)
    key = user.aes(TOKEN=True, LABEL=b"kept", ALLOWED_MECHANISMS=(0x1081, 0x1087))
    _, private = user.ec(TOKEN=True, EXTRACTABLE=True, SENSITIVE=False)
    value = user.get(private, Attr.VALUE)
    sealed = user.run("Encrypt", 0x1081, key, bytes(16))
    user.aes(LABEL=b"of the session")
    user = reopened(store)
    assert user.find() == [key, private]  # the public key was the session's
    assert user.get(key, Attr.ALLOWED_MECHANISMS) == (0x1081, 0x1087)
    assert user.get(private, Attr.VALUE) == value
    assert user.run("Decrypt", 0x1081, key, sealed) == bytes(16)


def test_a_change_that_the_host_refuses_has_not_happened(store: MemoryStore) -> None:
    user = reopened(store)
    key = user.aes(TOKEN=True, LABEL=b"before")
    store.refuse = True
    assert refusal(user.aes, TOKEN=True) is Rv.DEVICE_ERROR
    assert refusal(user.set, key, LABEL=b"after") is Rv.DEVICE_ERROR
    assert refusal(user.call, "C_DestroyObject", key) is Rv.DEVICE_ERROR
    assert user.find() == [key]
    assert user.get(key, Attr.LABEL) == b"before"
    store.refuse = False
    user.set(key, LABEL=b"after")
    other = user.aes(TOKEN=True)
    assert reopened(store).find() == [key, other]


def test_a_change_that_is_kept_counts_whatever_the_host_says(store: MemoryStore) -> None:
    user = reopened(store)
    store.forget = True
    key = user.aes(TOKEN=True)
    assert user.find() == [key]
    store.forget = False
    assert reopened(store).find() == [key]


def test_a_counter_that_does_not_move_ends_the_module_before_anything_is_acknowledged(
    store: MemoryStore,
) -> None:
    user = reopened(store)
    store.stuck = True
    with pytest.raises(CryptoModuleError, match="not counted"):
        user.aes(TOKEN=True)
    assert refusal(user.aes, TOKEN=True) is Rv.DEVICE_ERROR
    store.stuck = False
    assert len(reopened(store).find()) == 1


def test_an_older_state_is_refused(store: MemoryStore) -> None:
    older = store.copy()
    reopened(store).aes(TOKEN=True)
    older.value, older.mark = store.value, store.mark
    with pytest.raises(RolledBack):
        open_module(older)


def test_failed_logins_can_not_be_rolled_back(store: MemoryStore) -> None:
    older = store.copy()
    caller = connect(open_module(store))
    session = caller.one("C_OpenSession", 0, 6)
    assert refusal(caller.call, "C_Login", session, 1, b"wrong") is Rv.PIN_INCORRECT
    older.value, older.mark = store.value, store.mark
    with pytest.raises(RolledBack):
        open_module(older)


def change_blob(store: MemoryStore) -> None:
    first, row = next(iter(store.objects.items()))
    store.objects[first] = Row(row.id, row.slot, row.blob[:-1] + bytes([row.blob[-1] ^ 1]))


def swap_blobs(store: MemoryStore) -> None:
    one, two = list(store.objects)[:2]
    a, b = store.objects[one], store.objects[two]
    store.objects[one], store.objects[two] = (
        Row(one, a.slot, b.blob),
        Row(two, b.slot, a.blob),
    )


def move_slot(store: MemoryStore) -> None:
    first, row = next(iter(store.objects.items()))
    store.objects[first] = Row(row.id, 1, row.blob)


def remove_one(store: MemoryStore) -> None:
    del store.objects[next(iter(store.objects))]


def short_blob(store: MemoryStore) -> None:
    first, row = next(iter(store.objects.items()))
    store.objects[first] = Row(row.id, row.slot, b"")


@pytest.mark.parametrize("lie", [change_blob, swap_blobs, move_slot, remove_one, short_blob])
def test_objects_that_are_not_as_they_were_are_refused(store: MemoryStore, lie) -> None:  # type: ignore[no-untyped-def]
    user = reopened(store)
    user.aes(TOKEN=True)
    user.aes(TOKEN=True)
    lie(store)
    with pytest.raises(CryptoModuleError):
        open_module(store)


def test_an_older_state_of_one_object_is_refused(store: MemoryStore) -> None:
    user = reopened(store)
    key = user.aes(TOKEN=True, LABEL=b"old")
    user.aes(TOKEN=True)
    older = store.objects[key >> 1]
    user.set(key, LABEL=b"new")
    store.objects[key >> 1] = older
    with pytest.raises(CryptoModuleError, match="brought"):
        open_module(store)


def test_a_destroyed_object_can_not_be_brought_back(store: MemoryStore) -> None:
    user = reopened(store)
    key = user.aes(TOKEN=True)
    kept = store.objects[key >> 1]
    user.call("C_DestroyObject", key)
    store.objects[key >> 1] = kept
    with pytest.raises(CryptoModuleError, match="brought"):
        open_module(store)


def test_objects_out_of_order_are_refused(store: MemoryStore) -> None:
    reopened(store).aes(TOKEN=True)
    (row,) = store.objects.values()
    store.rows = lambda after: [row]  # type: ignore[method-assign]  # for ever
    with pytest.raises(CryptoModuleError, match="out of order"):
        open_module(store)


def test_another_enclave_reads_nothing(store: MemoryStore) -> None:
    with pytest.raises(SealedForOther):
        Module(vault_of(store, MemoryGuest("another")))
    for nonsense in (b"x", b"x" * 100, bytes(100)):
        store.sealed = nonsense
        with pytest.raises(CryptoModuleError, match="head was changed"):
            open_module(store)


def test_a_module_is_founded_once(store: MemoryStore) -> None:
    with pytest.raises(CryptoModuleError, match="already"):
        vault_of(store).found(1)
    with pytest.raises(CryptoModuleError, match="no module"):
        open_module(MemoryStore())


def test_secrets_are_in_nothing_that_the_host_keeps(store: MemoryStore) -> None:
    user = reopened(store)
    secret = b"planted secret of 32 bytes long!"
    user.secret(secret, TOKEN=True, LABEL=b"planted label", SENSITIVE=False, EXTRACTABLE=True)
    kept = store.sealed + b"".join(row.blob for row in store.objects.values())
    kept += b"".join(record.body for record in store.records)
    assert secret not in kept
    assert b"user-pin-1234" not in kept
    # A control that would find it: the label is meant to be in the trail.
    assert b"planted label" in kept


def test_the_trail_tells_who_did_what(store: MemoryStore) -> None:
    module = open_module(store)
    before = len(store.records)
    user = User(connect(module, "alice"))
    key = user.aes(TOKEN=True, LABEL=b"k", EXTRACTABLE=True, SENSITIVE=False)
    outer = user.aes(TOKEN=True, WRAP=True)
    user.call("C_WrapKey", _mechanism(), outer, key, 100)
    user.set(key, LABEL=b"renamed")
    user.call("C_DestroyObject", key)
    bodies = [json.loads(record.body) for record in store.records[before:]]
    assert [body["action"] for body in bodies] == [
        "login attempted", "login", "key generated", "key generated", "key wrapped",
        "object changed", "object destroyed",
    ]  # fmt: skip
    assert {body["actor"] for body in bodies} == {"alice"}
    assert bodies[2]["detail"]["label"] == "k"
    verifier = Verifier(module.vault.audit_key)
    verifier.follow((r.seq, r.body, r.hash, r.signature) for r in store.records)
    assert verifier.end().seq == len(store.records) == module.vault.head.audit_seq


@pytest.mark.parametrize("lie", ["changed", "removed", "swapped", "unsigned", "renumbered"])
def test_a_trail_that_was_touched_does_not_verify(store: MemoryStore, lie: str) -> None:
    module = open_module(store)
    rows = [(r.seq, r.body, r.hash, r.signature) for r in store.records]
    match lie:
        case "changed":
            seq, body, digest, signature = rows[2]
            rows[2] = (seq, body.replace(b"test", b"best"), digest, signature)
        case "removed":
            del rows[1]
        case "swapped":
            rows[1], rows[2] = rows[2], rows[1]
        case "unsigned":
            rows[-1] = (*rows[-1][:3], b"")
        case "renumbered":
            rows[1] = (7, *rows[1][1:])
    verifier = Verifier(module.vault.audit_key)
    with pytest.raises(CryptoModuleError, match="audit"):
        _verified(verifier, rows)


def _verified(verifier: Verifier, rows: list[tuple[int, bytes, bytes, bytes]]) -> None:
    verifier.follow(rows)
    verifier.end()


def _mechanism() -> object:
    from secgear.services.crypto.pkcs11.constants import Mech
    from secgear.services.crypto.pkcs11.mechanism import Mechanism

    return Mechanism(Mech.AES_KEY_WRAP_KWP)


def test_a_credential_for_a_signer_opens_nothing_that_is_sealed_to_a_measurement() -> None:
    """The host signs the image itself, and has a module that another program has made for it."""
    store = MemoryStore()
    made = vault_of(store)
    made.policy = SealingPolicy.SIGNER
    made.found(1)
    with pytest.raises(SealedForOther):
        open_module(store)
