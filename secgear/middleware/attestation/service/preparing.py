"""What has to be ready before threads share it.

msgspec (0.22 at least) describes a struct to itself when it is first decoded into, and lets other
threads use that description while it is half done: a service that was started under load crashed
with a segmentation fault now and then. So everything is described before a request comes.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import SecGearError
from secgear.middleware.attestation.verification import formats, verify

_PACKAGE = __name__.partition(".")[0]


def prepare() -> None:
    """Load all verifiers, and have all of our structs described. Cheap when done before."""
    for name in formats():
        # No evidence at all is refused, by a verifier that is loaded then.
        with contextlib.suppress(SecGearError):
            verify(Evidence(name, b""), at=datetime.datetime.now(datetime.UTC))
    for kind in _structs(msgspec.Struct):
        # What can't be decoded into (a field of another kind) fails here as it would anywhere.
        with contextlib.suppress(TypeError, NameError):
            msgspec.json.Decoder(kind)


def _structs(base: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for kind in base.__subclasses__():
        if kind.__module__.partition(".")[0] == _PACKAGE:
            yield kind
            yield from _structs(kind)
