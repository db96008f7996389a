"""Guests of made-up enclaves on one simulated platform."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import pytest

from secgear.base.sandbox.secret import SecretMemory, SecretPool
from secgear.base.tee import Evidence, Guest, SealingPolicy
from secgear.errors import GuestError
from secgear.middleware.sealing import Standing
from secgear.middleware.sealing.counters import NO_MARK

_POOL = SecretPool()


class FakeGuest(Guest):
    """Gives keys by the contract of `Guest.sealing_key`, from a root that the test names."""

    tee: ClassVar[str] = "fake"

    def __init__(
        self, measurement: str = "m", signer: str = "s", svn: int = 3, root: str = "machine"
    ) -> None:
        self.measurement, self.signer, self.svn, self.root = measurement, signer, svn, root

    def evidence(self, report_data: bytes) -> Evidence:
        raise GuestError("this guest has no evidence")

    def sealing_key(self, policy: SealingPolicy, svn: int | None = None) -> SecretMemory:
        wanted = self.svn if svn is None else svn
        if not 0 <= wanted <= self.svn:
            raise GuestError(f"svn {wanted} is above the enclave's own, {self.svn}")
        who = self.measurement if policy is SealingPolicy.MEASUREMENT else self.signer
        if not who:
            raise GuestError("the image is not signed")
        key = _POOL.allocate(32)
        key.write(hashlib.sha256(f"{self.root}/{policy.value}/{who}/{wanted}".encode()).digest())
        return key

    def random(self, size: int) -> bytes:
        return bytes(size)


class MemoryCounter:
    """A counter of a test."""

    def __init__(self, value: int = 0, identity: bytes = b"memory") -> None:
        self.standing, self.identity = Standing(value, NO_MARK), identity

    def read(self) -> Standing:
        return self.standing

    def advance(self, value: int, mark: bytes) -> Standing:
        if value == self.standing.value + 1:
            self.standing = Standing(value, mark)
        return self.standing


@pytest.fixture
def guest() -> FakeGuest:
    return FakeGuest()
