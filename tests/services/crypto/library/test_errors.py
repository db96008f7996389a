"""What each function answers to what it must not be called with (PKCS#11 3.2, section 5)."""

from __future__ import annotations

from ctypes import addressof, byref, c_ulong, sizeof
from typing import Any

import pytest

from secgear.services.crypto.library.prototypes import (
    BY_HAND,
    MESSAGES,
    STANDARD,
    STRUCTURES,
    kinds,
)
from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import UNAVAILABLE, Mech
from secgear.services.crypto.pkcs11.rv import Rv
from tests.services.crypto.library.answering import Answering
from tests.services.crypto.library.cryptoki import (
    CANT_LOCK,
    FUNCTION_NOT_PARALLEL,
    Attribute,
    InitializeArgs,
    Library,
    Mechanism,
    Session,
    buffer_of,
    template,
)
from tests.services.crypto.library.parameters import GcmMessageParams

WITHOUT = ("C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface")
"""Functions that need no C_Initialize."""
WIDTH = {"B": 2, "V": 2, "T": 2, "R": 2, "N": 2, "A": 2}


def count(name: str) -> int:
    """How many parameters a function has."""
    if name in BY_HAND:
        return BY_HAND[name].count(",") + 1
    if name in STRUCTURES:
        return len(STRUCTURES[name][0]) + 1
    return sum(WIDTH.get(kind, 1) for kind in kinds(name))


@pytest.mark.parametrize("name", sorted(set(STANDARD) - {*WITHOUT, "C_Initialize"}))
def test_nothing_works_before_initialize(library: Library, name: str) -> None:
    assert library.rv(name, *[None] * count(name)) == Rv.CRYPTOKI_NOT_INITIALIZED


@pytest.mark.parametrize("name", WITHOUT)
def test_what_works_without_needs_somewhere_to_put_it(library: Library, name: str) -> None:
    assert library.rv(name, *[None] * count(name)) == Rv.ARGUMENTS_BAD


def test_a_library_is_initialised_once(ready: Library, server: Answering) -> None:
    assert ready.rv("C_Initialize", None) == Rv.CRYPTOKI_ALREADY_INITIALIZED
    assert ready.rv("C_Finalize", byref(c_ulong())) == Rv.ARGUMENTS_BAD
    ready.call("C_Finalize", None)
    assert ready.rv("C_Finalize", None) == Rv.CRYPTOKI_NOT_INITIALIZED
    ready.initialise(server.address)
    assert server.connections == 2


@pytest.mark.parametrize(
    ("given", "flags", "expected"),
    [
        (0, 0, Rv.OK),
        (0, 1, Rv.OK),  # threads of our own: there are none
        (0, 2, Rv.OK),
        (4, 2, Rv.OK),  # either kind of locks: the system's
        (4, 0, CANT_LOCK),
        (1, 2, Rv.ARGUMENTS_BAD),
        (3, 0, Rv.ARGUMENTS_BAD),
    ],
)
def test_locks_are_the_systems(
    library: Library, server: Answering, given: int, flags: int, expected: int
) -> None:
    args = InitializeArgs(flags=flags, reserved=server.address.encode())
    for i in range(given):
        setattr(args, f"mutex{i}", 1)  # is not called
    assert library.rv("C_Initialize", byref(args)) == expected


def test_where_nobody_listens_there_is_no_module(library: Library, short: Any) -> None:
    args = InitializeArgs(flags=2, reserved=f"unix:{short}/nobody".encode())
    assert library.rv("C_Initialize", byref(args)) == Rv.FUNCTION_FAILED
    args.reserved = b"unix:/" + b"x" * 200
    assert library.rv("C_Initialize", byref(args)) == Rv.FUNCTION_FAILED


BUFFER, SIZE = buffer_of(4096), c_ulong(4096)
ONE = byref(c_ulong(0))
AES = byref(Mechanism(Mech.AES_ECB))
EMPTY = template()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("C_Encrypt", (None, 5, BUFFER, byref(SIZE))),
        ("C_Encrypt", (b"12345", 5, BUFFER, None)),
        ("C_EncryptUpdate", (None, 5 << 20, BUFFER, byref(SIZE))),
        ("C_EncryptUpdate", (BUFFER, 5 << 20, BUFFER, None)),
        ("C_EncryptFinal", (BUFFER, None)),
        ("C_Digest", (None, 5, BUFFER, byref(SIZE))),
        ("C_Digest", (None, 5 << 20, BUFFER, byref(SIZE))),
        ("C_DigestUpdate", (None, 5)),
        ("C_DigestUpdate", (None, 5 << 20)),
        ("C_Sign", (b"12345", 5, BUFFER, None)),
        ("C_Verify", (b"12345", 5, None, 64)),
        ("C_GenerateRandom", (None, 5)),
        ("C_SeedRandom", (None, 5)),
        ("C_FindObjectsInit", (None, 1)),
        ("C_FindObjects", (None, 5, ONE)),
        ("C_FindObjects", (BUFFER, 5, None)),
        ("C_CreateObject", (None, 1, ONE)),
        ("C_CreateObject", (EMPTY, 0, None)),
        ("C_CopyObject", (2, EMPTY, 0, None)),
        ("C_GetObjectSize", (2, None)),
        ("C_GetAttributeValue", (2, None, 1)),
        ("C_SetAttributeValue", (2, None, 1)),
        ("C_GenerateKey", (AES, EMPTY, 0, None)),
        ("C_GenerateKey", (None, EMPTY, 0, ONE)),
        ("C_GenerateKeyPair", (AES, EMPTY, 0, EMPTY, 0, None, ONE)),
        ("C_GenerateKeyPair", (AES, EMPTY, 0, EMPTY, 0, ONE, None)),
        ("C_WrapKey", (AES, 2, 2, BUFFER, None)),
        ("C_UnwrapKey", (AES, 2, None, 16, EMPTY, 0, ONE)),
        ("C_UnwrapKey", (AES, 2, BUFFER, 16, EMPTY, 0, None)),
        ("C_DeriveKey", (AES, 2, EMPTY, 0, None)),
        ("C_EncapsulateKey", (AES, 2, EMPTY, 0, BUFFER, None, ONE)),
        ("C_DecapsulateKey", (AES, 2, EMPTY, 0, None, 16, ONE)),
        ("C_Login", (1, None, 8)),
        ("C_InitPIN", (None, 8)),
        ("C_SetPIN", (None, 8, b"1234", 4)),
        ("C_GetSessionInfo", (None,)),
    ],
)
def test_a_pointer_that_is_missing_is_a_bad_argument(
    session: Session, name: str, arguments: tuple[Any, ...]
) -> None:
    assert session.rv(name, *arguments) == Rv.ARGUMENTS_BAD
    # ... of that call alone.
    session.call("C_GenerateRandom", BUFFER, 16)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("C_GetInfo", (None,)),
        ("C_GetSlotList", (1, None, None)),
        ("C_GetSlotInfo", (0, None)),
        ("C_GetTokenInfo", (0, None)),
        ("C_GetMechanismList", (0, None, None)),
        ("C_GetMechanismInfo", (0, 1, None)),
        ("C_OpenSession", (0, 6, None, None, None)),
        ("C_InitToken", (0, b"12345678", 8, None)),
        ("C_WaitForSlotEvent", (1, None, None)),
    ],
)
def test_the_same_without_a_session(ready: Library, name: str, arguments: tuple[Any, ...]) -> None:
    assert ready.rv(name, *arguments) == Rv.ARGUMENTS_BAD


SESSIONS = sorted(
    name
    for name in STANDARD
    if name in BY_NAME
    and BY_NAME[name].request.startswith("u")
    and name
    not in (
        *("C_GetSlotInfo", "C_GetTokenInfo", "C_GetMechanismList", "C_GetMechanismInfo"),
        *("C_InitToken", "C_OpenSession", "C_CloseAllSessions", "C_WaitForSlotEvent"),
        # The token does not have these.
        *("C_GetOperationState", "C_SetOperationState", "C_SignRecoverInit", "C_SignRecover"),
        *("C_VerifyRecoverInit", "C_VerifyRecover", "C_DigestEncryptUpdate", "C_LoginUser"),
        *("C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate"),
    )
)


def sound(name: str) -> list[Any]:
    """Arguments behind the session that are all well-formed."""
    if name in BY_HAND:
        return {"C_FindObjects": [BUFFER, 5, ONE], "C_GenerateRandom": [BUFFER, 5]}[name]
    if name in STRUCTURES:
        return [BUFFER]
    if name in MESSAGES and "crypt" in name:
        parameter = GcmMessageParams.of(bytes(12), 0, 0, bytes(16), 128)
        return [byref(parameter), sizeof(parameter), *values(kinds(name)[3:])]
    return values(kinds(name)[1:])


def values(of: str) -> list[Any]:
    """Arguments of these kinds."""
    made: list[Any] = []
    for kind in of:
        made += {
            "u": [0], "y": [0], "M": [AES], "H": [ONE], "B": [b"12345", 5], "T": [EMPTY, 0],
            "R": [BUFFER, byref(SIZE)], "A": [EMPTY, 0], "-": [None], "V": [None, 0],
        }[kind]  # fmt: skip
    return made


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_that_is_none_is_no_session(ready: Library, name: str) -> None:
    SIZE.value = 4096
    assert ready.rv(name, 4711, *sound(name)) == Rv.SESSION_HANDLE_INVALID
    assert ready.rv(name, UNAVAILABLE, *sound(name)) == Rv.SESSION_HANDLE_INVALID


@pytest.mark.parametrize("slot", [2, UNAVAILABLE])
def test_a_slot_that_is_none_is_no_slot(ready: Library, slot: int) -> None:
    for name, arguments in (
        ("C_GetSlotInfo", (slot, BUFFER)),
        ("C_GetTokenInfo", (slot, BUFFER)),
        ("C_GetMechanismList", (slot, None, byref(SIZE))),
        ("C_GetMechanismInfo", (slot, 1, BUFFER)),
        ("C_OpenSession", (slot, 6, None, None, ONE)),
        ("C_CloseAllSessions", (slot,)),
        ("C_InitToken", (slot, b"12345678", 8, bytes(32))),
    ):
        assert ready.rv(name, *arguments) == Rv.SLOT_ID_INVALID, name


def test_functions_of_other_days_say_so(session: Session) -> None:
    assert session.rv("C_GetFunctionStatus") == FUNCTION_NOT_PARALLEL
    assert session.rv("C_CancelFunction") == FUNCTION_NOT_PARALLEL
    assert session.rv("C_AsyncComplete", None, None) == Rv.FUNCTION_NOT_SUPPORTED
    assert session.library.rv("C_WaitForSlotEvent", 1, ONE, None) == Rv.NO_EVENT


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        (Attribute(0x105, None, 1), Rv.ATTRIBUTE_VALUE_INVALID),  # no value, but a size
        (Attribute(1 << 33, None, 0), Rv.ATTRIBUTE_TYPE_INVALID),
        (Attribute(0x7FFFFFFF, None, 0), Rv.ATTRIBUTE_TYPE_INVALID),
    ],
)
def test_an_attribute_that_is_none_is_refused(
    session: Session, attribute: Attribute, expected: Rv
) -> None:
    sound = template(CLASS=0)  # keeps the value that the copy points to
    made = (Attribute * 2)(*sound.array, attribute)
    assert session.rv("C_CreateObject", made, 2, ONE) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ENCRYPT": b"\1\0\0\0"}, Rv.ATTRIBUTE_VALUE_INVALID),  # a CK_BBOOL is a byte
        ({"VALUE_LEN": b"\1\0\0\0"}, Rv.ATTRIBUTE_VALUE_INVALID),  # a CK_ULONG has eight
        ({"ALLOWED_MECHANISMS": b"\1\0\0\0"}, Rv.ATTRIBUTE_VALUE_INVALID),
        ({"WRAP_TEMPLATE": bytes(23)}, Rv.ATTRIBUTE_VALUE_INVALID),
        ({"START_DATE": b"yesterday"}, Rv.ATTRIBUTE_VALUE_INVALID),
    ],
)
def test_a_value_of_another_kind_is_refused(
    session: Session, given: dict[str, Any], expected: Rv
) -> None:
    made = template(**given)
    handle = c_ulong(0)
    mechanism = byref(Mechanism(Mech.AES_KEY_GEN))
    assert session.rv("C_GenerateKey", mechanism, made, 1, byref(handle)) == expected


def test_more_attributes_than_anybody_has_are_refused(session: Session) -> None:
    many = (Attribute * 129)()
    assert session.rv("C_FindObjectsInit", many, 129) == Rv.TEMPLATE_INCONSISTENT
    assert session.rv("C_GetAttributeValue", 2, many, 129) == Rv.TEMPLATE_INCONSISTENT


def test_a_mechanism_that_is_none_is_invalid(session: Session) -> None:
    key = session.generate(Mech.AES_KEY_GEN, VALUE_LEN=16, ENCRYPT=True)
    for number in (0x7FFFFFFF, 0xFFFFFFFF, 1 << 40):
        assert session.rv("C_EncryptInit", byref(Mechanism(number)), key) == Rv.MECHANISM_INVALID


def test_a_parameter_of_another_size_is_invalid(session: Session) -> None:
    key = session.generate(Mech.AES_KEY_GEN, VALUE_LEN=16, ENCRYPT=True)
    other = buffer_of(4096)
    for size in (0, 1, 47, 49, 4096):
        mechanism = byref(Mechanism(Mech.AES_GCM, addressof(other), size))
        assert session.rv("C_EncryptInit", mechanism, key) == Rv.MECHANISM_PARAM_INVALID
    mechanism = byref(Mechanism(Mech.AES_GCM, None, 48))
    assert session.rv("C_EncryptInit", mechanism, key) == Rv.MECHANISM_PARAM_INVALID
