"""Values to bytes and back, under the declared types.

msgspec encodes and, on the way in, validates: what comes out of `decode` has the declared type or
there was an error. Arrays, tables and large buffers are not part of the message; they travel as
attachments and are referred to by number, each exactly once. Nothing is ever unpickled.
"""

from __future__ import annotations

import re
import sys
import threading
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, final

import msgspec

from secgear.base import arrow
from secgear.base.shared import Shared, resolve
from secgear.errors import ArgumentError, CallError, LimitExceeded

_INLINE = 64 << 10
"""Bytes-like arguments up to this size stay inside the message."""
_MAX_DIMENSIONS = 32
_DTYPE_KINDS = frozenset("biufcmMSU")
"""numpy dtype kinds that are plain memory: no objects, no structures with hidden pointers."""
_DTYPE = re.compile(r"[<>|][a-zA-Z]\d{0,9}(\[\w{1,8}\])?", re.ASCII)
"""How numpy writes such a dtype. What else it would read is a language of its own."""
_QUOTED = re.compile(r"(?s)(Invalid enum value|Invalid value|.*unknown field) .*?( - at `[^`]*`)?")
"""msgspec's messages that quote what they refuse; what follows the quotation tells where it is."""


class Packed(NamedTuple):
    """A message body and the attachments it refers to."""

    body: bytes
    attachments: list[memoryview]

    @property
    def size(self) -> int:
        """Bytes of both together."""
        return len(self.body) + sum(map(len, self.attachments))


@final
class Blob:
    """Stands in the wire types for a bytes-like value at the top of a parameter or result."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data

    def __repr__(self) -> str:
        return "Blob(…)"


class _Outgoing:
    """Collects attachments while one message is encoded."""

    def __init__(self) -> None:
        self.attachments: list[memoryview] = []

    def hook(self, value: Any) -> Any:
        if isinstance(value, Shared):
            reference = value.reference()
            return self._attach(reference) if isinstance(reference, memoryview) else reference
        if isinstance(value, Blob):
            view = memoryview(value.data).cast("B")
            return bytes(view) if len(view) <= _INLINE else self._attach(view)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            if isinstance(value, numpy.ndarray):
                return self._array(numpy, value)
            if isinstance(value, numpy.generic):
                return value.item()
        pyarrow = sys.modules.get("pyarrow")
        if pyarrow is not None and isinstance(value, pyarrow.Table | pyarrow.RecordBatch):
            return self._attach(arrow.encode(value))
        raise TypeError(f"a value of type {type(value).__qualname__} can't cross the boundary")

    def _array(self, numpy: Any, value: Any) -> list[Any]:
        if value.dtype.kind not in _DTYPE_KINDS:
            raise TypeError(f"an array of dtype {value.dtype} can't cross the boundary")
        flat = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)
        return [self._attach(memoryview(flat)), value.dtype.str, list(value.shape)]

    def _attach(self, view: memoryview) -> int:
        self.attachments.append(view)
        return len(self.attachments) - 1


class _Incoming:
    """Hands out attachments while one message is decoded; each may be used once."""

    def __init__(self, attachments: list[bytearray]) -> None:
        self._attachments: list[bytearray | None] = list(attachments)

    def take(self, number: Any) -> bytearray:
        if type(number) is not int or not 0 <= number < len(self._attachments):
            raise ValueError("it refers to an attachment that did not come")
        data = self._attachments[number]
        if data is None:
            raise ValueError("it refers to an attachment twice")
        self._attachments[number] = None
        return data

    def finish(self) -> None:
        if any(data is not None for data in self._attachments):
            raise ValueError("an attachment came that nothing refers to")


_local = threading.local()


def _dec_hook(expected: Any, value: Any) -> Any:
    incoming: _Incoming = _local.incoming
    origin = typing.get_origin(expected) or expected
    if origin is Blob:
        return Blob(value if isinstance(value, bytes) else incoming.take(value))
    if origin is Shared:
        return resolve(value, incoming.take)
    name = origin.__name__
    if name == "ndarray":
        return _array(incoming, expected, value)
    if name == "Table":
        return arrow.decode(incoming.take(value), batch=False)
    if name == "RecordBatch":
        return arrow.decode(incoming.take(value), batch=True)
    raise TypeError(f"{name} can't cross the boundary")


def _array(incoming: _Incoming, expected: Any, value: Any) -> Any:
    import numpy as np

    if not (isinstance(value, list) and len(value) == 3 and isinstance(value[1], str)):
        raise ValueError("malformed array")
    number, code, shape = value
    if not _DTYPE.fullmatch(code) or not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("malformed array")
    try:
        dtype = np.dtype(code)
    except (TypeError, ValueError) as error:
        raise ValueError("unknown dtype") from error
    if dtype.kind not in _DTYPE_KINDS or dtype.itemsize == 0 or dtype.str != code:
        raise ValueError("this dtype can't cross the boundary")
    wanted = _scalar_type(expected)
    if wanted is not None and not np.issubdtype(dtype, wanted):
        raise ValueError(f"expected an array of {np.dtype(wanted)}, got {dtype}")
    size = dtype.itemsize
    for extent in shape:
        if type(extent) is not int or not 0 <= extent < 1 << 48:
            raise ValueError("malformed array")
        size *= extent
    data = incoming.take(number)
    if size != len(data):
        raise ValueError("the array's shape and its bytes don't agree")
    return np.frombuffer(data, dtype).reshape(shape)


def _scalar_type(expected: Any) -> Any:
    """The scalar type of ``NDArray[scalar]``; None for a bare ndarray."""
    arguments = typing.get_args(expected)
    if len(arguments) != 2:
        return None
    inner = typing.get_args(arguments[1])
    return inner[0] if inner and isinstance(inner[0], type) else None


@final
class ValueCodec:
    """One declared type, to the wire and back.

    label: names the value in errors, for example ``count: result``.
    annotation: the Python type. blob: whether it is bytes-like at the top.
    """

    def __init__(self, label: str, annotation: Any, *, blob: bool = False) -> None:
        self._label = label
        self._blob = _blob_kind(annotation) if blob else None
        wire = _blob_annotation(annotation) if blob else annotation
        self._decoder = msgspec.msgpack.Decoder(wire, dec_hook=_dec_hook)

    def encode(self, value: Any) -> Packed:
        """Raises ArgumentError for a value that can't cross."""
        if self._blob is not None and _is_buffer(value):
            value = Blob(value)
        return _encode(self._label, value)

    def decode(self, body: bytes | bytearray | msgspec.Raw, attachments: list[bytearray]) -> Any:
        """Raises ArgumentError for bytes that do not hold the declared type."""
        value = _decode(self._label, self._decoder, body, attachments)
        if isinstance(value, Blob) and self._blob is not None:
            return _unwrap(value, self._blob)
        return value


@final
class ArgumentsCodec:
    """The arguments of one function, by name.

    types: name to Python type of every parameter that is not a stream, in order.
    required: names that must be there. blobs: names of bytes-like parameters.
    """

    def __init__(
        self,
        function: str,
        types: Mapping[str, Any],
        required: frozenset[str],
        blobs: frozenset[str],
    ) -> None:
        self._label = function
        self._blobs = {name: _blob_kind(types[name]) for name in blobs}
        fields: list[Any] = []
        for name, annotation in types.items():
            wire = _blob_annotation(annotation) if name in blobs else annotation
            if name in required:
                fields.append((name, wire))
            else:
                fields.append((name, wire | msgspec.UnsetType, msgspec.UNSET))
        struct = msgspec.defstruct(
            "arguments", fields, forbid_unknown_fields=True, kw_only=True, gc=False
        )
        self._names = tuple(types)
        self._decoder = msgspec.msgpack.Decoder(struct, dec_hook=_dec_hook)

    def encode(self, values: Mapping[str, Any]) -> Packed:
        """Raises ArgumentError for a value that can't cross."""
        if self._blobs:
            values = {
                name: Blob(value) if name in self._blobs and _is_buffer(value) else value
                for name, value in values.items()
            }
        return _encode(self._label, values)

    def decode(
        self, body: bytes | bytearray | msgspec.Raw, attachments: list[bytearray]
    ) -> dict[str, Any]:
        """Raises ArgumentError for arguments that do not fit their types."""
        struct = _decode(self._label, self._decoder, body, attachments)
        values = {}
        for name in self._names:
            value = getattr(struct, name)
            if value is msgspec.UNSET:
                continue
            if isinstance(value, Blob):
                value = _unwrap(value, self._blobs[name])
            values[name] = value
        return values


def _encode(label: str, value: Any) -> Packed:
    outgoing = _Outgoing()
    try:
        body = msgspec.msgpack.Encoder(enc_hook=outgoing.hook).encode(value)
        return Packed(body, outgoing.attachments)
    except RecursionError:
        failure: CallError = LimitExceeded(f"{label}: the value is nested too deeply")
    except (TypeError, ValueError, OverflowError) as error:
        failure = ArgumentError(f"{label}: {error}")
    # Raised out here: the original may hold the value itself, and a chain would carry it along.
    raise failure


def _decode(label: str, decoder: Any, body: Any, attachments: list[bytearray]) -> Any:
    incoming = _Incoming(attachments)
    before = getattr(_local, "incoming", None)
    _local.incoming = incoming
    try:
        value = decoder.decode(body)
        incoming.finish()
        return value
    except (RecursionError, TypeError, ValueError) as error:  # msgspec's errors are ValueErrors
        failure = misfit(label, error)
    finally:
        _local.incoming = before
    raise failure


def misfit(label: str, error: Exception) -> CallError:
    """What the caller is told of `error`, which decoding raised: without the value."""
    if isinstance(error, RecursionError):
        return LimitExceeded(f"{label}: the value is nested too deeply")
    return ArgumentError(f"{label}: {_without_value(error)}")


def _without_value(error: Exception) -> str:
    text = str(error)
    quoted = _QUOTED.fullmatch(text)
    return f"{quoted[1]}{quoted[2] or ''}" if quoted else text


def _is_buffer(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview)


def _blob_annotation(annotation: Any) -> Any:
    return Blob | None if type(None) in typing.get_args(annotation) else Blob


def _blob_kind(annotation: Any) -> type:
    """bytes, bytearray or memoryview, as declared."""
    candidates = typing.get_args(annotation) or (annotation,)
    for kind in (bytes, bytearray, memoryview):
        if kind in candidates:
            return kind
    raise TypeError(f"{annotation} is not bytes-like")


def _unwrap(blob: Blob, kind: type) -> Any:
    return blob.data if type(blob.data) is kind else kind(blob.data)
