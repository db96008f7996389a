"""What the process TEE's two halves tell each other before the first frame.

Length-prefixed msgpack over the socket that later carries frames. The guest is not trusted by the
host (an app may be hostile), so what it sends is limited and typed.
"""

from __future__ import annotations

import socket
import struct
from typing import TypeVar

import msgspec

from secgear.base.tee import Layer
from secgear.errors import LaunchFailed

_LENGTH = struct.Struct("<I")
_MAX = 1 << 20

M = TypeVar("M", bound=msgspec.Struct)
T = TypeVar("T")


class Boot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Host to guest, first. host_pid: whose death ends the enclave.

    read_paths: what stays readable once sealed. search_path: where required distributions may
    lie. image_fd, shared_fd, switchless_fd, door_fd, marks_fd: inherited descriptors; -1 for what
    is not shared.
    """

    host_pid: int
    read_paths: tuple[str, ...]
    search_path: tuple[str, ...]
    image_fd: int
    shared_fd: int
    switchless_fd: int = -1
    door_fd: int = -1
    marks_fd: int = -1


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="sealed"):
    """Guest to host: isolated; layers as the guest found them to hold."""

    layers: tuple[Layer, ...]


class Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="failed"):
    """Guest to host: could not start. code: of the error tree. text: empty if it must stay in."""

    code: str
    text: str


Report = Sealed | Failed


class EvidenceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="evidence"):
    """Guest to platform: evidence with these 64 bytes of report data."""

    report_data: bytes


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="key"):
    """Guest to platform: the sealing key of a policy and svn."""

    policy: str
    svn: int


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Platform to guest. error: empty, or why there is no data."""

    data: bytes = b""
    error: str = ""


Request = EvidenceRequest | KeyRequest


def send(sock: socket.socket, message: msgspec.Struct) -> None:
    """Write one boot message."""
    body = msgspec.msgpack.encode(message)
    sock.sendall(_LENGTH.pack(len(body)) + body)


def receive_report(sock: socket.socket) -> Report:
    """Read what the guest reports; errors as of `receive`."""
    report: Report = _receive(sock, msgspec.msgpack.Decoder(Report))
    return report


def receive(sock: socket.socket, kind: type[M]) -> M:
    """Read one boot message of type `kind`.

    Raises LaunchFailed when the peer is gone, TimeoutError when the socket's timeout passed, and
    LaunchFailed for anything malformed.
    """
    return _receive(sock, msgspec.msgpack.Decoder(kind))


def _receive(sock: socket.socket, decoder: msgspec.msgpack.Decoder[T]) -> T:
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
    if length > _MAX:
        raise LaunchFailed(f"a boot message of {length} bytes is over the limit of {_MAX}")
    try:
        return decoder.decode(_exactly(sock, length))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise LaunchFailed(f"malformed boot message: {error}") from error


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise LaunchFailed("the other side closed the connection while starting")
        data += part
    return bytes(data)
