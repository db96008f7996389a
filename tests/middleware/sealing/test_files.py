"""Protected files: like any other file, and nothing that their storage does goes unnoticed."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import RolledBack, SealedForOther, SealedMalformed, SealingError
from secgear.middleware.sealing import CallStorage, PathStorage, ProtectedFile

KEY = bytes(range(32))
CHUNK = 4096


class MemoryStorage:
    """Storage of a test; remembers each write and flush."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.log: list[tuple[int, bytes] | None] = []

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        self.log.append((offset, bytes(data)))
        apply(self.data, offset, data)

    def flush(self) -> None:
        self.log.append(None)


def apply(held: bytearray, offset: int, data: bytes) -> None:
    held.extend(bytes(max(0, offset + len(data) - len(held))))
    held[offset : offset + len(data)] = data


class Memory:
    """A counter of a test."""

    identity = b"memory"

    def __init__(self) -> None:
        self.value = 0

    def read(self) -> int:
        return self.value

    def increment(self) -> int:
        self.value += 1
        return self.value


def create(storage: MemoryStorage, data: bytes = b"", **given_args: object) -> ProtectedFile:
    made = ProtectedFile.create(storage, KEY, name=b"f", chunk_size=CHUNK, **given_args)  # type: ignore[arg-type]
    made.write(data)
    made.flush()
    return made


def content(storage: MemoryStorage, **given_args: object) -> bytes:
    with ProtectedFile.open(storage, KEY, name=b"f", **given_args) as file:  # type: ignore[arg-type]
        return file.read()


# --- like any other file -------------------------------------------------------------------------

OPERATIONS = st.one_of(
    st.tuples(st.just("write"), st.binary(max_size=3 * CHUNK)),
    st.tuples(st.just("seek"), st.integers(0, 5 * CHUNK)),
    st.tuples(st.just("read"), st.integers(0, 3 * CHUNK)),
    st.tuples(st.just("truncate"), st.integers(0, 5 * CHUNK)),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
)


@settings(max_examples=60)
@given(operations=st.lists(OPERATIONS, max_size=25))
def test_it_does_what_a_plain_file_does(operations: list[tuple[str, object]]) -> None:
    storage, plain = MemoryStorage(), io.BytesIO()
    file = create(storage)
    for name, argument in operations:
        if name == "flush":
            file.flush()
        elif name == "reopen":
            file.close()
            file = ProtectedFile.open(storage, KEY, name=b"f", writable=True)
            file.seek(plain.tell())
        elif name == "truncate":
            assert isinstance(argument, int)
            assert file.truncate(argument) == argument
            grown = argument - len(plain.getvalue())
            position = plain.tell()
            plain.truncate(argument)
            if grown > 0:  # BytesIO does not grow by it, files do
                plain.seek(0, io.SEEK_END)
                plain.write(bytes(grown))
            plain.seek(position)
        else:
            assert getattr(file, name)(argument) == getattr(plain, name)(argument)
        assert file.tell() == plain.tell()
    file.close()
    assert content(storage) == plain.getvalue()


def test_deep_trees_and_holes() -> None:
    """With chunks of 4 KiB an inner block has 113 entries: three levels above a gigabyte."""
    storage = MemoryStorage()
    with create(storage) as file:
        places = [0, CHUNK * 113, CHUNK * 113**2 + 5, CHUNK * 113**3 + 17]
        for number, place in enumerate(places):
            file.seek(place)
            file.write(f"here {number}".encode())
    assert len(storage.data) < 200_000
    with ProtectedFile.open(storage, KEY, name=b"f", writable=True) as file:
        for number, place in enumerate(places):
            file.seek(place)
            assert file.read(6) == f"here {number}".encode()
        file.seek(CHUNK * 500)
        assert file.read(10) == bytes(10)
        file.truncate(3)
        assert file.seek(0, io.SEEK_END) == 3
    assert content(storage) == b"her"


def test_others_libraries_work_on_it() -> None:
    storage = MemoryStorage()
    with create(storage) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("one.txt", "text " * 5000)
    with (
        ProtectedFile.open(storage, KEY, name=b"f") as file,
        zipfile.ZipFile(file) as archive,
        io.TextIOWrapper(io.BufferedReader(archive.open("one.txt"))) as text,  # type: ignore[type-var]
    ):
        assert text.read() == "text " * 5000


def test_space_is_used_again() -> None:
    storage = MemoryStorage()
    file = create(storage, bytes(20 * CHUNK))
    for _ in range(10):
        file.seek(0)
        file.write(os.urandom(20 * CHUNK))
        file.flush()
    assert len(storage.data) < 60 * CHUNK
    with ProtectedFile.open(storage, KEY, name=b"f", writable=True) as again:
        for _ in range(10):
            again.seek(0)
            again.write(os.urandom(20 * CHUNK))
            again.flush()
    assert len(storage.data) < 60 * CHUNK


def test_more_than_fits_into_the_cache() -> None:
    storage = MemoryStorage()
    data = os.urandom(300 * CHUNK)
    with create(storage, data) as file:
        order = list(range(300))
        random.Random(1).shuffle(order)
        for chunk in order:
            file.seek(chunk * CHUNK + 10)
            file.write(b"mark")
    expected = bytearray(data)
    for chunk in range(300):
        expected[chunk * CHUNK + 10 : chunk * CHUNK + 14] = b"mark"
    assert content(storage) == bytes(expected)


def test_reading_and_closed_files_refuse_writes() -> None:
    storage = MemoryStorage()
    create(storage, b"x").close()
    file = ProtectedFile.open(storage, KEY, name=b"f")
    with pytest.raises(io.UnsupportedOperation):
        file.write(b"y")
    file.close()
    for use in (file.read, file.tell, lambda: file.seek(0), lambda: file.write(b"")):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_discarded_changes_are_gone() -> None:
    storage = MemoryStorage()
    file = create(storage, b"kept")
    file.write(b"lost" * 10_000)
    file.discard()
    assert content(storage) == b"kept"


# --- who may read it -----------------------------------------------------------------------------


def test_nothing_of_it_is_in_the_storage() -> None:
    storage = MemoryStorage()
    create(storage, b"CANARY" * 5000).close()
    assert b"CANARY" not in storage.data
    plain = MemoryStorage()
    plain.write(0, b"CANARY" * 5000)
    assert b"CANARY" in plain.data  # it would be found


@pytest.mark.parametrize(("key", "name"), [(bytes(32), b"f"), (KEY, b"g")])
def test_another_key_or_name_opens_nothing(key: bytes, name: bytes) -> None:
    storage = MemoryStorage()
    create(storage, b"x").close()
    with pytest.raises(SealedForOther):
        ProtectedFile.open(storage, key, name=name)


def test_there_is_one_file_in_one_place() -> None:
    storage = MemoryStorage()
    create(storage)
    with pytest.raises(SealingError, match="already"):
        create(storage)
    for size in (0, 100, 4097, 2 << 20):
        with pytest.raises(SealingError, match="power of two"):
            ProtectedFile.create(MemoryStorage(), KEY, name=b"f", chunk_size=size)
    with pytest.raises(SealingError, match="32 bytes"):
        ProtectedFile.open(storage, b"short", name=b"f")


# --- storage that lies ---------------------------------------------------------------------------


def test_every_changed_byte_is_refused_or_says_nothing() -> None:
    storage = MemoryStorage()
    file = create(storage, os.urandom(3 * CHUNK))
    file.write(b"second version" * 10)
    file.close()
    whole, expected = bytes(storage.data), content(storage)
    used = 0
    for position in [*range(600), *range(CHUNK, CHUNK + 600), *range(2 * CHUNK, len(whole), 97)]:
        storage.data[position] ^= 1
        try:
            assert content(storage) in (expected, expected[: 3 * CHUNK])
        except SealingError:
            used += 1
        storage.data[position] ^= 1
    assert used > 100


def test_moved_old_and_foreign_chunks_are_refused() -> None:
    storage = MemoryStorage()
    file = create(storage, b"".join(bytes([n]) * CHUNK for n in range(4)))
    first = bytes(storage.data)
    file.seek(0)
    file.write(b"\xff" * 4 * CHUNK)
    file.close()
    second = bytes(storage.data)
    other = MemoryStorage()
    create(other, b"".join(bytes([n]) * CHUNK for n in range(4))).close()
    area = 2 * CHUNK
    for splice in (
        second[:area] + first[area:] + second[len(first) :][:0],
        second[:area] + second[area + CHUNK : area + 2 * CHUNK] + second[area : area + CHUNK],
        second[:area] + bytes(other.data[area:]),
        second[: len(second) - 10],
        second[:area],
    ):
        with pytest.raises(SealedMalformed, match="changed, moved, cut off or is of another time"):
            content(MemoryStorage(splice))


def test_any_bytes_are_no_file() -> None:
    for data in (b"", b"x", b"secfile\x01", bytes(20_000), b"secfile\x01" + os.urandom(9000)):
        with pytest.raises(SealingError):
            ProtectedFile.open(MemoryStorage(data), KEY, name=b"f")
    storage = MemoryStorage()
    create(storage).close()
    storage.data[4096 + 7] = 2  # the first commit went to the second slot
    with pytest.raises(SealedMalformed, match="version 2"):
        content(storage)


def test_rollback_of_the_whole_file_is_refused() -> None:
    storage, counter = MemoryStorage(), Memory()
    file = create(storage, b"one", counter=counter)
    old = bytes(storage.data)
    file.write(b" two")
    file.flush()
    assert file.version == 3
    assert content(storage, counter=counter) == b"one two"
    with pytest.raises(RolledBack, match="there is a newer one"):
        content(MemoryStorage(old), counter=counter)
    # Without its newest header the file is the version before, which counts as well.
    torn = bytearray(storage.data)
    torn[CHUNK + 60] ^= 1
    with pytest.raises(RolledBack):
        content(MemoryStorage(bytes(torn)), counter=counter)
    with pytest.raises(SealedForOther, match="counter"):
        content(storage)
    counter.value = 1
    with pytest.raises(RolledBack, match="set back"):
        content(storage, counter=counter)


def test_host_that_gives_too_much_is_refused() -> None:
    storage = MemoryStorage()
    create(storage, b"x").close()
    lying = CallStorage(
        lambda offset, size: storage.read(offset, size) + b"x", storage.write, storage.flush
    )
    with pytest.raises(SealedMalformed, match="other bytes than it was asked for"):
        ProtectedFile.open(lying, KEY, name=b"f")
    short = CallStorage(
        lambda offset, size: storage.read(offset, size // 2), storage.write, storage.flush
    )
    with pytest.raises(SealingError):
        ProtectedFile.open(short, KEY, name=b"f").read()


# --- crashes -------------------------------------------------------------------------------------


def _states(log: list[tuple[int, bytes] | None], rng: random.Random) -> Iterator[bytes]:
    """What a disk may hold when the power goes at any moment: all that was flushed, and of the
    rest any part, in any order, the last of it torn."""
    for cut in range(len(log) + 1):
        before = log[:cut]
        flushed = max((at for at, entry in enumerate(before) if entry is None), default=-1)
        sure = [entry for entry in before[: flushed + 1] if entry]
        open_ends = [entry for entry in before[flushed + 1 :] if entry]
        for _ in range(4):
            rest = [entry for entry in open_ends if rng.random() < 0.6]
            rng.shuffle(rest)
            data = bytearray()
            for offset, written in sure:
                apply(data, offset, written)
            for number, (offset, written) in enumerate(rest):
                torn = rng.randrange(len(written)) if number == len(rest) - 1 else len(written)
                apply(data, offset, written[:torn])
            yield bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_power_cut_at_any_moment_leaves_one_of_two_versions(seed: int) -> None:
    rng = random.Random(seed)
    storage = MemoryStorage()
    file = create(storage)
    versions = [b""]
    first = len(storage.log)
    for number in range(5):
        file.seek(rng.randrange(6) * CHUNK)
        file.write(bytes([number + 1]) * rng.randrange(1, 3 * CHUNK))
        file.flush()
        here = file.tell()
        file.seek(0)
        versions.append(file.read())
        file.seek(here)
    seen = set()
    for state in _states(storage.log, rng):
        held = MemoryStorage(state)
        try:
            found = content(held)
        except SealingError:
            # Only before the first commit was durable is there nothing to open.
            assert len(state) <= 2 * CHUNK + CHUNK
            continue
        assert found in versions
        seen.add(versions.index(found))
    assert first > 0
    assert seen == set(range(6))


PROGRAM = """
import sys
from pathlib import Path
from secgear.middleware.sealing import PathStorage, ProtectedFile
storage = PathStorage(Path(sys.argv[1]), writable=True)
file = ProtectedFile.open(storage, bytes(range(32)), name=b"f", writable=True)
number = int(file.read(8) or b"0")
while True:
    number += 1
    file.seek(0)
    file.write(b"%08d" % number * 5000)
    file.flush()
    print(number, flush=True)
"""


def test_killed_writer_leaves_what_it_has_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with PathStorage(path, writable=True) as storage:
        ProtectedFile.create(storage, KEY, name=b"f", chunk_size=CHUNK).close()
    for pause in (0.05, 0.1, 0.17):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            said = [child.stdout.readline()]
            time.sleep(pause)
            os.kill(child.pid, signal.SIGKILL)
            said += child.stdout.readlines()
        acknowledged = max(int(line) for line in said if line.endswith("\n"))
        with PathStorage(path) as storage, ProtectedFile.open(storage, KEY, name=b"f") as file:
            found = file.read()
        assert found == found[:8] * 5000
        assert acknowledged <= int(found[:8]) <= acknowledged + 1


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with PathStorage(tmp_path / "f", writable=True):
        for writable in (True, False):
            with pytest.raises(SealingError, match="in use"):
                PathStorage(tmp_path / "f", writable=writable)
    PathStorage(tmp_path / "f").close()
    (tmp_path / "link").symlink_to(tmp_path / "f")
    for path in (tmp_path / "link", tmp_path / "none"):
        with pytest.raises(SealingError):
            PathStorage(path)
