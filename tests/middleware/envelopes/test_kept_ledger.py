"""A ledger that is kept: over restarts, crashes and threads, and no older one can be brought."""

from __future__ import annotations

import datetime
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from secgear.errors import (
    EnvelopeError,
    EnvelopeMalformed,
    EnvelopeRefused,
    Replayed,
    RolledBack,
    SealingError,
)
from secgear.middleware.envelopes import EnclaveKeyPair, KeptLedger, TrustedKey, seal
from secgear.middleware.envelopes import open as open_envelope
from secgear.middleware.sealing import ProtectedFile
from tests.adversary.storage import FailingStorage, MemoryStorage, after_power_cut
from tests.middleware.sealing.conftest import MemoryCounter

KEY = b"k" * 32
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def new(storage: MemoryStorage, counter: Any, capacity: int = 1000) -> KeptLedger:
    file = ProtectedFile.create(storage, KEY, name=b"ledger", chunk_size=4096, counter=counter)
    return KeptLedger(file, capacity)


def again(storage: MemoryStorage, counter: Any, capacity: int = 1000) -> KeptLedger:
    file = ProtectedFile.open(storage, KEY, name=b"ledger", writable=True, counter=counter)
    return KeptLedger(file, capacity)


def record(ledger: KeptLedger, number: int, *, hours: int = 9, at: int = 0) -> None:
    ledger.record(
        hours.to_bytes(32, "big"),
        number.to_bytes(16, "big"),
        expires=START + hours * HOUR,
        at=START + at * HOUR,
    )


def test_envelope_opens_once_over_restarts(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    storage, counter = MemoryStorage(), MemoryCounter()
    ledger = new(storage, counter)
    envelope = seal(recipient, b"data", purpose="p")
    assert open_envelope(pair, envelope, purpose="p", ledger=ledger) == b"data"
    for _ in range(2):
        ledger = again(MemoryStorage(bytes(storage.data)), counter)
        with pytest.raises(Replayed):
            open_envelope(pair, envelope, purpose="p", ledger=ledger)
        assert len(ledger) == 1


def test_older_ledger_is_refused(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    storage, counter = MemoryStorage(), MemoryCounter()
    ledger = new(storage, counter)
    old = bytes(storage.data)
    record(ledger, 1)
    with pytest.raises(RolledBack):
        again(MemoryStorage(old), counter)
    with pytest.raises(RolledBack, match="there has been one"):
        new(MemoryStorage(), counter)


def test_twin_of_the_enclave_can_not_open_it_as_well() -> None:
    storage, counter = MemoryStorage(), MemoryCounter()
    new(storage, counter).close()
    copy = MemoryStorage(bytes(storage.data))
    one, two = again(storage, counter), again(copy, counter)
    record(one, 1)
    with pytest.raises(EnvelopeRefused, match="can't be put on record"):
        record(two, 1)


def test_file_without_counter_or_of_another_kind_is_no_ledger() -> None:
    plain = ProtectedFile.create(MemoryStorage(), KEY, name=b"ledger")
    with pytest.raises(EnvelopeError, match="with a counter"):
        KeptLedger(plain)
    for content in (
        b"x",
        b"sgledgr\x02" + bytes(8),
        b"sgledgr\x01" + bytes(20),
        b"sgledgr\x01" + b"\xff" * 8,
    ):
        counter = MemoryCounter()
        file = ProtectedFile.create(MemoryStorage(), KEY, name=b"ledger", counter=counter)
        file.write(content)
        file.flush()
        with pytest.raises(EnvelopeMalformed):
            KeptLedger(file)


def test_every_power_cut_keeps_what_was_acknowledged() -> None:
    storage, counter = MemoryStorage(), MemoryCounter()
    ledger = new(storage, counter)
    acknowledged = []
    for number in range(60):
        record(ledger, number)
        acknowledged.append((len(storage.log), counter.standing))
    first = acknowledged[0][0]
    for cut, data in after_power_cut(storage.log, random.Random(3), each=2):
        if cut < first:
            continue
        done = sum(entries <= cut for entries, _ in acknowledged)
        at_that_time = MemoryCounter()
        at_that_time.standing = acknowledged[done - 1][1]
        found = len(again(MemoryStorage(data), at_that_time))
        assert done <= found <= done + 1


@pytest.mark.parametrize("part", range(3))
def test_failing_storage_opens_nothing_and_can_be_tried_again(part: int) -> None:
    counting = FailingStorage()
    record(new(counting, MemoryCounter()), 1)
    for fails in range(part + 1, counting.count + 1, 3):
        storage, counter = FailingStorage(fails=fails), MemoryCounter()
        try:
            ledger = new(storage, counter)
        except SealingError:
            continue
        with pytest.raises(EnvelopeRefused, match="can't be put on record: the storage fails"):
            record(ledger, 1)
        record(ledger, 1)
        with pytest.raises(Replayed):
            record(ledger, 1)
        with pytest.raises(Replayed):
            record(again(MemoryStorage(bytes(storage.data)), counter), 1)


def test_threads_open_each_envelope_once_and_commit_together() -> None:
    storage, counter = MemoryStorage(), MemoryCounter()
    ledger = new(storage, counter)

    def work(seed: int) -> int:
        won = 0
        numbers = list(range(200))
        random.Random(seed).shuffle(numbers)
        for number in numbers:
            try:
                record(ledger, number)
                won += 1
            except Replayed:
                pass
        return won

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 200
    assert len(again(storage, counter)) == 200


def test_full_ledger_forgets_only_what_has_expired_for_good_and_over_restarts() -> None:
    storage, counter = MemoryStorage(), MemoryCounter()
    ledger = new(storage, counter, capacity=4)
    for number in range(3):
        record(ledger, number, hours=1)
    record(ledger, 9, hours=5)
    with pytest.raises(EnvelopeRefused, match="full"):
        record(ledger, 10, hours=5)
    record(ledger, 10, hours=5, at=2)
    assert len(ledger) == 2
    ledger = again(storage, counter, capacity=4)
    assert len(ledger) == 2
    for number in (9, 10):
        with pytest.raises(Replayed):
            record(ledger, number, hours=5)
    with pytest.raises(EnvelopeRefused, match="expired"):
        record(ledger, 1, hours=1)  # the clock was put back
    ledger = again(storage, counter, capacity=1)  # a smaller one forgets nothing either
    assert len(ledger) == 2
    with pytest.raises(EnvelopeRefused, match="full"):
        record(ledger, 11, hours=5)
    assert repr(ledger) == "KeptLedger(2 envelopes)"
