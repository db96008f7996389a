"""Declaring an app, and what its functions do outside an enclave."""

from __future__ import annotations

from typing import Any

import pytest

import secgear
from secgear import App
from secgear.errors import GuestError, InterfaceError, OcallFailed


def test_an_ecall_is_still_an_ordinary_function() -> None:
    app = App("a")

    @app.ecall
    def double(x: int) -> int:
        return 2 * x

    @app.ecall(raises=[ValueError])
    def half(x: int) -> int:
        return x // 2

    assert (double(4), half(4)) == (8, 2)
    assert sorted(app.ecalls) == ["double", "half"]
    assert app.ecalls["half"].raises == (ValueError,)


def test_services_of_the_enclave_say_that_there_is_none() -> None:
    app = App("a")

    @app.ocall
    def outside(x: int) -> int: ...

    with pytest.raises(OcallFailed, match="outside: OCALLs work only inside an enclave"):
        outside(1)
    with pytest.raises(GuestError, match="inside an enclave"):
        secgear.guest()
    with pytest.raises(GuestError, match="ECALL"):
        secgear.current_call()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": ""}, "needs a name"),
        ({"svn": -1}, "svn"),
        ({"svn": 2**32}, "svn"),
        ({"threads": 0}, "threads"),
        ({"threads": 1000}, "threads"),
        ({"log": "loud"}, "log is one of off, debug"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InterfaceError, match=text):
        App(**{"name": "a", **options})


def test_a_name_is_declared_once() -> None:
    app = App("a")

    @app.ecall
    def f() -> None: ...

    with pytest.raises(InterfaceError, match="f: declared twice"):

        @app.ocall
        def f() -> None: ...


@pytest.mark.parametrize("name", ["close", "submit", "aio", "switchless"])
def test_names_of_the_handle_are_refused(name: str) -> None:
    def function() -> None: ...

    function.__name__ = name
    with pytest.raises(InterfaceError, match=f"{name}: this name belongs to the enclave's handle"):
        App("a").ecall(function)


def test_async_functions_are_refused_with_the_way_out() -> None:
    app = App("a")
    with pytest.raises(InterfaceError, match="f: async functions can't cross the boundary"):

        @app.ecall
        async def f() -> None: ...

    with pytest.raises(InterfaceError, match="g: async functions can't cross the boundary"):

        @app.ocall
        async def g() -> None: ...


def test_repr_shows_what_it_is() -> None:
    assert repr(App("a", version="2")) == "App('a', version='2', ecalls=[])"


def test_public_names_are_few_and_resolve() -> None:
    assert secgear.__all__ == [
        "App",
        "Enclave",
        "Relay",
        "Session",
        "Shared",
        "Switchless",
        "connect",
        "connect_async",
        "current_call",
        "errors",
        "guest",
        "launch",
    ]
    for name in secgear.__all__:
        assert getattr(secgear, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = secgear.nonsense
