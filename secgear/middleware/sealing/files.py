"""Protected files: like any other file for who reads and writes, noise for who stores it.

Random access, encrypted and authenticated in chunks, committed as a whole: after a crash at any
moment the file is what it was at the last `flush`, or at the one under way.
"""

from __future__ import annotations

import io
import os
import struct
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Self, final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secgear.errors import RolledBack, SealedForOther, SealedMalformed, SealingError
from secgear.middleware.sealing.blocks import (
    HEADER_AREA,
    HOLE,
    NONCE_SIZE,
    TAG_SIZE,
    Blocks,
    Ref,
    unpack_ref,
)
from secgear.middleware.sealing.counters import Counter
from secgear.middleware.sealing.format import MAX_IDENTITY
from secgear.middleware.sealing.storage import Storage
from secgear.middleware.sealing.tree import Tree

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

CHUNK_SIZE: Final = 64 << 10
MIN_CHUNK, MAX_CHUNK = 4 << 10, 1 << 20
KEY_SIZE: Final = 32
MAX_FILE: Final = 1 << 60
_MAGIC: Final = b"secfile\x01"
_SLOT: Final = HEADER_AREA // 2
_CLEAR = struct.Struct(">8s32sI12s")  # magic, file's salt, chunk size, nonce
_STATE = struct.Struct(">QQB36sQQQB")  # commit, size, depth, root, blocks, writes, value, n
_LABEL = b"secgear protected file v1\0"
_CACHED: Final = 64  # chunks in memory


class _State(msgspec.Struct, frozen=True):
    """What a header says; written anew by each commit."""

    commit: int
    size: int
    depth: int
    root: Ref
    blocks: int
    writes: int
    counter: bytes = b""
    value: int = 0

    def pack(self) -> bytes:
        fixed = _STATE.pack(
            self.commit,
            self.size,
            self.depth,
            self.root.pack(),
            self.blocks,
            self.writes,
            self.value,
            len(self.counter),
        )
        return fixed + self.counter.ljust(MAX_IDENTITY, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> _State:
        fields = _STATE.unpack_from(data)
        commit, size, depth, root, blocks, writes, value, length = fields
        counter = data[_STATE.size : _STATE.size + length]
        return cls(commit, size, depth, unpack_ref(root), blocks, writes, counter, value)


_SEALED_SIZE: Final = _STATE.size + MAX_IDENTITY + TAG_SIZE


class _Keys:
    """The keys of one file: for its headers and for its blocks."""

    def __init__(self, key: bytes | memoryview, salt: bytes) -> None:
        def derive(what: bytes) -> bytes:
            return HKDF(hashes.SHA384(), KEY_SIZE, salt=salt, info=_LABEL + what).derive(key)

        self.salt = salt
        self.blocks = derive(b"blocks")
        self._header = AESGCM(derive(b"header"))

    def seal(self, state: _State, chunk_size: int, name: bytes) -> bytes:
        """A header for the slot that `state.commit` goes to."""
        nonce = os.urandom(NONCE_SIZE)
        clear = _CLEAR.pack(_MAGIC, self.salt, chunk_size, nonce)
        return clear + self._header.encrypt(nonce, state.pack(), clear + name)

    def open(self, slot: bytes, name: bytes) -> _State | None:
        """The state in a header, None if it is none of this file and name."""
        clear, nonce = slot[: _CLEAR.size], slot[_CLEAR.size - NONCE_SIZE : _CLEAR.size]
        sealed = slot[_CLEAR.size : _CLEAR.size + _SEALED_SIZE]
        try:
            return _State.unpack(self._header.decrypt(nonce, sealed, clear + name))
        except InvalidTag:
            return None


@final
class ProtectedFile(io.RawIOBase):
    """A file object over a `Storage` that is the host's. `create` and `open` make them.

    One thread at a time does something with it, others wait. version: commits so far.
    """

    def __init__(
        self,
        storage: Storage,
        keys: _Keys,
        state: _State,
        *,
        chunk_size: int,
        name: bytes,
        writable: bool,
        counter: Counter | None,
    ) -> None:
        super().__init__()
        self._storage = storage
        self._keys = keys
        self._name = name
        self._writable = writable
        self._counter = counter
        self._chunk_size = chunk_size
        self.version = state.commit
        self._size = state.size
        self._blocks = Blocks(
            storage, keys.blocks, chunk_size, count=state.blocks, writes=state.writes
        )
        self._tree = Tree(self._blocks, state.root, state.depth)
        self._position = 0
        self._cache: OrderedDict[int, bytearray] = OrderedDict()
        self._dirty: set[int] = set()
        self._changed = False
        self._reclaimed = state.blocks == 0
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<ProtectedFile, version {self.version}>"

    @classmethod
    def create(
        cls,
        storage: Storage,
        key: bytes | bytearray | memoryview,
        *,
        name: bytes,
        chunk_size: int = CHUNK_SIZE,
        counter: Counter | None = None,
    ) -> Self:
        """A new, empty, writable file; there from its first commit on, made here.

        key: 32 bytes, as of `derive_key`. name: what it has to be opened as, so that the host can't
        hand out one file for another. chunk_size: bytes that are encrypted together, a power of
        two. counter: is incremented by every commit, and makes older versions be refused.
        Raises SealingError when there is something already.
        """
        _check_key(key)
        if not MIN_CHUNK <= chunk_size <= MAX_CHUNK or chunk_size & (chunk_size - 1):
            raise SealingError(f"chunks have {MIN_CHUNK} to {MAX_CHUNK} bytes, a power of two")
        if storage.read(0, 1):
            raise SealingError("there is a file already")
        state = _State(0, 0, 0, HOLE, 0, 0)
        keys = _Keys(memoryview(key), os.urandom(32))
        made = cls(
            storage,
            keys,
            state,
            chunk_size=chunk_size,
            name=name,
            writable=True,
            counter=counter,
        )
        made._changed = True
        made.flush()
        return made

    @classmethod
    def open(
        cls,
        storage: Storage,
        key: bytes | bytearray | memoryview,
        *,
        name: bytes,
        writable: bool = False,
        counter: Counter | None = None,
    ) -> Self:
        """The file as of its last commit; arguments as of `create`.

        Raises SealedMalformed for what is no protected file, SealedForOther for one under another
        key, name or counter, or whose headers were changed, RolledBack for an older version.
        """
        _check_key(key)
        headers = storage.read(0, HEADER_AREA)
        slots = [headers[:_SLOT], headers[_SLOT:]]
        clear = [_read_clear(slot) for slot in slots]
        states: list[tuple[_State, int, _Keys]] = []
        for slot, read in zip(slots, clear, strict=True):
            if read is not None:
                keys = _Keys(memoryview(key), read[0])
                state = keys.open(slot, name)
                if state is not None:
                    states.append((state, read[1], keys))
        if not states:
            if clear == [None, None]:
                raise SealedMalformed("the bytes are no protected file")
            raise SealedForOther("not a file of this key and name, or its headers were changed")
        state, chunk_size, keys = max(states, key=lambda entry: entry[0].commit)
        _check_counter(counter, state)
        return cls(
            storage,
            keys,
            state,
            chunk_size=chunk_size,
            name=name,
            writable=writable,
            counter=counter,
        )

    # --- what a file does ------------------------------------------------------------------------

    def readable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self._writable

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, which may be behind the end; returns it."""
        with self._lock:
            self._check_open()
            base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
            if whence not in base or base[whence] + offset < 0:
                raise ValueError("there is nothing to seek to")
            self._position = base[whence] + offset
            return self._position

    def tell(self) -> int:
        """The position."""
        self._check_open()
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer`, less only at the end. Raises SealedMalformed for what was changed."""
        with self._lock:
            self._check_open()
            view = memoryview(buffer).cast("B")
            size = max(0, min(len(view), self._size - self._position))
            done = 0
            while done < size:
                chunk, start = divmod(self._position + done, self._chunk_size)
                length = min(size - done, self._chunk_size - start)
                view[done : done + length] = self._chunk(chunk)[start : start + length]
                done += length
            self._position += size
            return size

    def write(self, data: ReadableBuffer) -> int:
        """All of `data`, to be durable with the next `flush`."""
        with self._lock:
            self._check_writable()
            view = memoryview(data).cast("B")
            if self._position + len(view) > MAX_FILE:
                raise SealingError(f"a file has {MAX_FILE} bytes at most")
            done = 0
            while done < len(view):
                chunk, start = divmod(self._position + done, self._chunk_size)
                length = min(len(view) - done, self._chunk_size - start)
                whole = length == self._chunk_size
                self._chunk(chunk, fresh=whole)[start : start + length] = view[done : done + length]
                self._dirty.add(chunk)
                done += length
            if done:
                self._position += done
                self._size = max(self._size, self._position)
                self._changed = True
            return done

    def truncate(self, size: int | None = None) -> int:
        """Make the file `size` bytes long, by default up to here; what is new reads as zeros."""
        with self._lock:
            self._check_writable()
            size = self._position if size is None else size
            if not 0 <= size <= MAX_FILE:
                raise SealingError(f"a file has 0 to {MAX_FILE} bytes")
            if size < self._size:
                self._cut(size)
            self._size = size
            self._changed = True
            return size

    def flush(self) -> None:
        """Commit: when this returns, everything up to here is durable, all or nothing.

        Raises SealingError, RolledBack when somebody else has used the counter.
        """
        with self._lock:
            self._check_open()
            if not self._changed:
                return
            for chunk in sorted(self._dirty):
                self._put(chunk, self._cache[chunk])
            self._dirty.clear()
            self._tree.save()
            self._commit()

    def close(self) -> None:
        """Commit and leave. Idempotent."""
        with self._lock:
            if self.closed:
                return
            try:
                if self._writable:
                    self.flush()
            finally:
                super().close()
                self._cache.clear()

    def discard(self) -> None:
        """Leave without committing: the file stays what it was."""
        with self._lock:
            self._changed = False
            self.close()

    # --- chunks ----------------------------------------------------------------------------------

    def _chunk(self, chunk: int, *, fresh: bool = False) -> bytearray:
        """The chunk's plaintext in memory, to be read or changed. fresh: all of it will be."""
        data = self._cache.get(chunk)
        if data is not None:
            self._cache.move_to_end(chunk)
            return data
        if fresh:
            data = bytearray(self._chunk_size)
        else:
            data = bytearray(self._blocks.read(self._tree.get(chunk), 0, chunk))
        self._cache[chunk] = data
        if len(self._cache) > _CACHED:
            self._evict()
        return data

    def _evict(self) -> None:
        """Make room: the chunk that was not used for longest goes to the storage, or just goes."""
        chunk, data = self._cache.popitem(last=False)
        if chunk in self._dirty:
            self._put(chunk, data)
            self._dirty.discard(chunk)

    def _put(self, chunk: int, data: bytearray) -> None:
        if not self._reclaimed:
            self._reclaimed = True
            self._blocks.reclaim(set(self._tree.numbers()))
        self._tree.set(chunk, self._blocks.write(data, 0, chunk))

    def _cut(self, size: int) -> None:
        """Forget what is behind `size`; it must not come back when the file grows again."""
        keep, start = divmod(size, self._chunk_size)
        if start:
            self._chunk(keep)[start:] = bytes(self._chunk_size - start)
            self._dirty.add(keep)
            keep += 1
        for chunk in [chunk for chunk in self._cache if chunk >= keep]:
            del self._cache[chunk]
            self._dirty.discard(chunk)
        for chunk in range(keep, -(-self._size // self._chunk_size)):
            if self._tree.get(chunk).number:
                self._tree.set(chunk, HOLE)

    # --- commits ---------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Blocks first, then the header in the other slot, then the counter."""
        counter, value = b"", 0
        if self._counter is not None:
            counter, value = _identity(self._counter), self._counter.read() + 1
        state = _State(
            commit=self.version + 1,
            size=self._size,
            depth=self._tree.depth,
            root=self._tree.root,
            blocks=self._blocks.count,
            writes=self._blocks.writes,
            counter=counter,
            value=value,
        )
        self._blocks.flush()
        header = self._keys.seal(state, self._chunk_size, self._name)
        self._storage.write(state.commit % 2 * _SLOT, header)
        self._storage.flush()
        self.version = state.commit
        self._changed = False
        self._blocks.committed()
        if self._counter is not None and self._counter.increment() != value:
            raise RolledBack("somebody else uses this file's counter")

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if not self._writable:
            raise io.UnsupportedOperation("the file was opened for reading")


def _read_clear(slot: bytes) -> tuple[bytes, int] | None:
    """Salt and chunk size of a header, None for what is none."""
    if len(slot) < _CLEAR.size + _SEALED_SIZE:
        return None
    magic, salt, chunk_size, _ = _CLEAR.unpack_from(slot)
    if magic[:-1] != _MAGIC[:-1]:
        return None
    if magic != _MAGIC:
        raise SealedMalformed(f"a file of version {magic[-1]}; this release reads {_MAGIC[-1]}")
    if not MIN_CHUNK <= chunk_size <= MAX_CHUNK or chunk_size & (chunk_size - 1):
        return None
    return salt, chunk_size


def _check_key(key: bytes | bytearray | memoryview) -> None:
    if len(key) != KEY_SIZE:
        raise SealingError(f"a file's key has {KEY_SIZE} bytes")


def _identity(counter: Counter) -> bytes:
    identity = counter.identity
    if not 0 < len(identity) <= MAX_IDENTITY:
        raise SealingError(f"a counter's identity has 1 to {MAX_IDENTITY} bytes")
    return identity


def _check_counter(counter: Counter | None, state: _State) -> None:
    if state.counter != (b"" if counter is None else _identity(counter)):
        raise SealedForOther("the file was written with another counter, or without one")
    if counter is None:
        return
    now = counter.read()
    if state.value == now + 1:  # its last commit was cut short before the counter
        now = counter.increment()
    if state.value != now:
        raise RolledBack(
            f"the file is of {state.value}, and the counter at {now}: "
            + ("there is a newer one" if state.value < now else "it was set back")
        )
