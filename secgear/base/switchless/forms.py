"""The fast form of a function's arguments and result: what a switchless call spends its time on.

Arguments that are given by position, without a gap, make an array instead of a map; a function
of a single buffer takes its bytes as they are. What has no fast form (arrays, tables, streams,
arguments left out in the middle) is marshalled as it is for the stream. Both sides derive the
form from the interface that they have compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from secgear.base import typedesc as td
from secgear.base.interface import Function
from secgear.base.wellformed import KEYWORD

INLINE = 64 << 10
"""Buffers up to this size are worth copying into a message; larger ones are attachments."""

encode = msgspec.msgpack.Encoder().encode
_BUFFERS: dict[str, type] = {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}


class Misfit(Exception):
    """A value that the fast form can't take; the ordinary one says what is wrong, if anything."""


class Form(NamedTuple):
    """Fast form of one function.

    fewest, most: arguments by position that it takes. encode_arguments: from the tuple of them;
    raises anything for a misfit. decode_arguments: back to what the function is called with.
    encode_result, decode_result: likewise; None when the result has no fast form.
    """

    fewest: int
    most: int
    encode_arguments: Callable[[tuple[Any, ...]], Any]
    decode_arguments: Callable[[bytes], Any]
    encode_result: Callable[[Any], Any] | None
    decode_result: Callable[[bytes], Any] | None


def form(
    function: Function, types: Mapping[str, Any], definitions: Mapping[str, td.TypeDef]
) -> Form | None:
    """The fast form of `function`, None if it has none.

    types: Python type of each parameter by name and of the result under ``return``.
    """
    params = function.params
    if function.result_stream or any(
        param.stream or param.kind == KEYWORD or not _inline(param.type, definitions, set())
        for param in params
    ):
        return None
    fewest = sum(param.required for param in params)
    result = _result(function.result, types["return"], definitions)
    if len(params) == 1 and fewest == 1 and isinstance(kind := params[0].type, td.Basic):
        buffer = _BUFFERS.get(kind.name)
        if buffer is not None:
            return Form(1, 1, _raw_argument, _raw_arguments(buffer), *result)
    decoders = {
        0x90 | count: msgspec.msgpack.Decoder(
            tuple[tuple(types[param.name] for param in params[:count])]  # type: ignore[misc]
        ).decode
        for count in range(fewest, min(len(params), 15) + 1)
    }
    if not decoders or len(params) > 15:  # beyond what one byte of msgpack counts
        return None
    buffers = tuple(at for at, param in enumerate(params) if td.top_level_bytes(param.type))
    return Form(
        fewest,
        len(params),
        _encoder(buffers) if buffers else encode,
        next(iter(decoders.values())) if len(decoders) == 1 else _by_count(decoders),
        *result,
    )


def _inline(desc: td.TypeDesc, definitions: Mapping[str, td.TypeDef], seen: set[str]) -> bool:
    """Whether values of this type are messages without attachments.

    seen: named types that were looked at, which is enough: one that has none ends it all.
    """
    for part in td.walk(desc):
        if isinstance(part, td.NDArray | td.Arrow) or part == td.SHARED:
            return False
        if isinstance(part, td.Named) and part.name not in seen:
            seen.add(part.name)
            fields = td.fields_of(definitions[part.name])
            if not all(_inline(field.type, definitions, seen) for field in fields):
                return False
    return True


def _result(
    desc: td.TypeDesc, annotation: Any, definitions: Mapping[str, td.TypeDef]
) -> tuple[Callable[[Any], Any] | None, Callable[[bytes], Any] | None]:
    if not _inline(desc, definitions, set()):
        return None, None
    if isinstance(desc, td.Basic) and desc.name in _BUFFERS:
        return _raw, _raw_result(_BUFFERS[desc.name])
    decode = msgspec.msgpack.Decoder(annotation).decode
    return (_buffer_or_none if td.top_level_bytes(desc) else encode), decode


def _raw(value: Any) -> Any:
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return value
    if kind is memoryview and value.contiguous:
        return value.cast("B") if value.format != "B" or value.ndim != 1 else value
    raise Misfit


def _raw_argument(args: tuple[Any, ...]) -> Any:
    value = args[0]
    return value if type(value) is bytes else _raw(value)


def _raw_arguments(kind: type) -> Callable[[bytes], Any]:
    if kind is bytes:
        return lambda payload: (payload,)
    return lambda payload: (kind(payload),)


def _raw_result(kind: type) -> Callable[[bytes], Any]:
    return kind  # bytes(payload) is `payload` itself


def _buffer_or_none(value: Any) -> bytes:
    if value is not None and len(value) > INLINE:
        raise Misfit
    return encode(value)


def _encoder(buffers: tuple[int, ...]) -> Callable[[tuple[Any, ...]], bytes]:
    def encode_arguments(args: tuple[Any, ...]) -> bytes:
        for at in buffers:
            if at < len(args) and args[at] is not None and len(args[at]) > INLINE:
                raise Misfit
        return encode(args)

    return encode_arguments


def _by_count(decoders: Mapping[int, Callable[[bytes], Any]]) -> Callable[[bytes], Any]:
    def decode_arguments(payload: bytes) -> Any:
        decode = decoders.get(payload[0] if payload else 0)
        if decode is None:
            raise ValueError("not as many arguments as it takes")
        return decode(payload)

    return decode_arguments
