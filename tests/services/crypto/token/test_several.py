"""Several enclaves over one store: each reads and writes, and none undoes what another has done."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from secgear.errors import CryptoModuleError, RolledBack, ServiceError
from secgear.services.crypto.pkcs11.constants import Attr, Mech
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token import vault
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.state import Change, News
from secgear.services.crypto.trail import Verifier
from tests.adversary.crypto_host import (
    MemoryGuest,
    MemoryStore,
    connect,
    open_module,
    vault_of,
)
from tests.services.crypto.conftest import User, refusal
from tests.services.crypto.token.several import ecb, noted, two


def test_what_one_enclave_does_the_others_see(store: MemoryStore) -> None:
    here, there = two(store)
    one, other = User(connect(here)), User(connect(there))
    noted(here, there)
    key = one.aes(TOKEN=True, LABEL=b"kept")
    gone = one.aes(TOKEN=True)
    noted(here, there)
    assert other.find() == [key, gone]
    sealed = other.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    assert one.run("Decrypt", Mech.AES_ECB, key, sealed) == bytes(16)
    other.set(key, LABEL=b"renamed")
    other.call("C_DestroyObject", gone)
    noted(here, there)
    assert one.get(key, Attr.LABEL) == b"renamed"
    assert one.find() == [key]
    assert refusal(one.call, "C_EncryptInit", ecb(), gone) is Rv.KEY_HANDLE_INVALID


def test_a_change_upon_an_old_state_is_made_again_upon_the_newest(store: MemoryStore) -> None:
    here, there = two(store)
    one, other = User(connect(here)), User(connect(there))
    first = one.aes(TOKEN=True, LABEL=b"first")
    second = other.aes(TOKEN=True, LABEL=b"second")  # nobody has told it of the first
    assert first != second
    assert other.find() == [first, second]
    noted(here, there)
    one.set(second, LABEL=b"renamed")
    other.set(second, ID=b"7")
    assert (other.get(second, Attr.LABEL), other.get(second, Attr.ID)) == (b"renamed", b"7")
    one.call("C_DestroyObject", first)
    assert refusal(other.set, first, LABEL=b"late") is Rv.OBJECT_HANDLE_INVALID
    assert refusal(other.call, "C_DestroyObject", first) is Rv.OBJECT_HANDLE_INVALID
    assert User(connect(open_module(store))).find() == [second]


def test_a_refused_change_leaves_no_half(store: MemoryStore) -> None:
    here, there = two(store)
    User(connect(here)).aes(TOKEN=True)
    noted(here, there)
    before = store.changes

    def refuse(draft: Any) -> None:
        draft.record(Event("never", "test"))
        draft.clear(0)
        raise CryptokiError(Rv.ACTION_PROHIBITED)

    with pytest.raises(CryptokiError):
        there.vault.transact(refuse)
    assert store.changes == before
    assert there.vault.transact(lambda draft: draft.count(0)) == 1
    assert store.changes == before  # looking changes nothing


def test_without_word_from_the_host_an_enclave_looks_for_itself(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(
        vault, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep)
    )
    here, there = two(store)
    one, other = User(connect(here)), User(connect(there))
    key = one.aes(TOKEN=True)
    clock[0] += vault.LEASE - 1
    assert other.find() == []
    clock[0] += 2
    assert other.find() == [key]


@pytest.mark.parametrize("delays", [1, 1000])
def test_an_answer_of_the_counter_that_was_kept_back_is_as_old_as_its_question(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, delays: int
) -> None:
    """The host holds the witness's answer, while another enclave destroys a key."""
    clock = [1000.0]
    monkeypatch.setattr(
        vault, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep)
    )
    here, there = two(store)
    one, other = User(connect(here)), User(connect(there))
    key = other.aes(TOKEN=True)
    noted(here, there)
    assert one.find() == [key]
    held = 0

    class Held:
        identity = store.identity

        def read(self) -> Any:
            nonlocal held
            answer = store.read()
            if held < delays:
                held += 1
                if held == 1:
                    other.call("C_DestroyObject", key)
                clock[0] += 3600
            return answer

    there.vault._due = here.vault._due = clock[0]
    monkeypatch.setattr(here.vault, "_counter", Held())
    if delays == 1:
        assert one.find() == []
    else:
        assert refusal(one.find) is Rv.DEVICE_ERROR


@pytest.mark.parametrize("lie", ["silent", "frozen", "failing"])
def test_an_enclave_that_is_kept_in_the_past_works_no_more(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    """The host shows it an old store, while the counter has moved on."""
    behind = open_module(store)
    user = User(connect(behind))
    key = user.aes(TOKEN=True)
    frozen = store.copy()
    ahead = open_module(store)
    User(connect(ahead)).call("C_DestroyObject", key)

    def fail(*_: object) -> Any:
        raise ServiceError("the connection was lost")

    match lie:
        case "silent":
            monkeypatch.setattr(behind.vault._store, "since", lambda _: News(frozen.sealed))
            monkeypatch.setattr(behind.vault._store, "head", lambda: frozen.sealed)
        case "frozen":
            behind.vault._store = frozen
            frozen.value, frozen.mark = store.value, store.mark
        case "failing":
            monkeypatch.setattr(store, "since", fail)
    behind.vault.note(store.epoch)
    assert refusal(user.find) is Rv.DEVICE_ERROR
    assert refusal(user.call, "C_EncryptInit", ecb(), key) is Rv.DEVICE_ERROR
    assert refusal(user.aes, TOKEN=True) is Rv.DEVICE_ERROR


def test_a_number_that_the_host_makes_up_changes_nothing(store: MemoryStore) -> None:
    module = open_module(store)
    user = User(connect(module))
    key = user.aes(TOKEN=True)
    module.vault.note(1 << 62)
    assert user.find() == [key]
    store.stuck = True
    assert user.find() == [key]  # it was looked for once


@pytest.mark.parametrize("lie", ["row", "gone", "extra", "head", "nothing"])
def test_changes_that_are_not_those_of_the_head_end_the_enclave(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    here, there = two(store)
    one, other = User(connect(here)), User(connect(there))
    key = one.aes(TOKEN=True)
    kept = store.objects[key >> 1]
    one.aes(TOKEN=True)
    one.call("C_DestroyObject", key)
    since = store.since

    def lying(epoch: int) -> News:
        news = since(epoch)
        match lie:
            case "row":
                (row,) = news.rows
                blob = row.blob[:-1] + bytes([row.blob[-1] ^ 1])
                return News(news.head, (type(row)(row.id, row.slot, blob),), news.gone)
            case "gone":
                return News(news.head, (), (*news.gone, *(row.id for row in news.rows)))
            case "extra":
                return News(news.head, (*news.rows, kept), ())
            case "head":
                return News(news.head[:-1] + bytes([news.head[-1] ^ 1]), news.rows, news.gone)
            case _:
                return News(news.head)

    monkeypatch.setattr(store, "since", lying)
    noted(here, there)
    with pytest.raises(CryptoModuleError):
        other.find()


def test_an_older_version_ends_when_a_newer_one_has_written(store: MemoryStore) -> None:
    older = User(connect(open_module(store)))
    guest = MemoryGuest()
    guest.svn = 2
    newer = User(connect(Module(vault_of(store, guest))))
    with pytest.raises(CryptoModuleError, match="version 2 has written"):
        older.aes(TOKEN=True)
    with pytest.raises(CryptoModuleError, match="version 2 has written"):
        open_module(store)
    assert newer.find() == []


def test_who_is_far_behind_reads_everything(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two(store)
    one, other = User(connect(here)), User(connect(there))
    gone = other.aes(TOKEN=True)
    keys = [one.aes(TOKEN=True, LABEL=b"%d" % number) for number in range(8)]
    one.call("C_DestroyObject", gone)
    since = store.since

    def limited(epoch: int) -> News:
        news = since(epoch)
        return News(news.head, whole=False) if news.rows else news

    monkeypatch.setattr(store, "since", limited)
    noted(here, there)
    assert other.find() == keys
    assert other.find(LABEL=b"3") == [keys[3]]


def test_a_module_is_opened_while_others_change_it(store: MemoryStore) -> None:
    module = open_module(store)
    user = User(connect(module))
    keys = [user.aes(TOKEN=True) for _ in range(7)]
    rows = store.rows

    def meanwhile(after: int) -> Any:
        found = rows(after)
        if after == 0:
            user.call("C_DestroyObject", keys[0])
            user.call("C_DestroyObject", keys[6])
            keys.append(user.aes(TOKEN=True))
            user.set(keys[1], LABEL=b"changed")
        return found

    store.rows = meanwhile  # type: ignore[method-assign]
    late = User(connect(open_module(store)))
    assert late.find() == [*keys[1:6], keys[7]]
    assert late.get(keys[1], Attr.LABEL) == b"changed"


def test_a_change_that_was_stored_before_a_crash_is_counted_by_whoever_comes_next(
    store: MemoryStore,
) -> None:
    here, there = two(store)
    one, other = User(connect(here)), User(connect(there))
    store.stuck = True
    with pytest.raises(CryptoModuleError, match="not counted"):
        one.aes(TOKEN=True, LABEL=b"stored")
    store.stuck = False
    second = other.aes(TOKEN=True, LABEL=b"after")
    assert len(other.find()) == 2
    assert other.get(second, Attr.LABEL) == b"after"
    assert (store.value, store.epoch) == (there.vault.known.epoch, there.vault.known.epoch)


def test_another_enclave_may_count_a_change_and_build_upon_it_first(store: MemoryStore) -> None:
    here, there = two(store)
    one, other = User(connect(here)), User(connect(there))
    advance, made = store.advance, []

    def meanwhile(value: int, mark: bytes) -> Any:
        if not made:
            made.append(True)
            made.append(other.aes(TOKEN=True, LABEL=b"upon it"))
        return advance(value, mark)

    store.advance = meanwhile  # type: ignore[method-assign]
    key = one.aes(TOKEN=True, LABEL=b"first")
    assert one.find() == [key, made[1]]


@pytest.mark.parametrize("answer", ["error", "no"])
def test_a_change_is_made_once_though_the_host_denies_it(store: MemoryStore, answer: str) -> None:
    here, there = two(store)
    one, other = User(connect(here)), User(connect(there))
    noted(here, there)
    commit = store.commit

    def deny(change: Change) -> bool:
        assert commit(change)
        store.commit = commit  # type: ignore[method-assign]
        other.aes(TOKEN=True, LABEL=b"upon it")
        if answer == "error":
            raise ServiceError("the connection was lost")
        return False

    store.commit = deny  # type: ignore[method-assign]
    key = one.aes(TOKEN=True, LABEL=b"once")
    assert one.find(LABEL=b"once") == [key]
    assert len(one.find()) == 2


def test_of_two_histories_one_is_counted_and_the_other_enclave_ends(store: MemoryStore) -> None:
    """The host gives each enclave a store of its own; they share the counter."""
    here = open_module(store)
    fork = store.copy()
    there = open_module(fork)
    fork.read, fork.advance = store.read, store.advance  # type: ignore[method-assign]
    User(connect(here))
    caller = connect(there)
    with pytest.raises(CryptoModuleError, match="not counted"):
        User(caller)
    with pytest.raises(RolledBack):
        open_module(fork)


def test_the_trail_stays_one_chain(store: MemoryStore) -> None:
    modules = two(store)
    users = [User(connect(module, f"client {at}")) for at, module in enumerate(modules)]
    for at in range(6):
        users[at % 2].aes(TOKEN=True)
    verifier = Verifier(modules[0].vault.audit_key)
    verifier.follow((r.seq, r.body, r.hash, r.signature) for r in store.records)
    assert verifier.end().seq == len(store.records)


def test_writers_of_several_enclaves_lose_nothing(store: MemoryStore) -> None:
    modules = [open_module(store) for _ in range(4)]
    users = [User(connect(module)) for module in modules for _ in range(2)]
    kept: list[int] = []
    failed: list[BaseException] = []

    def work(user: User, name: int) -> None:
        try:
            for at in range(6):
                key = user.aes(TOKEN=True, LABEL=b"%d" % name)
                user.set(key, ID=b"%d" % at)
                if at % 3 == 2:
                    user.call("C_DestroyObject", key)
                else:
                    kept.append(key)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(users, range(8), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert len(kept) == len(set(kept)) == 32
    noted(*modules)
    for user in users:
        assert sorted(user.find()) == sorted(kept)
    assert sorted(User(connect(open_module(store))).find()) == sorted(kept)


def together(store: MemoryStore, module: Module, wishes: list[Any]) -> list[Any]:
    """Have threads wish for these while another change is being made. Returns what each got."""
    commit, results = store.commit, [None] * len(wishes)
    queue = module.vault._wishes

    def wish(at: int) -> None:
        try:
            results[at] = module.vault.transact(wishes[at])
        except (CryptokiError, CryptoModuleError) as error:
            results[at] = error

    threads = [threading.Thread(target=wish, args=(at,)) for at in range(len(wishes))]

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


def test_changes_that_wait_for_one_another_are_made_durable_together(store: MemoryStore) -> None:
    module = open_module(store)
    before = store.changes

    def event(name: str) -> Any:
        def write(draft: Any) -> str:
            draft.record(Event(name, "test"))
            return name

        return write

    def refused(draft: Any) -> None:
        draft.record(Event("never", "test"))
        draft.alter(next_id=999)
        raise CryptokiError(Rv.ACTION_PROHIBITED)

    results = together(store, module, [event("a"), refused, event("b"), event("c")])
    assert [results[at] for at in (0, 2, 3)] == ["a", "b", "c"]
    assert results[1].rv is Rv.ACTION_PROHIBITED
    assert store.changes == before + 2
    assert module.vault.known.next_id == 1
    bodies = [record.body for record in store.records[-3:]]
    for body, name in zip(bodies, (b'"a"', b'"b"', b'"c"'), strict=True):
        assert name in body
    verifier = Verifier(module.vault.audit_key)
    verifier.follow((r.seq, r.body, r.hash, r.signature) for r in store.records)
    assert verifier.end().seq == len(store.records)


def test_what_is_cleared_is_cleared_of_what_was_added_just_before(store: MemoryStore) -> None:
    module = open_module(store)
    user = User(connect(module))
    item = module.slots[0].table.get(user.aes(TOKEN=True) >> 1)
    assert item is not None
    added, cleared, again, _ = together(
        store,
        module,
        [
            lambda draft: draft.add(0, item).id,
            lambda draft: (draft.clear(0), draft.count(0), draft.get(0, 2)),
            lambda draft: draft.add(0, item).id,
            lambda draft: draft.delete(0, 3),
        ],
    )
    assert (added, cleared, again) == (2, (2, 0, None), 3)
    assert user.find() == []
    assert not store.objects
    assert not User(connect(open_module(store))).find()


def test_changes_that_fail_together_fail_each(store: MemoryStore) -> None:
    module = open_module(store)

    def refused(draft: Any) -> None:
        raise CryptokiError(Rv.ACTION_PROHIBITED)

    def breaks(draft: Any) -> None:
        draft.record(Event("lost", "test"))
        store.refuse = True

    results = together(store, module, [breaks, refused])
    assert [one.rv for one in results] == [Rv.DEVICE_ERROR] * 2
    store.refuse = False
    assert module.vault.transact(lambda draft: draft.count(0)) == 0


def test_what_is_much_is_not_made_durable_together(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = open_module(store)
    item = module.slots[0].table.get(User(connect(module)).aes(TOKEN=True) >> 1)
    assert item is not None
    monkeypatch.setattr(vault, "_TOGETHER", item.size + 1)
    before = store.changes
    results = together(store, module, [lambda draft: draft.add(0, item).id] * 5)
    assert sorted(results) == list(range(2, 7))
    assert store.changes == before + 1 + 3  # the first, then two, two and one
