"""The client in Python, as a program uses it; what it makes is checked without us."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hmac, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from secgear.errors import CryptoModuleError, EnvelopeError, KeyFileError, Untrusted
from secgear.services.crypto.algorithms import sm2
from secgear.services.crypto.attestation import KeyAttestation, ModuleAttestation
from secgear.services.crypto.client import (
    Encrypted,
    ImportKey,
    Module,
    PrivateKey,
    PublicKey,
    SecretKey,
    Session,
    TokenRefused,
    connect,
)
from secgear.services.crypto.client import algorithms as named_algorithms
from secgear.services.crypto.client.sealing import private_parcel, secret_parcel
from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import Attr, Mech
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.messages import Size, build_answer
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.dispatch import answer
from secgear.services.crypto.token.state import Right
from tests.adversary.crypto_host import PIN, SO_PIN, MemoryStore
from tests.services.crypto.attested import (
    LAX,
    STRICT,
    VENDOR,
    attested_module,
    now,
    policy,
    verified,
)


@pytest.fixture
def module(store: MemoryStore) -> Iterator[Module]:
    app = Application(attested_module(store), "test")
    with Module(lambda body: answer(app, body, OWN)) as opened:
        yield opened


@pytest.fixture
def session(module: Module) -> Iterator[Session]:
    with module.token("first").session(PIN) as opened:
        yield opened


def refused(function: Any, *arguments: Any, **named: Any) -> Rv:
    with pytest.raises(TokenRefused) as refusal:
        function(*arguments, **named)
    return refusal.value.rv


# --- modules, tokens, sessions -------------------------------------------------------------------


def test_tokens_are_found_by_their_labels(module: Module) -> None:
    first, second = module.tokens()
    assert (first.label, first.slot, first.initialised) == ("first", 0, True)
    assert not second.initialised
    assert module.token("first").serial == first.serial
    with pytest.raises(
        CryptoModuleError, match="no tokens with the label 'none'; there is 'first'"
    ):
        module.token("none")
    assert "first" in repr(first)


def test_a_pin_can_be_what_asks_for_it_and_is_never_shown(module: Module) -> None:
    asked = []

    def ask() -> bytes:
        asked.append(1)
        return PIN

    token = module.token("first")
    assert refused(token.session, b"wrong-pin") is Rv.PIN_INCORRECT
    with token.session(ask) as one, token.session(PIN) as two:
        assert asked == [1]
        for shown in (module, token, one, two, one._talk):
            assert PIN.decode() not in repr(shown)
        assert one.random(16) != two.random(16)
    one.close()
    with pytest.raises(TokenRefused, match="CKR_PIN_INCORRECT: the PIN is wrong") as refusal:
        token.session(b"wrong-pin")
    assert "wrong-pin" not in str(refusal.value)
    with token.session() as public:
        assert refused(public.generate_key, "AES", label="x") is Rv.USER_NOT_LOGGED_IN


def test_a_getter_that_fails_leaves_no_session_behind(module: Module) -> None:
    def fail() -> bytes:
        raise KeyboardInterrupt

    token = module.token("first")
    with pytest.raises(KeyboardInterrupt):
        token.session(fail)
    with token.session(SO_PIN, officer=True) as officer:
        assert officer.call("C_GetSessionInfo")[1] == 4
        assert refused(officer.generate_key, "AES", label="x") is Rv.USER_NOT_LOGGED_IN


def test_what_connects_to_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(CryptoModuleError):
        connect(tmp_path / "nobody.sock")
    with pytest.raises(ValueError, match="needs a policy"):
        connect("tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match="needs a policy"):
        connect(tmp_path / "nobody.sock", anchors=VENDOR.anchors)


def test_a_host_that_answers_with_nonsense_gets_an_error_of_ours() -> None:
    """Between client and enclave by the socket is the host, which may say anything."""
    ok = build_answer(BY_NAME["C_Initialize"], (), OWN)
    answers = iter([ok, build_answer(BY_NAME["S_AttestModule"], (Size(7),), OWN), b"\0\0"])
    module = Module(lambda _: next(answers))
    with pytest.raises(CryptoModuleError, match="larger than any"):
        module.attest()
    with pytest.raises(TokenRefused, match="CKR_DEVICE_ERROR"):
        module.attest()


def test_what_went_wrong_is_not_hidden_by_the_end_of_a_session(store: MemoryStore) -> None:
    app = Application(attested_module(store), "test")
    gone = []

    def exchange(body: bytes) -> bytes:
        if gone:
            raise CryptoModuleError("the module's host has closed the connection")
        return answer(app, body, OWN)

    def work() -> None:
        with Module(exchange) as module, module.token("first").session(PIN):
            gone.append(True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


# --- secret keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["AES", "SM4", "CHACHA20"])
def test_secret_keys_encrypt_and_notice_changes(session: Session, kind: str) -> None:
    key = session.generate_key(kind, label=f"data {kind}")
    made = key.encrypt(b"the data", aad=b"for you")
    assert isinstance(made, Encrypted)
    assert key.decrypt(made, aad=b"for you") == b"the data"
    assert key.decrypt((made.nonce, made.ciphertext), b"for you") == b"the data"
    assert key.encrypt(b"the data").nonce != made.nonce
    changed = Encrypted(made.nonce, made.ciphertext[:-1] + bytes([made.ciphertext[-1] ^ 1]))
    for wrong, aad in ((changed, b"for you"), (made, b"for others")):
        with pytest.raises(TokenRefused):
            key.decrypt(wrong, aad)
    with pytest.raises(ValueError, match="bytes at once"):
        key.encrypt(bytes(4 << 20))
    assert len(key.encrypt(bytes(3 << 20)).ciphertext) == (3 << 20) + 16


def test_keys_are_made_as_they_are_asked_for(session: Session) -> None:
    key = session.generate_key("AES", 128, label="kek", id=b"\7", uses=("wrap", "unwrap"))
    found = key.attributes(Attr.VALUE_LEN, Attr.ID, Attr.VALUE)
    assert found == {Attr.VALUE_LEN: 16, Attr.ID: b"\7"}, "the value stays inside"
    assert {"sensitive", "never_extractable", "token", "wrap"} <= set(key.flags())
    assert "encrypt" not in key.flags()
    assert (key.label, key.id, key.kind) == ("kek", b"\7", "AES")
    assert refused(key.encrypt, b"data") is Rv.KEY_FUNCTION_NOT_PERMITTED
    for kind, bits in (("AES", 100), ("DES", None), ("SM4", 256), ("HMAC", 5)):
        with pytest.raises(ValueError, match="keys"):
            session.generate_key(kind, bits, label="x")
    with pytest.raises(TypeError, match="no attribute 'sings'"):
        session.generate_key("AES", label="x", sings=True)


def test_hmac_keys_sign(session: Session) -> None:
    value = os.urandom(32)
    key = session.create_secret(value, "HMAC", label="mac")
    expected = hmac.HMAC(value, hashes.SHA256())
    expected.update(b"message")
    tag = key.sign(b"message")
    assert tag == expected.finalize()
    key.verify(tag, b"message")
    with pytest.raises(InvalidSignature):
        key.verify(tag, b"another")
    assert len(key.sign(b"message", "hmac-sha512")) == 64
    with pytest.raises(ValueError, match="hmac-sha256"):
        key.sign(b"message", "cmac")
    aes = session.generate_key("AES", label="cmac", uses=("sign", "verify"))
    aes.verify(aes.sign(b"message"), b"message")


def test_keys_leave_wrapped_where_they_may(session: Session) -> None:
    wrapper = session.generate_key("AES", label="kek", uses=("wrap", "unwrap"))
    assert refused(wrapper.wrap, session.generate_key("AES", label="stays")) is Rv.KEY_UNEXTRACTABLE
    data = session.generate_key("AES", label="leaves", extractable=True)
    secret = data.encrypt(b"data")
    again = wrapper.unwrap(wrapper.wrap(data), "AES", label="again", decrypt=True)
    assert isinstance(again, SecretKey)
    assert again.decrypt(secret) == b"data"
    pair = session.generate_pair("EC", label="pair", extractable=True)
    back = wrapper.unwrap(wrapper.wrap(pair), "EC", label="back", sign=True)
    assert isinstance(back, PrivateKey)
    assert back.public_key_info == pair.public_key_info
    known = b"k" * 32
    outside = session.create_secret(
        known, "AES", label="known", encrypt=False, decrypt=False, unwrap=True
    )
    made = outside.unwrap(keywrap.aes_key_wrap_with_padding(known, b"v" * 16), "SM4")
    assert made.kind == "SM4"


def test_many_messages_go_together(session: Session) -> None:
    key = session.generate_key("AES", label="many")
    messages = [b"message %d" % number for number in range(600)] + [bytes(900_000)] * 3
    made = key.encrypt_many(messages, b"for you")
    assert len({one.nonce for one in made}) == len(messages)
    assert key.decrypt_many(made, b"for you") == messages
    assert key.decrypt(made[7], b"for you") == b"message 7"
    changed = [*made[:300], Encrypted(made[300].nonce, bytes(40)), *made[301:]]
    with pytest.raises(TokenRefused, match="CKR_ENCRYPTED_DATA_INVALID"):
        key.decrypt_many(changed, b"for you")
    with pytest.raises(ValueError, match="in a batch"):
        key.encrypt_many([bytes(2 << 20)])
    assert key.encrypt_many([]) == key.decrypt_many([]) == []
    pair = session.generate_pair("EC", label="many")
    signatures = pair.sign_many(messages[:300])
    for signature, message in zip(signatures, messages[:300], strict=True):
        pair.public_key.verify(signature, message, ec.ECDSA(hashes.SHA256()))


def test_users_with_names_log_in(module: Module, session: Session) -> None:
    token = module.token("first")
    session.call("C_Logout")
    with token.session(SO_PIN, officer=True) as officer:
        officer.call("S_SetUser", b"payments", int(Right.USE), b"payments-pin")
        officer.call("C_Logout")
    assert refused(token.session, b"payments-pin", user="nobody") is Rv.USER_PIN_NOT_INITIALIZED
    with token.session(b"payments-pin", user="payments") as named:
        assert refused(named.generate_key, "AES", label="x") is Rv.ACTION_PROHIBITED


# --- key pairs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_ec_signatures_are_what_everybody_verifies(session: Session, curve: str) -> None:
    key = session.generate_pair("EC", curve, label="ec")
    digest = {"P-256": hashes.SHA256(), "P-384": hashes.SHA384(), "P-521": hashes.SHA512()}[curve]
    signature = key.sign(b"message")
    key.public_key.verify(signature, b"message", ec.ECDSA(digest))
    public = session.public_key("ec")
    public.verify(signature, b"message")
    for wrong, data in ((signature, b"another"), (b"no signature", b"message")):
        with pytest.raises(InvalidSignature):
            public.verify(wrong, data)
    other = key.sign(b"message", "ecdsa-sha512")
    key.public_key.verify(other, b"message", ec.ECDSA(hashes.SHA512()))
    assert public.public_key_info == key.public_key_info


def test_rsa_keys_sign_and_decrypt(session: Session) -> None:
    key = session.generate_pair("RSA", 2048, label="rsa", uses=("sign", "decrypt"))
    assert isinstance(key.public_key, rsa.RSAPublicKey)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    key.public_key.verify(key.sign(b"message"), b"message", pss, hashes.SHA256())
    old = key.sign(b"message", "pkcs1-sha384")
    key.public_key.verify(old, b"message", padding.PKCS1v15(), hashes.SHA384())
    large = os.urandom(3 << 20)
    key.public_key.verify(key.sign(large), large, pss, hashes.SHA256())
    session.public_key("rsa").verify(key.sign(large), large)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    assert key.decrypt(key.public_key.encrypt(b"secret", oaep)) == b"secret"
    assert key.decrypt(session.public_key("rsa").encrypt(b"secret")) == b"secret"


def test_the_other_kinds_do_what_they_are_for(session: Session) -> None:
    for kind, variant in (("ED25519", None), ("ML-DSA", 44), ("ML-DSA", "87")):
        key = session.generate_pair(kind, variant, label=kind)
        key.public_key.verify(key.sign(b"message"), b"message")
        key.destroy()
    kem = session.generate_pair("ML-KEM", 768, label="kem")
    secret, ciphertext = session.public_key("kem").encapsulate()
    assert kem.decapsulate(ciphertext).decrypt(secret.encrypt(b"data")) == b"data"
    for kind, variant in (("EC", "P-257"), ("DSA", None), ("SM2", "x")):
        with pytest.raises(ValueError, match=r"variants|key pairs are"):
            session.generate_pair(kind, variant, label="x")


def test_sm2_keys_sign_as_others_verify(session: Session) -> None:
    key = session.generate_pair("SM2", label="sm2", uses=("sign", "decrypt"))
    signature = key.sign(b"message")
    public = sm2.PublicKey.from_spki(key.public_key_info)
    raw = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(signature))
    assert public.verify(raw, sm2.message_digest(public, b"message"))
    session.public_key("sm2").verify(signature, b"message")
    assert key.decrypt(session.public_key("sm2").encrypt(b"secret")) == b"secret"
    with pytest.raises(UnsupportedAlgorithm):
        _ = key.public_key


@pytest.mark.parametrize("kind", ["EC", "X25519"])
def test_both_sides_derive_the_same_key(session: Session, kind: str) -> None:
    own = session.generate_pair(kind, label="agree", uses=("derive",))
    made: Any
    if kind == "EC":
        peer: Any = ec.generate_private_key(ec.SECP256R1())
        made = peer.exchange(ec.ECDH(), own.public_key)
    else:
        peer = x25519.X25519PrivateKey.generate()
        made = peer.exchange(own.public_key)
    value = X963KDF(hashes.SHA256(), 32, b"context").derive(made)
    key = own.derive(peer.public_key(), shared_info=b"context")
    theirs = session.create_secret(value, "AES", label="theirs")
    assert theirs.decrypt(key.encrypt(b"data")) == b"data"
    assert key.attributes(Attr.TOKEN) == {Attr.TOKEN: False}


def test_public_keys_of_others_verify(session: Session) -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    signers: list[tuple[Any, Any]] = [
        (edwards, edwards.sign),
        (key := rsa.generate_private_key(65537, 2048), lambda data: key.sign(
            data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())),
        (curve := ec.generate_private_key(ec.SECP521R1()), lambda data: curve.sign(
            data, ec.ECDSA(hashes.SHA512()))),
    ]  # fmt: skip
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for private, sign in signers:
        public = session.create_public(private.public_key().public_bytes(*spki))
        public.verify(sign(b"message"), b"message")
        with pytest.raises(InvalidSignature):
            public.verify(sign(b"message"), b"another")
    own = session.generate_pair("SM2", label="sm2")
    session.create_public(own.public_key_info).verify(own.sign(b"message"), b"message")
    agreed = x25519.X25519PrivateKey.generate().public_key().public_bytes(*spki)
    assert session.create_public(agreed, verify=False).public_key_info == agreed
    k1 = ec.generate_private_key(ec.SECP256K1()).public_key().public_bytes(*spki)
    for wrong in (b"no key", k1):
        with pytest.raises(ValueError, match=r"\w"):
            session.create_public(wrong)


def test_a_token_is_begun_anew(module: Module) -> None:
    second = module.tokens()[1].initialise("second", b"officer-pin", lambda: b"user-pin-2")
    assert (second.label, second.initialised) == ("second", True)
    with second.session(b"user-pin-2") as session:
        session.generate_key("AES", label="gone")
    again = second.initialise("again", b"officer-pin", b"user-pin-3")
    assert again.serial == second.serial
    with module.token("again").session(b"user-pin-3") as session:
        assert session.find() == []
    assert refused(again.initialise, "x", b"wrong-officer", b"user-pin-3") is Rv.PIN_INCORRECT
    with pytest.raises(ValueError, match="1 to 32 bytes"):
        again.initialise("l" * 33, b"officer-pin", b"user-pin-3")


# --- finding and changing ------------------------------------------------------------------------


def test_keys_are_found_changed_and_destroyed(session: Session) -> None:
    session.generate_pair("EC", label="web", id=b"\1")
    session.generate_key("AES", label="web")
    kinds = [type(key) for key in session.find(label="web")]
    assert kinds == [PublicKey, PrivateKey, SecretKey]
    assert [type(key) for key in session.find(sign=True)] == [PrivateKey]
    key = session.private_key("web", b"\1")
    key.change(label="mail", sign=False)
    assert (key.label, session.private_key("mail").handle) == ("mail", key.handle)
    assert refused(key.sign, b"data") is Rv.KEY_FUNCTION_NOT_PERMITTED
    assert refused(key.change, sign=True) is Rv.ATTRIBUTE_READ_ONLY
    for key in session.find():
        key.destroy()
    assert session.find() == []
    with pytest.raises(CryptoModuleError, match="no private keys with the label 'web'"):
        session.private_key("web")
    assert refused(key.destroy) is Rv.OBJECT_HANDLE_INVALID
    session.generate_key("AES", label="twice")
    session.generate_key("AES", label="twice")
    with pytest.raises(CryptoModuleError, match="2 secret keys"):
        session.secret_key("twice")


def test_threads_share_a_session(session: Session) -> None:
    """An operation takes several calls; those of others must not come between them."""
    keys = [session.generate_key("AES", label=f"thread {number}") for number in range(4)]
    start = threading.Barrier(8)

    def work(number: int) -> None:
        key = keys[number % 4]
        start.wait(30)
        for count in range(20):
            data = b"%d of %d" % (count, number)
            assert key.decrypt(key.encrypt(data)) == data
            assert len(session.find(label=key.label)) == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


# --- attestation and import ----------------------------------------------------------------------


def test_proofs_come_with_the_objects(module: Module, session: Session) -> None:
    key = session.generate_pair("EC", label="attested")
    found = verified(key.attest(b"12345678"), STRICT, nonce=b"12345678")
    assert isinstance(found, KeyAttestation)
    assert found.require("never_extractable").public_key_info == key.public_key_info
    assert verified(session.generate_key("AES", label="secret").attest())
    assert isinstance(verified(module.attest()), ModuleAttestation)


def import_key(session: Session, **more: Any) -> ImportKey:
    nonce = os.urandom(32)
    return ImportKey.verify(
        session.import_document(nonce),
        more.pop("by", LAX),
        at=now(),
        nonce=nonce,
        anchors=VENDOR.anchors,
        **more,
    )


def pem(key: Any, passphrase: bytes | None = None) -> bytes:
    how = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)
    return data


def test_a_private_key_is_sealed_and_imported(module: Module, session: Session) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    to = import_key(session, serial=module.token("first").serial)
    parcel = private_parcel(pem(key, b"word"), passphrase=b"word", label="web", id=b"\1")
    made = session.import_key(to.seal(parcel))
    assert isinstance(made, PrivateKey)
    key.public_key().verify(made.sign(b"data"), b"data", ec.ECDSA(hashes.SHA384()))
    session.public_key("web", b"\1").verify(made.sign(b"data"), b"data")
    assert made.attributes(Attr.LOCAL) == {Attr.LOCAL: False}
    envelope = to.seal(secret_parcel(b"v" * 32, "HMAC", label="mac"))
    mac = session.import_key(envelope)
    assert isinstance(mac, SecretKey)
    mac.verify(mac.sign(b"data"), b"data")
    assert refused(session.import_key, envelope) is Rv.FUNCTION_REJECTED
    for shown in (to, parcel, made):
        assert "BEGIN" not in repr(shown)


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_an_sm2_key_is_imported_as_openssl_writes_it(
    session: Session, tmp_path: Path, form: str
) -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    made = subprocess.run([program, "genpkey", "-algorithm", "SM2"], stdout=-1, check=True).stdout
    if form == "DER":
        command = [program, "pkcs8", "-topk8", "-nocrypt", "-outform", "DER"]
        made = subprocess.run(command, input=made, stdout=-1, check=True).stdout
    key = session.import_key(import_key(session).seal(private_parcel(made, label="sm2")))
    public = subprocess.run(
        [program, "pkey", "-inform", form, "-pubout", "-outform", "DER"],
        input=made, capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert isinstance(key, PrivateKey)
    assert key.public_key_info == public
    session.public_key("sm2").verify(key.sign(b"data"), b"data")


def test_who_seals_is_told_where_to(module: Module, session: Session) -> None:
    with pytest.raises(Untrusted):
        import_key(session, by=policy(b"o" * 48))
    with pytest.raises(EnvelopeError, match="another module"):
        import_key(session, module=bytes(32))
    with pytest.raises(EnvelopeError, match="another token"):
        import_key(session, serial="0")
    with pytest.raises(EnvelopeError, match="context"):
        ImportKey.verify(
            session.import_document(), LAX, at=now(), nonce=bytes(31), anchors=VENDOR.anchors
        )


def test_what_is_no_key_is_not_sealed() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for data, word in (
        (b"no key", None), (public, None), (pem(key, b"word"), None), (pem(key), b"word"),
        (pem(key, b"word"), b"wrong"), (b"-----BEGIN PRIVATE KEY-----\n*\n", None),
    ):  # fmt: skip
        with pytest.raises(KeyFileError):
            private_parcel(data, passphrase=word, label="x")
    with pytest.raises(ValueError, match="uses are"):
        private_parcel(pem(key), label="x", uses=("sings",))


def test_every_name_for_a_mechanism_is_one_that_the_token_has(session: Session) -> None:
    offered = set(session._talk._caller.one("C_GetMechanismList", 0, 4096))
    named = {
        mechanism.type
        for names in named_algorithms.SIGNATURES.values()
        for mechanism in names.values()
    }
    named |= {kind.mechanism for kind in named_algorithms.SECRETS.values()}
    named |= {kind.mechanism for kind in named_algorithms.PAIRS.values()}
    assert named <= offered, {Mech(number).name for number in named - offered}
