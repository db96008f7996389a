"""A ledger of replays in a protected file, for keys that outlive their process.

The file's content: magic "sgledgr" and the version, 1; the horizon (8 bytes); then for each
envelope the key's id (32), the envelope's id (16) and when the key expires (8). Times are
microseconds since 1970, big endian.
"""

from __future__ import annotations

import datetime
import struct
import threading
from typing import TYPE_CHECKING, Final

from secgear.errors import EnvelopeError, EnvelopeMalformed, EnvelopeRefused, SecGearError
from secgear.middleware.envelopes.ledger import Entry, MemoryLedger

if TYPE_CHECKING:
    from secgear.middleware.sealing.files import ProtectedFile

_MAGIC: Final = b"sgledgr\x01"
_HEAD = struct.Struct(">8sQ")
_ENTRY = struct.Struct(">32s16sQ")
_START = datetime.datetime.fromtimestamp(0, datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_AT_ONCE: Final = 4096  # entries that are read together


class KeptLedger:
    """A ledger that survives restarts and crashes: an envelope is on record before it is opened.

    file: of this ledger alone, opened for writing, with a counter, without which the host could
    bring an older one; it belongs to the ledger from here on. capacity: envelopes that it holds.
    Safe for threads, whose records are committed together when they come together.
    Raises EnvelopeError for a file without a counter, EnvelopeMalformed for one of another kind.
    """

    def __init__(self, file: ProtectedFile, capacity: int = 1_000_000) -> None:
        if not file.counted or not file.writable():
            raise EnvelopeError("a ledger needs a file with a counter, opened for writing")
        self._file = file
        self._memory = MemoryLedger(capacity)
        self._lock = threading.Lock()  # of the order in memory and file
        self._commit = threading.Lock()
        self._appended = self._committed = 0
        self._load()

    def __repr__(self) -> str:
        return f"KeptLedger({len(self._memory)} envelopes)"

    def __len__(self) -> int:
        return len(self._memory)

    def record(
        self,
        key_id: bytes,
        envelope_id: bytes,
        *,
        expires: datetime.datetime,
        at: datetime.datetime,
    ) -> None:
        """See `ReplayLedger`. When this returns, the envelope is on record durably.

        When the file or its counter fails, the envelope is not opened, and can be tried again.
        """
        entry = Entry(key_id, envelope_id, expires)
        with self._lock:
            horizon = self._memory.horizon
            self._memory.record(key_id, envelope_id, expires=expires, at=at)
            try:
                if self._memory.horizon == horizon:
                    self._file.seek(0, 2)
                    self._file.write(_pack(entry))
                else:  # some were forgotten
                    self._rewrite()
            except SecGearError as error:
                raise self._not_kept(entry, error) from error
            self._appended += 1
            mine = self._appended
        with self._commit:
            if self._committed >= mine:
                return  # somebody else's commit had it, too
            reached = self._appended
            try:
                self._file.flush()
            except SecGearError as error:
                raise self._not_kept(entry, error) from error
            self._committed = reached

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._file.close()

    def _not_kept(self, entry: Entry, error: SecGearError) -> EnvelopeRefused:
        self._memory.withdraw(entry)
        return EnvelopeRefused(f"the envelope can't be put on record: {error}")

    def _load(self) -> None:
        self._file.seek(0)
        head = self._file.read(_HEAD.size) or b""
        if not head:
            self._rewrite()
            self._file.flush()
            return
        if len(head) < _HEAD.size or not head.startswith(_MAGIC):
            raise EnvelopeMalformed("the file is no ledger of this version")
        self._memory.horizon = _time(_HEAD.unpack(head)[1])
        while data := self._file.read(_AT_ONCE * _ENTRY.size):
            if len(data) % _ENTRY.size:
                raise EnvelopeMalformed("the ledger ends in the middle of an entry")
            for key_id, envelope_id, expires in _ENTRY.iter_unpack(data):
                self._memory.restore(Entry(key_id, envelope_id, _time(expires)))

    def _rewrite(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._file.write(_HEAD.pack(_MAGIC, _microseconds(self._memory.horizon)))
        for entry in self._memory.entries():
            self._file.write(_pack(entry))


def _pack(entry: Entry) -> bytes:
    return _ENTRY.pack(entry.key_id, entry.envelope_id, _microseconds(entry.expires))


def _microseconds(time: datetime.datetime) -> int:
    return (time - _START) // _MICROSECOND


def _time(microseconds: int) -> datetime.datetime:
    try:
        return _START + microseconds * _MICROSECOND
    except OverflowError:
        raise EnvelopeMalformed("the ledger has a time that is none") from None
