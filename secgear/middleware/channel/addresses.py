"""Addresses of channels: ``tcp://host:port``, ``unix:/path``, ``vsock://cid:port``."""

from __future__ import annotations

import socket
from typing import Final
from urllib.parse import urlsplit

import msgspec

FORMS: Final = "tcp://host:port, host:port, unix:/path or vsock://cid:port"
_MAX_PORT = {"tcp": 65535, "vsock": 2**32 - 1}


class Address(msgspec.Struct, frozen=True):
    """Where to connect to or to listen. kind: ``tcp``, ``unix`` or ``vsock``.

    host: name, number or, for vsock, the context id. path: of a Unix socket; one that begins with
    ``@`` is in the abstract namespace.
    """

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}:{self.port}"

    @property
    def _sockaddr(self) -> tuple[int, int] | str:
        if self.kind == "unix":
            return "\0" + self.path[1:] if self.path.startswith("@") else self.path
        return int(self.host), self.port

    def connect(self, timeout: float | None) -> socket.socket:
        """A connected socket. Raises OSError."""
        if self.kind == "tcp":
            made = socket.create_connection((self.host, self.port), timeout)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
        made = socket.socket(_family(self.kind), socket.SOCK_STREAM)
        try:
            made.settimeout(timeout)
            made.connect(self._sockaddr)
        except BaseException:
            made.close()
            raise
        return made

    def listen(self, backlog: int = 128) -> socket.socket:
        """A listening socket. Raises OSError."""
        if self.kind == "tcp":
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family, backlog=backlog)
        made = socket.socket(_family(self.kind), socket.SOCK_STREAM)
        try:
            made.bind(self._sockaddr)
            made.listen(backlog)
        except BaseException:
            made.close()
            raise
        return made


def parse(text: str) -> Address:
    """Read an address. Raises ValueError, naming the forms there are."""
    scheme, separator, rest = text.partition(":")
    if scheme == "unix" and separator:
        path = rest.removeprefix("//")
        if not path:
            raise ValueError(f"{text!r}: a Unix socket needs a path; addresses are {FORMS}")
        return Address("unix", path=path)
    kind = scheme if text.startswith(("tcp://", "vsock://")) else "tcp"
    try:
        parts = urlsplit(text if "://" in text else f"tcp://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: {error}; addresses are {FORMS}") from None
    extra = parts.path or parts.query or parts.fragment or parts.username is not None
    if parts.scheme != kind or not host or port is None or extra:
        raise ValueError(f"{text!r} is no address; addresses are {FORMS}")
    if kind == "vsock" and not (host.isdecimal() and int(host) < 2**32):
        raise ValueError(f"{text!r}: a vsock address has a number for its context id")
    return Address(kind, host, port)


def _family(kind: str) -> int:
    if kind == "unix":
        return socket.AF_UNIX
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        raise OSError("this system has no vsock")
    return int(family)
