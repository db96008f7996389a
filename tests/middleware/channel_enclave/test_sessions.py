"""Through a real enclave: what a data owner does, and what happens when something goes wrong."""

from __future__ import annotations

import asyncio
import datetime
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import secgear
from secgear import errors
from secgear.middleware.attestation import Anchors, Policy
from secgear.middleware.channel import Relay, Session

Connect = Callable[..., Session]


def test_messages_go_both_ways(connect: Connect) -> None:
    with connect(service="echo") as session:
        for message in (b"", b"one", bytes(300_000), b"end"):
            session.send(message)
            assert session.recv(10) == message
        claims = session.peer.claims
        assert claims is not None
        assert claims.tee == "process"
        assert session.peer.tls["group"] == "X25519MLKEM768"


def test_streams_of_any_length(connect: Connect) -> None:
    with connect(service="measure") as session:
        session.send_stream(bytes(70_000) for _ in range(500))
        assert session.recv(10) == b"35000000"
        assert sum(map(len, session.recv_stream(10))) == 6_400_000
        with pytest.raises(errors.ChannelClosed):
            session.recv(10)


def test_calls_with_types_errors_and_streams(connect: Connect, enclave: Any) -> None:
    with connect(interface=enclave.interface) as session:
        assert session.call.count("a b a") == {"a": 2, "b": 1}
        assert list(session.call.squares(range(100))) == [n * n for n in range(100)]
        assert session.call.size(bytes(5_000_000)) == 5_000_000
        with pytest.raises(errors.EnclaveError, match="there are no words"):
            session.call.count("")
        with pytest.raises(errors.ArgumentError):
            session.call.count(3)
        futures = [session.call.submit.count("x " * n) for n in range(1, 20)]
        assert [future.result(10) for future in futures] == [{"x": n} for n in range(1, 20)]


def test_calls_that_are_not_offered_are_unknown(connect: Connect, enclave: Any) -> None:
    with connect() as session, pytest.raises(errors.UnknownCall):
        session.call.shut()
    assert enclave.shut() == "the operator's business"


def test_call_knows_whose_it_is(connect: Connect, enclave: Any) -> None:
    """Also in the steps of a stream, which run on any thread, and while others call."""
    with connect() as one, connect() as other:
        theirs = [other.call.submit.callers(50), one.call.submit.callers(50)]
        assert list(enclave.callers(50)) == ["the host"] * 50
        for stream in theirs:
            assert list(stream.result(10)) == ["a client from 127.0.0.1"] * 50
        assert one.call.caller() == "a client from 127.0.0.1"
    assert enclave.caller() == "the host"


def test_no_client_reaches_the_relays_own_door(connect: Connect) -> None:
    """A session inside a session would be a host's privilege."""
    with connect() as session, pytest.raises(errors.UnknownCall):
        list(session.call.secgear_session("", iter([b"x"])))


def test_other_interface_is_shown_with_the_difference(connect: Connect, tmp_path: Path) -> None:
    from secgear.base.build import build

    other = tmp_path / "other.py"
    other.write_text(
        'from secgear import App\napp = App("talker")\n'
        "@app.ecall\ndef count(text: bytes) -> int:\n    return 1\n"
    )
    interface = build(other, debug=True).interface
    with connect(interface=interface) as session, pytest.raises(errors.InterfaceMismatch) as caught:
        session.call.count(b"")
    assert "-" in str(caught.value)
    assert "count(text: bytes)" in str(caught.value)


def test_session_is_for_messages_or_for_calls(connect: Connect) -> None:
    with connect(service="echo") as session:
        session.send(b"x")
        with pytest.raises(errors.ChannelError, match="for messages; open another"):
            session.call.count("a")
        assert session.recv(10) == b"x"
    with connect() as session:
        assert session.call.count("a") == {"a": 1}
        with pytest.raises(errors.ChannelError, match="for calls; open another"):
            session.send(b"x")


@pytest.mark.parametrize("service", ["nobody", ""])
def test_unknown_handler_is_named_as_the_reason(connect: Connect, service: str) -> None:
    """With several handlers, none is the one that is meant without a name."""
    with (
        connect(service=service) as session,
        pytest.raises(errors.ChannelError, match="no-handler"),
    ):
        session.send(b"x")


def test_failing_handler_tells_its_client_nothing_else(connect: Connect) -> None:
    session = connect(service="breaks")
    session.send(b"x")
    with pytest.raises(errors.ChannelError, match=r"session\.failed") as caught:
        session.recv(10)
    assert "CANARY" not in str(caught.value)
    with connect(service="echo") as session:
        session.send(b"still serving")
        assert session.recv(10) == b"still serving"


def test_end_of_another_session_is_no_good_end_of_this_one(connect: Connect) -> None:
    with connect(service="forwards") as session:
        session.send(b"x")
        with pytest.raises(errors.ChannelError, match=r"session\.failed") as caught:
            session.recv(10)
        assert not isinstance(caught.value, errors.ChannelClosed)
        assert "CANARY" not in str(caught.value)


def test_handler_need_not_wait_for_ever(connect: Connect) -> None:
    """Its session goes on, and nothing of what comes later is lost."""
    with connect(service="impatient") as session:
        assert session.recv(10) == b"are you there?"
        assert session.recv(10) == b"are you there?"
        session.send(b"yes")
        while (answer := session.recv(10)) != b"yes":
            assert answer == b"are you there?"


def test_clean_close_is_told_from_truncation(connect: Connect, relay: Relay) -> None:
    with connect(service="leaves") as session:
        session.send(b"bye")
        with pytest.raises(errors.ChannelClosed):
            session.recv(10)
    session = connect(service="echo")
    session.send(b"x")
    assert session.recv(10) == b"x"
    relay.close()
    with pytest.raises(errors.ChannelTruncated):
        session.recv(10)


def test_enclave_that_dies_truncates_its_sessions(
    source: Path, anchors: Anchors, tmp_path: Path
) -> None:
    from tests.middleware.channel_enclave.conftest import policy_for

    with secgear.launch(source, tee="process") as enclave, Relay(enclave) as relay:
        policy = policy_for(enclave.image.measurement)
        session = secgear.connect(relay.address, policy, anchors=anchors, service="echo")
        session.send(b"x")
        assert session.recv(10) == b"x"
        import os
        import signal

        assert enclave.pid is not None
        os.kill(enclave.pid, signal.SIGKILL)
        with pytest.raises(errors.ChannelTruncated):
            session.recv(10)


@pytest.mark.parametrize("kind", ["unix", "tcp6", "socket"])
def test_any_way_to_the_relay(
    enclave: Any, policy: Policy, anchors: Anchors, tmp_path: Path, kind: str
) -> None:
    address = {"unix": f"unix:{tmp_path}/relay", "tcp6": "tcp://[::1]:0"}.get(kind, "127.0.0.1:0")
    if kind == "tcp6" and not _has_ipv6():
        pytest.skip("this machine has no IPv6 on its loopback")
    with Relay(enclave, address) as relay:
        where: Any = relay.address
        if kind == "socket":
            where = socket.create_connection(("127.0.0.1", int(where.rpartition(":")[2])))
        with secgear.connect(where, policy, anchors=anchors, service="who") as session:
            session.send(b"?")
            tee, _, source = session.recv(10).decode().partition(" ")
    assert tee == "None"
    assert source == {"unix": "", "tcp6": "::1"}.get(kind, "127.0.0.1")


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_asyncio(relay: Relay, policy: Policy, anchors: Anchors) -> None:
    async def talk(number: int) -> bytes:
        async with await secgear.connect_async(
            relay.address, policy, anchors=anchors, service="echo"
        ) as session:
            for length in (1, 100_000):
                await session.send(bytes([number]) * length)
                answer = await session.recv(10)
            with pytest.raises(TimeoutError):
                await session.recv(0.01)
            return answer

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*(talk(number) for number in range(8)))

    assert asyncio.run(all_of_them()) == [bytes([n]) * 100_000 for n in range(8)]


def test_asyncio_streams_and_refusal(relay: Relay, policy: Policy, anchors: Anchors) -> None:
    async def talk() -> None:
        async with await secgear.connect_async(
            relay.address, policy, anchors=anchors, service="measure"
        ) as session:
            await session.send_stream([b"ab", b"c"])
            assert await session.recv(10) == b"3"
            assert sum([len(part) async for part in session.recv_stream(10)]) == 6_400_000
            assert [message async for message in session] == []
        with pytest.raises(errors.Untrusted):
            await secgear.connect_async(relay.address, policy)
        with pytest.raises(errors.ChannelError):
            await secgear.connect_async("127.0.0.1:1", policy)

    asyncio.run(talk())


def test_many_clients_at_once_get_their_own_answers(connect: Connect) -> None:
    def talk(number: int) -> bool:
        with connect(service="echo") as session:
            for turn in range(20):
                message = f"{number}/{turn}".encode() * (turn * 400 + 1)
                session.send(message)
                if session.recv(20) != message:
                    return False
        return True

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(talk, range(24)))


def test_one_thread_sends_while_another_receives(connect: Connect) -> None:
    message = bytes(range(256)) * 80_000
    with connect(service="echo") as session:
        sender = threading.Thread(target=session.send_stream, args=([message] * 3,))
        sender.start()
        assert b"".join(session.recv_stream(30)) == message * 3
        sender.join(10)


def test_call_is_cancelled_when_its_client_leaves(connect: Connect, enclave: Any) -> None:
    session = connect()
    pending = session.call.submit.forever()
    session.close()
    with pytest.raises(errors.EnclaveLost):
        pending.result(10)
    _until(lambda: enclave.state()[0] == 0)


def test_sessions_leave_nothing_behind(connect: Connect, enclave: Any, relay: Relay) -> None:
    _until(lambda: enclave.state()[0] == 0)
    for _ in range(30):
        with connect(service="echo") as session:
            session.send(b"x")
            assert session.recv(10) == b"x"
    _until(lambda: enclave.state()[0] == 0)
    _until(lambda: relay.stats.active == 0)
    assert enclave.state()[1] < 20
    assert relay.stats.accepted == 30
    assert relay.stats.failed == 0


def test_idle_session_is_ended_by_the_enclave(connect: Connect) -> None:
    session = connect(service="echo")
    session.send(b"x")
    assert session.recv(10) == b"x"
    with pytest.raises(errors.ChannelTruncated):
        session.recv(15)


def test_handshake_that_never_ends_is_ended(relay: Relay, enclave: Any) -> None:
    """A client that connects and says nothing, or half of it, holds a place for two seconds."""
    _until(lambda: enclave.state()[0] == 0)
    host, _, port = relay.address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.send(b"\x16\x03\x01\x02\x00")
        _until(lambda: enclave.state()[0] == 1)
        silent.settimeout(15)
        assert silent.recv(100) == b""


def test_flood_of_sessions_is_bounded_and_leaves_the_service_running(
    connect: Connect, relay: Relay, enclave: Any
) -> None:
    host, _, port = relay.address.removeprefix("tcp://").rpartition(":")
    flood = []
    for _ in range(60):
        flood.append(socket.create_connection((host, int(port))))
    _until(lambda: enclave.state()[0] > 0)
    assert enclave.state()[0] <= 24
    with pytest.raises(errors.HandshakeFailed):
        connect(service="echo", timeout=5)
    for one in flood:
        one.close()
    _until(lambda: enclave.state()[0] == 0)
    with connect(service="echo") as session:
        session.send(b"x")
        assert session.recv(10) == b"x"


def test_relay_has_limits_of_its_own(enclave: Any, policy: Policy, anchors: Anchors) -> None:
    with Relay(enclave, limit=2, per_client=1) as relay:
        with secgear.connect(relay.address, policy, anchors=anchors, service="echo"):
            with pytest.raises(errors.ChannelError):
                secgear.connect(relay.address, policy, anchors=anchors)
            assert relay.stats.refused == 1
            assert relay.stats.active == 1
        names = {family.name for family in relay.collect()}
        assert "secgear_relay_active" in names


def test_relay_of_an_app_without_sessions_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain.py"
    plain.write_text(
        'from secgear import App\napp = App("plain")\n@app.ecall\ndef one() -> int:\n    return 1\n'
    )
    with (
        secgear.launch(plain, tee="process") as enclave,
        pytest.raises(errors.ChannelError, match="takes no sessions"),
    ):
        Relay(enclave)


def test_verification_does_not_count_for_ever(connect: Connect) -> None:
    session = connect(service="echo", lifetime=datetime.timedelta(seconds=0.5))
    session.send(b"x")
    assert session.recv(10) == b"x"
    time.sleep(0.6)
    with pytest.raises(errors.ChannelError):
        session.send(b"y")


def _until(holds: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
