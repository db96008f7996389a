"""Addresses of channels: ``tcp://host:port``, ``unix:/path``, ``vsock://cid:port``."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from pathlib import Path
from typing import Final

import msgspec

FORMS: Final = "tcp://host:port, host:port, unix:/path or vsock://cid:port"
_MAX: Final = {"tcp": 2**16 - 1, "vsock": 2**32 - 1}
_PLACE: Final = re.compile(
    r"(?:\[(?P<v6>[0-9a-fA-F:.]+(?:%[0-9a-zA-Z]+)?)\]|(?P<name>[^\x00-\x20\x7f\[\]:/?#@]+))"
    r":(?P<port>[0-9]{1,10})"
)


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
        """A listening socket; port 0 is any that is free. Raises OSError.

        The file that a Unix socket has left behind, at which nobody listens, is replaced.
        """
        if self.kind == "tcp":
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family, backlog=backlog)
        where = self._sockaddr
        if self.kind == "vsock" and not self.port:
            where = int(self.host), socket.VMADDR_PORT_ANY
        made = socket.socket(_family(self.kind), socket.SOCK_STREAM)
        try:
            try:
                made.bind(where)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self.tidy()
                made.bind(where)
            made.listen(backlog)
        except BaseException:
            made.close()
            raise
        return made

    def tidy(self) -> None:
        """Remove the file of a Unix socket at which nobody listens any more."""
        if self.kind != "unix" or self.path.startswith("@"):
            return
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                return
            try:
                self.connect(1.0).close()
            except ConnectionRefusedError:
                Path(self.path).unlink()


def parse(text: str) -> Address:
    """Read an address. Raises ValueError, naming the forms there are."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path or "\0" in path:
            raise ValueError(f"{text!r}: a Unix socket needs a path; addresses are {FORMS}")
        return Address("unix", path=path)
    kind, separator, rest = text.partition("://")
    if not separator:
        kind, rest = "tcp", text
    found = _PLACE.fullmatch(rest)
    if kind not in _MAX or found is None:
        raise ValueError(f"{text!r} is no address; addresses are {FORMS}")
    host, port = found["v6"] or found["name"], int(found["port"])
    if port > _MAX[kind]:
        raise ValueError(f"{text!r}: a port of {kind} is at most {_MAX[kind]}")
    if kind == "vsock" and not (re.fullmatch("[0-9]{1,10}", host) and int(host) <= _MAX[kind]):
        raise ValueError(f"{text!r}: a vsock address has a number for its context id")
    return Address(kind, host, port)


def _family(kind: str) -> int:
    if kind == "unix":
        return socket.AF_UNIX
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        raise OSError("this system has no vsock")
    return int(family)
