"""What an imported key may do when its template says nothing of it."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.usage import usual
from tests.services.crypto.conftest import P256, User, refusal, template

USAGES = (
    Attr.ENCRYPT, Attr.DECRYPT, Attr.SIGN, Attr.VERIFY, Attr.WRAP, Attr.UNWRAP, Attr.DERIVE,
    Attr.ENCAPSULATE, Attr.DECAPSULATE, Attr.SIGN_RECOVER, Attr.VERIFY_RECOVER,
)  # fmt: skip


def usages(user: User, handle: int) -> set[Attr]:
    found = set()
    for attr in USAGES:
        try:
            if user.get(handle, attr):
                found.add(attr)
        except CryptokiError:
            continue
    return found


def create(user: User, object_class: ObjectClass, kind: KeyType, **attributes: Any) -> int:
    return user.call("C_CreateObject", template(CLASS=object_class, KEY_TYPE=kind, **attributes))


def test_an_imported_secret_key_encrypts_and_makes_macs(user: User) -> None:
    key = create(user, ObjectClass.SECRET_KEY, KeyType.AES, VALUE=bytes(16))
    assert usages(user, key) == {Attr.ENCRYPT, Attr.DECRYPT, Attr.SIGN, Attr.VERIFY}
    assert user.run("Encrypt", Mech.AES_ECB, key, bytes(16))


def test_an_imported_pair_does_what_its_type_is_for(user: User) -> None:
    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    value = numbers.private_value.to_bytes(32, "big")
    private = create(user, ObjectClass.PRIVATE_KEY, KeyType.EC, EC_PARAMS=P256, VALUE=value)
    assert usages(user, private) == {Attr.SIGN, Attr.DERIVE}
    own = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    public = create(
        user, ObjectClass.PUBLIC_KEY, KeyType.RSA,
        MODULUS=own.n.to_bytes(256, "big"), PUBLIC_EXPONENT=b"\1\0\1",
    )  # fmt: skip
    assert usages(user, public) == {Attr.ENCRYPT, Attr.VERIFY}


@pytest.mark.parametrize("given", [{"WRAP": True}, {"ENCRYPT": False}, {"SIGN": True}])
def test_a_template_that_says_something_says_everything(user: User, given: dict[str, bool]) -> None:
    key = create(user, ObjectClass.SECRET_KEY, KeyType.AES, VALUE=bytes(16), **given)
    assert usages(user, key) == {Attr[name] for name, value in given.items() if value}


def test_a_generated_key_has_what_its_template_says_and_no_more(user: User) -> None:
    key = user.aes(ENCRYPT=False, DECRYPT=False)
    assert usages(user, key) == set()


@pytest.mark.parametrize("object_class", [1, 2, 3, 4])
def test_nothing_wraps_by_default(object_class: int) -> None:
    for kind in KeyType:
        assert {Attr.WRAP, Attr.UNWRAP}.isdisjoint(usual(object_class, kind, {}))


def test_a_key_whose_usage_is_the_usual_one_wraps_nothing(user: User) -> None:
    key = create(user, ObjectClass.SECRET_KEY, KeyType.AES, VALUE=bytes(16))
    refused = refusal(user.set, key, WRAP=True)
    assert refused is Rv.ATTRIBUTE_READ_ONLY
