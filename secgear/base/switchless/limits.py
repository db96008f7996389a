"""How large the arguments of a function can be, as far as their types say.

A host that lies can't make the enclave take more for a call than its declared types allow.
"""

from __future__ import annotations

from collections.abc import Mapping

from secgear.base import typedesc as td
from secgear.base.signature import Function

_NUMBER = 9
"""A number in msgpack: a byte that tells its kind, and at most eight of value."""
_HEAD = 5
"""What comes before a text, bytes, an array or a map, at most."""
_FIXED = {
    "None": 1,
    "bool": 1,
    "int": _NUMBER,
    "float": _NUMBER,
    "datetime": 48,
    "date": 16,
    "time": 32,
    "timedelta": 48,
    "UUID": _HEAD + 36,
}
_UTF8 = 4
"""Bytes of one character at the most."""


def largest_arguments(function: Function, types: Mapping[str, td.TypeDef]) -> int | None:
    """Bytes that the marshalled arguments can have at the most, None if nothing bounds them.

    types: the definitions of the interface's named types.
    """
    sizes = _Sizes(types)
    plain = [param for param in function.params if not param.stream]
    return _sum([size for param in plain for size in (_literal(param.name), sizes.of(param.type))])


class _Sizes:
    """Looks at each named type once, or two types that have each other twice would take for ever.

    A recursive type has no bound: it meets itself before its size is known.
    """

    def __init__(self, types: Mapping[str, td.TypeDef]) -> None:
        self._types = types
        self._known: dict[str, int | None] = {}

    def of(self, desc: td.TypeDesc) -> int | None:
        match desc:
            case td.Basic(name):
                return _FIXED.get(name)
            case td.Limited(of, limits):
                return self._limited(of, limits)
            case td.Fixed(items):
                return _sum([self.of(item) for item in items])
            case td.Either(of):
                sizes = [self.of(part) for part in of]
                return None if None in sizes else max(size for size in sizes if size is not None)
            case td.Exactly(values):
                return max(_literal(value) for value in values)
            case td.Named(name):
                if name not in self._known:
                    self._known[name] = None
                    self._known[name] = self._named(self._types[name])
                return self._known[name]
        return None  # arrays and tables: their bytes are attachments, their shapes have no bound

    def _limited(self, of: td.TypeDesc, limits: Mapping[str, object]) -> int | None:
        most = limits.get("max_length")
        if isinstance(most, int):
            match of:
                case td.Basic("str"):
                    return _HEAD + _UTF8 * most
                case td.Basic("bytes" | "bytearray" | "memoryview"):
                    return _HEAD + most
                case td.Sequence(_, item):
                    return _times(most, [self.of(item)])
                case td.Dictionary(key, value):
                    return _times(most, [self.of(key), self.of(value)])
        return self.of(of)

    def _named(self, definition: td.TypeDef) -> int | None:
        if isinstance(definition, td.EnumDef):
            return max((_literal(value) for _, value in definition.members), default=1)
        if isinstance(definition, td.DictDef):
            return None  # a message may have other fields, which are skipped
        sizes: list[int | None] = []
        if isinstance(definition, td.StructDef):
            if not definition.forbid_unknown:
                return None
            if definition.tag is not None:
                sizes = [_literal(definition.tag_field), _literal(definition.tag)]
        for field in definition.fields:
            sizes += [_literal(field.key or field.name), self.of(field.type)]
        return _sum(sizes)


def _literal(value: object) -> int:
    return _HEAD + len(value.encode()) if isinstance(value, str) else _NUMBER


def _sum(sizes: list[int | None]) -> int | None:
    return None if None in sizes else _HEAD + sum(size for size in sizes if size is not None)


def _times(count: int, sizes: list[int | None]) -> int | None:
    each = _sum(sizes)
    return None if each is None else _HEAD + count * each
