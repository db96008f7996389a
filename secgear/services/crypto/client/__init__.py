"""Clients of the module, on the data owner's side of the boundary.

`connect` opens a module; tokens, sessions and keys are objects from there on. Below them are the
calls of PKCS#11 as the table has them (`Caller`). Public names resolve on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secgear.services.crypto.client.caller import ROOM as ROOM
    from secgear.services.crypto.client.caller import SERVICE as SERVICE
    from secgear.services.crypto.client.caller import Caller as Caller
    from secgear.services.crypto.client.caller import ChannelExchange as ChannelExchange
    from secgear.services.crypto.client.caller import Exchange as Exchange
    from secgear.services.crypto.client.caller import SocketExchange as SocketExchange
    from secgear.services.crypto.client.caller import carry as carry
    from secgear.services.crypto.client.keys import Encrypted as Encrypted
    from secgear.services.crypto.client.keys import Key as Key
    from secgear.services.crypto.client.keys import PrivateKey as PrivateKey
    from secgear.services.crypto.client.keys import PublicKey as PublicKey
    from secgear.services.crypto.client.keys import SecretKey as SecretKey
    from secgear.services.crypto.client.module import Module as Module
    from secgear.services.crypto.client.module import Token as Token
    from secgear.services.crypto.client.module import connect as connect
    from secgear.services.crypto.client.sealing import ImportKey as ImportKey
    from secgear.services.crypto.client.session import Session as Session
    from secgear.services.crypto.client.talk import TokenRefused as TokenRefused

_PUBLIC = {
    "ROOM": "caller",
    "SERVICE": "caller",
    "Caller": "caller",
    "ChannelExchange": "caller",
    "Encrypted": "keys",
    "Exchange": "caller",
    "ImportKey": "sealing",
    "Key": "keys",
    "Module": "module",
    "PrivateKey": "keys",
    "PublicKey": "keys",
    "SecretKey": "keys",
    "Session": "session",
    "SocketExchange": "caller",
    "Token": "module",
    "TokenRefused": "talk",
    "carry": "caller",
    "connect": "module",
}

__all__ = [
    "ROOM",
    "SERVICE",
    "Caller",
    "ChannelExchange",
    "Encrypted",
    "Exchange",
    "ImportKey",
    "Key",
    "Module",
    "PrivateKey",
    "PublicKey",
    "SecretKey",
    "Session",
    "SocketExchange",
    "Token",
    "TokenRefused",
    "carry",
    "connect",
]


def __getattr__(name: str) -> Any:
    home = _PUBLIC.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
