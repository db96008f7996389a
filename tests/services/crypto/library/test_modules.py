"""Several modules in one process: nobody's names, locks or connections are another's."""

from __future__ import annotations

import os
from ctypes import CDLL, POINTER, byref, c_ubyte, c_ulong, c_void_p, cast
from pathlib import Path

import pytest

from secgear.services.crypto.library.prototypes import STANDARD, V2_40, V3_0, own_calls
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN
from tests.services.crypto.library.answering import Answering, answering, honest
from tests.services.crypto.library.cryptoki import (
    Interface,
    Library,
    Session,
    buffer_of,
    copy_of,
    initialise,
    list_of,
    loaded,
)
from tests.services.crypto.library.programs import run

OTHERS = sorted(Path("/usr/lib").glob("*/pkcs11/*.so"))
"""Modules of others, p11-kit's among them."""


def test_two_copies_are_two_modules(
    built: Path, tmp_path: Path, server: Answering, module: Module, short: Path
) -> None:
    with (
        answering(short / "second", honest(module)) as second,
        loaded(copy_of(built, tmp_path, "one.so")) as one,
        loaded(copy_of(built, tmp_path, "two.so")) as two,
    ):
        one.initialise(server.address)
        assert two.rv("C_GetInfo", buffer_of(256)) == Rv.CRYPTOKI_NOT_INITIALIZED
        two.initialise(second.address)
        sessions = Session(one, pin=PIN), Session(two)
        sessions[0].create(CLASS=0, LABEL=b"of one")
        assert sessions[1].find(LABEL=b"of one") == []  # a session object of another application
        one.call("C_Finalize", None)
        sessions[1].call("C_GenerateRandom", buffer_of(9), 9)
        assert (server.connections, second.connections) == (1, 1)


def test_a_module_before_it_with_the_same_names_does_not_catch_its_calls(
    built: Path, tmp_path: Path, server: Answering, module: Module, short: Path
) -> None:
    """The first one's functions are everybody's (RTLD_GLOBAL); the second one's are its own."""
    with (
        answering(short / "second", honest(module)) as second,
        loaded(copy_of(built, tmp_path, "one.so"), os.RTLD_GLOBAL | os.RTLD_NOW) as one,
        loaded(copy_of(built, tmp_path, "two.so")) as two,
    ):
        functions = list_of(two)
        assert initialise(functions, second.address) == Rv.OK
        assert (server.connections, second.connections) == (0, 1)
        assert one.rv("C_GetInfo", buffer_of(256)) == Rv.CRYPTOKI_NOT_INITIALIZED
        assert functions.C_GetInfo != list_of(one).C_GetInfo


@pytest.mark.skipif(not OTHERS, reason="no other PKCS#11 module is installed")
def test_modules_of_others_do_not_disturb_it(
    built: Path, tmp_path: Path, server: Answering
) -> None:
    run(built, tmp_path, server, f"""
        for other in {[str(other) for other in OTHERS]!r}:
            CDLL(other, os.RTLD_GLOBAL | os.RTLD_NOW)
        library = Library(path)
        assert initialise(list_of(library), address) == Rv.OK
        Session(library).call("C_GenerateRandom", buffer_of(9), 9)
        library.call("C_Finalize", None)
    """)  # fmt: skip
    assert server.connections == 1


# --- interfaces ----------------------------------------------------------------------------------


def test_the_interfaces_are_listed(library: Library) -> None:
    count = c_ulong(0)
    library.call("C_GetInterfaceList", None, byref(count))
    assert count.value == 4
    found = (Interface * 4)()
    count.value = 3
    assert library.rv("C_GetInterfaceList", found, byref(count)) == Rv.BUFFER_TOO_SMALL
    assert count.value == 4
    library.call("C_GetInterfaceList", found, byref(count))
    versions = [(one.name, tuple(cast(one.functions, POINTER(c_ubyte))[:2])) for one in found]
    assert versions == [
        (b"PKCS 11", (3, 2)),
        (b"PKCS 11", (3, 0)),
        (b"PKCS 11", (2, 40)),
        (b"Vendor secGear", (1, 0)),
    ]


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        (None, None, (3, 2)),
        (b"PKCS 11", None, (3, 2)),
        (b"PKCS 11", (3, 0), (3, 0)),
        (b"PKCS 11", (2, 40), (2, 40)),
        (b"Vendor secGear", None, (1, 0)),
        (b"PKCS 11", (3, 1), None),
        (b"Vendor other", None, None),
    ],
)
def test_an_interface_is_found_by_name_and_version(
    library: Library,
    name: bytes | None,
    version: tuple[int, int] | None,
    expected: tuple[int, int] | None,
) -> None:
    found = POINTER(Interface)()
    wanted = None if version is None else (c_ubyte * 2)(*version)
    rv = library.rv("C_GetInterface", name, wanted, byref(found), 0)
    if expected is None:
        assert rv == Rv.ARGUMENTS_BAD
        return
    assert rv == Rv.OK
    assert tuple(cast(found[0].functions, POINTER(c_ubyte))[:2]) == expected
    # Nothing of it survives a fork (CKF_INTERFACE_FORK_SAFE).
    assert library.rv("C_GetInterface", name, wanted, byref(found), 1) == Rv.ARGUMENTS_BAD


def test_the_lists_have_every_function_at_its_place(library: Library) -> None:
    found = (Interface * 4)()
    library.call("C_GetInterfaceList", found, byref(c_ulong(4)))
    names = (STANDARD, (*V2_40, *V3_0), V2_40, ("S_Free", *(name for name, _ in own_calls())))
    raw = CDLL(str(library.path))
    for one, expected in zip(found, names, strict=True):
        pointers = cast(one.functions, POINTER(c_void_p))[1 : len(expected) + 1]
        for name, pointer in zip(expected, pointers, strict=True):
            assert pointer == cast(getattr(raw, name), c_void_p).value, name
