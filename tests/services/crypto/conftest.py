"""A token with PINs, and clients of it."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism, Parameter
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, MemoryStore, connect, open_module, prepared

P256 = bytes.fromhex("06082a8648ce3d030107")
ROOM = 1 << 20


@pytest.fixture(scope="session")
def _prepared() -> MemoryStore:
    return prepared()


@pytest.fixture
def store(_prepared: MemoryStore) -> MemoryStore:
    return _prepared.copy()


@pytest.fixture
def module(store: MemoryStore) -> Module:
    return open_module(store)


@pytest.fixture
def caller(module: Module) -> Caller:
    return connect(module)


class User:
    """A client with a session in which the user is logged in."""

    def __init__(self, caller: Caller, flags: int = 6, *, login: bool = True) -> None:
        self.caller = caller
        self.session = caller.one("C_OpenSession", 0, flags)
        if login:
            caller.call("C_Login", self.session, 1, PIN)

    def call(self, name: str, *arguments: Any) -> Any:
        """The call in this session: its one result, or all of them."""
        results = self.caller.call(name, self.session, *arguments)
        return results[0] if len(results) == 1 else results

    def aes(self, **attributes: Any) -> int:
        return self.call("C_GenerateKey", Mechanism(Mech.AES_KEY_GEN), template(
            **{"VALUE_LEN": 32, "ENCRYPT": True, "DECRYPT": True} | attributes
        ))  # fmt: skip

    def secret(self, value: bytes, key_type: KeyType = KeyType.AES, **attributes: Any) -> int:
        return self.call("C_CreateObject", template(
            CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=key_type, VALUE=value, **attributes
        ))  # fmt: skip

    def pair(
        self, mech: Mech, public: dict[str, Any], private: dict[str, Any] | None = None
    ) -> tuple[int, int]:
        return self.call(
            "C_GenerateKeyPair", Mechanism(mech), template(**public), template(**private or {})
        )

    def ec(self, **private: Any) -> tuple[int, int]:
        return self.pair(
            Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256, "VERIFY": True}, {"SIGN": True} | private
        )

    def get(self, handle: int, attr: Attr) -> Any:
        from secgear.services.crypto.rpc.attributes import Room

        filled, rv = self.call("C_GetAttributeValue", handle, [Room(attr, ROOM)])
        if rv:
            raise CryptokiError(Rv(rv))
        return filled[0][2]

    def set(self, handle: int, **attributes: Any) -> None:
        self.call("C_SetAttributeValue", handle, template(**attributes))

    def find(self, **attributes: Any) -> list[int]:
        self.call("C_FindObjectsInit", template(**attributes))
        found: list[int] = []
        while some := self.call("C_FindObjects", 10):
            found += some
        self.call("C_FindObjectsFinal")
        return found

    def run(
        self, what: str, mech: Mech, key: int, data: bytes, parameter: Parameter = None
    ) -> bytes:
        """C_EncryptInit and C_Encrypt, or the like."""
        self.call(f"C_{what}Init", Mechanism(mech, parameter), key)
        return self.call(f"C_{what}", data, ROOM)

    def verify(
        self, mech: Mech, key: int, data: bytes, signature: bytes, parameter: Parameter = None
    ) -> None:
        self.call("C_VerifyInit", Mechanism(mech, parameter), key)
        self.call("C_Verify", data, signature)


def rsa_of(p: int, q: int, e: int = 65537) -> rsa.RSAPrivateKey:
    """A key of two primes, whatever they are."""
    d = pow(e, -1, (p - 1) * (q - 1))
    parts = d % (p - 1), d % (q - 1), pow(q, -1, p)
    numbers = rsa.RSAPrivateNumbers(p, q, d, *parts, rsa.RSAPublicNumbers(e, p * q))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def template(**attributes: Any) -> dict[int, Any]:
    return {int(Attr[name]): value for name, value in attributes.items()}


@pytest.fixture
def user(caller: Caller) -> User:
    return User(caller)


def flipped(data: bytes) -> bytes:
    """The same, but for its last bit."""
    return data[:-1] + bytes([data[-1] ^ 1])


def refusal(function: Any, *arguments: Any, **named: Any) -> Rv:
    """The return value with which a call is refused."""
    with pytest.raises(CryptokiError) as refused:
        function(*arguments, **named)
    return refused.value.rv
