"""Several enclaves behind one socket: what one does all see, and one that dies harms no other."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import Attr, Mech
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from tests.services.crypto.conftest import P256, User
from tests.services.crypto.running import PIN, Server, founded, prepare_token, secgear, serving

CLIENTS = 64


class Place:
    """A running module with two enclaves."""

    def __init__(self, server: Server, directory: Path, key: str) -> None:
        self.server, self.directory, self.key = server, directory, key


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("crypto") / "module"
    key = founded(directory, "--slots", "2")
    with serving(directory, "--workers", "2") as server:
        prepare_token(server.socket, directory / "pins")
        yield Place(server, directory, key)


def logged_in(caller: Caller) -> User:
    user = User(caller, login=False)
    user.call("C_Login", 1, PIN.encode())
    return user


def test_connections_are_spread_and_see_each_others_changes_at_once(place: Place) -> None:
    with place.server.caller() as a, place.server.caller() as b:
        one, other = logged_in(a), logged_in(b)
        # Each is in an enclave of its own, where it has the only session.
        assert a.call("C_GetTokenInfo", 0)[6] == b.call("C_GetTokenInfo", 0)[6] == 1
        for at in range(20):
            key = one.aes(TOKEN=True, LABEL=b"seen-%d" % at)
            assert other.find(LABEL=b"seen-%d" % at) == [key]
            other.set(key, ID=b"%d" % at)
            assert one.get(key, Attr.ID) == b"%d" % at
            one.call("C_DestroyObject", key)
            assert other.find(LABEL=b"seen-%d" % at) == []


def test_one_enclave_dies_and_the_other_serves_on(place: Place) -> None:
    before = place.server.enclaves
    assert len(before) == 2
    victim = before.pop()
    with place.server.caller() as a, place.server.caller() as b:
        users = [logged_in(a), logged_in(b)]
        key = users[0].aes(TOKEN=True, LABEL=b"survives")
        os.kill(victim, signal.SIGKILL)
        died = time.monotonic() + 60  # killed while it reads, it takes the connection along
        while Path(f"/proc/{victim}").exists():
            assert time.monotonic() < died
            time.sleep(0.01)
        outcomes = [outcome(user.find, LABEL=b"survives") for user in users]
        assert [key] in outcomes  # with its session and its login
        refused = (Rv.DEVICE_REMOVED, Rv.SESSION_HANDLE_INVALID)
        assert any(one in refused for one in outcomes)
        until = time.monotonic() + 60
        while len(place.server.enclaves - {victim}) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        for caller in (a, b):
            outcome(caller.call, "C_GetInfo")  # a call of the dead one's may still be under way
            again = User(caller, login=False)
            if again.call("C_GetSessionInfo")[1] != 3:  # CKS_RW_USER_FUNCTIONS
                again.call("C_Login", 1, PIN.encode())
            assert again.find(LABEL=b"survives") == [key]


def outcome(function: Any, *arguments: Any, **named: Any) -> Any:
    """What a call returns, or the return value with which it is refused."""
    try:
        return function(*arguments, **named)
    except CryptokiError as error:
        return error.rv


def mixed(user: User, name: int, kept: dict[bytes, bytes], shared: tuple[int, int]) -> None:
    """What a client does; every result is held against what it must be."""
    choose = random.Random(name)
    own: list[tuple[int, bytes]] = []
    public, private = shared
    for at in range(6):
        label = b"mixed-%d-%d" % (name, at)
        match choose.randrange(5):
            case 0:
                own.append((user.aes(TOKEN=True, LABEL=label), label))
            case 1 if own:
                key, _ = own[-1]
                user.set(key, ID=label)
                assert user.get(key, Attr.ID) == label
            case 2 if own:
                key, gone = own.pop()
                user.call("C_DestroyObject", key)
                assert user.find(LABEL=gone) == []
            case 3:
                signature = user.run("Sign", Mech.ECDSA_SHA256, private, label)
                user.verify(Mech.ECDSA_SHA256, public, label, signature)
            case _:
                key = user.aes(TOKEN=False)
                sealed = user.run("Encrypt", Mech.AES_ECB, key, bytes(32))
                assert user.run("Decrypt", Mech.AES_ECB, key, sealed) == bytes(32)
    for key, label in own:
        assert user.find(LABEL=label) == [key]
        kept[label] = user.run("Encrypt", Mech.AES_ECB, key, bytes(16))


def test_many_clients_of_two_enclaves_lose_nothing_and_hear_nothing_wrong(place: Place) -> None:
    with place.server.caller() as caller:
        shared = logged_in(caller).pair(
            Mech.EC_KEY_PAIR_GEN,
            {"EC_PARAMS": P256, "VERIFY": True, "TOKEN": True},
            {"SIGN": True, "TOKEN": True},
        )
        kept: dict[bytes, bytes] = {}
        failed: list[BaseException] = []

        def client(name: int) -> None:
            try:
                with place.server.caller() as own:
                    mixed(logged_in(own), name, kept, shared)
            except BaseException as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=client, args=(name,)) for name in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not failed
        user = User(caller, login=False)
        for label, sealed in kept.items():
            (key,) = user.find(LABEL=label)
            assert user.run("Encrypt", Mech.AES_ECB, key, bytes(16)) == sealed
        labels = [user.get(key, Attr.LABEL) for key in user.find()]
        assert sorted(one for one in labels if one.startswith(b"mixed")) == sorted(kept)
    verified = secgear("crypto", "audit", "verify", str(place.directory), "--key", place.key)
    assert "whole" in verified
