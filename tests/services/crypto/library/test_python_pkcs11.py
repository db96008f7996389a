"""python-pkcs11 with the library: what its documentation shows people to do.

Its authors' own tests are run by hand; docs/services/crypto/library.md has the result.
"""

from __future__ import annotations

import datetime
import hashlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.adversary.crypto_host import PIN
from tests.services.crypto.library.cryptoki import copy_of

pkcs11 = pytest.importorskip("pkcs11")
from pkcs11 import (  # noqa: E402
    KDF,
    MGF,
    Attribute,
    KeyType,
    Mechanism,
    MechanismFlag,
    ObjectClass,
    exceptions,
)
from pkcs11.mechanisms import GCMParams  # noqa: E402
from pkcs11.util.ec import (  # noqa: E402
    decode_ec_private_key,
    decode_ec_public_key,
    decode_ecdsa_signature,
    encode_ec_public_key,
    encode_ecdsa_signature,
    encode_named_curve_parameters,
)
from pkcs11.util.rsa import (  # noqa: E402
    decode_rsa_private_key,
    decode_rsa_public_key,
    encode_rsa_public_key,
)
from pkcs11.util.x509 import decode_x509_certificate, decode_x509_public_key  # noqa: E402

DATA = b"INPUT DATA"


@pytest.fixture(scope="module")
def token(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The token of a module that all tests of this file share, as python-pkcs11 finds it."""
    with (
        tempfile.TemporaryDirectory(prefix="sg") as name,
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("standalone.py")), f"{name}/token"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        patch.setenv("SECGEAR_PKCS11", f"unix:{name}/token")
        path = copy_of(built, tmp_path_factory.mktemp("python"), "library.so")
        library = pkcs11.lib(str(path))
        yield library.get_token(token_label="first")
        library.finalize()
        server.communicate()


@pytest.fixture
def session(token: Any) -> Iterator[Any]:
    with token.open(rw=True, user_pin=PIN.decode()) as session:
        yield session


def test_tokens_are_found_by_label(token: Any) -> None:
    assert token.label == "first"
    assert token.slot.get_token().serial == token.serial
    mechanisms = token.slot.get_mechanisms()
    assert {Mechanism.AES_GCM, Mechanism.EDDSA, Mechanism.ECDH1_DERIVE} <= set(mechanisms)
    info = token.slot.get_mechanism_info(Mechanism.AES_GCM)
    assert MechanismFlag.ENCRYPT in info.flags


def test_a_wrong_pin_opens_nothing(token: Any) -> None:
    with pytest.raises(exceptions.PinIncorrect), token.open(user_pin="0000000"):
        pass
    with token.open() as session, pytest.raises(exceptions.UserNotLoggedIn):
        session.generate_key(KeyType.AES, 256)


def test_keys_are_generated_stored_and_found(session: Any, token: Any) -> None:
    key = session.generate_key(KeyType.AES, 256, label="stored", id=b"\1\2", store=True)
    assert key[Attribute.TOKEN] is True
    assert key.key_length == 256
    again = session.get_key(object_class=ObjectClass.SECRET_KEY, label="stored")
    assert again == key
    assert [one.label for one in session.get_objects({Attribute.ID: b"\1\2"})] == ["stored"]
    with pytest.raises(exceptions.AttributeSensitive):
        _ = key[Attribute.VALUE]
    key[Attribute.LABEL] = "renamed"
    with pytest.raises(exceptions.NoSuchKey):
        session.get_key(label="stored")
    key.destroy()
    with pytest.raises(exceptions.NoSuchKey):
        session.get_key(label="renamed")


def test_a_key_for_use_elsewhere_can_be_read(session: Any) -> None:
    key = session.generate_key(
        KeyType.AES, 256, template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
    )
    iv, value = session.generate_random(128), key[Attribute.VALUE]
    made = key.encrypt(
        DATA, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(iv[:12], b"aad")
    )
    assert AESGCM(value).decrypt(iv[:12], made, b"aad") == DATA


def test_secret_keys_encrypt_at_once_and_in_pieces(session: Any) -> None:
    key, iv = session.generate_key(KeyType.AES, 256), session.generate_random(128)
    assert key.decrypt(key.encrypt(DATA, mechanism_param=iv), mechanism_param=iv) == DATA
    pieces = [b"some", b"data", b"x" * 5000]
    made = b"".join(key.encrypt(iter(pieces), mechanism_param=iv))
    assert made == key.encrypt(b"".join(pieces), mechanism_param=iv)
    assert b"".join(key.decrypt(iter([made]), mechanism_param=iv)) == b"".join(pieces)


def test_secret_keys_make_macs(session: Any) -> None:
    key = session.generate_key(
        KeyType.GENERIC_SECRET, 256, capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY
    )
    mac = key.sign(DATA, mechanism=Mechanism.SHA256_HMAC)
    assert key.verify(DATA, mac, mechanism=Mechanism.SHA256_HMAC)
    assert not key.verify(b"other", mac, mechanism=Mechanism.SHA256_HMAC)


def test_digests(session: Any) -> None:
    assert session.digest(DATA, mechanism=Mechanism.SHA256) == hashlib.sha256(DATA).digest()
    assert session.digest((b"some", b"data"), mechanism=Mechanism.SHA512) == (
        hashlib.sha512(b"somedata").digest()
    )


def test_rsa_pairs_sign_verify_encrypt_and_wrap(session: Any) -> None:
    public, private = session.generate_keypair(KeyType.RSA, 2048)
    outside = serialization.load_der_public_key(
        spki("1.2.840.113549.1.1.1", encode_rsa_public_key(public))
    )
    assert isinstance(outside, rsa.RSAPublicKey)
    signature = private.sign(DATA)  # SHA512_RSA_PKCS, by its default
    assert public.verify(DATA, signature)
    outside.verify(signature, DATA, padding.PKCS1v15(), hashes.SHA512())
    pss = {
        "mechanism": Mechanism.SHA256_RSA_PKCS_PSS,
        "mechanism_param": (Mechanism.SHA256, MGF.SHA256, 32),
    }
    signature = private.sign(DATA, **pss)
    assert public.verify(DATA, signature, **pss)
    oaep = {
        "mechanism": Mechanism.RSA_PKCS_OAEP,
        "mechanism_param": (Mechanism.SHA_1, MGF.SHA1, None),
    }
    assert private.decrypt(public.encrypt(DATA, **oaep), **oaep) == DATA
    secret = session.generate_key(
        KeyType.AES, 128, template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True}
    )
    wrapped = public.wrap_key(secret)
    same = private.unwrap_key(ObjectClass.SECRET_KEY, KeyType.AES, wrapped)
    iv = bytes(16)
    assert same.encrypt(DATA, mechanism_param=iv) == secret.encrypt(DATA, mechanism_param=iv)


def spki(algorithm: str, key: bytes) -> bytes:
    """A SubjectPublicKeyInfo of an RSA key."""
    from asn1crypto.keys import PublicKeyAlgorithm, PublicKeyInfo, RSAPublicKey

    return PublicKeyInfo(
        {
            "algorithm": PublicKeyAlgorithm({"algorithm": algorithm}),
            "public_key": RSAPublicKey.load(key),
        }
    ).dump()


def curve(session: Any, name: str, kind: Any = KeyType.EC) -> Any:
    return session.create_domain_parameters(
        kind, {Attribute.EC_PARAMS: encode_named_curve_parameters(name)}, local=True
    )


def test_elliptic_curves_sign_and_verify(session: Any) -> None:
    public, private = curve(session, "secp256r1").generate_keypair()
    signature = private.sign(DATA, mechanism=Mechanism.ECDSA_SHA256)
    assert public.verify(DATA, signature, mechanism=Mechanism.ECDSA_SHA256)
    outside = serialization.load_der_public_key(encode_ec_public_key(public))
    assert isinstance(outside, ec.EllipticCurvePublicKey)
    outside.verify(encode_ecdsa_signature(signature), DATA, ec.ECDSA(hashes.SHA256()))


def test_two_sides_derive_the_same_key(session: Any) -> None:
    parameters = curve(session, "secp256r1")
    (alice_public, alice), (bob_public, bob) = (parameters.generate_keypair() for _ in range(2))
    iv = bytes(16)
    made = [
        own.derive_key(
            KeyType.AES, 256, mechanism_param=(KDF.NULL, None, other[Attribute.EC_POINT])
        ).encrypt(DATA, mechanism_param=iv)
        for own, other in ((alice, bob_public), (bob, alice_public))
    ]
    assert made[0] == made[1]


def test_edwards_curves_sign(session: Any) -> None:
    public, private = curve(session, "1.3.101.112", KeyType.EC_EDWARDS).generate_keypair(
        mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN
    )
    signature = private.sign(DATA, mechanism=Mechanism.EDDSA)
    assert public.verify(DATA, signature, mechanism=Mechanism.EDDSA)


def test_keys_of_others_are_imported(session: Any) -> None:
    """RSA from PKCS#1 and elliptic curves from SEC 1 and SubjectPublicKeyInfo."""
    own = rsa.generate_private_key(65537, 2048)
    private = session.create_object(
        decode_rsa_private_key(
            own.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
    )
    public = session.create_object(
        decode_rsa_public_key(
            own.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.PKCS1
            )
        )
    )
    assert public.verify(DATA, private.sign(DATA))
    other = ec.generate_private_key(ec.SECP384R1())
    private = session.create_object(
        decode_ec_private_key(
            other.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
    )
    public = session.create_object(
        decode_ec_public_key(
            other.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    )
    signature = private.sign(DATA, mechanism=Mechanism.ECDSA_SHA384)
    assert public.verify(DATA, signature, mechanism=Mechanism.ECDSA_SHA384)


def test_certificates_are_kept_and_verify(session: Any) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "of a test")])
    now = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(own.public_key()).serial_number(4711)
        .not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(own, hashes.SHA256())
    )  # fmt: skip
    der = made.public_bytes(serialization.Encoding.DER)
    kept = session.create_object(decode_x509_certificate(der))
    assert isinstance(kept, pkcs11.Certificate)
    assert kept[Attribute.VALUE] == der
    found = list(session.get_objects({Attribute.CLASS: ObjectClass.CERTIFICATE}))
    assert kept in found
    public = session.create_object(decode_x509_public_key(der))
    signature = decode_ecdsa_signature(made.signature)
    assert public.verify(made.tbs_certificate_bytes, signature, mechanism=Mechanism.ECDSA_SHA256)


def test_many_threads_share_a_session(session: Any) -> None:
    """python-pkcs11 has a lock for each operation; the data is larger than a message."""
    session.generate_key(KeyType.AES, 128, label="of all")
    data, iv = b"1234" * (1 << 20), bytes(16)
    results: list[int] = []

    def work() -> None:
        key = session.get_key(label="of all")
        results.append(len(key.encrypt(data, mechanism_param=iv)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [len(data) + 16] * 4
