"""What an enclave notes about a client's connection, for whoever goes on with it if it dies.

    byte 0   version of the protocol and 1; 0 before the client has named one
    byte 1   1 while something was read that is not among the calls under way
    byte 2   1 while an answer is being written
    byte 3   number of calls under way, `UNCLEAR` while that changes or when there are too many
    then     the calls' codes, 32 bits each

An enclave can be killed between any two steps. So it sets a flag first and takes it back last:
what the note does not say for sure, it says to be unclear.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from secgear.services.crypto.rpc.buffer import OWN, VERSIONS

CODE: Final = struct.Struct("=I")
READING, WRITING, COUNT, CODES = 1, 2, 3, 4
MAX_CODES: Final = 15
UNCLEAR: Final = 255


class Standing(msgspec.Struct, frozen=True):
    """How a connection stands. version: None before it was named. codes: of calls under way."""

    version: int | None
    codes: tuple[int, ...]


def note_version(mark: memoryview, version: int) -> None:
    """The protocol's version is agreed on."""
    mark[0] = version + 1


def note_codes(mark: memoryview, codes: Sequence[int]) -> None:
    """These calls are under way."""
    mark[COUNT] = UNCLEAR
    if len(codes) <= MAX_CODES:
        for at, code in enumerate(codes):
            CODE.pack_into(mark, CODES + CODE.size * at, code)
        mark[COUNT] = len(codes)


def read_mark(mark: bytes) -> Standing | None:
    """How a dead enclave's connection stands; None if nobody can go on with it."""
    if len(mark) < CODES + CODE.size * MAX_CODES:
        return None
    version = mark[0] - 1
    if mark[READING] or mark[WRITING] or mark[COUNT] > MAX_CODES:
        return None
    if version not in (-1, *VERSIONS, OWN):
        return None
    codes = tuple(CODE.unpack_from(mark, CODES + CODE.size * at)[0] for at in range(mark[COUNT]))
    return Standing(version if version >= 0 else None, codes)


class Introduction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the host says of a client whose connection it hands over.

    actor: who it is, as the host tells. version: what it speaks with an enclave that was before
    this one, where it has called C_Initialize; None for a new client.
    """

    actor: str
    version: int | None = None


introduce = msgspec.msgpack.Encoder().encode
INTRODUCTION: Final = msgspec.msgpack.Decoder(Introduction)
