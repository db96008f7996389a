"""What may be said about an exception across the boundary, and what the other side makes of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear import errors
from secgear.base import faults
from secgear.base.faults import DECLARED, Refused, describe, restore
from secgear.base.wire import Decoder, ErrorBody, Frame, Kind, Limits, clip, frame

SECRET = "canary-71f0"


class Declared(ValueError):
    """An app's exception."""


class Child(Declared):
    """Not declared itself."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


def said(
    error: BaseException, *, enclave: bool = True, debug: bool = False
) -> tuple[ErrorBody, bytes]:
    body = describe(error, (Declared,), enclave=enclave, debug=debug)
    return body, msgspec.msgpack.encode(body)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SECRET),
        KeyError(SECRET),
        SystemExit(SECRET),
        KeyboardInterrupt(SECRET),
        Unprintable(SECRET),
        errors.ArgumentError(SECRET),
        errors.OcallFailed(SECRET),
        errors.Cancelled(SECRET),
        type(SECRET, (Exception,), {})(),
        ExceptionGroup(SECRET, [Declared(SECRET)]),
    ],
)
def test_what_is_not_declared_says_nothing(error: BaseException) -> None:
    _, wire = said(error)
    assert SECRET.encode() not in wire


def test_the_cause_of_a_declared_exception_stays_inside() -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as cause:
            raise Declared("no such thing") from cause
    except Declared as error:
        body, wire = said(error)
    assert (body.code, body.name, body.text) == (DECLARED, "Declared", "no such thing")
    assert SECRET.encode() not in wire


def test_a_subclass_travels_as_what_was_declared() -> None:
    body, _ = said(Child("text"))
    assert (body.name, body.text) == ("Declared", "text")


def test_incidents_differ() -> None:
    assert said(KeyError())[0].incident != said(KeyError())[0].incident


def test_the_hosts_handlers_tell_their_class_and_no_more() -> None:
    body, wire = said(RuntimeError(SECRET), enclave=False)
    assert body.code == "ocall.failed"
    assert "RuntimeError" in body.text
    assert SECRET.encode() not in wire


@settings(max_examples=40, deadline=None)
@given(
    st.text(max_size=200) | st.text(st.characters(), min_size=3000, max_size=9000), st.booleans()
)
def test_any_text_fits_a_frame(text: str, debug: bool) -> None:
    hostile = text + "\ud800" + "\U0001f512" * 20_000
    for error in (Declared(hostile), RuntimeError(hostile), Refused(errors.CallError(hostile))):
        _, wire = said(error, debug=debug)
        decoder = Decoder(Limits())
        decoder.feed(frame(Kind.ERROR, 1, wire))
        (entry,) = decoder.frames()
        assert isinstance(entry, Frame)
        msgspec.msgpack.decode(entry.payload, type=ErrorBody)


def test_an_exception_that_cannot_be_printed_is_still_told() -> None:
    class Worse(Declared, Unprintable):
        __str__ = Unprintable.__str__

    for debug in (False, True):
        body, _ = said(Worse(), debug=debug)
        assert body.code == "enclave.internal"


def test_a_traceback_that_cannot_be_made_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(error: BaseException) -> list[str]:
        raise RecursionError

    monkeypatch.setattr(faults.traceback, "format_exception", broken)
    body, _ = said(KeyError("x"), debug=True)
    assert "KeyError" in body.text


@settings(max_examples=500)
@given(
    st.sampled_from([DECLARED, "enclave.internal", "call.limit", "wire.protocol", "enclave.lost"])
    | st.text(),
    st.text(),
    st.sampled_from(["Declared", ""]) | st.text(),
    st.text(),
)
def test_whatever_the_peer_says_becomes_one_clean_exception(
    code: str, text: str, name: str, incident: str
) -> None:
    error = restore("f", ErrorBody(code, text, name, incident), {"Declared": Declared})
    assert isinstance(error, errors.CallError | Declared)
    assert all(char.isprintable() or char in "\n\t" for char in str(error))


@pytest.mark.parametrize("text", ["\x1b[2J", "\x1b]0;owned\x07", "\u202eevil", "\x9b31m", "a\rb"])
def test_nothing_that_steers_a_terminal_arrives(text: str) -> None:
    for code in (DECLARED, "enclave.internal", "call.argument"):
        error = restore("f", ErrorBody(code, text, "Declared", text), {"Declared": Declared})
        assert text not in str(error)


@pytest.mark.parametrize("name", ["", "KeyError", "SystemExit", "__class__", "x" * 10_000])
def test_an_undeclared_class_is_a_broken_protocol(name: str) -> None:
    error = restore("f", ErrorBody(DECLARED, "text", name), {"Declared": Declared})
    assert isinstance(error, errors.ProtocolError)
    assert len(str(error)) < 500


def test_a_class_that_wants_other_arguments_is_a_failed_call() -> None:
    class Odd(Exception):
        def __init__(self, first: int, second: int) -> None: ...

    error = restore("f", ErrorBody(DECLARED, "text", "Odd"), {"Odd": Odd})
    assert isinstance(error, errors.OcallFailed)


def test_clipped_text_can_always_be_encoded() -> None:
    assert clip("\ud800abc", 3).encode() == "?a…".encode()
    assert len(clip("x" * 10_000)) == 4096
