"""secGear for Python: write a trusted program once, run it in any trusted execution environment.

The public names resolve on first use, so that an enclave that only needs ``App`` does not import
the host's half of the framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secgear import errors as errors
    from secgear.base.context import current_call as current_call
    from secgear.base.context import guest as guest
    from secgear.base.enclave import Enclave as Enclave
    from secgear.base.launch import launch as launch
    from secgear.base.shared import Shared as Shared
    from secgear.base.switchless.options import Switchless as Switchless
    from secgear.middleware.channel.aio import connect_async as connect_async
    from secgear.middleware.channel.app import App as App
    from secgear.middleware.channel.client import connect as connect
    from secgear.middleware.channel.relay import Relay as Relay
    from secgear.middleware.channel.session import Session as Session

__version__ = "0.1.0"

_PUBLIC = {
    "App": "secgear.middleware.channel.app",
    "Enclave": "secgear.base.enclave",
    "Relay": "secgear.middleware.channel.relay",
    "Session": "secgear.middleware.channel.session",
    "Shared": "secgear.base.shared",
    "Switchless": "secgear.base.switchless.options",
    "connect": "secgear.middleware.channel.client",
    "connect_async": "secgear.middleware.channel.aio",
    "current_call": "secgear.base.context",
    "guest": "secgear.base.context",
    "launch": "secgear.base.launch",
}

__all__ = [
    "App",
    "Enclave",
    "Relay",
    "Session",
    "Shared",
    "Switchless",
    "connect",
    "connect_async",
    "current_call",
    "errors",
    "guest",
    "launch",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("secgear.errors")
    home = _PUBLIC.get(name)
    if home is None:
        raise AttributeError(f"module 'secgear' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
