"""A monotonic counter in a TPM 2.0 (TPM 2.0 Library: Part 1, 37.2.4; Part 3, section 31)."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Final, final

from secgear.errors import CollectionFailed, SealingError
from secgear.middleware.attestation.collect import tpm_commands
from secgear.middleware.attestation.collect.tpm import open_tpm
from secgear.middleware.sealing.counters import MARK_SIZE, NO_MARK, Standing, check_step

FIRST_INDEX: Final = 0x01800000
LAST_INDEX: Final = 0x01BFFFFF
"""Indices that an owner defines (TCG Registry of Reserved TPM 2.0 Handles, section 2.2.2)."""

_DEFINE, _UNDEFINE, _INCREMENT, _WRITE, _READ = 0x12A, 0x122, 0x134, 0x137, 0x14E
_SHA256 = 0x000B
# TPMA_NV: written and read with the index's own password, no dictionary-attack lock; and a counter.
_ORDINARY = 0x00000004 | 0x00040000 | 0x02000000
_COUNTER = _ORDINARY | 0x00000010
_SIZE = 8
_LOST = b"\xff" * MARK_SIZE  # fits nothing
_RECORD = struct.Struct(f">Q{MARK_SIZE}s")


@final
class TpmCounter:
    """A counter that survives the disk: no copy of it can be restored.

    index: where, from `FIRST_INDEX`; the one behind it holds the mark. password: of both. device:
    as for `collect_tpm`. For one user at a time. Commands go in clear: whoever sits between this
    program and the TPM, which for a virtual machine's vTPM is its host, can answer in its place.
    """

    def __init__(self, index: int, *, password: bytes = b"", device: str | None = None) -> None:
        if not FIRST_INDEX <= index < LAST_INDEX:
            raise SealingError(f"an index is from {FIRST_INDEX:#x} to {LAST_INDEX - 1:#x}")
        self._index = index
        self._password = password
        self._device = device

    def __repr__(self) -> str:
        return f"TpmCounter({self._index:#x})"

    @property
    def identity(self) -> bytes:
        """Names the index."""
        return b"tpm-nv:" + self._index.to_bytes(4, "big")

    def define(self) -> Standing:
        """Make the counter. Its first value is one that no earlier counter of this TPM had.

        Raises SealingError, also when the index exists.
        """
        with self._channel() as channel:
            self._define(channel, self._index, _COUNTER, _SIZE)
            try:
                self._define(channel, self._index + 1, _ORDINARY, _RECORD.size)
                self._mark(channel, Standing(0, NO_MARK))
            except CollectionFailed:
                _run(channel, _UNDEFINE, b"", (tpm_commands.OWNER, self._index), b"")
                raise
            self._increment(channel)
            return self._standing(channel)

    def undefine(self) -> None:
        """Remove the counter. What was sealed with it can't be unsealed any more."""
        with self._channel() as channel:
            for index in (self._index + 1, self._index):
                _run(channel, _UNDEFINE, b"", (tpm_commands.OWNER, index), b"")

    def read(self) -> Standing:
        """Where it is now. Raises SealingError, also for an index that was not defined."""
        with self._channel() as channel:
            return self._standing(channel)

    def advance(self, value: int, mark: bytes) -> Standing:
        """See `Counter.advance`; in the TPM when this returns.

        The mark goes first. Cut short in between, nothing fits until this is asked again.
        """
        check_step(value, mark)
        with self._channel() as channel:
            if self._standing(channel).value == value - 1:
                self._mark(channel, Standing(value, mark))
                self._increment(channel)
            return self._standing(channel)

    @contextlib.contextmanager
    def _channel(self) -> Iterator[tpm_commands.Channel]:
        try:
            with open_tpm(self._device) as channel:
                yield channel
        except CollectionFailed as error:
            raise SealingError(f"{self!r}: {error}") from error

    def _define(
        self, channel: tpm_commands.Channel, index: int, attributes: int, size: int
    ) -> None:
        public = struct.pack(">IHIHH", index, _SHA256, attributes, 0, size)
        sizes = struct.pack(">H", len(self._password)), struct.pack(">H", len(public))
        parameters = sizes[0] + self._password + sizes[1] + public
        _run(channel, _DEFINE, parameters, (tpm_commands.OWNER,), b"")

    def _standing(self, channel: tpm_commands.Channel) -> Standing:
        value = int.from_bytes(self._read(channel, self._index, _SIZE))
        marked, mark = _RECORD.unpack(self._read(channel, self._index + 1, _RECORD.size))
        if marked not in (0, value):
            mark = _LOST
        return Standing(value, mark)

    def _read(self, channel: tpm_commands.Channel, index: int, size: int) -> bytes:
        parameters = struct.pack(">HH", size, 0)
        data = _run(channel, _READ, parameters, (index, index), self._password)
        if len(data) != 2 + size or data[:2] != size.to_bytes(2, "big"):
            raise SealingError(f"{self!r}: the TPM reads {len(data)} bytes, which is no counter")
        return data[2:]

    def _mark(self, channel: tpm_commands.Channel, standing: Standing) -> None:
        data = _RECORD.pack(*standing)
        parameters = struct.pack(">H", len(data)) + data + struct.pack(">H", 0)
        _run(channel, _WRITE, parameters, (self._index + 1,) * 2, self._password)

    def _increment(self, channel: tpm_commands.Channel) -> None:
        _run(channel, _INCREMENT, b"", (self._index, self._index), self._password)


def _run(
    channel: tpm_commands.Channel,
    code: int,
    parameters: bytes,
    handles: tuple[int, ...],
    password: bytes,
) -> bytes:
    """Send a command; the parameters of its response. Raises CollectionFailed."""
    response = tpm_commands.run(channel, code, parameters, handles=handles, password=password)
    return response.take(response.integer(4, "parameter size"), "parameters")
