"""Protected files: like any other file for who reads and writes, noise for who stores it.

Random access, encrypted and authenticated in chunks, committed as a whole: after a crash at any
moment the file is what it was at the last `flush`, or at the one under way.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections import OrderedDict
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, final

from secgear.errors import RolledBack, SealedForOther, SealingError
from secgear.middleware.sealing import header
from secgear.middleware.sealing.blocks import Blocks
from secgear.middleware.sealing.counters import (
    NO_MARK,
    Counter,
    acknowledge,
    check_newest,
    following,
    identity_of,
)
from secgear.middleware.sealing.header import DEFAULT_CHUNK, SALT_SIZE, Keys, State
from secgear.middleware.sealing.storage import Storage
from secgear.middleware.sealing.tree import Tree

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAX_FILE: Final = 1 << 60  # bytes
_CACHED: Final = 64  # chunks in memory


@final
class ProtectedFile(io.RawIOBase):
    """A file object over a `Storage` that is the host's. `create` and `open` make them.

    Leaving a ``with`` block commits; leaving it by an exception, or forgetting to close, does not.
    After an error of the storage or the counter, `flush` can be tried again. One thread at a time
    does something with it, others wait. version: commits so far.
    """

    def __init__(
        self,
        storage: Storage,
        keys: Keys,
        state: State,
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
        self._value = state.value  # of the counter, which this version has
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
        self._broken = False  # whether what is in memory is neither the old nor the new
        self._uncounted: tuple[int, bytes] | None = None  # what the counter has yet to be told
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<ProtectedFile, version {self.version}>"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            with contextlib.suppress(Exception):
                self.discard()

    @classmethod
    def create(
        cls,
        storage: Storage,
        key: bytes | bytearray | memoryview,
        *,
        name: bytes,
        chunk_size: int = DEFAULT_CHUNK,
        counter: Counter | None = None,
    ) -> Self:
        """A new, empty, writable file; there from its first commit on, made here.

        key: 32 bytes, as of `derive_key`. name: what it has to be opened as, so that the host can't
        hand out one file for another. chunk_size: bytes that are encrypted together, a power of
        two. counter: of this file alone; is advanced by every commit, and makes older versions be
        refused.
        Raises SealingError when there is something already, RolledBack when by the counter there
        has been a file.
        """
        header.check_chunk(chunk_size)
        keys = Keys(key, os.urandom(SALT_SIZE))
        if not header.is_begun(storage) or header.read(storage, key, name):
            raise SealingError("there is a file already")
        value = 0
        if counter is not None:
            value, mark = counter.read()
            if mark != NO_MARK:
                raise RolledBack("there is no file, yet by its counter there has been one")
        made = cls(
            storage,
            keys,
            State(value=value),
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
        found = header.read(storage, key, name)
        if not found:
            header.refuse(storage)
        newest = found[0]
        if newest.state.counter != identity_of(counter):
            raise SealedForOther("the file was written with another counter, or without one")
        if counter is not None:
            check_newest(counter, newest.state.value, newest.mark)
        return cls(
            storage,
            newest.keys,
            newest.state,
            chunk_size=newest.chunk_size,
            name=name,
            writable=writable,
            counter=counter,
        )

    @property
    def counted(self) -> bool:
        """Whether a counter tells its newest version from older ones."""
        return self._counter is not None

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
                chunk, start = divmod(self._position, self._chunk_size)
                length = min(len(view) - done, self._chunk_size - start)
                whole = length == self._chunk_size
                self._chunk(chunk, fresh=whole)[start : start + length] = view[done : done + length]
                self._dirty.add(chunk)
                self._changed = True
                done += length
                self._position += length
                self._size = max(self._size, self._position)
            return done

    def truncate(self, size: int | None = None) -> int:
        """Make the file `size` bytes long, by default up to here; what is new reads as zeros.

        After an error of the storage the file can only be discarded.
        """
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
            self._count()
            if not self._changed:
                return
            self._check_whole()
            for chunk in sorted(self._dirty):
                self._put(chunk, self._cache[chunk])
                self._dirty.discard(chunk)
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
                self._leave()

    def discard(self) -> None:
        """Leave without committing: the file stays what it was."""
        with self._lock:
            if not self.closed:
                self._leave()

    # --- chunks ----------------------------------------------------------------------------------

    def _chunk(self, chunk: int, *, fresh: bool = False) -> bytearray:
        """The chunk's plaintext in memory, to be read or changed. fresh: all of it will be."""
        data = self._cache.get(chunk)
        if data is not None:
            self._cache.move_to_end(chunk)
            return data
        while len(self._cache) >= _CACHED:
            self._evict()
        if fresh:
            data = bytearray(self._chunk_size)
        else:
            data = self._blocks.read(self._tree.get(chunk), 0, chunk)
        self._cache[chunk] = data
        return data

    def _evict(self) -> None:
        """Make room: the chunk that was not used for longest goes to the storage, or just goes."""
        chunk = next(iter(self._cache))
        if chunk in self._dirty:
            self._put(chunk, self._cache[chunk])
            self._dirty.discard(chunk)
        del self._cache[chunk]

    def _put(self, chunk: int, data: bytearray) -> None:
        self._reclaim()
        self._tree.set(chunk, self._blocks.write(data, 0, chunk))

    def _reclaim(self) -> None:
        """Before the first change: find the places that the last commit does not use.

        Afterwards it would be too late: what a change lets go of still counts until the next one.
        """
        if not self._reclaimed:
            self._blocks.reclaim(self._tree.numbers())
            self._reclaimed = True

    def _cut(self, size: int) -> None:
        """Forget what is behind `size`; it must not come back when the file grows again."""
        self._reclaim()
        keep, start = divmod(size, self._chunk_size)
        if start:
            self._chunk(keep)[start:] = bytes(self._chunk_size - start)
            self._dirty.add(keep)
            keep += 1
        for chunk in [chunk for chunk in self._cache if chunk >= keep]:
            del self._cache[chunk]
            self._dirty.discard(chunk)
        self._broken = True
        self._tree.cut(keep)
        self._broken = False

    # --- commits ---------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Blocks first, then the header in the other slot, then the counter."""
        value = 0 if self._counter is None else following(self._value)
        state = State(
            commit=self.version + 1,
            size=self._size,
            depth=self._tree.depth,
            root=self._tree.root,
            blocks=self._blocks.count,
            writes=self._blocks.writes,
            counter=identity_of(self._counter),
            value=value,
        )
        self._blocks.flush()
        sealed = self._keys.seal(state, self._chunk_size, self._name)
        header.write(self._storage, sealed, state.commit)
        self._storage.flush()
        self.version, self._value = state.commit, value
        self._changed = False
        self._blocks.committed()
        if self._counter is not None:
            self._uncounted = (value, header.mark_of(sealed))
            self._count()

    def _count(self) -> None:
        """Tell the counter what is durable; until it knows, the version before could come back."""
        if self._uncounted is not None and self._counter is not None:
            acknowledge(self._counter, *self._uncounted)
            self._uncounted = None

    def _leave(self) -> None:
        self._changed = False
        self._uncounted = None
        self._cache.clear()
        self._dirty.clear()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")

    def _check_whole(self) -> None:
        if self._broken:
            raise SealingError("cutting the file has failed before; discard it and open it anew")

    def _check_writable(self) -> None:
        self._check_open()
        self._check_whole()
        if not self._writable:
            raise io.UnsupportedOperation("the file was opened for reading")
