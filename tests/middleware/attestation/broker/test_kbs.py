"""The KBS protocol 0.4.0: messages in and out, as its stock clients make them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.broker import kbs, kbs_snp

EC_KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
}
RSA_KEY = rsa.generate_private_key(65537, 2048)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def ec_jwk(curve: str) -> dict[str, str]:
    numbers = EC_KEYS[curve].public_key().public_numbers()
    size = (EC_KEYS[curve].curve.key_size + 7) // 8
    return {
        "kty": "EC",
        "crv": curve,
        "alg": "ECDH-ES+A256KW",
        "x": b64(numbers.x.to_bytes(size, "big")),
        "y": b64(numbers.y.to_bytes(size, "big")),
    }


def rsa_jwk(key: rsa.RSAPrivateKey = RSA_KEY) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {
        "kty": "RSA",
        "alg": "RSA-OAEP-256",
        "n": b64(numbers.n.to_bytes(key.key_size // 8, "big")),
        "e": b64(numbers.e.to_bytes(3, "big")),
    }


def message(**changes: Any) -> bytes:
    return json.dumps(
        {
            "runtime-data": {"nonce": "bm9uY2U=", "tee-pubkey": ec_jwk("P-256")},
            "tee-evidence": {"primary_evidence": {"quote": "AAEC"}, "additional_evidence": ""},
        }
        | changes
    ).encode()


def test_a_request_of_a_stock_client_is_read() -> None:
    request = kbs.parse_request(
        b'{"version": "0.4.0", "tee": "tdx", "extra-params": '
        b'{"supported-hash-algorithms": ["sha256", "sha384", "sha512"]}}'
    )
    assert (request.tee, kbs.choose_digest(request)) == ("tdx", "sha384")
    assert json.loads(kbs.challenge("n", "sha384")) == {
        "nonce": "n",
        "extra-params": {"selected-hash-algorithm": "sha384"},
    }


@pytest.mark.parametrize(
    ("params", "digest"),
    [("", "sha384"), ({}, "sha384"), ({"supported-hash-algorithms": ["SHA-256"]}, "sha256")],
)
def test_the_digest_is_one_that_both_know(params: object, digest: str) -> None:
    assert kbs.choose_digest(kbs.Request("0.4.0", "tdx", params)) == digest


def test_no_common_digest_is_an_error() -> None:
    request = kbs.Request("0.4.0", "tdx", {"supported-hash-algorithms": ["md5", 7]})
    with pytest.raises(EvidenceUnsupported):
        kbs.choose_digest(request)


@pytest.mark.parametrize("version", ["0.1.1", "0.4.1", "1.0.0", ""])
def test_other_protocol_versions_are_refused(version: str) -> None:
    with pytest.raises(EvidenceUnsupported, match=r"0\.4\.0"):
        kbs.parse_request(json.dumps({"version": version, "tee": "tdx"}).encode())


def test_report_data_is_the_digest_of_the_canonical_runtime_data() -> None:
    attestation = kbs.parse_attestation(message())
    key = ec_jwk("P-256")
    text = (
        '{"additional-evidence":"","nonce":"bm9uY2U=","tee-pubkey":{'
        f'"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"{key["x"]}","y":"{key["y"]}"}}}}'
    )
    expected = hashlib.sha384(text.encode()).digest() + bytes(16)
    assert kbs.expected_report_data(attestation, "sha384") == expected
    assert kbs.expected_report_data(attestation, "sha512") == hashlib.sha512(text.encode()).digest()


@pytest.mark.parametrize("curve", EC_KEYS)
def test_a_client_opens_what_is_wrapped_to_its_ec_key(curve: str) -> None:
    response = json.loads(kbs.wrap(b"the secret", ec_jwk(curve)))
    assert _open_ec(response, EC_KEYS[curve]) == b"the secret"
    assert "the secret" not in json.dumps(response)


def test_a_client_opens_what_is_wrapped_to_its_rsa_key() -> None:
    response = json.loads(kbs.wrap(b"the secret", rsa_jwk()))
    oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
    assert _decrypt(response, RSA_KEY.decrypt(unb64(response["encrypted_key"]), oaep)) == (
        b"the secret"
    )


def test_the_header_is_printed_the_way_clients_print_it_again() -> None:
    """They authenticate their own rendering of the header: compact, members in this order."""
    text = unb64(json.loads(kbs.wrap(b"", ec_jwk("P-256")))["protected"]).decode()
    header = json.loads(text)
    assert list(header) == ["alg", "enc", "epk"]
    assert list(header["epk"]) == ["crv", "kty", "x", "y"]
    assert text == json.dumps(header, separators=(",", ":"))


@pytest.mark.parametrize(
    "key",
    [
        {},
        {"kty": "oct", "alg": "A256KW", "k": "AA"},
        ec_jwk("P-256") | {"alg": "RSA-OAEP-256"},
        ec_jwk("P-256") | {"alg": "ECDH-ES"},
        ec_jwk("P-256") | {"crv": "secp256k1"},
        ec_jwk("P-256") | {"x": "!!"},
        ec_jwk("P-256") | {"x": ec_jwk("P-256")["y"]},
        ec_jwk("P-384") | {"crv": "P-256"},
        rsa_jwk() | {"alg": "RSA1_5"},
        rsa_jwk() | {"n": b64(b"\xff" * 255 + b"\xfe")},  # even: nothing encrypts to that
        rsa_jwk() | {"alg": "RSA-OAEP"},
        rsa_jwk(rsa.generate_private_key(65537, 1024)),
        {name: value for name, value in rsa_jwk().items() if name != "e"},
    ],
)
def test_keys_that_can_not_be_wrapped_to_are_refused(key: dict[str, str]) -> None:
    with pytest.raises(EvidenceRefused):
        kbs.wrap(b"secret", key)
    with pytest.raises(EvidenceRefused):
        kbs.parse_attestation(message(**{"runtime-data": {"nonce": "", "tee-pubkey": key}}))


def test_evidence_of_each_platform_becomes_ours() -> None:
    def convert(tee: str, primary: object) -> Any:
        evidence = {"primary_evidence": primary, "additional_evidence": ""}
        return kbs.to_evidence(tee, kbs.parse_attestation(message(**{"tee-evidence": evidence})))

    tdx = convert("tdx", {"quote": "AAEC", "cc_eventlog": "AwQ="})
    assert (tdx.format, tdx.data, tdx.attachments) == (
        "intel.tdx.quote",
        b"\0\1\2",
        {"ccel": b"\3\4"},
    )
    assert convert("tdx", {"quote": "AAEC", "cc_eventlog": None}).attachments == {}
    assert convert("tdx", '{"quote": "AAEC"}').data == b"\0\1\2"
    assert convert("sgx", {"quote": "AAEC"}).format == "intel.sgx.quote"
    assert convert("cca", {"token": [210, 1]}).data == b"\xd2\1"
    for tee, primary in (
        ("sample", {"svn": "1"}),
        ("se", {}),
        ("tdx", {}),
        ("tdx", []),
        ("tdx", 7),
        ("cca", {"token": [256]}),
        ("tdx", {"quote": "!"}),
        ("tdx", "{"),
    ):
        with pytest.raises(EvidenceRefused):
            convert(tee, primary)


def test_additional_evidence_is_refused_not_ignored() -> None:
    body = message(
        **{
            "tee-evidence": {
                "primary_evidence": {"quote": "AAEC"},
                "additional_evidence": '{"nvidia": {}}',
            }
        }
    )
    with pytest.raises(EvidenceUnsupported, match="additional"):
        kbs.to_evidence("tdx", kbs.parse_attestation(body))


def test_an_snp_report_printed_field_by_field_is_put_together_again(vector: Any) -> None:
    for name in ("snp/gosev-milan-attestation.bin", "snp/msft-genoa_attestation_report.bin"):
        report = vector(name)
        evidence = kbs_snp.to_evidence(_fields(report), None)
        assert evidence.data == report


def test_certificates_of_an_snp_client_go_along() -> None:
    chain = [{"cert_type": "VCEK", "data": [1, 2]}, {"cert_type": "ARK", "data": [3]}]
    evidence = kbs_snp.to_evidence([0] * 1184, chain)
    assert evidence.attachments == {"vcek": b"\1\2"}


@pytest.mark.parametrize("missing", ["version", "chip_id", "signature", "current_tcb", "committed"])
def test_an_snp_report_without_a_field_is_refused(missing: str) -> None:
    fields = _fields(bytes(1184))
    del fields[missing]
    with pytest.raises(EvidenceMalformed):
        kbs_snp.to_evidence(fields, None)


@given(st.binary(max_size=200))
def test_rubbish_is_refused(body: bytes) -> None:
    for parse in (kbs.parse_request, kbs.parse_attestation):
        with pytest.raises(EvidenceRefused):
            parse(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["quote", "token", "attestation_report", "cert_chain", "version"]),
                inner,
                max_size=3,
            )
        ),
    ),
    st.sampled_from(["snp", "tdx", "sgx", "cca", "az-snp-vtpm", "sample"]),
)
def test_hostile_primary_evidence_is_refused_or_turned(primary: object, tee: str) -> None:
    attestation = kbs.Attestation(
        kbs.RuntimeData("n", ec_jwk("P-256")), kbs.CompositeEvidence(primary)
    )
    with contextlib.suppress(EvidenceRefused):
        kbs.to_evidence(tee, attestation)


def _decrypt(response: dict[str, str], cek: bytes) -> bytes:
    sealed = unb64(response["ciphertext"]) + unb64(response["tag"])
    return AESGCM(cek).decrypt(unb64(response["iv"]), sealed, response["protected"].encode())


def _open_ec(response: dict[str, str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """RFC 7518, section 4.6, by hand: the other side's arithmetic, not our library's."""
    epk = json.loads(unb64(response["protected"]))["epk"]
    x, y = (int.from_bytes(unb64(epk[name]), "big") for name in ("x", "y"))
    shared = key.exchange(ec.ECDH(), ec.EllipticCurvePublicNumbers(x, y, key.curve).public_key())
    algorithm = b"ECDH-ES+A256KW"
    info = len(algorithm).to_bytes(4, "big") + algorithm + bytes(8) + (256).to_bytes(4, "big")
    digest = Hash(hashes.SHA256())
    digest.update((1).to_bytes(4, "big") + shared + info)
    return _decrypt(response, aes_key_unwrap(digest.finalize(), unb64(response["encrypted_key"])))


def _fields(report: bytes) -> dict[str, Any]:
    """What virtee's library prints for a report before Turin."""

    def number(offset: int, size: int) -> int:
        return int.from_bytes(report[offset : offset + size], "little")

    def tcb(offset: int) -> dict[str, Any]:
        names = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
        return {name: report[offset + at] for name, at in names.items()} | {"fmc": None}

    def firmware(offset: int) -> dict[str, int]:
        return dict(zip(("build", "minor", "major"), report[offset : offset + 3], strict=True))

    fields: dict[str, Any] = {
        name: list(report[offset : offset + size])
        for name, (offset, size) in {
            "family_id": (0x10, 16),
            "image_id": (0x20, 16),
            "report_data": (0x50, 64),
            "measurement": (0x90, 48),
            "host_data": (0xC0, 32),
            "id_key_digest": (0xE0, 48),
            "author_key_digest": (0x110, 48),
            "report_id": (0x140, 32),
            "report_id_ma": (0x160, 32),
            "chip_id": (0x1A0, 64),
        }.items()
    }
    fields |= {
        name: number(offset, size)
        for name, (offset, size) in {
            "version": (0, 4),
            "guest_svn": (4, 4),
            "policy": (8, 8),
            "vmpl": (0x30, 4),
            "sig_algo": (0x34, 4),
            "plat_info": (0x40, 8),
            "key_info": (0x48, 4),
            "cpuid_fam_id": (0x188, 1),
            "cpuid_mod_id": (0x189, 1),
            "cpuid_step": (0x18A, 1),
        }.items()
    }
    fields |= {
        "current_tcb": tcb(0x38),
        "reported_tcb": tcb(0x180),
        "committed_tcb": tcb(0x1E0),
        "launch_tcb": tcb(0x1F0),
        "current": firmware(0x1E8),
        "committed": firmware(0x1EC),
        "launch_mit_vector": number(0x1F8, 8),
        "current_mit_vector": number(0x200, 8),
        "signature": {"r": list(report[0x2A0:0x2E8]), "s": list(report[0x2E8:0x330])},
    }
    return fields
