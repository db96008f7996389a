"""Attributes on the wire: templates, room for attributes, and what fills it.

p11-kit knows the types of many attributes and sends the others as the bytes of a C program; which
ones it knows depends on its version. Source: p11-kit, ``rpc-message.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from secgear.services.crypto.pkcs11.constants import Attr
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import (
    KINDS,
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_MECHANISMS,
    Kind,
    Template,
    Value,
    check_kind,
    from_raw,
    size_of,
    to_raw,
)
from secgear.services.crypto.rpc.buffer import OWN, MalformedMessage, Reader, Writer

_P11KIT: Final[Mapping[int, Kind]] = {
    **KINDS,
    **{
        int(attr): Kind.BYTES
        for attr in (
            Attr.DESTROYABLE,
            Attr.NAME_HASH_ALGORITHM,
            Attr.PARAMETER_SET,
            Attr.ENCAPSULATE,
            Attr.DECAPSULATE,
            Attr.KEY_VERSION,
            Attr.KEY_STATE,
            Attr.KEY_CREATED,
            Attr.KEY_MIN_DECRYPTION,
            Attr.KEY_MIN_ENCRYPTION,
            Attr.KEY_DELETABLE,
        )
    },
}


class Room(msgspec.Struct, frozen=True):
    """What a caller of C_GetAttributeValue has for one attribute. size: bytes, 0 to ask for it."""

    attr: int
    size: int


class Filled(msgspec.Struct, frozen=True):
    """What it gets: a value, or None for one that it can't have. fits: into the room it has."""

    attr: int
    value: Value | None
    fits: bool = True


def read_template(reader: Reader, depth: int = 1) -> dict[int, Value]:
    """A template. Raises MalformedMessage, CryptokiError for values that attributes can't have."""
    template: dict[int, Value] = {}
    for _ in range(reader.count(MAX_ATTRIBUTES)):
        attr = reader.u32()
        if not reader.u8():
            raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
        value = _read_value(reader, attr, reader.u32(), depth)
        if attr in template:
            raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
        check_kind(attr, value)
        template[attr] = value
    return template


def write_template(writer: Writer, template: Template) -> None:
    """The same, for a client."""
    writer.u32(len(template))
    for attr, value in template.items():
        writer.u32(attr)
        writer.u8(1)
        writer.u32(size_of(value))
        _write_value(writer, attr, value)


def read_rooms(reader: Reader) -> list[Room]:
    """What attributes a caller wants. Nested room is read and left: see `Filled`."""
    return _read_rooms(reader, 1)


def write_rooms(writer: Writer, rooms: list[Room]) -> None:
    """The same, for a client; it asks for no nested ones."""
    writer.u32(len(rooms))
    for room in rooms:
        writer.u32(room.attr)
        writer.u32(room.size)


def write_filled(writer: Writer, results: list[Filled]) -> None:
    """The values, or their sizes where there is not enough room."""
    writer.u32(len(results))
    for result in results:
        writer.u32(result.attr)
        if result.value is None:
            writer.u8(0)
            continue
        writer.u8(1)
        writer.u32(size_of(result.value))
        if result.fits or not isinstance(result.value, bytes):
            _write_value(writer, result.attr, result.value)
        else:
            writer.array(None)


def read_filled(reader: Reader) -> list[tuple[int, int, Value | None]]:
    """The same, for a client: attribute, size, and value if it fitted."""
    results: list[tuple[int, int, Value | None]] = []
    for _ in range(reader.count(MAX_ATTRIBUTES)):
        attr = reader.u32()
        if not reader.u8():
            results.append((attr, -1, None))
            continue
        size = reader.u32()
        value = _read_value(reader, attr, size, 1)
        results.append((attr, size, value if size_of(value) == size else None))
    return results


def _read_value(reader: Reader, attr: int, size: int, depth: int) -> Value:
    kinds = KINDS if reader.version == OWN else _P11KIT
    match kinds.get(attr, Kind.BYTES):
        case Kind.BOOL:
            byte = reader.u8()
            if size != 1:
                raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
            return byte != 0
        case Kind.ULONG:
            number = reader.u64()
            if size not in (4, 8):
                raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
            return number
        case Kind.MECHANISMS:
            return tuple(reader.u64() for _ in range(reader.count(MAX_MECHANISMS)))
        case Kind.TEMPLATE:
            if depth >= MAX_DEPTH:
                raise MalformedMessage
            return read_template(reader, depth + 1)
        case Kind.BYTES | Kind.DATE:
            return from_raw(attr, reader.octets())


def _write_value(writer: Writer, attr: int, value: Value) -> None:
    kinds = KINDS if writer.version == OWN else _P11KIT
    match kinds.get(attr, Kind.BYTES), value:
        case Kind.BOOL, bool():
            writer.u8(1 if value else 0)
        case Kind.ULONG, int():
            writer.u64(value)
        case Kind.MECHANISMS, tuple():
            writer.u32(len(value))
            for mechanism in value:
                writer.u64(mechanism)
        case Kind.TEMPLATE, Mapping():
            write_template(writer, value)
        case _:
            writer.array(to_raw(value))


def _read_rooms(reader: Reader, depth: int) -> list[Room]:
    rooms = []
    for _ in range(reader.count(MAX_ATTRIBUTES)):
        room = Room(reader.u32(), reader.u32())
        rooms.append(room)
        # 0.24 names no room inside of a template.
        if room.size and reader.version and KINDS.get(room.attr) is Kind.TEMPLATE:
            if depth >= MAX_DEPTH:
                raise MalformedMessage
            _read_rooms(reader, depth + 1)
    return rooms
