"""Protected files when the machine fails: power cuts, kill -9, storage and counters that fail."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import RolledBack, SealingError
from secgear.middleware.sealing import FileCounter, PathStorage, ProtectedFile, Standing
from tests.adversary.storage import FailingStorage, MemoryStorage, after_power_cut
from tests.middleware.sealing.conftest import MemoryCounter

KEY = bytes(range(32))
CHUNK = 4096
NAME = b"f"


def create(storage: MemoryStorage, counter: MemoryCounter | None = None) -> ProtectedFile:
    return ProtectedFile.create(storage, KEY, name=NAME, chunk_size=CHUNK, counter=counter)


def reopen(storage: MemoryStorage, counter: MemoryCounter | None = None) -> ProtectedFile:
    return ProtectedFile.open(storage, KEY, name=NAME, writable=True, counter=counter)


def content(data: bytes, counter: MemoryCounter | None = None) -> bytes:
    with ProtectedFile.open(MemoryStorage(data), KEY, name=NAME, counter=counter) as file:
        return file.read()


# --- power cuts ----------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.integers(0, 4 * CHUNK),
            st.sampled_from([1, CHUNK - 1, CHUNK, 3 * CHUNK]),
        ),
        st.tuples(st.just("truncate"), st.integers(0, 4 * CHUNK), st.just(0)),
        st.tuples(st.just("replace"), st.integers(0, 4 * CHUNK), st.just(0)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
        st.tuples(st.just("crash"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_power_cut_at_any_moment_leaves_the_last_version_or_the_next(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    storage = MemoryStorage()
    file = create(storage)
    versions: list[tuple[int, bytes]] = []  # from how many entries on, and what

    def committed() -> None:
        versions.append((len(storage.log), content(bytes(storage.data))))

    committed()
    for number, (step, at, size) in enumerate(steps):
        match step:
            case "write":
                file.seek(at)
                file.write(bytes([number + 1]) * size)
            case "truncate":
                file.truncate(at)
            case "replace":
                file.truncate(0)
                file.seek(0)
                file.write(bytes([number + 101]) * at)
            case "flush":
                file.flush()
                committed()
            case "reopen":
                file.close()
                committed()
                file = reopen(storage)
            case _:
                file.discard()
                file = reopen(storage)
    file.discard()
    for cut, data in after_power_cut(storage.log, random.Random(seed), each=2):
        done = max((n for n, (entries, _) in enumerate(versions) if entries <= cut), default=None)
        try:
            found = content(data)
        except SealingError:
            assert done is None  # only before the first commit is there nothing to open
            continue
        following = 0 if done is None else done + 1
        allowed = [] if done is None else [versions[done][1]]
        assert found in allowed + [text for _, text in versions[following : following + 1]]


def test_header_that_was_torn_anywhere_leaves_the_version_before() -> None:
    storage = MemoryStorage()
    with create(storage) as file:
        file.write(b"old")
    before = bytes(storage.data)
    with reopen(storage) as file:
        file.write(b"new")
    offset, header = [entry for entry in storage.log if entry][-1]
    assert len(header) == 214
    for size in range(214):
        for held in (before[offset:], bytes(214)):  # over an older header, or over nothing
            torn = bytearray(storage.data)
            torn[offset : offset + 214] = header[:size] + held[size:214]
            if torn != storage.data:  # or it was torn where both are the same
                assert content(bytes(torn)) == b"old"


def test_small_file_is_replaced_in_one_step() -> None:
    """Its only block must not be written over while it is all that there is."""
    storage = MemoryStorage()
    with create(storage) as file:
        file.write(b"old")
    before = len(storage.log)
    with reopen(storage) as file:
        file.truncate(0)
        file.write(b"new")
    seen = set()
    for cut, data in after_power_cut(storage.log, random.Random(1), each=8):
        if cut >= before:
            seen.add(content(data))
    assert seen == {b"old", b"new"}


def test_creation_that_was_cut_short_can_be_done_again() -> None:
    storage = MemoryStorage()
    create(storage).discard()
    states = [data for _, data in after_power_cut(storage.log, random.Random(2), each=20)]
    begun = [data for data in states if data and data != bytes(storage.data)]
    assert begun
    for data in begun:
        again = MemoryStorage(data)
        with create(again) as file:
            file.write(b"there")
        assert content(bytes(again.data)) == b"there"


# --- kill -9 -------------------------------------------------------------------------------------

DIES = """
import os, signal, sys
from pathlib import Path
from secgear.middleware.sealing import FileCounter, PathStorage, ProtectedFile

folder = Path(sys.argv[1])
KEY, NAME = bytes(range(32)), b"f"
counter = FileCounter(folder / "counter")

def read():
    with PathStorage(folder / "file") as storage:
        with ProtectedFile.open(storage, KEY, name=NAME, counter=counter) as file:
            return file.read()

def change(number):
    with PathStorage(folder / "file", writable=True) as storage:
        with ProtectedFile.open(storage, KEY, name=NAME, writable=True, counter=counter) as file:
            file.truncate(0)
            file.write(b"%08d" % number * 3000)

def dying(calls):
    left = calls
    for name in ("pwrite", "fsync", "open", "replace"):
        def counted(*args, real=getattr(os, name), **given):
            nonlocal left
            left -= 1
            if left == 0:
                if real.__name__ == "pwrite":  # half-way
                    real(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **given)
        setattr(os, name, counted)

with PathStorage(folder / "file", writable=True) as storage:
    ProtectedFile.create(storage, KEY, name=NAME, chunk_size=4096, counter=counter).close()
change(0)
number, calls = 0, 0
while True:
    calls += 1
    child = os.fork()
    if not child:
        dying(calls)
        change(number + 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = read()
    assert found in (b"%08d" % number * 3000, b"%08d" % (number + 1) * 3000), (calls, found[:8])
    assert read() == found
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0 and found[:8] == b"%08d" % (number + 1)
        break
    number = int(found[:8])
print(calls)
"""


def test_killed_at_every_system_call_it_leaves_the_last_version_or_the_next(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15  # so many places to die at there were


# --- storage that fails --------------------------------------------------------------------------


def _work(file: ProtectedFile) -> None:
    """Changes that reach every kind of block: chunks, inner blocks, new levels."""
    file.seek(0)
    for number in range(150):
        file.write(bytes([number]) * CHUNK)
    file.seek(10)
    file.write(b"in between")
    file.truncate(140 * CHUNK + 5)


def _expected() -> bytes:
    storage = MemoryStorage()
    with create(storage) as file:
        _work(file)
    return content(bytes(storage.data))


@pytest.mark.parametrize("part", range(4))
def test_after_any_failure_the_file_is_what_it_was_and_trying_again_works(part: int) -> None:
    base = MemoryStorage()
    with create(base) as file:
        file.write(b"before" * 2000)
    before, expected = content(bytes(base.data)), _expected()
    counting = FailingStorage(bytes(base.data))
    with reopen(counting) as file:
        _work(file)
    for fails in range(1 + part, counting.count + 1, 4):
        storage = FailingStorage(bytes(base.data), fails=fails)
        failed = 0
        try:
            file = reopen(storage)
        except SealingError:
            continue
        for _ in range(3):
            try:
                _work(file)
                file.flush()
                break
            except SealingError:
                failed += 1
                assert content(bytes(storage.data)) in (before, expected)
                if "discard it" in str(sys.exception()):
                    file.discard()
                    file = reopen(storage)
        assert failed in (1, 2)
        file.close()
        assert content(bytes(storage.data)) == expected


@pytest.mark.parametrize("fails", range(1, 15))
def test_inner_block_that_can_not_be_read_costs_no_change_below_it(fails: int) -> None:
    deep = CHUNK * 113**2  # behind it there are three levels of inner blocks
    storage = FailingStorage()
    with create(storage) as file:
        for place in (0, deep):
            file.seek(place)
            file.write(b"old")
    file = reopen(storage)
    for place in (0, deep):
        file.seek(place)
        file.write(b"new")
    file._put(0, file._cache[0])
    file._tree._kept.clear()  # as if there had been many others in the meantime
    storage.fails = storage.count + fails
    with contextlib.suppress(SealingError):
        file.flush()
    file._tree._kept.clear()
    file.close()
    with reopen(storage) as file:
        for place in (0, deep):
            file.seek(place)
            assert file.read(3) == b"new"


def test_failed_flush_is_not_taken_for_done() -> None:
    storage = FailingStorage()
    file = create(storage)
    file.write(b"data")
    storage.fails = storage.count + 1
    with pytest.raises(SealingError, match="the storage fails"):
        file.flush()
    file.flush()
    assert content(bytes(storage.data)) == b"data"


def test_lost_write_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux says it once: the next fsync(2) would be fine, and the data is gone."""
    with PathStorage(tmp_path / "f", writable=True) as storage:
        file = ProtectedFile.create(storage, KEY, name=NAME)
        file.write(b"data")

        def broken(_descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            with pytest.raises(SealingError, match="f: Input/output error"):
                file.flush()
        with pytest.raises(SealingError, match="a write was lost"):
            file.flush()
        file.discard()
    with PathStorage(tmp_path / "f") as storage:
        assert ProtectedFile.open(storage, KEY, name=NAME).read() == b""


FULL = """
import resource, signal, sys
from pathlib import Path
from secgear.errors import SealingError
from secgear.middleware.sealing import PathStorage, ProtectedFile

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, KEY = Path(sys.argv[1]), bytes(range(32))
with PathStorage(path, writable=True) as storage:
    file = ProtectedFile.create(storage, KEY, name=b"f", chunk_size=4096)
    file.write(b"kept")
    file.flush()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        file.write(bytes(1_000_000))
        file.flush()
        sys.exit("there was room")
    except SealingError as error:
        print(error)
    print(ProtectedFile.open(storage, KEY, name=b"f").read())
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    file.seek(0)
    file.write(bytes(1_000_000))
    file.close()
    print(len(ProtectedFile.open(storage, KEY, name=b"f").read()))
"""


def test_full_disk_costs_nothing_that_was_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == ["file: File too large", "b'kept'", "1000000"], done.stderr


# --- counters that fail --------------------------------------------------------------------------


class FailingCounter(MemoryCounter):
    """Can't be reached while `down`; `late`: it counts, and then the answer gets lost."""

    down = late = False

    def advance(self, value: int, mark: bytes) -> Standing:
        if self.late:
            super().advance(value, mark)
        if self.down or self.late:
            raise SealingError("the counter can't be reached")
        return super().advance(value, mark)


@pytest.mark.parametrize("how", ["down", "late"])
def test_commit_is_done_only_when_it_was_counted(how: str) -> None:
    storage, counter = MemoryStorage(), FailingCounter()
    file = create(storage, counter)
    file.write(b"one")
    file.flush()
    old = bytes(storage.data)
    file.write(b" two")
    setattr(counter, how, True)
    for _ in range(3):
        with pytest.raises(SealingError, match="can't be reached"):
            file.flush()
    setattr(counter, how, False)
    file.flush()
    with pytest.raises(RolledBack):
        content(old, counter)
    file.write(b" three")
    file.close()
    assert content(bytes(storage.data), counter) == b"one two three"


@pytest.mark.parametrize("how", ["down", "late"])
def test_crash_before_the_counter_knows_loses_nothing(how: str) -> None:
    storage, counter = MemoryStorage(), FailingCounter()
    file = create(storage, counter)
    file.write(b"one")
    file.flush()
    old = bytes(storage.data)
    file.write(b" two")
    setattr(counter, how, True)
    with pytest.raises(SealingError):
        file.flush()
    file.discard()
    setattr(counter, how, False)
    assert content(bytes(storage.data), counter) == b"one two"
    with pytest.raises(RolledBack):
        content(old, counter)


def test_version_that_was_never_acknowledged_can_not_replace_the_one_that_was() -> None:
    """The host stops the enclave before it counts, keeps that version, and brings it later."""
    storage, counter = MemoryStorage(), FailingCounter()
    with create(storage, counter) as file:
        file.write(b"one")
    before = bytes(storage.data)
    counter.down = True
    file = reopen(storage, counter)
    file.write(b"two, abandoned")
    with pytest.raises(SealingError):
        file.flush()
    file.discard()
    abandoned = bytes(storage.data)
    counter.down = False
    again = MemoryStorage(before)  # the host starts the enclave with the version before
    with reopen(again, counter) as file:
        file.write(b"two, acknowledged")
    with pytest.raises(RolledBack, match="other data was acknowledged"):
        content(abandoned, counter)
    assert content(bytes(again.data), counter) == b"two, acknowledged"


def test_file_that_is_gone_is_not_simply_made_anew() -> None:
    counter = MemoryCounter()
    create(MemoryStorage(), counter).close()
    with pytest.raises(RolledBack, match="there has been one"):
        create(MemoryStorage(), counter)


def test_two_writers_with_one_counter_are_noticed() -> None:
    storage, counter = MemoryStorage(), MemoryCounter()
    create(storage, counter).close()
    copy = MemoryStorage(bytes(storage.data))  # shown to a second enclave by the host
    first, second = reopen(storage, counter), reopen(copy, counter)
    first.write(b"first")
    first.flush()
    second.write(b"second")
    with pytest.raises(RolledBack):
        second.flush()
    second.discard()
    with pytest.raises(RolledBack):
        content(bytes(copy.data), counter)
    first.close()
    assert content(bytes(storage.data), counter) == b"first"


# --- programs that fail --------------------------------------------------------------------------


def test_exception_commits_nothing() -> None:
    storage = MemoryStorage()
    with create(storage) as file:
        file.write(b"kept")

    def fails() -> None:
        with reopen(storage) as file:
            file.write(b"lost" * 5000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert content(bytes(storage.data)) == b"kept"


def test_forgotten_file_commits_nothing() -> None:
    storage = MemoryStorage()
    with create(storage) as file:
        file.write(b"kept")
    file = reopen(storage)
    file.write(b"lost" * 5000)
    del file
    gc.collect()
    assert content(bytes(storage.data)) == b"kept"


def test_counter_in_a_file_protects_from_an_old_copy(tmp_path: Path) -> None:
    counter = FileCounter(tmp_path / "counter")
    path = tmp_path / "f"
    with (
        PathStorage(path, writable=True) as storage,
        ProtectedFile.create(storage, KEY, name=NAME, counter=counter) as file,
    ):
        file.write(b"one")
    backup = path.read_bytes()
    with (
        PathStorage(path, writable=True) as storage,
        ProtectedFile.open(storage, KEY, name=NAME, writable=True, counter=counter) as file,
    ):
        file.write(b"two")
    path.write_bytes(backup)
    with PathStorage(path) as storage, pytest.raises(RolledBack, match="there is newer data"):
        ProtectedFile.open(storage, KEY, name=NAME, counter=counter)
