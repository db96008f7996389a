"""Which function serves which call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from secgear.services.crypto.pkcs11.calls import BY_NAME, CALLS
from secgear.services.crypto.token.guard import Function, guarded

_ROOMS: Final = (
    "attesting",
    "batches",
    "combined",
    "general",
    "importing",
    "keys",
    "messages",
    "objects",
    "operations",
    "recovery",
    "roles",
    "sdf",
    "users",
    "versions",
)
_served: Final[dict[int, Function]] = {}


def serves(name: str) -> Callable[[Function], Function]:
    """Declare that a function serves the call `name`, whose Python name it has."""
    call = BY_NAME[name]

    def declare(function: Function) -> Function:
        if function.__name__ != call.method or call.id in _served:
            raise ValueError(f"{function.__name__} can't serve {name}")
        _served[call.id] = function
        return function

    return declare


def table() -> Mapping[int, Function]:
    """Every call's function, behind the guard; what nobody serves is not supported."""
    for room in _ROOMS:
        import_module(f"{__package__}.{room}")  # declares what it serves
    return {id: guarded(call.name, _served[id]) for id, call in CALLS.items() if id in _served}
