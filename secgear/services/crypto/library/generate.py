"""C from the tables: headers, a function body for each call, a writer for each parameter.

The same tables make the same text, byte for byte.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final

from secgear.services.crypto.library.layouts import BY_HAND as ENCODED_BY_HAND
from secgear.services.crypto.library.layouts import LAYOUTS, Layout
from secgear.services.crypto.library.prototypes import (
    BY_HAND,
    MESSAGES,
    STANDARD,
    STRUCTURES,
    V2_40,
    V3_0,
    WRAPPED,
    derived,
    kinds,
    own_calls,
)
from secgear.services.crypto.pkcs11 import constants, values
from secgear.services.crypto.pkcs11.calls import BY_NAME, ERROR, Call
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc import buffer, frames, mechanisms, messages

INTERFACE: Final = "Vendor secGear"
"""The name by which C_GetInterface has our own calls."""
_HEAD = "/* Generated from the table of calls. */\n"
_VENDORS = 0xFFFFFF00  # of our range, see constants.VENDOR
_OVERHEAD = 1024  # bytes of an answer besides what the caller has room for, at most
_MAX_FOUND = 1024  # objects that a search asks for at once
_MAX_RANDOM = 1 << 20  # bytes of one C_GenerateRandom, as the token has it

_NAMES: Final[Mapping[str, str]] = {
    "u": "CK_ULONG a{0}",
    "y": "CK_BYTE a{0}",
    "M": "CK_MECHANISM_PTR a{0}",
    "H": "CK_ULONG_PTR a{0}",
    "L": "CK_UTF8CHAR_PTR a{0}",
    "-": "CK_VOID_PTR a{0}",
    "B": "CK_BYTE_PTR a{0}, CK_ULONG a{0}_size",
    "V": "CK_VOID_PTR a{0}, CK_ULONG a{0}_size",
    "T": "CK_ATTRIBUTE_PTR a{0}, CK_ULONG a{0}_count",
    "A": "CK_ATTRIBUTE_PTR a{0}, CK_ULONG a{0}_count",
    "R": "CK_BYTE_PTR a{0}, CK_ULONG_PTR a{0}_size",
    "N": "CK_ULONG_PTR a{0}, CK_ULONG_PTR a{0}_count",
    "D": "CK_BYTE_PTR *a{0}, CK_ULONG_PTR a{0}_size",
    "P": "CK_MECHANISM_PTR a{0}, CK_ULONG a{0}_count",
    "I": "const CK_SECGEAR_INPUT *a{0}, CK_ULONG a{0}_count",
    "O": "CK_SECGEAR_RESULT *a{0}, CK_ULONG a{0}_count",
}
_PUT: Final[Mapping[str, str]] = {
    "u": "sg_put_ulong(&call, a{0});",
    "y": "sg_put_byte(&call, a{0});",
    "M": "sg_put_mechanism(&call, a{0});",
    "H": "sg_need(&call, a{0});",
    "L": "sg_put_text(&call, a{0}, 32);",
    "B": "sg_put_bytes(&call, a{0}, a{0}_size);",
    "V": "sg_put_bytes(&call, a{0}, a{0}_size);",
    "T": "sg_put_template(&call, a{0}, a{0}_count);",
    "A": "sg_put_rooms(&call, a{0}, a{0}_count);",
    "R": "sg_put_room(&call, a{0}, a{0}_size);",
    "N": "sg_put_room(&call, a{0}, a{0}_count);",
    "D": "sg_need_document(&call, a{0}, a{0}_size);",
    "P": "sg_put_mechanisms(&call, a{0}, a{0}_count);",
    "I": "sg_put_inputs(&call, a{0}, a{0}_count);",
    "O": "sg_need_results(&call, a{0}, a{0}_count);",
}
_GET: Final[Mapping[str, str]] = {
    "H": "sg_get_ulong(&call, a{0});",
    "A": "sg_get_attributes(&call, a{0}, a{0}_count);",
    "R": "sg_get_bytes(&call, a{0}, a{0}_size);",
    "N": "sg_get_ulongs(&call, a{0}, a{0}_count);",
    "D": "sg_get_document(&call, a{0}, a{0}_size);",
    "O": "sg_get_results(&call, a{0}, a{0}_count);",
}


def files() -> dict[str, str]:
    """Every generated file, by its name."""
    return {
        "functions.h": functions(),
        "generated.h": internals(),
        "secgear.h": public_header(),
        "calls.c": calls(),
        "tables.c": tables(),
    }


# --- headers -------------------------------------------------------------------------------------


def functions() -> str:
    """The functions of PKCS#11 and their lists."""
    lists = "".join(
        f"\ntypedef struct {name} {{\n    CK_VERSION version;\n{_members(members)}}} {name};\n"
        for name, members in (
            ("CK_FUNCTION_LIST_3_0", (*V2_40, *V3_0)),
            ("CK_FUNCTION_LIST_3_2", STANDARD),
        )
    )
    # The oldest one has a name before it has members: C_GetFunctionList is one of them.
    oldest = f"\nstruct CK_FUNCTION_LIST {{\n    CK_VERSION version;\n{_members(V2_40)}}};\n"
    return (
        _HEAD + "#ifndef SECGEAR_FUNCTIONS_H\n#define SECGEAR_FUNCTIONS_H\n\n"
        '#include "pkcs11.h"\n\n'
        '#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        "typedef struct CK_FUNCTION_LIST CK_FUNCTION_LIST;\n\n"
        + "".join(f"CK_RV {name}({_parameters(name)});\n" for name in STANDARD)
        + oldest
        + lists
        + "\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n"
    )


def internals() -> str:
    """What the library itself needs: numbers, the limits of messages, functions inside."""
    limits = {
        "SG_VERSION": buffer.OWN,
        "SG_NULL": buffer.NULL,
        "SG_HEADER": frames.HEADER.size,
        "SG_MAX_OPTIONS": frames.MAX_OPTIONS,
        "SG_MAX_BODY": frames.MAX_BODY,
        "SG_MAX_MESSAGE": frames.HEADER.size + frames.MAX_BODY,
        "SG_OVERHEAD": _OVERHEAD,
        "SG_MAX_DATA": frames.MAX_BODY // 2,
        "SG_MAX_ITEMS": messages.MAX_ITEMS,
        "SG_EMPTY_BUFFER": messages.EMPTY_BUFFER,
        "SG_CANCEL": mechanisms.CANCEL,
        "SG_MAX_PARAMETER": mechanisms.MAX_PARAMETER,
        "SG_MAX_ATTRIBUTES": values.MAX_ATTRIBUTES,
        "SG_MAX_DEPTH": values.MAX_DEPTH,
        "SG_MAX_MECHANISMS": values.MAX_MECHANISMS,
        "SG_MAX_FOUND": _MAX_FOUND,
        "SG_MAX_RANDOM": _MAX_RANDOM,
        "SG_MAX_BATCH": mechanisms.MAX_BATCH,
        "SG_ERROR": ERROR.id,
    }
    texts = {
        "SG_HANDSHAKE": messages.HANDSHAKE.decode(),
    }
    by_hand = [BY_NAME[name] for name in (*BY_HAND, *MESSAGES) if name in BY_NAME]
    limits |= {f"SG_ID_{call.name[2:]}": call.id for call in by_hand}
    texts |= {f"SG_REQUEST_{call.name[2:]}": call.request for call in by_hand}
    return (
        _HEAD
        + "#ifndef SECGEAR_GENERATED_H\n#define SECGEAR_GENERATED_H\n\n"
        + _defines("CKR", Rv)
        # Of calls that end in the library.
        + "#define CKR_CANT_LOCK 0xAUL\n#define CKR_FUNCTION_NOT_PARALLEL 0x51UL\n\n"
        + "".join(
            _defines(prefix, [one for one in numbers if not _is_vendors(one)])
            for prefix, numbers in _NUMBERS.items()
        )
        + "".join(f"#define {name} {number:#x}U\n" for name, number in limits.items())
        + "".join(f'#define {name} "{text}"\n' for name, text in texts.items())
        + "\n"
        + "".join(_structure(layout) for layout in LAYOUTS.values() if not layout.own)
        + "".join(f"CK_RV {_inside(name)}({_parameters(name)});\n" for name in WRAPPED)
        + "extern const CK_FUNCTION_LIST sg_list_2_40;\n"
        "extern const CK_FUNCTION_LIST_3_0 sg_list_3_0;\n"
        "extern const CK_FUNCTION_LIST_3_2 sg_list_3_2;\n"
        "extern const struct CK_SECGEAR_FUNCTION_LIST sg_list_secgear;\n"
        "\n#endif\n"
    )


def public_header() -> str:
    """What PKCS#11 has no names for: our mechanisms, key types, attributes and calls."""
    own = own_calls()
    return (
        _HEAD + "/* What secGear's module has beyond PKCS#11. Include a header of PKCS#11 first.\n"
        f' * C_GetInterface("{INTERFACE}") has a CK_SECGEAR_FUNCTION_LIST, of the release that\n'
        " * this header is from. */\n"
        "#ifndef SECGEAR_H\n#define SECGEAR_H\n\n"
        '#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        + f'#define SECGEAR_INTERFACE "{INTERFACE}"\n\n'
        + "".join(
            _defines(prefix, [one for one in numbers if _is_vendors(one)])
            for prefix, numbers in _NUMBERS.items()
        )
        + _BATCHES
        + "".join(_structure(layout) for layout in LAYOUTS.values() if layout.own)
        + "void S_Free(CK_BYTE_PTR data);\n"
        + "".join(f"CK_RV {name}({_list(derived(call))});\n" for name, call in own)
        + "\ntypedef struct CK_SECGEAR_FUNCTION_LIST {\n    CK_VERSION version;\n"
        "    void (*S_Free)(CK_BYTE_PTR data);\n"
        + "".join(f"    CK_RV (*{name})({_list(derived(call))});\n" for name, call in own)
        + "} CK_SECGEAR_FUNCTION_LIST;\n\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n"
    )


_BATCHES = """\
/* One of the inputs of a batch. */
typedef struct CK_SECGEAR_INPUT {
    const CK_BYTE *pData;
    CK_ULONG ulDataLen;
} CK_SECGEAR_INPUT;

/* One of its results. ulDataLen: what pData has room for, and then what there is. */
typedef struct CK_SECGEAR_RESULT {
    CK_BYTE_PTR pData;
    CK_ULONG ulDataLen;
    CK_RV rv;
} CK_SECGEAR_RESULT;

/* What comes as CK_BYTE_PTR * is allocated here, and freed by S_Free. */
"""

_NUMBERS: Final[Mapping[str, type[enum.IntEnum]]] = {
    "CKO": constants.ObjectClass,
    "CKK": constants.KeyType,
    "CKM": constants.Mech,
    "CKA": constants.Attr,
}


def _is_vendors(number: int) -> bool:
    return number & _VENDORS == constants.VENDOR


def _defines(prefix: str, numbers: Iterable[enum.IntEnum]) -> str:
    lines = [f"#define {prefix}_{one.name} {one.value:#x}UL\n" for one in numbers]
    return "".join(lines) + ("\n" if lines else "")


def _structure(layout: Layout) -> str:
    members = "".join(f"    {member};\n" for member in layout.members)
    return f"struct {layout.name} {{\n{members}}};\n\n"


def _members(names: Iterable[str]) -> str:
    return "".join(f"    CK_RV (*{name})({_parameters(name)});\n" for name in names)


def _parameters(name: str) -> str:
    if name in BY_HAND:
        return BY_HAND[name]
    if name in STRUCTURES:
        before, structure, _ = STRUCTURES[name]
        parameters = [_NAMES[kind].format(i) for i, kind in enumerate(before)]
        return ", ".join([*parameters, f"{structure} *info"])
    return _list(kinds(name))


def _list(kinds: str) -> str:
    return ", ".join(_NAMES[kind].format(i) for i, kind in enumerate(kinds)) or "void"


# --- function bodies -----------------------------------------------------------------------------


def calls() -> str:
    """A body for each function, and the lists of all of them."""
    bodies = []
    for name in STANDARD:
        if name in STRUCTURES:
            bodies.append(_filling(name, BY_NAME[name]))
        elif name not in BY_HAND and name not in MESSAGES:
            bodies.append(_body(name, kinds(name), BY_NAME.get(name)))
    bodies += [_body(name, derived(call), call) for name, call in own_calls()]
    own = ",\n    ".join(["{1, 0}", "S_Free", *(name for name, _ in own_calls())])
    lists = "".join(
        f"const {type_} {name} = {{\n    {{{version}}},\n    "
        + ",\n    ".join(members)
        + ",\n};\n\n"
        for type_, name, version, members in (
            ("CK_FUNCTION_LIST", "sg_list_2_40", "2, 40", V2_40),
            ("CK_FUNCTION_LIST_3_0", "sg_list_3_0", "3, 0", (*V2_40, *V3_0)),
            ("CK_FUNCTION_LIST_3_2", "sg_list_3_2", "3, 2", STANDARD),
        )
    )
    return (
        _HEAD
        + '#include "library.h"\n\n'
        + "\n".join(bodies)
        + "\n"
        + lists
        + f"const struct CK_SECGEAR_FUNCTION_LIST sg_list_secgear = {{\n    {own},\n}};\n"
    )


def _body(name: str, kinds: str, call: Call | None) -> str:
    head = f"{_head(name)}({_list(kinds)})\n{{\n"
    unused = [
        f"    (void)a{i}{suffix};\n"
        for i, kind in enumerate(kinds)
        if call is None or kind == "-"
        for suffix in ("", *_suffixes(kind))
    ]
    if call is None:
        return head + "".join(unused) + "    return sg_unsupported();\n}\n"
    wire = [(i, kind) for i, kind in enumerate(kinds) if kind != "-"]
    lines = [
        *(_PUT[kind].format(i) for i, kind in wire),
        f'sg_exchange(&call, "{call.response}");',
        *(_GET[kind].format(i) for i, kind in wire if kind in _GET),
    ]
    return head + "".join(unused) + _calling(call, lines)


def _head(name: str) -> str:
    return f"CK_RV {_inside(name)}" if name in WRAPPED else f"SG_EXPORT CK_RV {name}"


def _inside(name: str) -> str:
    return f"sg_{name.removeprefix('C_')}"


def _filling(name: str, call: Call) -> str:
    before, structure, members = STRUCTURES[name]
    readers = {"v": "sg_get_version(&call, &got.{0});", "u": "sg_get_ulong(&call, &got.{0});"}
    text = "sg_get_text(&call, got.{0}, sizeof got.{0});"
    lines = [
        "sg_need(&call, info);",
        *(_PUT[kind].format(i) for i, kind in enumerate(before)),
        f'sg_exchange(&call, "{call.response}");',
        *(
            readers.get(form, text).format(member)
            for form, member in zip(call.response, members, strict=True)
        ),
    ]
    return f"{_head(name)}({_parameters(name)})\n{{\n    {structure} got = {{0}};\n" + _calling(
        call,
        lines,
        "    CK_RV rv = sg_end(&call);\n    if (rv == CKR_OK)\n"
        "        *info = got;\n    return rv;\n",
    )


def _calling(call: Call, lines: list[str], end: str = "    return sg_end(&call);\n") -> str:
    return (
        "    struct sg_call call;\n"
        f'    sg_begin(&call, {call.id}, "{call.request}");\n'
        + "".join(f"    {line}\n" for line in lines)
        + end
        + "}\n"
    )


def _suffixes(kind: str) -> tuple[str, ...]:
    return tuple(suffix for suffix in ("_size", "_count") if suffix in _NAMES[kind])


# --- tables --------------------------------------------------------------------------------------


def tables() -> str:
    """What attributes, return values and mechanisms there are."""
    kinds = {
        values.Kind.BOOL: "SG_BOOL",
        values.Kind.ULONG: "SG_ULONG",
        values.Kind.MECHANISMS: "SG_MECHANISMS",
        values.Kind.TEMPLATE: "SG_TEMPLATE",
    }
    attributes = "".join(
        f"    case {attr:#x}:\n        return {kinds[kind]};\n"
        for attr, kind in sorted(values.KINDS.items())
        if kind in kinds
    )
    known = "".join(f"    case {rv:#x}:\n" for rv in sorted(set(Rv) - {Rv.OK}))
    forms = {int(mech): mechanisms.parameter_type(int(mech)) for mech in sorted(constants.Mech)}
    used = {kind.__name__ for kind in forms.values() if kind is not bytes}
    encoders = "".join(
        f"    case {mech:#x}:\n        return {_encoder(kind)};\n" for mech, kind in forms.items()
    )
    return (
        _HEAD + '#include <string.h>\n\n#include "library.h"\n\n'
        "enum sg_kind sg_kind_of(uint32_t attribute)\n{\n    switch (attribute) {\n"
        f"{attributes}    default:\n        return SG_BYTES;\n    }}\n}}\n\n"
        "bool sg_known_rv(uint64_t rv)\n{\n    switch (rv) {\n"
        f"{known}        return true;\n    default:\n        return false;\n    }}\n}}\n\n"
        + "".join(_encoding(LAYOUTS[name]) for name in sorted(used - set(ENCODED_BY_HAND)))
        + "sg_encoder sg_encoder_of(uint32_t mechanism)\n{\n    switch (mechanism) {\n"
        f"{encoders}    default:\n        return NULL;\n    }}\n}}\n"
    )


def _encoder(kind: type) -> str:
    """Raises KeyError for a parameter that nobody has laid out in C."""
    if kind is bytes:
        return "sg_encode_octets"
    return ENCODED_BY_HAND.get(kind.__name__) or f"encode_{LAYOUTS[kind.__name__].name}"


def _encoding(layout: Layout) -> str:
    lines = []
    for one in layout.wire:
        how, _, member = one.partition(" ")
        pointer, _, size = member.partition(":")
        lines.append(
            {
                "u64": f"sg_write_u64(writer, given.{member});",
                "u8": f"sg_write_u8(writer, given.{member});",
                "block": f"sg_write_array(writer, given.{member}, sizeof given.{member});",
                "array": f"sg_encode_array(writer, given.{pointer}, given.{size});",
                "nested": f"encode_{size}(writer, given.{pointer}, sizeof(struct {size}));",
            }[how]
        )
    return (
        f"static void encode_{layout.name}(struct sg_writer *writer, const void *parameter, "
        f"size_t size)\n{{\n    struct {layout.name} given;\n"
        "    if (!sg_encodable(writer, parameter, size, sizeof given))\n        return;\n"
        "    memcpy(&given, parameter, sizeof given);\n"
        + "".join(f"    {line}\n" for line in lines)
        + "}\n\n"
    )
