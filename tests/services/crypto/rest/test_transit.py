"""hvac, unchanged, does with the module what it does with Vault's transit engine."""

from __future__ import annotations

import base64
from typing import Any

import hvac
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hvac.exceptions import InvalidPath, InvalidRequest

from tests.services.crypto.rest.conftest import Place

AEADS = ["aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "sm4-gcm96"]
RSAS = ["rsa-2048"]
CURVES = {"ecdsa-p256": ec.SECP256R1(), "ecdsa-p384": ec.SECP384R1(), "ecdsa-p521": ec.SECP521R1()}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def make(place: Place, client: hvac.Client, name: str, kind: str, **named: Any) -> Any:
    """hvac checks types by a list of its own, so that ours go by hand."""
    status, answer = place.ask(
        "POST", f"/v1/transit/keys/{name}", {"type": kind, **named}, client.token
    )
    assert status == 200, answer
    return answer["data"]


def raw(text: str) -> tuple[int, bytes]:
    vault, version, data = text.split(":")
    assert vault == "vault"
    return int(version[1:]), base64.b64decode(data)


@pytest.mark.parametrize("kind", [*AEADS, "rsa-2048", "sm2"])
def test_what_is_encrypted_is_decrypted(place: Place, client: hvac.Client, kind: str) -> None:
    make(place, client, "data", kind)
    transit = client.secrets.transit
    answer = transit.encrypt_data("data", plaintext=b64(b"a secret"))["data"]
    assert answer["key_version"] == 1
    assert answer["ciphertext"].startswith("vault:v1:")
    opened = transit.decrypt_data("data", answer["ciphertext"])["data"]["plaintext"]
    assert base64.b64decode(opened) == b"a secret"
    again = transit.encrypt_data("data", plaintext=b64(b"a secret"))["data"]["ciphertext"]
    assert again != answer["ciphertext"]


@pytest.mark.parametrize("kind", AEADS)
def test_associated_data_has_to_be_the_same(place: Place, client: hvac.Client, kind: str) -> None:
    make(place, client, "data", kind)
    transit = client.secrets.transit
    text = transit.encrypt_data("data", plaintext=b64(b"x"), associated_data=b64(b"for"))["data"]
    cipher = text["ciphertext"]
    opened = transit.decrypt_data("data", cipher, associated_data=b64(b"for"))["data"]
    assert opened["plaintext"] == b64(b"x")
    for other in (b64(b"against"), ""):
        with pytest.raises(InvalidRequest, match="changed"):
            transit.decrypt_data("data", cipher, associated_data=other)
    version, data = raw(cipher)
    for at in (0, 12, len(data) - 1):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(InvalidRequest):
            transit.decrypt_data(
                "data", f"vault:v{version}:{b64(bytes(broken))}", associated_data=b64(b"for")
            )


def test_a_rotated_key_opens_the_old_and_seals_with_the_new(client: hvac.Client) -> None:
    transit = client.secrets.transit
    transit.create_key("data")
    old = transit.encrypt_data("data", plaintext=b64(b"kept"))["data"]["ciphertext"]
    transit.rotate_key("data")
    new = transit.encrypt_data("data", plaintext=b64(b"kept"))["data"]
    assert new["key_version"] == 2
    assert transit.decrypt_data("data", old)["data"]["plaintext"] == b64(b"kept")
    anew = transit.rewrap_data("data", old)["data"]
    assert anew["ciphertext"].startswith("vault:v2:")
    assert transit.decrypt_data("data", anew["ciphertext"])["data"]["plaintext"] == b64(b"kept")
    with pytest.raises(InvalidRequest, match="state"):
        transit.encrypt_data("data", plaintext=b64(b"x"), key_version=1)
    with pytest.raises(InvalidRequest, match="no such version"):
        transit.encrypt_data("data", plaintext=b64(b"x"), key_version=3)
    transit.update_key_configuration("data", min_decryption_version=2)
    with pytest.raises(InvalidRequest, match="minimum"):
        transit.decrypt_data("data", old)
    info = transit.read_key("data")["data"]
    assert info["latest_version"] == 2
    assert info["min_decryption_version"] == 2
    assert info["states"] == {"1": "deactivated", "2": "active"}
    transit.trim_key("data", 2)
    info = transit.read_key("data")["data"]
    assert list(info["keys"]) == ["2"]
    assert info["min_available_version"] == 2


def test_keys_are_read_listed_and_deleted_as_with_vault(client: hvac.Client) -> None:
    transit = client.secrets.transit
    with pytest.raises(InvalidPath):
        transit.list_keys()
    with pytest.raises(InvalidPath):
        transit.read_key("data")
    transit.create_key("data")
    transit.create_key("data")  # who asks again gets what is there
    transit.create_key("web", key_type="ecdsa-p256")
    with pytest.raises(InvalidRequest, match="another type"):
        transit.create_key("web", key_type="ed25519")
    assert transit.list_keys()["data"]["keys"] == ["data", "web"]
    info = transit.read_key("data")["data"]
    assert info["type"] == "aes256-gcm96"
    assert info["supports_encryption"] is True
    assert info["supports_signing"] is False
    assert isinstance(info["keys"]["1"], int)
    with pytest.raises(InvalidRequest, match="not allowed"):
        transit.delete_key("data")
    transit.update_key_configuration("data", deletion_allowed=True)
    transit.delete_key("data")
    with pytest.raises(InvalidPath):
        transit.read_key("data")
    with pytest.raises(InvalidPath):
        transit.delete_key("data")


@pytest.mark.parametrize("form", ["asn1", "jws"])
@pytest.mark.parametrize("kind", CURVES)
def test_ecdsa_signatures_are_valid_for_others(
    place: Place, client: hvac.Client, kind: str, form: str
) -> None:
    transit = client.secrets.transit
    transit.create_key("web", key_type=kind)
    version = transit.read_key("web")["data"]["keys"]["1"]
    key = load_pem_public_key(version["public_key"].encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert version["name"] == f"P-{CURVES[kind].key_size}"
    for prehashed in (False, True):
        data = b"message"
        if prehashed:
            digest = hashes.Hash(hashes.SHA384())
            digest.update(data)
            data = digest.finalize()
        signed = transit.sign_data(
            "web", hash_input=b64(data), hash_algorithm="sha2-384", prehashed=prehashed,
            marshaling_algorithm=form,
        )["data"]["signature"]  # fmt: skip
        encoded = signed.removeprefix("vault:v1:")
        if form == "jws":
            assert "=" not in encoded
            flat = base64.urlsafe_b64decode(encoded + "==")
            half = len(flat) // 2
            r, s = (int.from_bytes(part, "big") for part in (flat[:half], flat[half:]))
            signature = encode_dss_signature(r, s)
        else:
            signature = base64.b64decode(encoded)
        key.verify(signature, b"message", ec.ECDSA(hashes.SHA384()))
        named = {
            "hash_algorithm": "sha2-384", "prehashed": prehashed, "marshaling_algorithm": form,
        }  # fmt: skip
        verify = transit.verify_signed_data
        assert verify("web", b64(data), signature=signed, **named)["data"]["valid"] is True
        other = b64(bytes((data[0] ^ 1,)) + data[1:])  # of a long digest the left part counts
        assert verify("web", other, signature=signed, **named)["data"]["valid"] is False


@pytest.mark.parametrize("scheme", ["pss", "pkcs1v15"])
@pytest.mark.parametrize("prehashed", [False, True])
def test_rsa_signatures_are_valid_for_others(
    client: hvac.Client, scheme: str, prehashed: bool
) -> None:
    transit = client.secrets.transit
    transit.create_key("rsa", key_type="rsa-2048")
    key = load_pem_public_key(transit.read_key("rsa")["data"]["keys"]["1"]["public_key"].encode())
    assert isinstance(key, rsa.RSAPublicKey)
    for name, algorithm, salt in (
        ("sha2-256", hashes.SHA256(), "auto"), ("sha2-512", hashes.SHA512(), "hash"),
        ("sha2-224", hashes.SHA224(), "7"),
    ):  # fmt: skip
        digest = hashes.Hash(algorithm)
        digest.update(b"message")
        done = digest.finalize()
        data = done if prehashed else b"message"
        named: dict[str, Any] = {
            "hash_algorithm": name, "prehashed": prehashed, "signature_algorithm": scheme,
        }  # fmt: skip
        signed = transit.sign_data("rsa", hash_input=b64(data), salt_length=salt, **named)
        text = signed["data"]["signature"]
        padded: Any = padding.PKCS1v15()
        if scheme == "pss":
            length: Any = {"auto": padding.PSS.MAX_LENGTH, "hash": algorithm.digest_size, "7": 7}
            padded = padding.PSS(padding.MGF1(algorithm), length[salt])
        key.verify(raw(text)[1], done, padded, Prehashed(algorithm))
        valid = transit.verify_signed_data(
            "rsa", b64(data), signature=text, salt_length=salt, **named
        )
        assert valid["data"]["valid"] is True
    if scheme == "pss":  # without a word about the salt, its two usual lengths are tried
        for salt in ("auto", "hash"):
            text = transit.sign_data("rsa", hash_input=b64(b"m"), salt_length=salt)["data"]
            valid = transit.verify_signed_data("rsa", b64(b"m"), signature=text["signature"])
            assert valid["data"]["valid"] is True


def test_a_digest_of_unknown_making_is_signed_as_it_is(client: hvac.Client) -> None:
    client.secrets.transit.create_key("rsa", key_type="rsa-2048")
    answer = client.write_data(
        "transit/sign/rsa", data={"input": b64(b"anything"), "hash_algorithm": "none",
        "prehashed": True, "signature_algorithm": "pkcs1v15"},
    )  # fmt: skip
    assert answer["data"]["signature"].startswith("vault:v1:")


def test_ed25519_signs_messages(place: Place, client: hvac.Client) -> None:
    transit = client.secrets.transit
    transit.create_key("id", key_type="ed25519")
    public = base64.b64decode(transit.read_key("id")["data"]["keys"]["1"]["public_key"])
    signed = transit.sign_data("id", hash_input=b64(b"message"))["data"]["signature"]
    ed25519.Ed25519PublicKey.from_public_bytes(public).verify(raw(signed)[1], b"message")
    with pytest.raises(InvalidRequest, match="prehashed"):
        transit.sign_data("id", hash_input=b64(bytes(32)), prehashed=True)


@pytest.mark.parametrize("kind", ["sm2", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_keys_that_vault_does_not_have_sign_as_well(
    place: Place, client: hvac.Client, kind: str
) -> None:
    info = make(place, client, "new", kind)
    assert info["type"] == kind
    assert info["keys"]["1"]["public_key"].startswith("-----BEGIN PUBLIC KEY-----\n")
    transit = client.secrets.transit
    signed = transit.sign_data("new", hash_input=b64(b"message"))["data"]["signature"]
    for data, valid in ((b"message", True), (b"massage", False)):
        answer = transit.verify_signed_data("new", b64(data), signature=signed)
        assert answer["data"]["valid"] is valid


def test_an_old_signature_is_valid_until_the_minimum_is_raised(client: hvac.Client) -> None:
    transit = client.secrets.transit
    transit.create_key("id", key_type="ed25519")
    signed = transit.sign_data("id", hash_input=b64(b"message"))["data"]["signature"]
    transit.rotate_key("id")
    assert transit.sign_data("id", hash_input=b64(b"message"))["data"]["key_version"] == 2
    assert transit.verify_signed_data("id", b64(b"message"), signature=signed)["data"]["valid"]
    transit.update_key_configuration("id", min_decryption_version=2)
    with pytest.raises(InvalidRequest, match="minimum"):
        transit.verify_signed_data("id", b64(b"message"), signature=signed)


@pytest.mark.parametrize("algorithm", [None, "sha2-224", "sha2-512"])
def test_macs_are_made_and_verified(
    place: Place, client: hvac.Client, algorithm: str | None
) -> None:
    make(place, client, "mac", "hmac", key_size=64)
    transit = client.secrets.transit
    text = transit.generate_hmac("mac", b64(b"message"), algorithm=algorithm)["data"]["hmac"]
    assert text.startswith("vault:v1:")
    for data, valid in ((b"message", True), (b"massage", False)):
        answer = transit.verify_signed_data("mac", b64(data), hmac=text, hash_algorithm=algorithm)
        assert answer["data"]["valid"] is valid
    transit.create_key("data")
    with pytest.raises(InvalidRequest, match="does not support hmac"):
        transit.generate_hmac("data", b64(b"message"))


@pytest.mark.parametrize("bits", [128, 256, 512])
def test_data_keys_come_encrypted_and_in_plain_only_where_asked(
    client: hvac.Client, bits: int
) -> None:
    transit = client.secrets.transit
    transit.create_key("data")
    both = transit.generate_data_key("data", "plaintext", bits=bits)["data"]
    assert len(base64.b64decode(both["plaintext"])) == bits // 8
    opened = transit.decrypt_data("data", both["ciphertext"])["data"]["plaintext"]
    assert opened == both["plaintext"]
    wrapped = transit.generate_data_key("data", "wrapped", bits=bits)["data"]
    assert "plaintext" not in wrapped


def test_random_bytes_and_digests(place: Place, client: hvac.Client) -> None:
    transit = client.secrets.transit
    for form, read in (("hex", bytes.fromhex), ("base64", base64.b64decode)):
        answer = transit.generate_random_bytes(n_bytes=40, output_format=form)["data"]
        assert len(read(answer["random_bytes"])) == 40
    status, answer = place.ask("POST", "/v1/transit/random/platform/16", {}, client.token)
    assert status == 200
    assert len(base64.b64decode(answer["data"]["random_bytes"])) == 16
    total = transit.hash_data(b64(b"abc"), algorithm="sha2-256", output_format="hex")
    assert total["data"]["sum"].startswith("ba7816bf")
    status, answer = place.ask("POST", "/v1/transit/hash/sm3", {"input": b64(b"abc")}, client.token)
    assert answer["data"]["sum"].startswith("66c7f0f4")  # GM/T 0004, appendix A.1


def test_each_item_of_a_batch_has_its_result_or_its_error(
    place: Place, client: hvac.Client
) -> None:
    transit = client.secrets.transit
    transit.create_key("data")
    items = [{"plaintext": b64(b"%d" % at), "reference": str(at)} for at in range(5)]
    results = transit.encrypt_data("data", batch_input=items)["data"]["batch_results"]
    assert [one["reference"] for one in results] == [item["reference"] for item in items]
    ciphers = [{"ciphertext": one["ciphertext"]} for one in results]
    opened = transit.decrypt_data("data", batch_input=ciphers)["data"]["batch_results"]
    assert [one["plaintext"] for one in opened] == [item["plaintext"] for item in items]
    anew = transit.rewrap_data("data", None, batch_input=ciphers)["data"]["batch_results"]
    assert all(one["ciphertext"].startswith("vault:v1:") for one in anew)
    broken = [ciphers[0], {"ciphertext": "vault:v1:AAAA"}, {"ciphertext": "nothing"}]
    for code, expected in ((None, 400), (207, 207)):
        body: dict[str, Any] = {"batch_input": broken}
        if code is not None:
            body["partial_failure_response_code"] = code
        status, answer = place.ask("POST", "/v1/transit/decrypt/data", body, client.token)
        assert status == expected
        first, *others = answer["data"]["batch_results"]
        assert first["plaintext"] == items[0]["plaintext"]
        assert all("plaintext" not in one and one["error"] for one in others)
    body = {"batch_input": broken[1:], "partial_failure_response_code": 207}
    assert place.ask("POST", "/v1/transit/decrypt/data", body, client.token)[0] == 400


@pytest.mark.parametrize("kind", ["aes128-gcm96", "chacha20-poly1305", "rsa-2048"])
def test_a_batch_goes_through_in_its_order_whatever_is_in_it(
    place: Place, client: hvac.Client, kind: str
) -> None:
    make(place, client, "data", kind)
    place.ask("POST", "/v1/transit/keys/data/config", {"min_encryption_version": 1}, client.token)
    client.secrets.transit.rotate_key("data")
    large = b64(bytes(1_500_000)) if kind != "rsa-2048" else b64(b"large")
    good: list[dict[str, Any]] = [
        {"plaintext": b64(b"a")}, {"plaintext": b64(b"b"), "key_version": 1},
        {"plaintext": large}, {"plaintext": large, "key_version": 2}, {"plaintext": ""},
        {"plaintext": large, "key_version": 1},
    ]  # fmt: skip
    bad: list[dict[str, Any]] = [
        {"plaintext": "!"}, {"plaintext": b64(b"c"), "key_version": 7},
        {"plaintext": b64(b"d"), "context": "AA=="}, {"plaintext": "", "key_version": -1},
    ]  # fmt: skip
    items = [good[0], bad[0], good[1], bad[1], *good[2:4], bad[2], *good[4:], bad[3]]
    body = {"batch_input": items, "partial_failure_response_code": 202}
    status, answer = place.ask("POST", "/v1/transit/encrypt/data", body, client.token)
    assert status == 202
    results = answer["data"]["batch_results"]
    for item, result in zip(items, results, strict=True):
        if item in bad:
            assert set(result) == {"error", "reference"}
            continue
        assert result["key_version"] == (item.get("key_version") or 2)
        opened = client.secrets.transit.decrypt_data("data", result["ciphertext"])["data"]
        assert opened["plaintext"] == item["plaintext"]
    assert len({result.get("ciphertext") for result in results}) == len(good) + 1


def test_signatures_and_macs_come_in_batches(place: Place, client: hvac.Client) -> None:
    transit = client.secrets.transit
    transit.create_key("id", key_type="ed25519")
    items = [{"input": b64(b"%d" % at), "reference": str(at)} for at in range(4)]
    signed = transit.sign_data("id", batch_input=items)["data"]["batch_results"]
    checks = [
        {"input": item["input"], "signature": one["signature"]}
        for item, one in zip(items, signed, strict=True)
    ]
    checks[1]["input"] = b64(b"other")
    status, answer = place.ask(
        "POST", "/v1/transit/verify/id", {"batch_input": checks}, client.token
    )
    assert status == 200
    valid = [one["valid"] for one in answer["data"]["batch_results"]]
    assert valid == [True, False, True, True]
    make(place, client, "mac", "hmac")
    body = {"batch_input": items}
    status, answer = place.ask("POST", "/v1/transit/hmac/mac", body, client.token)
    macs = [one["hmac"] for one in answer["data"]["batch_results"]]
    body = {
        "batch_input": [
            {"input": item["input"], "hmac": mac} for item, mac in zip(items, macs, strict=True)
        ]
    }
    status, answer = place.ask("POST", "/v1/transit/verify/mac", body, client.token)
    assert [one["valid"] for one in answer["data"]["batch_results"]] == [True] * 4


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", "transit/keys/x", {"type": "des"}, 400, "unknown key type"),
    ("POST", "transit/keys/x", {"derived": True}, 400, "derived"),
    ("POST", "transit/keys/x", {"exportable": True}, 400, "never leave"),
    ("POST", "transit/keys/x", {"allow_plaintext_backup": True}, 400, "never leave"),
    ("POST", "transit/keys/x", {"auto_rotate_period": "24h"}, 400, "clock"),
    ("POST", "transit/keys/x", {"key_size": 32}, 400, "key_size"),
    ("POST", "transit/keys/x", {"type": "hmac", "key_size": 8}, 400, "key_size"),
    ("POST", "transit/keys/x", {"colour": "red"}, 400, "colour"),
    ("POST", "transit/keys/a@b", {}, 400, "not one that the call takes"),
    ("POST", "transit/keys/data/config", {"exportable": True}, 400, "never leave"),
    ("POST", "transit/keys/data/config", {"min_decryption_version": 9}, 400, "value"),
    ("POST", "transit/keys/data/config", {"min_decryption_version": -1}, 400, ""),
    ("POST", "transit/keys/data/trim", {"min_available_version": 0}, 400, "version"),
    ("POST", "transit/keys/data/trim", {"min_available_version": 2**70}, 400, ""),
    ("POST", "transit/keys/none/rotate", {}, 404, ""),
    ("POST", "transit/encrypt/none", {"plaintext": ""}, 400, "encryption key not found"),
    ("POST", "transit/encrypt/data", {}, 400, "missing plaintext"),
    ("POST", "transit/encrypt/data", {"plaintext": "%%"}, 400, "no base64"),
    ("POST", "transit/encrypt/data", {"plaintext": "", "context": "AA=="}, 400, "derived"),
    ("POST", "transit/encrypt/data", {"plaintext": "", "nonce": "AA=="}, 400, "nonce"),
    ("POST", "transit/encrypt/data", {"plaintext": "", "key_version": -1}, 400, "key_version"),
    ("POST", "transit/encrypt/data", {"plaintext": "", "key_version": 2**80}, 400, ""),
    ("POST", "transit/encrypt/data", {"batch_input": []}, 400, "missing batch"),
    ("POST", "transit/encrypt/data", {"batch_input": [{"plaintext": ""}] * 1025}, 400, "at most"),
    ("POST", "transit/encrypt/web", {"plaintext": ""}, 400, "does not support encryption"),
    ("POST", "transit/decrypt/data", {}, 400, "missing ciphertext"),
    ("POST", "transit/decrypt/data", {"ciphertext": "AAAA"}, 400, "begins with vault"),
    ("POST", "transit/decrypt/data", {"ciphertext": "vault:v0:AAAA"}, 400, "begins with vault"),
    ("POST", "transit/decrypt/data", {"ciphertext": "vault:v1:AAAA"}, 400, "length"),
    ("POST", "transit/decrypt/data", {"ciphertext": "vault:v7:AAAA"}, 400, ""),
    ("POST", "transit/rewrap/data", {"ciphertext": "vault:v1:!"}, 400, "begins with vault"),
    ("POST", "transit/datakey/clear/data", {}, 400, "plaintext or wrapped"),
    ("POST", "transit/datakey/wrapped/data", {"bits": 129}, 400, "bits"),
    ("POST", "transit/sign/data", {"input": ""}, 400, "does not support signing"),
    ("POST", "transit/sign/web", {"input": "", "hash_algorithm": "md5"}, 400, "hash"),
    ("POST", "transit/sign/web", {"input": "", "hash_algorithm": "sha1"}, 400, "hash"),
    ("POST", "transit/sign/web", {"input": "AA==", "prehashed": True}, 400, "no digest"),
    ("POST", "transit/sign/web", {"input": "", "marshaling_algorithm": "x"}, 400, "marshaling"),
    ("POST", "transit/sign/rsa", {"input": "", "signature_algorithm": "x"}, 400, "pss or pkcs1"),
    ("POST", "transit/sign/rsa", {"input": "", "salt_length": "300"}, 400, "salt"),
    ("POST", "transit/sign/rsa", {"input": "", "salt_length": "-2"}, 400, "salt"),
    ("POST", "transit/sign/rsa", {"input": "", "hash_algorithm": "none"}, 400, "none requires"),
    ("POST", "transit/verify/web", {"input": ""}, 400, "one of signature"),
    ("POST", "transit/verify/web", {"input": "", "signature": "vault:v1:AA=="}, 400, "none of"),
    ("POST", "transit/verify/web", {"input": "", "name": "x"}, 400, "name"),
    ("POST", "transit/hmac/none", {"input": ""}, 400, "not found"),
    ("POST", "transit/random", {"bytes": 0}, 400, "bytes"),
    ("POST", "transit/random", {"bytes": 1 << 20}, 400, "bytes"),
    ("POST", "transit/random/seal/16", {}, 400, "source"),
    ("POST", "transit/random/many", {}, 400, "bytes"),
    ("POST", "transit/hash", {"input": "", "algorithm": "crc"}, 400, "hash"),
    ("POST", "transit/hash", {"input": "", "format": "bin"}, 400, "format"),
    ("GET", "transit/export/encryption-key/data", None, 400, "never leave"),
    ("GET", "transit/export/encryption-key/data/1", None, 400, "never leave"),
    ("GET", "transit/backup/data", None, 400, "never leave"),
    ("POST", "transit/restore", {"backup": "x"}, 400, "administrators"),
    ("POST", "transit/restore/data", {"backup": "x"}, 400, "administrators"),
]


def test_what_is_refused_is_refused_with_its_reason(place: Place, client: hvac.Client) -> None:
    for name, kind in (("data", "aes256-gcm96"), ("web", "ecdsa-p256"), ("rsa", "rsa-2048")):
        make(place, client, name, kind)
    for method, path, body, expected, words in REFUSED:
        status, answer = place.ask(method, f"/v1/{path}", body, client.token)
        assert (status, words in " ".join(answer["errors"])) == (expected, True), (path, answer)
    assert client.secrets.transit.list_keys()["data"]["keys"] == ["data", "rsa", "web"]


def test_a_signature_of_another_key_is_not_valid(client: hvac.Client) -> None:
    transit = client.secrets.transit
    for name in ("a", "b"):
        transit.create_key(name, key_type="ecdsa-p256")
    signed = transit.sign_data("a", hash_input=b64(b"m"))["data"]["signature"]
    assert transit.verify_signed_data("b", b64(b"m"), signature=signed)["data"]["valid"] is False
    key = load_pem_public_key(transit.read_key("b")["data"]["keys"]["1"]["public_key"].encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    with pytest.raises(InvalidSignature):
        key.verify(raw(signed)[1], b"m", ec.ECDSA(hashes.SHA256()))
