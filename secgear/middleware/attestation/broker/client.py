"""A key broker from the enclave's side: one secret, for evidence.

It runs in the guest, or inside the enclave: where it runs, the secret is in the clear afterwards.
It needs httpx (``secgear[fetch]``), nothing of the broker itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import ServiceError, ServiceRefused
from secgear.middleware.attestation import base64url, envelope
from secgear.middleware.attestation.broker.names import SecretName
from secgear.middleware.attestation.broker.release import (
    HYBRID,
    Released,
    ReleaseKey,
)
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.attestation.service import binding
from secgear.middleware.attestation.service.client import Door

T = TypeVar("T")

_ATTEMPTS: Final = 3  # if an administrator changes something at that moment


class _Challenge(msgspec.Struct):
    nonce: str


class _Released(msgspec.Struct):
    secret: str
    suite: str
    sealed: str


class BrokerClient:
    """A key broker at a URL. Safe to use from several threads.

    url: of the broker. trust: PEM file of the certificate authority, instead of the system's.
    insecure: allow plain HTTP elsewhere than on this machine.
    Raises ServiceError for a URL that is not safe to use.
    """

    def __init__(
        self, url: str, *, trust: Path | None = None, insecure: bool = False, timeout: float = 30
    ) -> None:
        self._door = Door(url, trust=trust, insecure=insecure, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._door.close()

    def release(
        self, name: str, collect: Callable[[bytes], Evidence], *, suite: str = HYBRID
    ) -> bytes:
        """The secret of that name.

        name: ``repository/type/tag``. collect: makes evidence with the 64 bytes of report data that
        it is given. suite: one of `release.SUITES`; a new key pair is made for each call.
        Raises SecretInvalid (the name), ServiceRefused (``release.refused``: there is no such
        secret or the evidence does not satisfy its policy; which of both is not told),
        ServiceError, CollectionFailed, AttestationError if the answer was not meant for this.
        """
        key, nonce = ReleaseKey(suite), self.challenge()
        evidence = collect(key.report_data(nonce))
        return key.open(self.fetch(name, nonce, evidence, suite, key.public), nonce)

    def challenge(self) -> bytes:
        """A nonce for one release, 32 bytes. Raises ServiceRefused, ServiceError."""
        nonce = _unpacked(_typed(self._door.ask("POST", "/v1/challenge"), _Challenge).nonce)
        if len(nonce) != binding.NONCE_SIZE:
            raise ServiceError(f"client: a nonce of {len(nonce)} bytes")
        return nonce

    def fetch(
        self, name: str, nonce: bytes, evidence: Evidence, suite: str, public: bytes
    ) -> Released:
        """The secret as it was wrapped to `public`: for a host whose enclave has no network.

        The enclave makes the key and the evidence for it, and opens the answer; the host carries.
        Raises as `release` does.
        """
        asked = str(SecretName.parse(name))
        request = msgspec.json.encode(
            {
                "evidence": msgspec.Raw(envelope.to_json(evidence)),
                "nonce": base64url.pack(nonce),
                "secret": asked,
                "suite": suite,
                "public_key": base64url.pack(public),
            }
        )
        answer = _typed(self._ask(request), _Released)
        if answer.secret != asked:
            raise ServiceError(f"client: asked for {asked}, and the answer is another secret")
        return Released(asked, answer.suite, _unpacked(answer.sealed))

    def _ask(self, request: bytes) -> bytes:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._door.ask("POST", "/v1/release", content=request)
            except ServiceRefused as refusal:
                if refusal.problem != "release.changed":
                    raise
        return self._door.ask("POST", "/v1/release", content=request)


def _unpacked(text: str) -> bytes:
    try:
        return base64url.unpack(text)
    except ValueError:
        raise ServiceError("client: the broker's answer is not base64url") from None


def _typed(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE:
        raise ServiceError("client: the broker's answer has another form") from None
