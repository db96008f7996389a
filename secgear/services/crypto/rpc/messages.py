"""Messages: a request is a call and its arguments, an answer its results or one return value.

A message is ``u32 call id | array signature | values``. What is asked is parsed completely before
anything of it is done, and nothing may follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from secgear.services.crypto.pkcs11.calls import CALLS, ERROR, Call, split
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.attributes import (
    read_filled,
    read_rooms,
    read_template,
    write_filled,
    write_rooms,
    write_template,
)
from secgear.services.crypto.rpc.buffer import NULL, MalformedMessage, Reader, Writer
from secgear.services.crypto.rpc.mechanisms import (
    MAX_BATCH,
    read_mechanism,
    read_mechanisms,
    read_message_params,
    write_mechanism,
    write_mechanisms,
    write_message_params,
)

HANDSHAKE: Final = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"
"""What C_Initialize says first."""
MAX_ITEMS: Final = 4096  # of an answer's array of CK_ULONG
EMPTY_BUFFER: Final = 0xFFFFFFFF
"""Room of no bytes, where 0 asks for the size."""


class Size(msgspec.Struct, frozen=True):
    """In place of bytes or items that do not fit: how many there are."""

    number: int


class Request(msgspec.Struct, frozen=True):
    """A call with its arguments, in the order of its signature."""

    call: Call
    arguments: tuple[Any, ...]


class _Known(NamedTuple):
    """A call as requests for it are read. beginning: call id and signature."""

    call: Call
    beginning: bytes
    readers: tuple[Callable[[Reader], Any], ...]


def parse_request(body: bytes, version: int) -> Request:
    """A request. Raises MalformedMessage, CryptokiError for what can be parsed but not meant."""
    known = _REQUESTS.get(body[:4])
    if known is None or known.call.since > version:
        raise CryptokiError(Rv.FUNCTION_NOT_SUPPORTED) if len(body) >= 4 else MalformedMessage
    call, beginning, readers = known
    if not body.startswith(beginning):
        raise MalformedMessage
    reader = Reader(body, version, len(beginning))
    arguments = tuple([read(reader) for read in readers])
    reader.end()
    return Request(call, arguments)


def build_request(call: Call, arguments: Sequence[Any], version: int) -> bytes:
    """The request's bytes."""
    writer = Writer(version)
    writer.u32(call.id)
    writer.array(call.request.encode())
    for form, value in zip(split(call.request), arguments, strict=True):
        _WRITE_ARGUMENT[form](writer, value)
    return writer.done()


def build_answer(call: Call, results: Sequence[Any], version: int) -> bytes:
    """The answer to `call` that went well."""
    beginning, writers = _ANSWERS[call.id]
    if not writers:
        return beginning
    writer = Writer(version)
    writer.raw(beginning)
    for write, value in zip(writers, results, strict=True):
        write(writer, value)
    return writer.done()


def build_error(rv: Rv) -> bytes:
    """The answer to a call that did not."""
    writer = Writer(0)
    writer.u32(ERROR.id)
    writer.array(ERROR.response.encode())
    writer.u64(rv)
    return writer.done()


def parse_answer(call: Call, body: bytes, version: int) -> tuple[Any, ...]:
    """What an answer to `call` says. Raises CryptokiError with its return value, MalformedMessage.

    A return value that is not known counts as CKR_DEVICE_ERROR.
    """
    reader = Reader(body, version)
    id, signature = reader.u32(), reader.array()
    if id == ERROR.id and signature == ERROR.response.encode():
        number = reader.u64()
        reader.end()
        raise CryptokiError(_return_value(number))
    if id != call.id or signature != call.response.encode():
        raise MalformedMessage
    results = tuple(_READ_RESULT[form](reader) for form in split(call.response))
    reader.end()
    return results


def _beginning(id: int, signature: str) -> bytes:
    writer = Writer(0)
    writer.u32(id)
    writer.array(signature.encode())
    return writer.done()


# --- arguments -----------------------------------------------------------------------------------


def _read_array(reader: Reader) -> bytes | None:
    if reader.u8():
        return reader.array()
    reader.u32()
    return None


def _write_array(writer: Writer, data: bytes | Size | None) -> None:
    if isinstance(data, Size):
        writer.u8(0)
        writer.u32(data.number)
    else:
        writer.u8(1)
        writer.array(data)


def _read_bytes_result(reader: Reader) -> bytes | Size:
    if reader.u8():
        return reader.octets()
    return Size(reader.u32())


def _write_numbers(writer: Writer, numbers: Sequence[int] | Size) -> None:
    if isinstance(numbers, Size):
        writer.u8(0)
        writer.u32(numbers.number)
        return
    writer.u8(1)
    writer.u32(len(numbers))
    for number in numbers:
        writer.u64(number)


def _read_numbers(reader: Reader) -> list[int] | Size:
    if not reader.u8():
        return Size(reader.u32())
    return [reader.u64() for _ in range(reader.count(MAX_ITEMS))]


def _read_batch(reader: Reader) -> list[bytes]:
    return [reader.octets() for _ in range(reader.count(MAX_BATCH))]


def _write_batch(writer: Writer, items: Sequence[bytes]) -> None:
    writer.u32(len(items))
    for item in items:
        writer.array(item)


def _read_results(reader: Reader) -> list[bytes | Rv]:
    results: list[bytes | Rv] = []
    for _ in range(reader.count(MAX_BATCH)):
        item = reader.array()
        results.append(_return_value(reader.u64()) if item is None else item)
    return results


def _write_results(writer: Writer, results: Sequence[bytes | Rv]) -> None:
    """Each as bytes; those of one that failed are not there, and its return value follows."""
    writer.u32(len(results))
    for result in results:
        if isinstance(result, bytes):
            writer.array(result)
        else:
            writer.u32(NULL)
            writer.u64(result)


def _return_value(number: int) -> Rv:
    return Rv(number) if number in _RETURN_VALUES else Rv.DEVICE_ERROR


def _read_version(reader: Reader) -> tuple[int, int]:
    return reader.u8(), reader.u8()


def _write_version(writer: Writer, version: tuple[int, int]) -> None:
    writer.u8(version[0])
    writer.u8(version[1])


_READ_ARGUMENT: Final[Mapping[str, Callable[[Reader], Any]]] = {
    "u": Reader.u64,
    "y": Reader.u8,
    "z": Reader.octets,
    "ay": _read_array,
    "aA": read_template,
    "fy": Reader.u32,
    "fu": Reader.u32,
    "fA": read_rooms,
    "M": read_mechanism,
    "aM": read_mechanisms,
    "P": read_message_params,
    "ab": _read_batch,
}
_WRITE_ARGUMENT: Final[Mapping[str, Callable[[Writer, Any], None]]] = {
    "u": Writer.u64,
    "y": Writer.u8,
    "z": Writer.array,
    "ay": _write_array,
    "aA": write_template,
    "fy": Writer.u32,
    "fu": Writer.u32,
    "fA": write_rooms,
    "M": write_mechanism,
    "aM": write_mechanisms,
    "P": write_message_params,
    "ab": _write_batch,
}
_WRITE_RESULT: Final[Mapping[str, Callable[[Writer, Any], None]]] = {
    "u": Writer.u64,
    "v": _write_version,
    "s": Writer.array,
    "ay": _write_array,
    "au": _write_numbers,
    "aA": write_filled,
    "ar": _write_results,
}
_READ_RESULT: Final[Mapping[str, Callable[[Reader], Any]]] = {
    "u": Reader.u64,
    "v": _read_version,
    "s": Reader.octets,
    "ay": _read_bytes_result,
    "au": _read_numbers,
    "aA": read_filled,
    "ar": _read_results,
}
_REQUESTS: Final = {
    call.id.to_bytes(4, "big"): _Known(
        call,
        _beginning(call.id, call.request),
        tuple(_READ_ARGUMENT[form] for form in split(call.request)),
    )
    for call in CALLS.values()
}
_ANSWERS: Final = {
    call.id: (
        _beginning(call.id, call.response),
        tuple(_WRITE_RESULT[form] for form in split(call.response)),
    )
    for call in CALLS.values()
}
_RETURN_VALUES: Final = frozenset(int(rv) for rv in Rv)
