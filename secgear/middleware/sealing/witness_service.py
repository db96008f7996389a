"""The witness over a network, and the host's way to it.

On a connection, requests and answers come one after the other, each behind its length in two
bytes, big endian. An answer of length 0 says that the request was refused. They are signed, so
the connection needs no protection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Final, Self, final

from secgear.errors import SealingError
from secgear.middleware.channel.addresses import Address, parse
from secgear.middleware.sealing.witness import Witness
from secgear.middleware.sealing.witness_messages import MAX_SIZE

MAX_CONNECTIONS: Final = 512
IDLE: Final = 60.0  # seconds that a connection may say nothing, or take to say something
_LENGTH: Final = 2  # bytes
_log = logging.getLogger(__name__)


def serve(witness: Witness, address: Address, ready: Callable[[str], object]) -> None:
    """Answer requests at `address` until the process is told to end.

    ready: is called with the address, once requests are taken. Raises SealingError.
    """
    try:
        listener = address.listen()
    except OSError as error:
        raise SealingError(f"{address}: {error.strerror or error}") from error
    bound = address
    if address.kind == "tcp":
        bound = Address("tcp", address.host, listener.getsockname()[1])
    with contextlib.closing(listener):
        asyncio.run(_Service(witness).run(listener, lambda: ready(str(bound))))


class _Service:
    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._open = 0

    async def run(self, listener: socket.socket, ready: Callable[[], object]) -> None:
        listener.setblocking(False)
        server = await asyncio.start_server(self._serve, sock=listener, limit=MAX_SIZE)
        async with server:
            ready()
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the peer has gone, or says nothing
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether there may be another."""
        async with asyncio.timeout(IDLE):
            size = int.from_bytes(await reader.readexactly(_LENGTH), "big")
            if not 0 < size <= MAX_SIZE:
                return False
            request = await reader.readexactly(size)
        try:
            answer = await asyncio.to_thread(self._witness.answer, request)
        except SealingError as error:
            _log.warning("refused: %s", error)
            answer = b""
        writer.write(len(answer).to_bytes(_LENGTH, "big") + answer)
        async with asyncio.timeout(IDLE):
            await writer.drain()
        return bool(answer)


@final
class WitnessClient:
    """The host's way to a witness: `exchange` is what the OCALL of a `RemoteCounter` does.

    address: ``tcp://host:port``, ``unix:/path`` or ``vsock://cid:port``. timeout: seconds for one
    answer. Safe for threads; connects when needed, and again when a connection was lost.
    """

    def __init__(self, address: str, *, timeout: float = 30.0) -> None:
        try:
            self._address = parse(address)
        except ValueError as error:
            raise SealingError(f"the witness: {error}") from None
        self._timeout = timeout
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def exchange(self, message: bytes) -> bytes:
        """The witness's answer, unverified. Raises SealingError when it refuses, or can't be had.

        A request that got lost half-way is sent once more: asking twice is harmless.
        """
        with self._lock:
            kept = self._connection is not None
            try:
                return self._ask(message)
            except OSError as error:
                if not kept:
                    raise self._failed(error) from error
            try:
                return self._ask(message)
            except OSError as error:
                raise self._failed(error) from error

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
        with self._lock:
            self._drop()

    def _ask(self, message: bytes) -> bytes:
        try:
            if self._connection is None:
                self._connection = self._address.connect(self._timeout)
            self._connection.sendall(len(message).to_bytes(_LENGTH, "big") + message)
            answer = self._take(int.from_bytes(self._take(_LENGTH), "big"))
        except BaseException:
            self._drop()
            raise
        if not answer:
            self._drop()
            raise SealingError(f"the witness at {self._address} refuses the request")
        return answer

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size and self._connection is not None:
            more = self._connection.recv(size - len(data))
            if not more:
                raise ConnectionResetError("the witness closed the connection")
            data += more
        return data

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _failed(self, error: OSError) -> SealingError:
        return SealingError(f"the witness at {self._address}: {error.strerror or error}")
