"""Changes that are decided by what there is: with others in the same change, or made meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from secgear.services.crypto.pkcs11.constants import Attr, KeyState, Mech
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token import rotation, vault
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.state import Change
from tests.adversary.crypto_host import MemoryStore, connect, open_module
from tests.services.crypto.conftest import User, template


def together(store: MemoryStore, module: Module, *calls: Callable[[], Any]) -> list[Any]:
    """Have all of them wait for the same change. Returns what each got, or was refused with."""
    commit = store.commit
    results: list[Any] = [None] * len(calls)
    queue = module.vault._wishes

    def make(at: int) -> None:
        try:
            results[at] = calls[at]()
        except CryptokiError as error:
            results[at] = error.rv

    threads = [threading.Thread(target=make, args=(at,)) for at in range(len(calls))]

    def slow(change: Change) -> bool:
        store.commit = commit  # type: ignore[method-assign]
        for at, thread in enumerate(threads, 1):
            thread.start()
            while len(queue) < at:
                time.sleep(0.001)
        return commit(change)

    store.commit = slow  # type: ignore[method-assign]
    module.vault.transact(lambda draft: draft.record(Event("first", "test")))
    for thread in threads:
        thread.join(30)
    return results


def named(user: User) -> None:
    user.call(
        "S_NewKey", b"data", Mechanism(Mech.AES_KEY_GEN), {},
        template(VALUE_LEN=32, ENCRYPT=True, DECRYPT=True),
    )  # fmt: skip


def states(user: User) -> dict[int, int]:
    found = user.find(KEY_NAME=b"data")
    versions = [user.get(one, Attr.KEY_VERSION) for one in found]
    assert len(set(versions)) == len(found), "a version is there once"
    return {
        version: user.get(one, Attr.KEY_STATE) for version, one in zip(versions, found, strict=True)
    }


def test_two_rotations_in_one_change_make_two_versions(store: MemoryStore, module: Module) -> None:
    one, other = User(connect(module)), User(connect(module))
    named(one)
    made = together(
        store, module, *(lambda user=user: user.call("S_RotateKey", b"data", KeyState.ACTIVE)
                         for user in (one, other)),
    )  # fmt: skip
    assert sorted(version for version, _ in made) == [2, 3]
    assert states(one) == {
        1: KeyState.DEACTIVATED, 2: KeyState.DEACTIVATED, 3: KeyState.ACTIVE
    }  # fmt: skip


def test_a_compromised_version_stays_that_whatever_is_set_in_the_same_change(
    store: MemoryStore, module: Module
) -> None:
    one, other = User(connect(module)), User(connect(module))
    named(one)
    together(
        store, module,
        lambda: one.call("S_SetKeyState", b"data", 1, KeyState.COMPROMISED),
        lambda: other.call("S_ConfigureKey", b"data", template(KEY_DELETABLE=True)),
    )  # fmt: skip
    assert states(one) == {1: KeyState.COMPROMISED}


def test_a_destroyed_key_is_not_brought_back_in_the_same_change(
    store: MemoryStore, module: Module
) -> None:
    one, other = User(connect(module)), User(connect(module))
    named(one)
    one.call("S_ConfigureKey", b"data", template(KEY_DELETABLE=True))
    results = together(
        store, module,
        lambda: one.call("S_DestroyKey", b"data"),
        lambda: other.call("S_SetKeyState", b"data", 1, KeyState.DEACTIVATED),
    )  # fmt: skip
    assert results[1] is Rv.KEY_HANDLE_INVALID
    assert states(User(connect(open_module(store)))) == {}


def test_a_rotation_that_is_begun_in_the_same_change_is_not_ended(
    store: MemoryStore, module: Module
) -> None:
    """Of three at once, one ends what another has ended, and the third begins."""
    key = User(connect(module)).aes(TOKEN=True)
    ended = together(
        store, module,
        lambda: module.vault.transact(rotation._begin),
        lambda: module.vault.transact(partial(rotation._end, module.vault)),
    )  # fmt: skip
    assert ended[1] is False
    assert User(connect(open_module(store))).find() == [key]
    assert rotation.rotate(module.vault) == 2
    assert User(connect(open_module(store))).find() == [key]


def test_what_others_have_done_while_a_change_was_decided_is_not_undone(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at the token may bring news: then the change is one of an older state."""
    clock = [1000.0]
    monkeypatch.setattr(
        vault, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep)
    )
    here, there = open_module(store), open_module(store)
    before = here.vault.known.next_id
    other = User(connect(there))

    def decide(draft: Any) -> None:
        draft.record(Event("decided", "test"))
        if clock[0] == 1000.0:
            clock[0] += vault.LEASE + 1
            other.aes(TOKEN=True)  # nobody has told this enclave
        assert here.slots[0].state.so is not None

    here.vault.transact(decide)
    assert here.vault.known.next_id == before + 1
    assert len(User(connect(open_module(store))).find()) == 1
    numbers = [record.seq for record in store.records]
    assert numbers == list(range(1, len(numbers) + 1))
