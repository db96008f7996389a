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
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import RolledBack, SealedForOther, SealedMalformed, SealingError
from secgear.middleware.sealing import CallStorage, PathStorage, ProtectedFile, Standing
from secgear.middleware.sealing.blocks import Blocks
from secgear.middleware.sealing.header import Keys, State
from tests.adversary.storage import MemoryStorage
from tests.middleware.sealing.conftest import MemoryCounter

KEY = bytes(range(32))
CHUNK = 4096


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


@settings(max_examples=60, deadline=None)
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


VERSIONS: list[bytes] = []


def _versions() -> list[bytes]:
    """Storages that a host has seen: of two files with one key and name, several versions each."""
    if not VERSIONS:
        for own in (b"a", b"b"):
            storage = MemoryStorage()
            file = create(storage)
            for number in range(4):
                file.seek(0)
                file.write(own * CHUNK * (number + 1) + bytes([number]))
                file.flush()
                VERSIONS.append(bytes(storage.data))
    return VERSIONS


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_the_host_puts_together_is_one_whole_version_or_refused(
    data: st.DataObject,
) -> None:
    versions = _versions()
    whole = {content(MemoryStorage(version)) for version in versions}
    whole.add(b"")  # the first commit is in the other slot still
    number = st.integers(0, len(versions) - 1)
    held = bytearray(versions[data.draw(number)])
    unit = CHUNK // 2
    for _ in range(data.draw(st.integers(1, 6))):
        other = versions[data.draw(number)]
        at = data.draw(st.integers(0, len(held) // unit)) * unit
        start = data.draw(st.integers(0, len(other) // unit)) * unit
        match data.draw(st.integers(0, 3)):
            case 0:  # a piece of another version, or of the other file, to some place
                piece = other[start : start + data.draw(st.sampled_from([unit, CHUNK, 2 * CHUNK]))]
                held[at : at + len(piece)] = piece
            case 1:
                del held[data.draw(st.integers(0, len(held))) :]
            case 2:
                held += other[start:]
            case _ if held:
                held[data.draw(st.integers(0, len(held) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = content(MemoryStorage(bytes(held)))
    except SealingError:
        return
    # Not compared by assert, which would print it all.
    if found not in whole:
        pytest.fail(f"{len(found)} bytes that never were a version")


def test_header_in_the_others_slot_is_none() -> None:
    storage = MemoryStorage()
    create(storage, b"newest").close()
    older = MemoryStorage(bytes(storage.data))
    older.data[:CHUNK] = older.data[CHUNK : 2 * CHUNK]  # the first commit twice
    assert content(older) == b""
    older.data[CHUNK : 2 * CHUNK] = storage.data[:CHUNK]  # and only where it can't be
    with pytest.raises(SealedForOther, match="its headers were changed"):
        content(older)


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
    storage, counter = MemoryStorage(), MemoryCounter()
    file = create(storage, b"one", counter=counter)
    old = bytes(storage.data)
    file.write(b" two")
    file.flush()
    assert file.version == 3
    assert content(storage, counter=counter) == b"one two"
    with pytest.raises(RolledBack, match="there is newer data"):
        content(MemoryStorage(old), counter=counter)
    # Without its newest header the file is the version before, which counts as well.
    torn = bytearray(storage.data)
    torn[CHUNK + 60] ^= 1
    with pytest.raises(RolledBack):
        content(MemoryStorage(bytes(torn)), counter=counter)
    with pytest.raises(SealedForOther, match="counter"):
        content(storage)
    counter.standing = Standing(1, counter.read().mark)
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


# --- in a real file -------------------------------------------------------------------------------

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
    with (
        PathStorage(tmp_path / "f"),
        PathStorage(tmp_path / "f"),
        pytest.raises(SealingError, match="in use"),
    ):
        PathStorage(tmp_path / "f", writable=True)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "link").symlink_to(tmp_path / "f")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "none", "folder", "pipe"):
        with pytest.raises(SealingError, match=f"^{name}: "):
            PathStorage(tmp_path / name)
    for name in ("link", "folder", "pipe", "none/none"):
        with pytest.raises(SealingError):
            PathStorage(tmp_path / name, writable=True)
    assert not (tmp_path / "none").exists()


def test_descriptors_are_not_leaked(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    os.mkfifo(tmp_path / "pipe")
    with PathStorage(tmp_path / "f", writable=True):
        for _ in range(20):
            for name in ("f", "pipe"):
                with pytest.raises(SealingError):
                    PathStorage(tmp_path / name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- large files ---------------------------------------------------------------------------------


def test_huge_file_with_holes_is_cut_without_a_walk() -> None:
    storage = MemoryStorage()
    file = create(storage, b"begin")
    file.seek(1 << 59)
    file.write(b"end")
    file.flush()
    file.truncate(3)
    file.flush()
    assert content(storage) == b"beg"
    file.truncate(1 << 59)
    file.seek((1 << 59) - 4)
    assert file.read() == bytes(4)
    file.seek(CHUNK)
    file.write(b"x")
    file.truncate(0)  # with changes that were never written
    file.close()
    assert content(storage) == b""


def test_what_is_not_committed_yet_takes_no_more_memory() -> None:
    storage = MemoryStorage()
    file = create(storage)
    for number in range(9000):  # eighty inner blocks
        file.seek(number * CHUNK)
        file.write(b"%08d" % number)
        assert len(file._cache) <= 64
        assert len(file._tree._changed) <= 70
    file.close()
    with ProtectedFile.open(storage, KEY, name=b"f") as file:
        for number in random.Random(1).sample(range(9000), 300):
            file.seek(number * CHUNK)
            assert file.read(8) == b"%08d" % number


def test_key_ends_before_its_nonces_do(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    file = create(storage, b"kept")
    monkeypatch.setattr(file._blocks, "writes", 1 << 32)
    file.write(b"more")
    with pytest.raises(SealingError, match="all it may"):
        file.flush()
    file.discard()
    large = Blocks(storage, AESGCM(KEY), 1 << 20, count=0, writes=1 << 30)
    with pytest.raises(SealingError, match="all it may"):
        large.write(bytes(1 << 20), 0, 0)
    with pytest.raises(SealingError, match="all the versions"):
        Keys(KEY, bytes(32)).seal(State(commit=(1 << 32) + 1), CHUNK, b"f")
    assert content(storage) == b"kept"


def test_format_is_what_is_written_down() -> None:
    """Read with nothing but a library, after the text of `header`."""
    storage = MemoryStorage()
    create(storage, b"data").close()
    data = bytes(storage.data)
    header = data[:214]  # commit 2 is in slot 0
    assert header[:8] == b"secfile\x01"

    def key(what: bytes) -> AESGCM:
        info = b"secgear protected file v1\0" + what
        return AESGCM(HKDF(hashes.SHA384(), 32, salt=header[8:40], info=info).derive(KEY))

    state = key(b"header").decrypt(header[44:56], header[56:], header[:56] + b"f")
    assert state[:17] == (2).to_bytes(8, "big") + (4).to_bytes(8, "big") + b"\0"
    number, nonce, tag = int.from_bytes(state[17:25], "big"), state[25:37], state[37:53]
    size = int.from_bytes(header[40:44], "big")
    sealed = data[8192 + (number - 1) * size :][:size]
    plain = key(b"blocks").decrypt(nonce, sealed + tag, b"\0" + bytes(8))
    assert plain == b"data".ljust(size, b"\0")
