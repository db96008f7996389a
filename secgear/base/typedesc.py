"""Types as data: what the interface says about parameters and results.

A description is a small tree of frozen structs, the same on every machine: no addresses, no module
names, nothing that must be imported to be understood. Types that have a name (structs, enums, …)
are defined once, beside the functions, and referred to by it, so they may be recursive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

Scalar = str | int | float | bool | None

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
        "secgear.Shared",  # no class of an app's has a dot in its name
    }
)
BYTES = frozenset({"bytes", "bytearray", "memoryview"})
UNHASHABLE = frozenset({"bytearray", "memoryview"})
SEQUENCES = frozenset({"list", "set", "frozenset", "tuple"})
LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")
FACTORIES = frozenset({"list", "dict", "set", "tuple", "frozenset", "bytes", "bytearray"})
ENUMS = ("IntFlag", "IntEnum", "StrEnum", "Enum")
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
    }
)
"""Scalar types of numpy whose arrays are plain memory and mean the same on every platform."""


class _Desc(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Basic(_Desc, tag="basic", frozen=True):
    """A type without parts. name: a member of `BASIC`."""

    name: str


class Limited(_Desc, tag="limited", frozen=True):
    """A type with constraints (`msgspec.Meta`), by the names in `LIMITS`."""

    of: TypeDesc
    limits: dict[str, int | float | str | bool]


class Sequence(_Desc, tag="sequence", frozen=True):
    """Items of one type. kind: a member of `SEQUENCES`; a tuple of any length."""

    kind: str
    item: TypeDesc


class Fixed(_Desc, tag="fixed", frozen=True):
    """A tuple with these items."""

    items: tuple[TypeDesc, ...]


class Dictionary(_Desc, tag="dictionary", frozen=True):
    """A dict."""

    key: TypeDesc
    value: TypeDesc


class Either(_Desc, tag="either", frozen=True):
    """A union; see `either`."""

    of: tuple[TypeDesc, ...]


class Exactly(_Desc, tag="exactly", frozen=True):
    """One of these values (`typing.Literal`); sorted. With None it is a union."""

    values: tuple[str | int | bool, ...]


class NDArray(_Desc, tag="ndarray", frozen=True):
    """A numpy array. dtype: a member of `DTYPES`, None for any array that may cross."""

    dtype: str | None = None


class Arrow(_Desc, tag="arrow", frozen=True):
    """kind: Table or RecordBatch."""

    kind: str


class Named(_Desc, tag="named", frozen=True):
    """A type that is defined under its name in `Interface.types`."""

    name: str


TypeDesc = (
    Basic | Limited | Sequence | Fixed | Dictionary | Either | Exactly | NDArray | Arrow | Named
)


class FieldDesc(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A field of a named type.

    key: its name in messages, empty if that is `name`.
    The default of a field that is not required is one of: `default`, a plain value; `member`, the
    name of a member of the one enum in `type`; `factory`, an empty list, dict, …; or none of them,
    when the default can't be described: then the field may be left out and the enclave fills it in.
    """

    name: str
    type: TypeDesc
    key: str = ""
    required: bool = True
    default: Scalar | msgspec.UnsetType = msgspec.UNSET
    member: str = ""
    factory: str = ""

    @property
    def open(self) -> bool:
        """Whether only the enclave knows the default."""
        return not (
            self.required or self.member or self.factory or self.default is not msgspec.UNSET
        )


class StructDef(_Desc, tag="struct", frozen=True):
    """A msgspec Struct or a dataclass.

    forbid_unknown: whether messages with other fields are refused. frozen: whether it is hashable.
    tag_field, tag: what tells it apart in a union, None if nothing does.
    """

    fields: tuple[FieldDesc, ...]
    tag_field: str | None = None
    tag: str | int | None = None
    array_like: bool = False
    forbid_unknown: bool = False
    frozen: bool = False


class EnumDef(_Desc, tag="enum", frozen=True):
    """An enumeration. kind: a member of `ENUMS`. members: name and value, aliases included."""

    kind: str
    members: tuple[tuple[str, str | int], ...]


class DictDef(_Desc, tag="dict", frozen=True):
    """A TypedDict."""

    fields: tuple[FieldDesc, ...]


class TupleDef(_Desc, tag="tuple", frozen=True):
    """A NamedTuple."""

    fields: tuple[FieldDesc, ...]


TypeDef = StructDef | EnumDef | DictDef | TupleDef


def either(alternatives: Iterable[TypeDesc]) -> TypeDesc:
    """A union in canonical form: flat, without repetition, sorted, None last.

    A union is a set, and typing's caches may give back another order of one that is equal.
    """
    flat: dict[str, TypeDesc] = {}
    for part in alternatives:
        for inner in part.of if isinstance(part, Either) else (part,):
            flat[render(inner)] = inner
    order = sorted(flat, key=lambda text: (text == "None", text))
    return Either(tuple(flat[text] for text in order)) if len(order) > 1 else flat[order[0]]


def parts(desc: TypeDesc) -> tuple[TypeDesc, ...]:
    """The types directly inside `desc`."""
    match desc:
        case Limited(of, _):
            return (of,)
        case Sequence(_, item):
            return (item,)
        case Fixed(items) | Either(items):
            return items
        case Dictionary(key, value):
            return (key, value)
        case _:
            return ()


def walk(desc: TypeDesc) -> Iterator[TypeDesc]:
    """`desc` and every type inside it, without looking into named ones."""
    yield desc
    for part in parts(desc):
        yield from walk(part)


def fields_of(definition: TypeDef) -> tuple[FieldDesc, ...]:
    """The fields of a named type; none for an enum."""
    return () if isinstance(definition, EnumDef) else definition.fields


def keyword_only(definition: StructDef) -> bool:
    """Whether a field without default follows one with a default, so that names are needed."""
    optional = False
    for field in definition.fields:
        if field.required and optional:
            return True
        optional = optional or not field.required
    return False


def enum_of(field: FieldDesc, definitions: Mapping[str, TypeDef]) -> str:
    """The name of the enum that has the field's default `member`.

    Raises ValueError unless the field's type has exactly one.
    """
    found = [
        part.name
        for part in walk(field.type)
        if isinstance(part, Named)
        and isinstance(enum := definitions.get(part.name), EnumDef)
        and any(name == field.member for name, _ in enum.members)
    ]
    if len(found) != 1:
        raise ValueError(f"field {field.name}: no enum for its default {field.member!r}")
    return found[0]


def top_level_bytes(desc: TypeDesc) -> bool:
    """Whether a type is bytes-like, or that or None, so that its value may travel out of band."""
    if isinstance(desc, Either):
        kinds = {part.name for part in desc.of if isinstance(part, Basic)}
        return len(desc.of) == 2 and "None" in kinds and bool(kinds & BYTES)
    return isinstance(desc, Basic) and desc.name in BYTES


SHARED = Basic("secgear.Shared")


def has_shared(desc: TypeDesc) -> bool:
    """Whether there is a shared buffer in a type, which may only be a whole parameter."""
    return any(part == SHARED for part in walk(desc))


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
        case Dictionary(key, value):
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
    """A named type in one line, for people; everything that matters shows."""
    match definition:
        case EnumDef(kind, members):
            inside = ", ".join(f"{member} = {value!r}" for member, value in members)
            return f"{kind} {name}: {inside}"
        case StructDef(fields=fields):
            flags = _flags(definition)
        case DictDef(fields):
            flags = " [TypedDict]"
        case TupleDef(fields):
            flags = " [NamedTuple]"
    return f"class {name}({', '.join(map(_render_field, fields))}){flags}"


def _flags(definition: StructDef) -> str:
    flags = []
    if definition.tag is not None:
        flags.append(f"tag {definition.tag_field}={definition.tag!r}")
    if definition.array_like:
        flags.append("array_like")
    if definition.forbid_unknown:
        flags.append("forbid_unknown_fields")
    if definition.frozen:
        flags.append("frozen")
    return f" [{', '.join(flags)}]" if flags else ""


def _render_field(field: FieldDesc) -> str:
    text = f"{field.name}: {render(field.type)}"
    if field.key:
        text += f" as {field.key!r}"
    if field.required:
        return text
    if field.member:
        return f"{text} = {field.member}"
    if field.factory:
        return f"{text} = {field.factory}()"
    return text + (" = ..." if field.default is msgspec.UNSET else f" = {field.default!r}")
