"""Our own paths about keys, and that REST can do nothing that PKCS#11 forbids."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from secgear.errors import EvidenceRefused
from secgear.services.crypto import pkix
from secgear.services.crypto.attestation import KeyAttestation, ModuleAttestation
from secgear.services.crypto.pkcs11.constants import Attr, KeyState, Mech
from secgear.services.crypto.pkcs11.mechanism import GcmParams, Mechanism
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import MemoryStore, connect
from tests.services.crypto.attested import STRICT, attested_module, verified
from tests.services.crypto.conftest import User, refusal, rsa_of
from tests.services.crypto.rest.conftest import Place

KEY = "/v1/keys/web"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def ask(place: Place, token: str) -> Any:
    def ask(method: str, path: str, body: Any = None) -> Any:
        return place.ask(method, path, body, token)

    return ask


def test_a_key_lives_from_making_to_destruction(ask: Any) -> None:
    assert ask("GET", "/v1/keys") == (200, {"keys": []})
    status, key = ask("POST", KEY, {"type": "ecdsa-p256"})
    assert (status, key["current"], key["imported"]) == (201, 1, False)
    assert ask("POST", KEY, {"type": "ecdsa-p256"})[0] == 409
    status, key = ask("POST", f"{KEY}/rotate", {"state": "pre_active"})
    assert (key["current"], [one["state"] for one in key["versions"]]) == (
        1,
        ["active", "pre_active"],
    )
    ask("POST", f"{KEY}/state", {"version": 2, "state": "active"})
    status, key = ask("POST", f"{KEY}/state", {"version": 1, "state": "compromised"})
    assert (status, key["current"]) == (200, 2)
    assert [one["state"] for one in key["versions"]] == ["compromised", "active"]
    assert ask("POST", f"{KEY}/state", {"version": 1, "state": "active"})[0] == 400
    assert ask("POST", f"{KEY}/state", {"version": 3, "state": "active"})[0] == 400
    assert ask("GET", "/v1/keys") == (200, {"keys": ["web"]})
    assert ask("DELETE", KEY)[0] == 400
    ask("POST", "/v1/transit/keys/web/config", {"deletion_allowed": True})
    assert ask("DELETE", KEY) == (204, "")
    assert ask("GET", KEY)[0] == 404


def test_a_public_key_comes_as_pem_of_each_version(ask: Any) -> None:
    ask("POST", KEY, {"type": "ecdsa-p384"})
    ask("POST", f"{KEY}/rotate", {})
    texts = [ask("GET", f"{KEY}/public.pem?version={number}")[1] for number in (1, 2)]
    assert texts[0] != texts[1]
    assert ask("GET", f"{KEY}/public.pem") == (200, texts[1])
    assert isinstance(load_pem_public_key(texts[0].encode()), ec.EllipticCurvePublicKey)
    for query in ("version=3", "version=x", "version=-1", "colour=red"):
        assert ask("GET", f"{KEY}/public.pem?{query}")[0] in (400, 404)
    ask("POST", "/v1/keys/data", {"type": "aes256-gcm96"})
    assert ask("GET", "/v1/keys/data/public.pem")[0] == 400


def pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_keys_from_elsewhere_sign_as_they_did(ask: Any) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    edwards = ed25519.Ed25519PrivateKey.generate()
    number = rsa.generate_private_key(65537, 2048)
    for name, kind, key in (
        ("a", "ecdsa-p256", curve), ("b", "ed25519", edwards), ("c", "rsa-2048", number),
    ):  # fmt: skip
        body = {"type": kind, "private_key": pem(key)}
        status, about = ask("POST", f"/v1/keys/{name}/import", body)
        assert (status, about["imported"], about["type"]) == (201, True, kind), about
        public = load_pem_public_key(about["versions"][0]["public_key"].encode())
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert public.public_bytes(*form) == key.public_key().public_bytes(*form)
        status, signed = ask("POST", f"/v1/transit/sign/{name}", {"input": b64(b"m")})
        body = {"input": b64(b"m"), "signature": signed["data"]["signature"]}
        assert ask("POST", f"/v1/transit/verify/{name}", body)[1]["data"]["valid"] is True
        assert ask("POST", f"/v1/keys/{name}/rotate", {})[1]["current"] == 2
    secret = os.urandom(32)
    body = {"type": "aes256-gcm96", "secret": b64(secret)}
    assert ask("POST", "/v1/keys/d/import", body)[0] == 201
    assert ask("POST", "/v1/transit/encrypt/d", {"plaintext": b64(b"m")})[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        {"type": "aes256-gcm96"},
        {"type": "aes256-gcm96", "secret": "AAAA"},
        {"type": "aes256-gcm96", "private_key": "x"},
        {"type": "ecdsa-p256", "secret": "AAAA"},
        {"type": "ecdsa-p256", "private_key": "-----BEGIN PRIVATE KEY-----"},
        {"type": "ecdsa-p384", "private_key": pem(ec.generate_private_key(ec.SECP256R1()))},
        {"type": "ecdsa-p256", "private_key": pem(ec.generate_private_key(ec.SECP256K1()))},
        {"type": "ed25519", "private_key": pem(ec.generate_private_key(ec.SECP256R1()))},
        {"type": "none", "secret": "AAAA"},
    ],
)
def test_what_can_not_be_imported_is_refused(ask: Any, body: dict[str, str]) -> None:
    status, answer = ask("POST", f"{KEY}/import", body)
    assert status == 400
    assert ask("GET", "/v1/keys") == (200, {"keys": []})
    assert "BEGIN" not in str(answer)


def test_any_mechanism_goes_by_its_name(ask: Any) -> None:
    ask("POST", KEY, {"type": "ecdsa-p256"})
    body = {"mechanism": "ECDSA", "input": b64(bytes(32))}
    status, made = ask("POST", f"{KEY}/sign", body)
    assert (status, made["version"], len(base64.b64decode(made["output"]))) == (200, 1, 64)
    assert ask("POST", f"{KEY}/verify", {**body, "signature": made["output"]}) == (
        200,
        {"valid": True},
    )
    assert ask("POST", f"{KEY}/verify", {**body, "signature": b64(bytes(64))}) == (
        200,
        {"valid": False},
    )
    ask("POST", "/v1/keys/rsa", {"type": "rsa-2048"})
    body = {"mechanism": "RSA_PKCS", "input": b64(b"message")}
    made = ask("POST", "/v1/keys/rsa/encrypt", body)[1]
    body = {"mechanism": "RSA_PKCS", "input": made["output"], "version": 1}
    assert ask("POST", "/v1/keys/rsa/decrypt", body)[1]["output"] == b64(b"message")
    for wrong in (
        {"mechanism": "NONE", "input": ""}, {"mechanism": "AES_GCM", "input": ""},
        {"mechanism": "ECDSA", "input": "", "version": -1}, {"mechanism": "ECDSA", "input": "!"},
        {"mechanism": "ECDSA", "input": "", "version": 7},
    ):  # fmt: skip
        assert ask("POST", f"{KEY}/sign", wrong)[0] == 400


def test_what_rest_makes_is_sensitive_and_never_leaves(ask: Any, module: Module) -> None:
    ask("POST", "/v1/keys/data", {"type": "aes256-gcm96"})
    ask("POST", KEY, {"type": "ed25519"})
    user = User(connect(module))
    for name in (b"data", b"web"):
        _, secret, _ = user.call("S_FindKey", name, 0)
        assert user.get(secret, Attr.NEVER_EXTRACTABLE) is True
        assert user.get(secret, Attr.ALWAYS_SENSITIVE) is True
        assert refusal(user.get, secret, Attr.VALUE) is Rv.ATTRIBUTE_SENSITIVE


def test_rest_and_pkcs11_are_two_ways_to_the_same_key(ask: Any, module: Module) -> None:
    ask("POST", "/v1/keys/data", {"type": "aes256-gcm96"})
    user = User(connect(module))
    _, handle, _ = user.call("S_FindKey", b"data", 0)
    nonce = os.urandom(12)
    data = nonce + user.run(
        "Encrypt", Mech.AES_GCM, handle, b"both ways", GcmParams(nonce, b"", 128)
    )
    status, opened = ask(
        "POST", "/v1/transit/decrypt/data", {"ciphertext": f"vault:v1:{b64(data)}"}
    )
    assert opened["data"]["plaintext"] == b64(b"both ways")
    ask("POST", "/v1/transit/keys/data/rotate", {})
    refused = refusal(
        user.call, "C_EncryptInit", Mechanism(Mech.AES_GCM, GcmParams(nonce, b"", 128)), handle
    )
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED
    user.call("S_SetKeyState", b"data", 2, KeyState.COMPROMISED)
    status, answer = ask("POST", "/v1/transit/encrypt/data", {"plaintext": ""})
    assert (status, answer["errors"]) == (400, ["no version of the key is active"])


def test_the_module_tells_about_itself(ask: Any, module: Module) -> None:
    status, told = ask("GET", "/v1/status")
    assert (status, told["slots"], told["logins"]) == (200, 2, 1)
    assert told["audit_key"] == module.vault.audit_key.hex()


@pytest.mark.parametrize("kind", ["ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519", "rsa-2048"])
def test_a_certificate_request_is_signed_by_the_current_version(ask: Any, kind: str) -> None:
    ask("POST", KEY, {"type": kind})
    ask("POST", f"{KEY}/rotate", {})
    status, text = ask("POST", f"{KEY}/csr.pem", {"subject": "CN=example.org,O=Exämple"})
    assert status == 200
    made = x509.load_pem_x509_csr(text.encode())
    assert made.is_signature_valid
    assert made.subject.rfc4514_string() == "CN=example.org,O=Exämple"
    public = ask("GET", f"{KEY}/public.pem?version=2")[1]
    spki = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert spki.decode() == public


@pytest.mark.parametrize("kind", ["sm2", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_a_certificate_request_can_be_read_and_verified_by_the_module(ask: Any, kind: str) -> None:
    ask("POST", KEY, {"type": kind})
    status, text = ask("POST", f"{KEY}/csr.pem", {"subject": "CN=example.org"})
    assert status == 200
    read = pkix.Request(base64.b64decode("".join(text.splitlines()[1:-1])))
    body = {"input": b64(read.content), "signature": f"vault:v1:{b64(read.signature)}"}
    assert ask("POST", "/v1/transit/verify/web", body)[1]["data"]["valid"] is True


def test_requests_that_can_not_be_made_are_refused(ask: Any) -> None:
    ask("POST", KEY, {"type": "ed25519"})
    ask("POST", "/v1/keys/data", {"type": "aes256-gcm96"})
    for subject in ("", "nonsense", "CN=" + "x" * 2000, "CN=\ud800", "2.5.4.3=#04"):
        assert ask("POST", f"{KEY}/csr.pem", {"subject": subject})[0] == 400
    assert ask("POST", "/v1/keys/data/csr.pem", {"subject": "CN=x"})[0] == 400
    assert ask("POST", "/v1/keys/none/csr.pem", {"subject": "CN=x"})[0] == 404


def test_proof_of_a_key_comes_with_the_nonce_that_is_asked_for(store: MemoryStore) -> None:
    place = Place(attested_module(store))
    token = str(place.client().token)
    nonce = os.urandom(16)
    for name, kind, form in (("web", "ecdsa-p256", "certificates"), ("data", "hmac", "statement")):
        place.ask("POST", f"/v1/keys/{name}", {"type": kind}, token)
        path = f"/v1/keys/{name}/attestation"
        status, proof = place.ask("GET", f"{path}?nonce={nonce.hex()}&version=1", None, token)
        assert status == 200, proof
        text = proof[form]
        data = text.encode() if form == "certificates" else base64.b64decode(text)
        said = verified(data, STRICT, nonce=nonce)
        assert isinstance(said, KeyAttestation)
        assert said.statement.label == name.encode()
        with pytest.raises(EvidenceRefused):
            verified(data, STRICT, nonce=os.urandom(16))
        for wrong in ("nonce=xyz", "nonce=00", "version=2"):
            assert place.ask("GET", f"{path}?{wrong}", None, token)[0] in (400, 404)
    status, proof = place.ask("GET", f"/v1/attestation?nonce={nonce.hex()}", None, token)
    said = verified(base64.b64decode(proof["statement"]), STRICT, nonce=nonce)
    assert isinstance(said, ModuleAttestation)
    place.close()


def test_a_key_is_too_large_before_anybody_looks_whether_it_is_one(
    place: Place, token: str
) -> None:
    key = rsa_of(2**21701 - 1, 2**23209 - 1)  # it would take an hour to find that these are primes
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    body = {"type": "rsa-2048", "private_key": pem}
    assert place.ask("POST", "/v1/keys/large/import", body, token)[0] == 400
