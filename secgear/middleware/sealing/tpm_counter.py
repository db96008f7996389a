"""A monotonic counter in a TPM 2.0 (TPM 2.0 Library: Part 1, 37.2.4; Part 3, section 31)."""

from __future__ import annotations

import struct
from typing import Final, final

from secgear.errors import CollectionFailed, SealingError
from secgear.middleware.attestation.collect import tpm_commands
from secgear.middleware.attestation.collect.tpm import open_tpm

FIRST_INDEX: Final = 0x01800000
LAST_INDEX: Final = 0x01BFFFFF
"""Indices that an owner defines (TCG Registry of Reserved TPM 2.0 Handles, section 2.2.2)."""

_DEFINE, _UNDEFINE, _INCREMENT, _READ = 0x12A, 0x122, 0x134, 0x14E
_SHA256 = 0x000B
# TPMA_NV: written and read with the index's own password, a counter, no dictionary-attack lock.
_ATTRIBUTES = 0x00000004 | 0x00000010 | 0x00040000 | 0x02000000
_SIZE = 8


@final
class TpmCounter:
    """A counter that survives the disk: no copy of it can be restored.

    index: where, from `FIRST_INDEX` to `LAST_INDEX`. password: of the index. device: as for
    `collect_tpm`. Commands go in clear: whoever sits between this program and the TPM, which for a
    virtual machine's vTPM is its host, can answer in its place.
    """

    def __init__(self, index: int, *, password: bytes = b"", device: str | None = None) -> None:
        if not FIRST_INDEX <= index <= LAST_INDEX:
            raise SealingError(f"an index is from {FIRST_INDEX:#x} to {LAST_INDEX:#x}")
        self._index = index
        self._password = password
        self._device = device

    def __repr__(self) -> str:
        return f"TpmCounter({self._index:#x})"

    @property
    def identity(self) -> bytes:
        """Names the index."""
        return b"tpm-nv:" + self._index.to_bytes(4, "big")

    def define(self) -> int:
        """Make the counter; returns its first value, which no earlier counter of this TPM had.

        Raises SealingError, also when the index exists.
        """
        public = struct.pack(">IHIHH", self._index, _SHA256, _ATTRIBUTES, 0, _SIZE)
        sizes = struct.pack(">H", len(self._password)), struct.pack(">H", len(public))
        self._run(_DEFINE, sizes[0] + self._password + sizes[1] + public, owner=True)
        return self.increment()

    def undefine(self) -> None:
        """Remove the counter. What was sealed with it can't be unsealed any more."""
        try:
            with open_tpm(self._device) as channel:
                tpm_commands.run(
                    channel,
                    _UNDEFINE,
                    b"",
                    handles=(tpm_commands.OWNER, self._index),
                    password=b"",
                )
        except CollectionFailed as error:
            raise SealingError(f"{self!r}: {error}") from error

    def read(self) -> int:
        """The value now. Raises SealingError, also for an index that was not defined."""
        data = self._run(_READ, struct.pack(">HH", _SIZE, 0))
        if len(data) != 2 + _SIZE or data[:2] != _SIZE.to_bytes(2, "big"):
            raise SealingError(f"{self!r}: the TPM reads {len(data)} bytes, which is no counter")
        return int.from_bytes(data[2:])

    def increment(self) -> int:
        """One more; in the TPM when this returns."""
        self._run(_INCREMENT, b"")
        return self.read()

    def _run(self, code: int, parameters: bytes, *, owner: bool = False) -> bytes:
        handles = (tpm_commands.OWNER,) if owner else (self._index, self._index)
        try:
            with open_tpm(self._device) as channel:
                response = tpm_commands.run(
                    channel,
                    code,
                    parameters,
                    handles=handles,
                    password=b"" if owner else self._password,
                )
                return response.take(response.integer(4, "parameter size"), "parameters")
        except CollectionFailed as error:
            raise SealingError(f"{self!r}: {error}") from error
