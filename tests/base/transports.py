"""The ways that calls can go, so that one suite of claims runs over each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import secgear
from secgear.base.enclave import Enclave
from secgear.base.switchless.options import Switchless
from secgear.base.transport import ring

TRANSPORTS = ("stream", "switchless")
"""What the claims of the shared suite are parametrised over."""


class Over:
    """An enclave whose calls go through shared memory; everything else is the enclave's own."""

    def __init__(self, enclave: Enclave) -> None:
        self.enclave = enclave

    def __getattr__(self, name: str) -> Any:
        if name in self.enclave.interface.ecalls or name in {"submit", "aio"}:
            return getattr(self.enclave.switchless, name)
        return getattr(self.enclave, name)

    def __dir__(self) -> list[str]:
        return dir(self.enclave)

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.enclave.switchless, name)(*args, **kwargs)

    def options(self, *, deadline: float | None) -> Any:
        return self.enclave.options(deadline=deadline).switchless


def over(transport: str, enclave: Enclave) -> Any:
    """The enclave's handle for one of `TRANSPORTS`."""
    return enclave if transport == "stream" else Over(enclave)


def options(transport: str) -> dict[str, Any]:
    """What `launch` needs for one of `TRANSPORTS`."""
    if transport == "stream":
        return {}
    if not ring.available():
        pytest.skip(ring.reason())
    return {"switchless": Switchless(workers=2)}


Launch = Callable[..., contextlib.AbstractContextManager[Any]]


def launcher(transport: str) -> Launch:
    """`secgear.launch` whose handle makes its calls over `transport`."""

    @contextlib.contextmanager
    def launch(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with secgear.launch(*args, **{**options(transport), **kwargs}) as enclave:
            yield over(transport, enclave)

    return launch
