"""Sessions for asyncio: as those for threads, and whoever is cancelled breaks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from secgear import errors
from secgear.base.tee import Evidence
from secgear.middleware.channel import aio, arrivals
from secgear.middleware.channel.aio import connect_async
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core, Event, Present
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import Kind, Opened, encode, header
from secgear.middleware.channel.tls import Parameters
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.channel.ends import last, part, spoken_async
from tests.middleware.channel.pairs import POLICY

OPENED = encode(Opened())


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Within a time in which nothing that works ends."""
    asyncio.run(asyncio.wait_for(test(), 40))  # type: ignore[arg-type]


def descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


# --- messages ------------------------------------------------------------------------------------


def test_messages_both_ways() -> None:
    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED, part(b"a "), last(b"message"), last(b""))
        assert await client.recv(10) == b"a message"
        await client.send(b"x" * 30_000)
        assert await client.recv() == b""
        server.close()
        assert [message async for message in client] == []
        await client.close()

    run(test)


def test_timeout_or_cancellation_in_the_middle_of_a_message_loses_none_of_it() -> None:
    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED, part(b"pay nothing to "))
        with pytest.raises(TimeoutError):
            await client.recv(0.1)
        server.say(part(b"anybody but "))
        task = asyncio.create_task(client.recv())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.say(last(b"alice"))
        assert await client.recv(10) == b"pay nothing to anybody but alice"
        await client.close()

    run(test)


def test_cancelled_send_ends_the_session_if_half_of_it_went() -> None:
    """Or the next message would be its second half."""

    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED)
        task = asyncio.create_task(client.send(bytes(16 << 20)))
        await asyncio.sleep(0.2)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(errors.ChannelClosed):
            await client.send(b"the second half")
        server._socket.close()

    run(test)


def test_error_of_the_parts_ends_the_session() -> None:
    async def test() -> None:
        source, far = await spoken_async()
        sink, _ = await spoken_async()
        sink._asked = sink._opened = True
        far.say(OPENED, last(b"whole"), part(b"half"))
        assert await source.recv(10) == b"whole"
        far._socket.close()
        with pytest.raises(errors.ChannelTruncated):
            await sink.send_stream(source.recv_stream(10))
        with pytest.raises(errors.ChannelClosed):
            await sink.send(b"spliced")

    run(test)


def test_goodbye_in_the_middle_of_a_message_is_truncation() -> None:
    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED, last(b"whole"), part(b"all my money goes to "))
        assert await client.recv(10) == b"whole"
        server.close()
        with pytest.raises(errors.ChannelTruncated):
            await anext(aiter(client))

    run(test)


def test_limits_are_those_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_MESSAGE", 10)

    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED, last(bytes(10)), part(bytes(6)), part(bytes(6)))
        assert await client.recv(10) == bytes(10)
        with pytest.raises(errors.ChannelError, match="recv_stream"):
            await client.recv(10)

    run(test)


@pytest.mark.parametrize("frame", [OPENED, header(Kind.CALLS, 1) + b"x"])
def test_frames_of_something_else_end_the_session(frame: bytes) -> None:
    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED, frame)
        with pytest.raises(errors.ChannelError, match="broke the protocol"):
            await client.recv(10)

    run(test)


def test_many_tasks_send_whole_messages() -> None:
    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED)
        got: list[bytes] = []

        def listen() -> None:
            message = b""
            while len(got) < 20:
                for event in server._core.receive(server._socket.recv(1 << 16)):
                    kind: Any = getattr(event, "kind", None)
                    if kind in (Kind.PART, Kind.LAST):
                        message += event.payload  # type: ignore[union-attr]
                    if kind is Kind.LAST:
                        got.append(message)
                        message = b""

        listening = asyncio.create_task(asyncio.to_thread(listen))
        await asyncio.gather(*(client.send(bytes([n]) * 50_000 * (n % 5)) for n in range(20)))
        await listening
        assert sorted((len(one), one[:1]) for one in got) == sorted(
            (50_000 * (n % 5), bytes([n]) if n % 5 else b"") for n in range(20)
        )
        assert all(len(set(message)) <= 1 for message in got)
        await client.close()

    run(test)


# --- time ----------------------------------------------------------------------------------------


def test_timeout_holds_for_an_answer_to_open_that_does_not_come() -> None:
    async def test() -> None:
        client, server = await spoken_async()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await client.recv(0.1)
        server.say(OPENED, last(b"at last"))
        assert await client.recv(10) == b"at last"
        events = list(server._core.receive(server._socket.recv(1 << 16)))
        assert [getattr(event, "kind", None) for event in events] == [Kind.OPEN]
        await client.close()

    run(test)


def test_nothing_is_received_once_the_verification_is_too_old() -> None:
    async def test() -> None:
        client, server = await spoken_async(lifetime=0.3)
        server.say(OPENED)
        with pytest.raises(errors.ChannelError, match="too long ago"):
            await client.recv()
        with pytest.raises(errors.ChannelError):
            await client.send(b"x")

    run(test)


def test_years_are_no_timeout_too_long() -> None:
    async def test() -> None:
        client, server = await spoken_async(lifetime=1e9)
        server.say(OPENED, last(b"x"))
        assert await client.recv(1e8) == b"x"
        await client.close()

    run(test)


# --- the end -------------------------------------------------------------------------------------


def test_closing_wakes_who_receives_and_says_so() -> None:
    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED, last(b"x"))
        assert await client.recv(10) == b"x"
        task = asyncio.create_task(client.recv())
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(errors.ChannelClosed):
            await task

    run(test)


def test_aborting_wakes_who_receives_and_says_so() -> None:
    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED, last(b"x"))
        assert await client.recv(10) == b"x"
        task = asyncio.create_task(client.recv())
        await asyncio.sleep(0.05)
        client.abort()
        with pytest.raises(errors.ChannelClosed):
            await task

    run(test)


def test_closing_does_not_wait_for_who_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "CLOSING", 0.2)

    async def test() -> None:
        client, server = await spoken_async()
        server.say(OPENED)
        sending = asyncio.create_task(client.send(bytes(16 << 20)))
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(errors.ChannelError):
            await sending
        server._socket.close()

    run(test)


def test_leaving_by_an_exception_is_no_goodbye() -> None:
    async def test() -> None:
        client, server = await spoken_async()
        with pytest.raises(KeyError):
            async with client:
                raise KeyError
        await asyncio.sleep(0.05)
        with pytest.raises(errors.ChannelTruncated):
            list(server._core.receive(server._socket.recv(1 << 16)))

    run(test)


# --- connecting ----------------------------------------------------------------------------------


class Server:
    """The server's side of a handshake, on a thread; None of `evidence`: it says nothing."""

    def __init__(self, vendor: SimulatedVendor, **given: Any) -> None:
        self.near, self._far = socket.socketpair()
        self.core = Core(Role.SERVER, Parameters(), Identity.fresh(), **given)
        self._vendor = vendor
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with self._far, contextlib.suppress(OSError):
            try:
                while data := self._far.recv(1 << 16):
                    for event in self.core.receive(data):
                        self._answer(event)
                    self._far.sendall(self.core.outgoing())
                list(self.core.receive(b""))
            except errors.ChannelError as error:
                self.error = error

    def _answer(self, event: Event) -> None:
        if isinstance(event, Present):
            self.core.present(self._vendor.evidence(report_data=event.report_data))
        if getattr(event, "kind", None) is Kind.OPEN:
            self.core.send_control(Opened())


async def streams(server: Server) -> Any:
    return await asyncio.open_connection(sock=server.near)


def test_handshake_over_streams_of_ones_own() -> None:
    async def test() -> None:
        vendor = SimulatedVendor()
        server = Server(vendor)
        session = await connect_async(await streams(server), POLICY, anchors=vendor.anchors)
        assert session.peer.claims is not None
        assert repr(session) == "<AsyncSession, OPEN>"
        await session.send(b"x")
        await session.close()

    run(test)


def test_enclave_that_is_not_trusted_is_told_and_left() -> None:
    async def test() -> None:
        server = Server(SimulatedVendor())
        with pytest.raises(errors.Untrusted):
            await connect_async(await streams(server), POLICY)
        await asyncio.to_thread(server.thread.join, 10)
        assert "attestation.untrusted" in str(server.error)

    run(test)


def test_silence_ends_in_time_and_leaves_nothing() -> None:
    async def test() -> None:
        before = descriptors()
        near, far = socket.socketpair()
        pair = await asyncio.open_connection(sock=near)
        with pytest.raises(errors.HandshakeFailed, match="in time"):
            await connect_async(pair, POLICY, timeout=0.2)
        far.close()
        del pair, near
        await asyncio.sleep(0.05)
        assert descriptors() <= before

    run(test)


@pytest.mark.parametrize("address", ["", "http://x", "unix:", "tcp://host", "vsock://x:1"])
def test_what_is_no_address_is_an_error(address: str) -> None:
    async def test() -> None:
        with pytest.raises(ValueError, match="address"):
            await connect_async(address, POLICY)

    run(test)


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(errors.ChannelError, match="No such file"):
            await connect_async(f"unix:{tmp_path}/nobody", POLICY)

    run(test)


def test_cancelled_handshake_does_not_touch_what_a_thread_is_using() -> None:
    """Evidence is made on a thread of its own, which goes on; OpenSSL's objects are not shared."""

    async def test() -> None:
        vendor = SimulatedVendor()
        server = Server(vendor, demand=True)
        inside, go_on, done = threading.Event(), threading.Event(), threading.Event()
        touched: list[str] = []

        def attester(report_data: bytes) -> Evidence:
            inside.set()
            go_on.wait(20)
            done.set()
            return vendor.evidence(report_data=report_data)

        outgoing = Core.outgoing

        def watched(core: Core) -> bytes:
            if core.role is Role.CLIENT and inside.is_set() and not done.is_set():
                touched.append("outgoing")
            return outgoing(core)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Core, "outgoing", watched)
            task = asyncio.create_task(
                connect_async(
                    await streams(server), POLICY, anchors=vendor.anchors, attester=attester
                )
            )
            await asyncio.to_thread(inside.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert touched == []
            go_on.set()
            await asyncio.to_thread(done.wait, 20)
        await asyncio.to_thread(server.thread.join, 10)
        assert not server.thread.is_alive()

    run(test)


def test_tasks_that_are_cancelled_anywhere_leave_no_descriptor() -> None:
    async def talk(vendor: SimulatedVendor) -> None:
        server = Server(vendor)
        async with await connect_async(
            await streams(server), POLICY, anchors=vendor.anchors
        ) as session:
            await session.send(bytes(1 << 20))
            await session.recv()

    async def test() -> None:
        vendor = SimulatedVendor()
        before = descriptors()
        for turn in range(20):
            task = asyncio.create_task(talk(vendor))
            await asyncio.sleep(turn * 0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        del task
        for _ in range(100):
            if descriptors() <= before:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{descriptors() - before} descriptors are left")

    run(test)
