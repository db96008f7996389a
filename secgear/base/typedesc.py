"""Types as data: what the interface says about parameters and results.

A description is a small tree of frozen structs, the same on every machine: no addresses, no module
names, nothing that must be imported to be understood. Types that have a name (structs, enums, …)
are defined once, beside the functions, and referred to by it, so they may be recursive.
"""

from __future__ import annotations

from typing import Any

import msgspec

Scalar = str | int | float | bool | None


class _Desc(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Basic(_Desc, tag="basic", frozen=True):
    """A type without parts. name: a key of `BASIC`."""

    name: str


class Limited(_Desc, tag="limited", frozen=True):
    """A type with constraints (`msgspec.Meta`), by the names msgspec gives them."""

    of: TypeDesc
    limits: dict[str, int | float | str]


class Sequence(_Desc, tag="sequence", frozen=True):
    """Items of one type. kind: list, set, frozenset, or tuple of any length."""

    kind: str
    item: TypeDesc


class Fixed(_Desc, tag="fixed", frozen=True):
    """A tuple with these items."""

    items: tuple[TypeDesc, ...]


class Mapping(_Desc, tag="mapping", frozen=True):
    """A dict."""

    key: TypeDesc
    value: TypeDesc


class Either(_Desc, tag="either", frozen=True):
    """A union."""

    of: tuple[TypeDesc, ...]


class Exactly(_Desc, tag="exactly", frozen=True):
    """One of these values (`typing.Literal`)."""

    values: tuple[str | int | None, ...]


class NDArray(_Desc, tag="ndarray", frozen=True):
    """A numpy array. dtype: name of the scalar type, None for any that may cross."""

    dtype: str | None = None


class Arrow(_Desc, tag="arrow", frozen=True):
    """kind: Table or RecordBatch."""

    kind: str


class Named(_Desc, tag="named", frozen=True):
    """A type that is defined under its name in `Interface.types`."""

    name: str


TypeDesc = (
    Basic | Limited | Sequence | Fixed | Mapping | Either | Exactly | NDArray | Arrow | Named
)


class FieldDesc(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A field. key: its name in messages. default: for simple values, as JSON; `factory`: list,
    dict or set for an empty one. An optional field with neither is filled in by the enclave.
    """

    name: str
    type: TypeDesc
    key: str = ""
    required: bool = True
    default: Scalar | msgspec.UnsetType = msgspec.UNSET
    factory: str = ""


class StructDef(_Desc, tag="struct", frozen=True):
    """A msgspec Struct or a dataclass."""

    fields: tuple[FieldDesc, ...]
    tag_field: str | None = None
    tag: str | int | None = None
    array_like: bool = False
    forbid_unknown: bool = False
    dataclass: bool = False


class EnumDef(_Desc, tag="enum", frozen=True):
    """An enumeration. kind: Enum, IntEnum, StrEnum, IntFlag or Flag."""

    kind: str
    members: tuple[tuple[str, str | int], ...]


class DictDef(_Desc, tag="dict", frozen=True):
    """A TypedDict."""

    fields: tuple[FieldDesc, ...]


class TupleDef(_Desc, tag="tuple", frozen=True):
    """A NamedTuple."""

    fields: tuple[FieldDesc, ...]


TypeDef = StructDef | EnumDef | DictDef | TupleDef

BASIC = frozenset(
    {
        "None",
        "bool",
        "int",
        "float",
        "str",
        "bytes",
        "bytearray",
        "memoryview",
        "datetime",
        "date",
        "time",
        "timedelta",
        "Decimal",
        "UUID",
        "Any",
    }
)
SEQUENCES = frozenset({"list", "set", "frozenset", "tuple"})
ENUMS = ("IntFlag", "Flag", "IntEnum", "StrEnum", "Enum")
LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")
BYTES = frozenset({"bytes", "bytearray", "memoryview"})


def render(desc: TypeDesc) -> str:
    """The type as one would write it in Python."""
    match desc:
        case Basic(name) | Named(name):
            return name
        case Limited(of, limits):
            inner = ", ".join(f"{name}={limits[name]!r}" for name in sorted(limits))
            return f"Annotated[{render(of)}, Meta({inner})]"
        case Sequence(kind, item):
            return f"{kind}[{render(item)}{', ...' if kind == 'tuple' else ''}]"
        case Fixed(items):
            return f"tuple[{', '.join(map(render, items)) or '()'}]"
        case Mapping(key, value):
            return f"dict[{render(key)}, {render(value)}]"
        case Either(of):
            return " | ".join(map(render, of))
        case Exactly(values):
            return f"Literal[{', '.join(map(repr, values))}]"
        case NDArray(dtype):
            return "np.ndarray" if dtype is None else f"NDArray[np.{dtype}]"
        case Arrow(kind):
            return f"pa.{kind}"
    raise AssertionError(desc)


def render_definition(name: str, definition: TypeDef) -> str:
    """A named type in one line, for people."""
    match definition:
        case EnumDef(kind, members):
            inside = ", ".join(f"{member} = {value!r}" for member, value in members)
            return f"{kind} {name}: {inside}"
        case StructDef(fields=fields):
            kind = "struct"
        case DictDef(fields):
            kind = "dict"
        case TupleDef(fields):
            kind = "tuple"
    inside = ", ".join(
        f"{field.name}: {render(field.type)}{'' if field.required else ' = ...'}"
        for field in fields
    )
    return f"{kind} {name}({inside})"


def parts(desc: TypeDesc) -> tuple[TypeDesc, ...]:
    """The types directly inside `desc`."""
    match desc:
        case Limited(of, _):
            return (of,)
        case Sequence(_, item):
            return (item,)
        case Fixed(items) | Either(items):
            return items
        case Mapping(key, value):
            return (key, value)
        case _:
            return ()


def check(desc: TypeDesc, names: Any, depth: int = 0) -> None:
    """Raise ValueError unless a description that was read from bytes makes sense.

    names: the named types there are.
    """
    if depth > 32:
        raise ValueError("types are nested too deeply")
    match desc:
        case Basic(name) if name not in BASIC:
            raise ValueError(f"unknown type {name!r}")
        case Named(name) if name not in names:
            raise ValueError(f"undefined type {name!r}")
        case Sequence(kind, _) if kind not in SEQUENCES:
            raise ValueError(f"unknown sequence {kind!r}")
        case Arrow(kind) if kind not in {"Table", "RecordBatch"}:
            raise ValueError(f"unknown Arrow type {kind!r}")
        case NDArray(dtype) if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}")
        case Limited(_, limits) if not set(limits) <= set(LIMITS):
            raise ValueError("unknown constraint")
        case Either(of) if len(of) < 2:
            raise ValueError("a union of fewer than two types")
        case Exactly(()):
            raise ValueError("a literal without values")
    for part in parts(desc):
        check(part, names, depth + 1)


DTYPES = frozenset(
    {
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
        "datetime64",
        "timedelta64",
        "bytes_",
        "str_",
        "number",
        "integer",
        "signedinteger",
        "unsignedinteger",
        "floating",
        "complexfloating",
        "inexact",
        "generic",
    }
)
