"""Sessions for asyncio: the same channel; what takes its time is kept off the loop's thread."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Self, TypeVar, final

from secgear.errors import ChannelClosed, ChannelError, HandshakeFailed, SecGearError
from secgear.middleware.channel.addresses import parse
from secgear.middleware.channel.arrivals import Arrivals
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.client import DAY, TIMEOUT
from secgear.middleware.channel.core import Core, Established, Event, Judge, Present, State
from secgear.middleware.channel.handshake import Answers
from secgear.middleware.channel.messages import Kind, Open
from secgear.middleware.channel.session import CLOSING, TOO_OLD
from secgear.middleware.channel.tls import Parameters
from secgear.middleware.channel.trust import Attester, Remote, Trust

if TYPE_CHECKING:
    from secgear.middleware.attestation.anchors import Anchors
    from secgear.middleware.attestation.collateral import Collateral
    from secgear.middleware.attestation.policy import Policy
    from secgear.middleware.attestation.reference import ReferenceValues
    from secgear.middleware.channel.identity import Identity

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_READ = 256 << 10


async def connect_async(
    address: str | Streams,
    policy: Policy,
    *,
    service: str = "",
    anchors: Anchors | None = None,
    collateral: Collateral | None = None,
    reference_values: ReferenceValues | None = None,
    at: datetime.datetime | None = None,
    parameters: Parameters | None = None,
    identity: Identity | None = None,
    attester: Attester | None = None,
    timeout: float = TIMEOUT,
    lifetime: datetime.timedelta = DAY,
) -> AsyncSession:
    """As `connect`, awaited. address: as there, or a reader and a writer of asyncio."""
    trust = Trust(
        policy=policy,
        anchors=anchors,
        collateral=collateral,
        reference_values=reference_values,
        at=at,
    )
    core = Core(Role.CLIENT, parameters or Parameters(), identity)
    answers = Answers(core, trust, attester)
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await _dial(address)
            try:
                events = await _shake(core, reader, writer, answers)
            except SecGearError:
                writer.write(core.outgoing())  # the alert or refusal that says why
                writer.close()
                raise
            except BaseException:  # another thread may be at the core still: see `_shake`
                writer.transport.abort()
                raise
    except TimeoutError:
        raise HandshakeFailed("the handshake was not finished in time") from None
    peer = answers.remote(address if isinstance(address, str) else "")
    return AsyncSession(
        core,
        reader,
        writer,
        peer,
        service=service,
        events=events,
        lifetime=lifetime.total_seconds(),
    )


async def _dial(address: str | Streams) -> Streams:
    if not isinstance(address, str):
        return address
    place = parse(address)
    try:
        connected = await asyncio.to_thread(place.connect, TIMEOUT)
        connected.setblocking(False)
        return await asyncio.open_connection(sock=connected, limit=_READ)
    except OSError as error:
        raise ChannelError(f"{place}: {error.strerror or error}") from error


async def _shake(
    core: Core, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: Answers
) -> list[Event]:
    rest: list[Event] = []
    stands = False  # as in `handshake.shake`
    while not stands:
        await _write(writer, core.outgoing())
        for event in core.receive(await _read(reader)):
            if isinstance(event, Present | Judge):
                # Verifying evidence, or making it, takes milliseconds: not on the loop's thread.
                await asyncio.to_thread(answers.answer, event)
            elif not isinstance(event, Established):
                rest.append(event)
            stands = stands or core.state is State.OPEN
    with contextlib.suppress(ChannelError):
        await _write(writer, core.outgoing())
    return rest


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_READ)
    except OSError:
        return b""


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        try:
            writer.write(data)
            await writer.drain()
        except OSError as error:
            raise ChannelError(f"sending failed: {error.strerror or error}") from None


@final
class AsyncSession:
    """One verified connection, for asyncio. As `Session`, without calls.

    One task may send while another receives.
    """

    def __init__(
        self,
        core: Core,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: Remote,
        *,
        service: str,
        events: Iterable[Event],
        lifetime: float,
    ) -> None:
        self._core = core
        self._reader = reader
        self._writer = writer
        self.peer = peer
        self._service = service
        self._arrivals = Arrivals(core, events)
        self._expires = time.monotonic() + lifetime
        self._sending = asyncio.Lock()
        self._receiving = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._asked = False  # OPEN has gone out
        self._opened = False

    def __repr__(self) -> str:
        return f"<AsyncSession, {self._core.state.name}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await self.close()
        else:
            self.abort()

    async def send(self, message: bytes | bytearray | memoryview) -> None:
        """See `Session.send`."""
        view = memoryview(message).cast("B")
        await self._open()
        async with self._sending:
            await self._send_parts(view, last=True)

    async def send_stream(self, parts: AsyncIterable[bytes] | Iterable[bytes]) -> None:
        """See `Session.send_stream`."""
        await self._open()
        async with self._sending:
            source = _each(parts)
            while (part := await self._next_of(source)) is not None:
                await self._send_parts(part, last=False)
            await self._send_parts(b"", last=True)

    async def _next_of(self, source: AsyncIterator[bytes]) -> memoryview | None:
        try:
            return memoryview(await anext(source)).cast("B")
        except StopAsyncIteration:
            return None
        except BaseException:  # also an error of another session that the parts come from
            self.abort()
            raise

    async def recv(self, timeout: float | None = None) -> bytes:
        """See `Session.recv`."""
        async with asyncio.timeout(timeout):
            await self._open()
            async with self._receiving:
                return await self._wait(self._arrivals.message)

    async def recv_stream(self, timeout: float | None = None) -> AsyncIterator[bytes]:
        """See `Session.recv_stream`."""
        async with asyncio.timeout(timeout):
            await self._open()
        async with self._receiving:
            last = False
            while not last:
                async with asyncio.timeout(timeout):
                    part, last = await self._wait(self._arrivals.part)
                yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                message = await self.recv()
            except ChannelClosed:
                return
            yield message

    async def close(self) -> None:
        """See `Session.close`."""
        try:
            async with asyncio.timeout(CLOSING):
                async with self._sending:
                    self._core.close()
                    await _write(self._writer, self._core.outgoing())
                self._writer.close()
                await self._writer.wait_closed()
        except (ChannelError, OSError):  # TimeoutError among them
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """See `Session.abort`."""
        self._core.abandon()
        self._writer.transport.abort()

    async def _open(self) -> None:
        if self._opened:
            return
        async with self._opening:  # of its own: a receiver must not wait for a long message
            if not self._asked:
                self._core.send_control(Open(self._service))
                self._asked = True  # whoever gives up waiting now must not say it again
                with contextlib.suppress(ChannelError):  # the end, once it is read, says why
                    await _write(self._writer, self._core.outgoing())
            if not self._opened:
                await self._wait(lambda: self._arrivals.control(Kind.OPENED))
                self._opened = True

    async def _send_parts(self, message: bytes | memoryview, *, last: bool) -> None:
        if time.monotonic() >= self._expires:
            self.abort()
            raise ChannelError(TOO_OLD)
        try:
            for _ in self._core.send(message, last=last):
                await _write(self._writer, self._core.outgoing())
        except ChannelError:  # the connection is of no use; why, may still be there to be read
            raise
        except BaseException:  # what went so far must not become the next message's beginning
            self.abort()
            raise

    async def _wait(self, take: Callable[[], T | None]) -> T:
        """What `take` gives, once enough has arrived for it; whoever gives up loses nothing."""
        try:
            while (taken := take()) is None:
                await self._receive()
        except ChannelError:
            self.abort()
            raise
        return taken

    async def _receive(self) -> None:
        left = self._expires - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                data = await _read(self._reader)
        except TimeoutError:
            raise ChannelError(TOO_OLD) from None
        self._arrivals.feed(data)
        self._writer.write(self._core.outgoing())


async def _each(parts: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(parts, AsyncIterable):
        async for part in parts:
            yield part
    else:
        for part in parts:
            yield part
