"""The four TPM 2.0 commands that a quote takes, as bytes over any channel to a TPM.

Trusted Platform Module Library, Part 3. Speaking them directly keeps a C library (and its compiler)
out of guests; nothing secret is ever sent, so that no encrypted session is needed.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from secgear.errors import CollectionFailed, EvidenceMalformed
from secgear.middleware.attestation.reader import Reader

MAX_RESPONSE = 4096  # bytes: TPM2_MAX_RESPONSE_SIZE of every implementation

_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_CREATE_PRIMARY, _QUOTE, _PCR_READ, _FLUSH = 0x131, 0x158, 0x17E, 0x165
OWNER = 0x40000001
_PASSWORD = 0x40000009
_SHA256, _ECDSA, _NULL, _ECC, _P256 = 0x000B, 0x0018, 0x0010, 0x0023, 0x0003
# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign: a key that signs only
# what the TPM itself has made.
_ATTESTATION_KEY = 0x00050072
_RETRY = frozenset((0x908, 0x90A, 0x922))  # yielded, testing, retry: ask again
_ATTEMPTS, _PAUSE = 50, 0.02  # seconds
_READ_AT_ONCE = 8  # PCRs that every TPM returns in one answer

# What the codes mean that people meet (Part 2, section 6.6), without the bits that tell where.
_ERRORS: Mapping[int, str] = {
    0x100: "the TPM is not started",
    0x10B: "there is nothing of that handle",
    0x14A: "the index was never written",
    0x14C: "the index exists already",
    0x120: "the TPM's commands need an authorization that this program has not",
    0x12F: "the owner hierarchy has a password",
    0x922: "the TPM is busy and stays so; try again later",
    0x902: "the TPM's memory for keys is full; restart, or use /dev/tpmrm0",
    0x921: "the TPM is locked out after wrong passwords",
    0x98E: "the owner hierarchy has a password",
    0x9A2: "the owner hierarchy has a password",
}


class Channel(Protocol):
    """A way to a TPM: one command in, one response out."""

    def exchange(self, command: bytes) -> bytes:
        """Raises OSError."""
        ...


def create_attestation_key(channel: Channel) -> tuple[int, bytes]:
    """A P-256 key in the owner's hierarchy; the same one each time, until the TPM is cleared.

    Returns its handle, to be flushed, and its TPMT_PUBLIC. Raises CollectionFailed.
    """
    template = struct.pack(">HHIH", _ECC, _SHA256, _ATTESTATION_KEY, 0)
    template += struct.pack(">HHHHH", _NULL, _ECDSA, _SHA256, _P256, _NULL) + bytes(4)
    parameters = struct.pack(">HHH", 4, 0, 0) + _sized(template) + _sized(b"") + bytes(4)
    response = run(channel, _CREATE_PRIMARY, parameters, handles=(OWNER,), password=b"")
    handle = response.integer(4, "handle")
    response.integer(4, "parameter size")
    return handle, _take_sized(response, "public area")


def quote(channel: Channel, handle: int, nonce: bytes, pcrs: Sequence[int]) -> tuple[bytes, bytes]:
    """TPMS_ATTEST and TPMT_SIGNATURE over the SHA-256 PCRs. Raises CollectionFailed."""
    parameters = _sized(nonce) + struct.pack(">H", _NULL) + _selection(pcrs)
    response = run(channel, _QUOTE, parameters, handles=(handle,), password=b"")
    size = response.integer(4, "parameter size")
    before = response.remaining
    attest = _take_sized(response, "quote")
    signature = response.take(size - (before - response.remaining), "signature")
    return attest, signature


def read_pcrs(channel: Channel, pcrs: Sequence[int]) -> Mapping[int, bytes]:
    """Values of the SHA-256 bank. Raises CollectionFailed, also where the TPM has no such bank."""
    values: dict[int, bytes] = {}
    for start in range(0, len(pcrs), _READ_AT_ONCE):
        wanted = pcrs[start : start + _READ_AT_ONCE]
        response = run(channel, _PCR_READ, _selection(wanted))
        response.integer(4, "update counter")
        for _ in range(response.integer(4, "number of selections")):
            response.integer(2, "bank")
            response.take(response.integer(1, "size of selection"), "selection")
        count = response.integer(4, "number of digests")
        if count != len(wanted):
            raise CollectionFailed(
                "tpm: this TPM has no SHA-256 PCRs; enable the bank in the firmware's set-up"
            )
        for index in wanted:
            values[index] = _take_sized(response, "PCR")
    return values


def flush(channel: Channel, handle: int) -> None:
    """Let go of a key. Raises CollectionFailed."""
    run(channel, _FLUSH, struct.pack(">I", handle))


def run(
    channel: Channel,
    code: int,
    parameters: bytes,
    *,
    handles: Sequence[int] = (),
    password: bytes | None = None,
) -> Reader:
    """Send one command; the response behind its header.

    handles: what it is about. password: of the first handle, in clear, with the response beginning
    with the size of its parameters then; None for a command without authorization.
    Raises CollectionFailed with the TPM's code and what it means.
    """
    body = struct.pack(f">{len(handles)}I", *handles)
    if password is not None:
        session = struct.pack(">IHB", _PASSWORD, 0, 0) + _sized(password)
        body += struct.pack(">I", len(session)) + session
    body += parameters
    tag = _NO_SESSIONS if password is None else _SESSIONS
    command = struct.pack(">HII", tag, 10 + len(body), code) + body
    for _ in range(_ATTEMPTS):
        response, result = _exchange(channel, command)
        if result not in _RETRY:
            break
        time.sleep(_PAUSE)
    if result:
        meaning = _ERRORS.get(result) or _ERRORS.get(result & 0x93F) or "see TPM 2.0, Part 2, 6.6"
        raise CollectionFailed(f"tpm: command {code:#x} failed with {result:#x}: {meaning}")
    return response


def _exchange(channel: Channel, command: bytes) -> tuple[_Response, int]:
    """The response behind its header, and its code."""
    try:
        data = channel.exchange(command)
    except OSError as error:
        raise CollectionFailed(f"tpm: {error.strerror or error}") from error
    response = _Response(data[:MAX_RESPONSE], "TPM response", "big")
    response.integer(2, "tag")
    size, result = response.integer(4, "size"), response.integer(4, "response code")
    if size != len(data):
        raise CollectionFailed(f"tpm: a response of {len(data)} bytes that says {size}")
    return response, result


class _Response(Reader):
    """What a TPM answered: a short answer is the collection's failure, not bad evidence."""

    def take(self, size: int, field: str) -> bytes:
        try:
            return super().take(size, field)
        except EvidenceMalformed as error:
            raise CollectionFailed(f"tpm: {str(error).removeprefix('format: ')}") from None


def _selection(pcrs: Sequence[int]) -> bytes:
    bits = sum(1 << index for index in pcrs)
    return struct.pack(">IHB", 1, _SHA256, 3) + bits.to_bytes(3, "little")


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _take_sized(response: Reader, field: str) -> bytes:
    return response.take(response.integer(2, f"size of {field}"), field)
