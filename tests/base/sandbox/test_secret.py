"""Memory for keys."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from secgear.base.sandbox.secret import SecretMemory, SecretPool
from secgear.errors import GuestError


def test_a_secret_does_not_show_itself() -> None:
    pool = SecretPool(4096)
    with pool.allocate(32) as secret:
        secret.write(b"\x41" * 32)
        assert "A" * 8 not in repr(secret) + str(secret) + repr(pool) + f"{secret}"
        assert secret.matches(b"A" * 32)
        assert not secret.matches(b"B" * 32)
        assert len(secret) == 32
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(secret)


def test_a_closed_secret_is_wiped_and_its_place_used_again() -> None:
    pool = SecretPool(64)
    secret = pool.allocate(64)
    secret.write(b"\xff" * 64)
    with pytest.raises(GuestError, match="no secret memory left"):
        pool.allocate(1)
    secret.close()
    secret.close()
    with pytest.raises(GuestError, match="closed"):
        secret.view()
    assert bytes(pool.allocate(64).view()) == bytes(64)


def test_a_forgotten_secret_is_wiped() -> None:
    pool = SecretPool(64)
    pool.allocate(32).write(b"\xff" * 32)
    gc.collect()
    assert bytes(pool.allocate(32).view()) == bytes(32)


def test_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="structure"):
        SecretPool(64).allocate(32).write(b"short")


def test_the_kernel_does_not_map_it() -> None:
    pool = SecretPool(4096)
    if pool.backing != "memfd_secret":
        pytest.skip("this kernel has no memfd_secret")
    secret = pool.allocate(32)
    secret.write(b"\x5a" * 32)
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(secret.view()))
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        os.lseek(memory.fileno(), address, os.SEEK_SET)
        with pytest.raises(OSError, match="Input/output error"):
            memory.read(32)


class Pool(RuleBasedStateMachine):
    """Secrets of any sizes, in any order: never two in one place."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = SecretPool(4096)
        self.held: list[tuple[SecretMemory, bytes]] = []

    @rule(size=st.integers(0, 700), fill=st.integers(1, 255))
    def allocate(self, size: int, fill: int) -> None:
        try:
            secret = self.pool.allocate(size)
        except GuestError:
            assert sum(len(content) for _, content in self.held) > 4096 / 4
            return
        assert bytes(secret.view()) == bytes(size)
        secret.write(bytes([fill]) * size)
        self.held.append((secret, bytes([fill]) * size))

    @rule(data=st.data())
    def close(self, data: Any) -> None:
        if self.held:
            secret, _ = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            secret.close()

    @invariant()
    def intact(self) -> None:
        assert all(secret.matches(content) for secret, content in self.held)


TestPool = Pool.TestCase
