"""An app's sessions without an enclave around them: limits, ends, and who counts as one client."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import secgear
from secgear import errors
from secgear.base import context
from secgear.middleware.channel import Session
from secgear.middleware.channel import sessions as module
from secgear.middleware.channel.app import App
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.channel.pairs import POLICY

CANARY = "canary-0f1e2d"


class Served:
    """An app whose sessions come over sockets instead of a boundary."""

    def __init__(self, vendor: SimulatedVendor, **settings: Any) -> None:
        self.vendor = vendor
        self.app = App("served")
        self.app.sessions.configure(**settings)
        self.ends: list[socket.socket] = []

        @self.app.session
        def echo(session: Session) -> None:
            for message in session:
                if message == b"fail":
                    raise RuntimeError(CANARY)
                session.send(message)

    def dial(self, address: str = "somewhere") -> socket.socket:
        """A connection to it, as from `address`."""
        near, far = socket.socketpair()
        outflow = self.app.sessions.take(address, _Pieces(far))
        threading.Thread(target=_pump, args=(outflow, far), daemon=True).start()
        self.ends.append(near)
        return near

    def connect(self, address: str = "somewhere", **given: Any) -> Session:
        return secgear.connect(
            self.dial(address),
            POLICY,
            anchors=self.vendor.anchors,
            timeout=given.pop("timeout", 20),
            **given,
        )

    def close(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class _Pieces:
    """What the boundary would hand in: see `secgear.base.flow.Consumer`."""

    def __init__(self, far: socket.socket) -> None:
        self._far = far

    def until(self, moment: float) -> bool:
        left = max(0.0, moment - time.monotonic())
        return bool(select.select([self._far], [], [], left)[0])

    def __iter__(self) -> _Pieces:
        return self

    def __next__(self) -> bytes:
        with contextlib.suppress(OSError):
            if data := self._far.recv(1 << 16):
                return data
        raise StopIteration

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RD)


def _pump(outflow: Iterator[bytes], far: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for piece in outflow:
            far.sendall(piece)
        far.shutdown(socket.SHUT_RDWR)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    vendor = SimulatedVendor()
    guest = SimpleNamespace(evidence=lambda data: vendor.evidence(report_data=data))
    monkeypatch.setattr(context, "guest", lambda: guest)
    made: list[Served] = []

    def serve(**settings: Any) -> Served:
        made.append(Served(vendor, **settings))
        return made[-1]

    yield serve
    for one in made:
        one.close()


def echoes(session: Session) -> None:
    session.send(b"x")
    assert session.recv(20) == b"x"


def test_sessions_come_and_go(serve: Callable[..., Served]) -> None:
    served = serve()
    with served.connect() as one, served.connect() as other:
        echoes(one)
        echoes(other)
        assert len(served.app.sessions) == 2
    until(lambda: len(served.app.sessions) == 0)
    assert not served.app.sessions._clients


def test_beyond_the_limit_nobody_gets_in_until_somebody_leaves(
    serve: Callable[..., Served],
) -> None:
    served = serve(limit=2)
    with served.connect() as one:
        with served.connect() as other:
            echoes(one)
            echoes(other)
            with pytest.raises(errors.ChannelError):
                served.connect()
        until(lambda: len(served.app.sessions) == 1)
        with served.connect() as another:
            echoes(another)


def test_one_client_takes_no_more_than_its_share(serve: Callable[..., Served]) -> None:
    served = serve(per_client=1)
    with served.connect("here") as one:
        echoes(one)
        with (
            served.connect("here") as greedy,
            pytest.raises(errors.ChannelError, match=r"session\.too-many"),
        ):
            greedy.recv(20)
        with served.connect("there") as other:
            echoes(other)
    until(lambda: len(served.app.sessions) == 0)
    with served.connect("here") as again:
        echoes(again)


def test_handshake_that_never_ends_is_ended(serve: Callable[..., Served]) -> None:
    served = serve(handshake=0.3)
    silent = served.dial()
    silent.settimeout(20)
    assert silent.recv(100) == b""
    until(lambda: len(served.app.sessions) == 0)


def test_idle_session_is_ended(serve: Callable[..., Served]) -> None:
    served = serve(idle=0.3)
    session = served.connect()
    echoes(session)
    with pytest.raises(errors.ChannelTruncated):
        session.recv(20)
    until(lambda: len(served.app.sessions) == 0)


def test_session_ends_with_its_lifetime_however_busy_it_is(serve: Callable[..., Served]) -> None:
    served = serve(lifetime=1.0)
    session = served.connect()
    with pytest.raises(errors.ChannelError):
        [echoes(session) for _ in range(100_000)]
    until(lambda: len(served.app.sessions) == 0)


def test_session_that_got_no_thread_holds_no_place(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(limit=1)

    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(module.threading, "Thread", Refused)
        _, far = socket.socketpair()
        assert list(served.app.sessions.take("here", _Pieces(far))) == []
    assert len(served.app.sessions) == 0
    with served.connect() as session:
        echoes(session)
    until(lambda: len(served.app.sessions) == 0)


def test_failing_handler_is_told_without_its_reason_and_logged_inside(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()
    session = served.connect()
    session.send(b"fail")
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.ChannelError) as caught:
        session.recv(20)
    assert "session.failed" in str(caught.value)
    assert CANARY not in str(caught.value)
    with served.connect() as other:
        echoes(other)


def test_client_that_asks_for_calls_where_there_are_none(serve: Callable[..., Served]) -> None:
    with (
        serve().connect() as session,
        pytest.raises(errors.ChannelError, match=r"session\.no-calls"),
    ):
        session.call.anything()


def test_client_that_asks_for_another_handler(serve: Callable[..., Served]) -> None:
    with (
        serve().connect(service="nobody") as session,
        pytest.raises(errors.ChannelError, match=r"session\.no-handler"),
    ):
        session.recv(20)


def test_two_handlers_of_one_name_are_refused(serve: Callable[..., Served]) -> None:
    with pytest.raises(errors.InterfaceError, match="echo"):
        serve().app.session(name="echo")(lambda session: None)


def test_settings_have_no_others(serve: Callable[..., Served]) -> None:
    with pytest.raises(TypeError):
        serve().app.sessions.configure(limits=3)


def test_remote_is_for_ecalls_only() -> None:
    app = App("x")
    with pytest.raises(errors.InterfaceError, match=r"@app\.remote above @app\.ecall"):
        app.remote(lambda: None)


def test_app_without_sessions_takes_none() -> None:
    assert "secgear_session" not in App("x").ecalls
    app = App("x")
    assert len(app.sessions) == 0
    assert "secgear_session" in app.ecalls
    assert {"cryptography", "pyopenssl"} <= set(app.requires)
