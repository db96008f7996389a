"""Another domain key: everything under it in the end, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest

from secgear.errors import CryptoModuleError, CryptoRefused, ServiceError
from secgear.services.crypto.pkcs11.constants import Attr, Mech
from secgear.services.crypto.pkcs11.rv import CryptokiError
from secgear.services.crypto.roles.operations import ExpelMember
from secgear.services.crypto.token import keyring, membership, rotation
from secgear.services.crypto.token.keyring import Keyring
from secgear.services.crypto.token.state import Change, Member, MemberRow
from secgear.services.crypto.trail import Verifier
from tests.adversary.crypto_host import MemoryGuest, MemoryStore, connect, open_module, vault_of
from tests.services.crypto.conftest import User
from tests.services.crypto.roles.world import decided, founded, opened


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "_STEP", 2)


def generations(store: MemoryStore) -> set[int]:
    return {keyring.generation_of(row.blob) for row in store.objects.values()} | {
        keyring.generation_of(store.sealed)
    }


def filled(store: MemoryStore, count: int = 5) -> tuple[User, list[int]]:
    user = User(connect(open_module(store)))
    return user, [user.aes(TOKEN=True, LABEL=b"%d" % at) for at in range(count)]


def test_everything_is_under_the_new_key_and_the_old_one_opens_nothing(store: MemoryStore) -> None:
    _, keys = filled(store)
    module = open_module(store)
    old = Keyring.of(module.vault.known)
    user = User(connect(module))
    sealed = user.run("Encrypt", Mech.AES_ECB, keys[0], bytes(16))
    assert generations(store) == {1}
    assert rotation.rotate(module.vault) == 2
    assert generations(store) == {2}
    assert module.vault.known.older == ()
    for blob in (store.sealed, *(row.blob for row in store.objects.values())):
        with pytest.raises(KeyError):
            old.open(blob, b"")
    assert user.run("Decrypt", Mech.AES_ECB, keys[0], sealed) == bytes(16)
    again = User(connect(open_module(store)))
    assert again.find() == keys
    assert again.run("Decrypt", Mech.AES_ECB, keys[0], sealed) == bytes(16)
    assert rotation.rotate(open_module(store).vault) == 3
    assert generations(store) == {3}


def test_large_objects_are_not_renewed_all_at_once(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, keys = filled(store)
    monkeypatch.setattr(rotation, "_STEP", 100)
    monkeypatch.setattr(rotation, "_SIZE", 1)
    before = store.changes
    rotation.rotate(open_module(store).vault)
    assert store.changes == before + 2 + len(keys)
    assert generations(store) == {2}


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("how", ["refused", "kept"])
def test_an_interrupted_rotation_goes_on_where_it_was(
    store: MemoryStore, step: int, how: str
) -> None:
    """how: the enclave ends before the step is stored, or when it is and nobody has counted it."""
    _, keys = filled(store)
    steps, commit = [], store.commit

    def interrupted(change: Change) -> bool:
        steps.append(change)
        if len(steps) == step + 1:
            if how == "kept":
                assert commit(change)
                store.stuck = True
                return True
            raise ServiceError("the disk is full")
        return commit(change)

    store.commit = interrupted  # type: ignore[method-assign]
    if step < 5:
        with pytest.raises((CryptokiError, CryptoModuleError)):
            rotation.rotate(open_module(store).vault)
    else:  # it takes five: begun, three times two objects, ended
        assert rotation.rotate(open_module(store).vault) == 2
    store.commit, store.stuck = commit, False  # type: ignore[method-assign]
    user = User(connect(open_module(store)))
    assert user.find() == keys
    user.set(keys[4], LABEL=b"changed in between")
    ended = step == 5 or (step == 4 and how == "kept")
    assert rotation.rotate(open_module(store).vault) == (3 if ended else 2)
    assert len(generations(store)) == 1
    user = User(connect(open_module(store)))
    assert user.find() == keys
    assert user.get(keys[4], Attr.LABEL) == b"changed in between"


def test_other_enclaves_go_on_during_a_rotation(store: MemoryStore) -> None:
    user, keys = filled(store)
    commit, made = store.commit, []

    def meanwhile(change: Change) -> bool:
        done = commit(change)
        if done and len(made) < 3:
            store.commit = commit  # type: ignore[method-assign]
            made.append(user.aes(TOKEN=True, LABEL=b"meanwhile"))
            user.set(keys[0], ID=b"%d" % len(made))
            store.commit = meanwhile  # type: ignore[method-assign]
        return done

    module = open_module(store)
    store.commit = meanwhile  # type: ignore[method-assign]
    assert rotation.rotate(module.vault) == 2
    assert generations(store) == {2}
    for one in (user, User(connect(open_module(store)))):
        assert one.find() == keys + made
        assert one.get(keys[0], Attr.ID) == b"3"


def test_two_enclaves_rotate_at_once_and_both_are_right(store: MemoryStore) -> None:
    _, keys = filled(store)
    one, other = open_module(store), open_module(store)
    commit, done = store.commit, []

    def meanwhile(change: Change) -> bool:
        done.append(0)
        if len(done) == 2:
            done[0] = rotation.rotate(other.vault)
        return commit(change)

    store.commit = meanwhile  # type: ignore[method-assign]
    assert rotation.rotate(one.vault) == 2
    assert done[0] == 2
    assert generations(store) == {2}
    assert User(connect(open_module(store))).find() == keys


def test_the_trail_tells_of_it(store: MemoryStore) -> None:
    module = open_module(store)
    rotation.rotate(module.vault)
    bodies = [record.body for record in store.records[-2:]]
    assert b"domain key rotation begun" in bodies[0]
    assert b"domain key rotated" in bodies[1]
    verifier = Verifier(module.vault.audit_key)
    verifier.follow((r.seq, r.body, r.hash, r.signature) for r in store.records)
    assert verifier.end().seq == len(store.records)


# --- members -------------------------------------------------------------------------------------


def second(store: MemoryStore) -> keyring.Credential:
    """A second platform, as `membership.admit` makes one of what it has verified."""
    vault = open_module(store).vault
    credential = keyring.Credential(keyring.new_secret(), vault.audit_key)
    sealed = credential.sealed(MemoryGuest("second"), vault.policy)
    member = Member(credential.id, credential.public, "fake", b"")

    def add(draft: Any) -> None:
        draft.alter(members=(*draft.head.members, member))
        grant = keyring.grant(draft.head, credential.public)
        draft.members.append(MemberRow(credential.id, sealed, grant))

    vault.transact(add)
    return credential


def open_second(store: MemoryStore) -> Any:
    from secgear.services.crypto.token.module import Module

    return Module(vault_of(store, MemoryGuest("second")))


def test_members_get_the_new_key_whoever_brings_it_in(store: MemoryStore) -> None:
    _, keys = filled(store)
    second(store)
    there = open_second(store)
    assert rotation.rotate(open_module(store).vault) == 2
    there.vault.note(store.epoch)
    assert User(connect(there)).find() == keys
    assert rotation.rotate(open_second(store).vault) == 3
    assert User(connect(open_module(store))).find() == keys


def test_who_is_expelled_gets_no_key_and_works_no_more(store: MemoryStore) -> None:
    filled(store)
    credential = second(store)
    kept = store.kept_members[credential.id]
    there = open_second(store)
    user = User(connect(there))
    here = open_module(store)
    membership.expel(here.vault, credential.id)
    there.vault.note(store.epoch)
    with pytest.raises(CryptoModuleError, match="no member"):
        user.find()
    rotation.rotate(here.vault)
    with pytest.raises(CryptoModuleError, match="no member"):
        user.aes(TOKEN=True)
    with pytest.raises(Exception, match="not sealed for this enclave"):
        open_second(store)
    # A host that brings its rows back has brought back nothing.
    store.kept_members[credential.id] = kept
    with pytest.raises(CryptoModuleError):
        open_second(store)
    with pytest.raises(CryptoRefused, match="no such member"):
        membership.expel(here.vault, credential.id)
    with pytest.raises(CryptoRefused, match="itself"):
        membership.expel(here.vault, here.vault.member)


def test_administrators_decide_who_is_expelled() -> None:
    store = founded()
    credential = second(store)
    module = opened(store)
    vault = module.vault
    with pytest.raises(CryptoRefused, match="administrators' to decide"):
        membership.expel(vault, credential.id)
    for wrong in (vault.member, bytes(16)):
        with pytest.raises(CryptoRefused):
            decided(module, ExpelMember(wrong.hex()))
    decided(module, ExpelMember(credential.id.hex()))
    assert credential.id not in {one.id for one in vault.known.members}
    assert credential.id not in store.kept_members


@pytest.mark.parametrize("lie", ["foreign", "older", "changed", "other", "nonsense"])
def test_a_grant_that_is_not_the_modules_newest_opens_nothing(store: MemoryStore, lie: str) -> None:
    module = open_module(store)
    older = dict(store.kept_members)
    rotation.rotate(module.vault)
    (row,) = store.kept_members.values()
    match lie:
        case "foreign":  # the host's own domain, encrypted to the member
            elsewhere = MemoryStore()
            vault_of(elsewhere).found(2)
            head = open_module(elsewhere).vault.known
            (member,) = module.vault.known.members
            grant = keyring.grant(head, member.public)
            store.sealed = elsewhere.sealed
        case "older":
            grant = older[row.id].grant
        case "changed":
            grant = row.grant[:-1] + bytes([row.grant[-1] ^ 1])
        case "other":
            grant = keyring.grant(module.vault.known, keyring.Credential(bytes(32), b"").public)
        case _:
            grant = b"\xc1"
    store.kept_members[row.id] = MemberRow(row.id, row.credential, grant)
    with pytest.raises(CryptoModuleError):
        open_module(store)


def test_keys_of_objects_and_nonces_never_repeat() -> None:
    ring = Keyring(1, {1: bytes(32)})
    blobs = {ring.seal(b"same", b"label") for _ in range(100)}
    assert len({blob[4:36] for blob in blobs}) == len(blobs) == 100  # salts
    assert len({blob[36:] for blob in blobs}) == 100
