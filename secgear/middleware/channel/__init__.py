"""The secure channel: TLS 1.3 that ends inside an enclave, and evidence bound to the connection.

A data owner calls `connect` and has a `Session` with an enclave that was verified under its
policy; an enclave takes sessions with ``@app.session``; between them the host runs a `Relay` that
sees ciphertext. The protocol is in docs/channel-protocol.md. Public names resolve on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secgear.middleware.channel.aio import AsyncSession as AsyncSession
    from secgear.middleware.channel.aio import connect_async as connect_async
    from secgear.middleware.channel.app import App as App
    from secgear.middleware.channel.client import connect as connect
    from secgear.middleware.channel.identity import Identity as Identity
    from secgear.middleware.channel.relay import Relay as Relay
    from secgear.middleware.channel.session import ByteStream as ByteStream
    from secgear.middleware.channel.session import Session as Session
    from secgear.middleware.channel.tls import CLASSIC as CLASSIC
    from secgear.middleware.channel.tls import HYBRID as HYBRID
    from secgear.middleware.channel.tls import Parameters as Parameters
    from secgear.middleware.channel.trust import Remote as Remote
    from secgear.middleware.channel.trust import Trust as Trust

_HERE = "secgear.middleware.channel"
_PUBLIC = {
    "App": "app",
    "AsyncSession": "aio",
    "ByteStream": "session",
    "CLASSIC": "tls",
    "HYBRID": "tls",
    "Identity": "identity",
    "Parameters": "tls",
    "Relay": "relay",
    "Remote": "trust",
    "Session": "session",
    "Trust": "trust",
    "connect": "client",
    "connect_async": "aio",
}

__all__ = [
    "CLASSIC",
    "HYBRID",
    "App",
    "AsyncSession",
    "ByteStream",
    "Identity",
    "Parameters",
    "Relay",
    "Remote",
    "Session",
    "Trust",
    "connect",
    "connect_async",
]


def __getattr__(name: str) -> Any:
    home = _PUBLIC.get(name)
    if home is None:
        raise AttributeError(f"module {_HERE!r} has no attribute {name!r}")
    value = getattr(import_module(f"{_HERE}.{home}"), name)
    globals()[name] = value
    return value
