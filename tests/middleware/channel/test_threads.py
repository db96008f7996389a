"""An enclave that gets no more threads for a while: what it can't serve now costs nothing later."""

from __future__ import annotations

import threading

import pytest

from secgear.base.flow import Consumer
from secgear.base.workers import Inbox
from secgear.middleware.channel.app import App


def _inbound() -> Consumer:
    return Consumer(
        10,
        decode=lambda item: item,
        more=lambda _: None,
        stop=lambda: None,
        wait=lambda inbox, done, deadline: Inbox.serve_until(inbox, done, deadline),
    )


@pytest.mark.parametrize("failing", ["sessions", "session"])
def test_session_without_a_thread_leaves_its_place_to_others(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("few-threads")
    sessions = app.sessions
    sessions.configure(limit=2)
    start = threading.Thread.start

    def none_left(thread: threading.Thread) -> None:
        if thread.name == failing:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", none_left)
    for _ in range(5):
        assert list(sessions.take("192.0.2.1", _inbound())) == []
        assert len(sessions) == 0
