"""Power-up tests: what answers wrongly is found, and keeps the module from opening."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from secgear.errors import CryptoModuleError
from secgear.services.crypto.algorithms.operation import Collected, Signer
from secgear.services.crypto.pkcs11.constants import Mech, MechanismFlag
from secgear.services.crypto.token import selftest
from secgear.services.crypto.token.mechanisms import MECHANISMS, Row
from tests.adversary.crypto_host import MemoryStore, open_module

GENERATORS = MechanismFlag.GENERATE | MechanismFlag.GENERATE_KEY_PAIR
TRIED = {int(mech) for mechs, _ in selftest._tests(MECHANISMS) for mech in mechs}


class Echo(Collected):
    """Gives back what it gets: encrypted and decrypted, all is there again."""

    def size(self, more: int) -> int:
        return more

    def whole(self, data: bytes) -> bytes:
        return data


class YesMan(Signer):
    """Signs with zeros, and takes every signature."""

    length = 64

    def update(self, data: bytes) -> None:
        pass

    def sign(self) -> bytes:
        return bytes(64)

    def verify(self, signature: bytes) -> None:
        pass


def broken(row: Row) -> Row:
    """The row with an algorithm that looks as if it worked."""
    return msgspec.structs.replace(
        row,
        cipher=(lambda *_: Echo()) if row.cipher else None,
        signer=(lambda *_: YesMan()) if row.signer else None,
        digest=Echo if row.digest else None,
    )


def test_all_mechanisms_are_tried_but_those_that_make_keys() -> None:
    untried = [number for number in MECHANISMS if number not in TRIED]
    assert all(MECHANISMS[number].flags & GENERATORS for number in untried)
    assert list(selftest.check(MECHANISMS)) == []


KNOWN = [
    answer.mech for answers in (selftest.known.CIPHERS, selftest.known.MACS) for answer in answers
]
BREAKABLE = [
    mech
    for mech in (
        *selftest.known.DIGESTS, *KNOWN, Mech.SHA256_RSA_PKCS, Mech.SHA256_RSA_PKCS_PSS,
        Mech.RSA_PKCS_OAEP, Mech.ECDSA_SHA256, Mech.ECDSA_SHA384, Mech.ECDSA_SHA512, Mech.EDDSA,
        Mech.ML_DSA,
    )
    if mech in MECHANISMS
]  # fmt: skip


@pytest.mark.parametrize("mech", BREAKABLE, ids=lambda mech: mech.name)
def test_an_algorithm_that_only_seems_to_work_is_found(mech: Mech) -> None:
    table = {**MECHANISMS, int(mech): broken(MECHANISMS[mech])}
    assert mech in list(selftest.check(table))


ANSWERS = [
    "ECDH_SHARED", "HKDF_OUTPUT", "KDF_OUTPUT", "SM2_SHARED", "KW_WRAPPED",
    "KWP_WRAPPED", "RSA_SIGNATURE_DIGEST",
]  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_another_answer_than_the_known_one_fails(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = getattr(selftest.known, name)
    monkeypatch.setattr(selftest.known, name, ("0" if right[0] != "0" else "1") + right[1:])
    assert list(selftest.check(MECHANISMS)) or (name == "SM2_SHARED" and Mech.SM2 not in MECHANISMS)


@pytest.fixture
def afresh() -> Iterator[None]:
    selftest.run.cache_clear()
    yield
    selftest.run.cache_clear()


@pytest.mark.usefixtures("afresh")
def test_no_module_opens_where_an_algorithm_fails(
    monkeypatch: pytest.MonkeyPatch, store: MemoryStore
) -> None:
    table = {**MECHANISMS, int(Mech.AES_GCM): broken(MECHANISMS[Mech.AES_GCM])}
    monkeypatch.setattr(selftest, "MECHANISMS", table)
    for _ in range(2):  # it is no better the second time
        with pytest.raises(CryptoModuleError, match="the self-test failed: AES_GCM; no module"):
            open_module(store)
    monkeypatch.undo()
    open_module(store)
