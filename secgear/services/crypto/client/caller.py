"""Calls of the module as a client makes them, over anything that carries a message there and back.

The data owner's side of the boundary. What a message is, is in `secgear.services.crypto.rpc`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, final

from secgear.errors import CryptoModuleError
from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.buffer import OWN, MalformedMessage
from secgear.services.crypto.rpc.frames import HEADER, build_frame, negotiate, parse_header
from secgear.services.crypto.rpc.messages import HANDSHAKE, build_request, parse_answer

if TYPE_CHECKING:
    from secgear.middleware.channel import Session

_READ: Final = 1 << 17  # bytes of one read: most answers come in one
Exchange = Callable[[bytes], bytes]
ROOM: Final = 4 << 20
"""Bytes of output that a call takes; a client in Python needs no room of its own."""


@final
class Caller:
    """Makes calls. exchange: carries one message to the module and brings its answer.

    Every method raises CryptokiError with the call's return value, CKR_DEVICE_ERROR where the
    answer is none.
    """

    def __init__(self, exchange: Exchange, version: int = OWN) -> None:
        self._exchange = exchange
        self._version = version

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """The call `name`, with the arguments and results of the table."""
        call = BY_NAME[name]
        request = build_request(call, arguments, self._version)
        try:
            return parse_answer(call, self._exchange(request), self._version)
        except MalformedMessage:
            raise CryptokiError(Rv.DEVICE_ERROR) from None

    def initialise(self) -> None:
        """C_Initialize."""
        self.call("C_Initialize", HANDSHAKE, 0, b"\0")

    def one(self, name: str, *arguments: Any) -> Any:
        """A call that has one result."""
        (result,) = self.call(name, *arguments)
        return result


@final
class SocketExchange:
    """An `Exchange` over the host's Unix socket, one call at a time. A context manager.

    What is said here, the host can hear. Raises CryptoModuleError where nobody answers.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._file: BufferedReader
        try:
            self._socket.connect(str(path))
            self._file = BufferedReader(self._socket.makefile("rb", buffering=0), _READ)
            self._socket.sendall(bytes((OWN,)))
            if self._file.read(1) != bytes((OWN,)):
                raise CryptoModuleError(f"{path}: speaks another protocol")
        except OSError as error:
            self._socket.close()
            hint = ""
            if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                hint = "; is the module running (secgear serve crypto)?"
            raise CryptoModuleError(f"{path}: {error.strerror or error}{hint}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def __call__(self, body: bytes) -> bytes:
        """See `Exchange`."""
        try:
            self._socket.sendall(build_frame(0, body))
            header = parse_header(self._file.read(HEADER.size))
            self._file.read(header.options)
            return self._file.read(header.body)
        except (OSError, struct.error) as error:
            raise CryptoModuleError("the module's host has closed the connection") from error


SERVICE: Final = "pkcs11"
"""The enclave's handler of attested channels, for `secgear.connect`."""


@final
class ChannelExchange:
    """An `Exchange` over an attested channel, one call at a time: the host hears nothing of it.

    session: with the enclave's `SERVICE`. version: of the protocol. Raises ChannelError.
    """

    def __init__(self, session: Session, version: int = OWN) -> None:
        self._session = session
        session.send(bytes((version,)))

    def __call__(self, body: bytes) -> bytes:
        """See `Exchange`."""
        self._session.send(body)
        return self._session.recv()


def carry(session: Session, incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Be what p11-kit calls a remote module: its frames on two streams, over an attested channel.

    For ``remote: |secgear crypto connect …`` in a p11-kit module file. Returns at the end of
    `incoming`; raises MalformedMessage, ChannelError.
    """
    offered = incoming.read(1)
    if not offered:
        return
    version = negotiate(offered[0])
    exchange = ChannelExchange(session, version)
    outgoing.write(bytes((version,)))
    outgoing.flush()
    while head := incoming.read(HEADER.size):
        if len(head) != HEADER.size:
            return
        header = parse_header(head)
        incoming.read(header.options)
        outgoing.write(build_frame(header.code, exchange(incoming.read(header.body))))
        outgoing.flush()
