"""Signing: one step or two, keys that never leak, and one valid form of each signature."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from hypothesis import given
from hypothesis import strategies as st

from secgear import App
from secgear.base import signing
from secgear.base.image import ALGORITHMS, Image, Signature, assemble, with_signature
from secgear.base.manifest import Manifest
from secgear.base.signing import (
    attach,
    generate_key,
    load_private_key,
    load_public_key,
    save_private_key,
    sign,
    signer_of,
    to_be_signed,
    verify,
)
from secgear.errors import KeyFileError, SignatureInvalid

ORDER = signing._P384_ORDER
INTERFACE = App("demo", "1.0").interface.to_json()
IMAGE = assemble(
    Manifest(
        name="demo",
        version="1.0",
        product="demo",
        svn=1,
        entry="demo",
        debug=False,
        interface=hashlib.sha384(INTERFACE).digest(),
        threads=1,
        memory=1 << 20,
        log="off",
        files={"demo.py": hashlib.sha384(b"").digest()},
    ),
    INTERFACE,
    {"demo.py": b""},
)
openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl command")


def run_openssl(*arguments: object) -> bytes:
    done = subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    return done.stdout


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_signed_image_names_its_signer(algorithm: str) -> None:
    key = generate_key(algorithm)
    signed = sign(IMAGE, key)
    assert Image.parse(signed.data).signer == signer_of(key) == signer_of(key.public_key())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert signer_of(key) == hashlib.sha384(spki).digest()


def test_signing_again_replaces_the_signature() -> None:
    first, second = generate_key(), generate_key("ecdsa-p384-sha384")
    again = sign(sign(IMAGE, first), second)
    assert again.signer == signer_of(second)
    assert again.measurement == IMAGE.measurement


def test_what_is_signed_is_a_short_labelled_text() -> None:
    assert to_be_signed(IMAGE) == b"secgear image v1\n%s\n" % IMAGE.measurement.hex().encode()


@openssl
def test_openssl_signs_with_ecdsa_in_two_steps(tmp_path: Path) -> None:
    key, message, value = tmp_path / "key.pem", tmp_path / "message", tmp_path / "signature"
    run_openssl("ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", key)
    run_openssl("pkey", "-in", key, "-pubout", "-out", tmp_path / "public.pem")
    message.write_bytes(to_be_signed(IMAGE))
    public = load_public_key(tmp_path / "public.pem")
    for _ in range(6):  # openssl's s is in the upper half every other time
        run_openssl("dgst", "-sha384", "-sign", key, "-out", value, message)
        signed = attach(IMAGE, value.read_bytes(), public)
        assert Image.parse(signed.data).signer == signer_of(load_private_key(key))


@openssl
def test_openssl_signs_with_ed25519_in_two_steps(tmp_path: Path) -> None:
    key, message, value = tmp_path / "key.pem", tmp_path / "message", tmp_path / "signature"
    run_openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    run_openssl("pkey", "-in", key, "-pubout", "-outform", "DER", "-out", tmp_path / "public.der")
    message.write_bytes(to_be_signed(IMAGE))
    run_openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", message, "-out", value)
    signed = attach(IMAGE, value.read_bytes(), load_public_key(tmp_path / "public.der"))
    assert signed == sign(IMAGE, load_private_key(key))  # Ed25519 is deterministic


@openssl
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_openssl_verifies_our_signatures(tmp_path: Path, algorithm: str) -> None:
    signature = sign(IMAGE, generate_key(algorithm)).signature
    assert signature is not None
    key, message, value = tmp_path / "key.der", tmp_path / "message", tmp_path / "signature"
    key.write_bytes(signature.public_key)
    message.write_bytes(to_be_signed(IMAGE))
    value.write_bytes(signature.signature)
    options = ["-pubin", "-inkey", key, "-keyform", "DER", "-rawin", "-in", message]
    if algorithm.startswith("ecdsa"):
        options += ["-digest", "sha384"]
    run_openssl("pkeyutl", "-verify", *options, "-sigfile", value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_attach_verifies_before_it_attaches(algorithm: str) -> None:
    key = generate_key(algorithm)
    signature = sign(IMAGE, key).signature
    assert signature is not None
    for broken in (b"", bytes(64), signature.signature[:-1], signature.signature + b"\0"):
        with pytest.raises(SignatureInvalid):
            attach(IMAGE, broken, key.public_key())
    with pytest.raises(SignatureInvalid):
        attach(IMAGE, signature.signature, generate_key(algorithm).public_key())


def test_a_signature_over_the_bare_measurement_is_refused() -> None:
    key = generate_key()
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    with pytest.raises(SignatureInvalid):
        attach(IMAGE, key.sign(IMAGE.measurement), key.public_key())


def ecdsa_parts() -> tuple[ec.EllipticCurvePrivateKey, Signature, int, int]:
    key = generate_key("ecdsa-p384-sha384")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = sign(IMAGE, key).signature
    assert signature is not None
    r, s = decode_dss_signature(signature.signature)
    return key, signature, r, s


def test_the_other_s_of_an_ecdsa_signature_is_refused() -> None:
    key, signature, r, s = ecdsa_parts()
    mirrored = encode_dss_signature(r, ORDER - s)
    key.public_key().verify(mirrored, IMAGE.to_be_signed, ec.ECDSA(hashes.SHA384()))  # it is valid
    with pytest.raises(SignatureInvalid, match="low-s"):
        with_signature(IMAGE, Signature(signature.algorithm, signature.public_key, mirrored))
    repaired = attach(IMAGE, mirrored, key.public_key())
    assert repaired.signature == signature


def test_the_order_of_the_curve_is_right() -> None:
    scalar = ec.derive_private_key(ORDER - 1, ec.SECP384R1())  # the largest scalar there is
    base = ec.derive_private_key(1, ec.SECP384R1()).public_key().public_numbers()
    assert scalar.public_key().public_numbers().x == base.x  # (n - 1)·G = -G


def test_other_encodings_of_an_ecdsa_signature_are_refused() -> None:
    _, signature, r, s = ecdsa_parts()
    der = signature.signature
    long_form = b"\x30\x81" + der[1:]
    padded = bytearray(der)
    padded[1] += 1
    padded[3] += 1
    padded[4:4] = b"\0"
    games = [
        der + b"\0",
        long_form,
        bytes(padded),
        encode_dss_signature(r, s + ORDER),
        encode_dss_signature(0, 0),
        r.to_bytes(48, "big") + s.to_bytes(48, "big"),
    ]
    for game in games:
        with pytest.raises(SignatureInvalid):
            with_signature(IMAGE, Signature(signature.algorithm, signature.public_key, game))


def test_other_encodings_of_a_public_key_are_refused() -> None:
    key, signature, *_ = ecdsa_parts()
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    oids = bytes.fromhex("06072a8648ce3d020106052b81040022")
    compressed = b"\x30\x46\x30\x10" + oids + b"\x03\x32\x00" + point
    try:
        serialization.load_der_public_key(compressed)
    except ValueError as error:  # pragma: no cover
        pytest.fail(f"the game must be a key that the library reads: {error}")
    for game in (compressed, signature.public_key + b"\0", signature.public_key[:-1], b""):
        with pytest.raises(SignatureInvalid):
            with_signature(IMAGE, Signature(signature.algorithm, game, signature.signature))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1(), ec.SECP256K1()])
def test_other_curves_are_refused(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    value = key.sign(IMAGE.to_be_signed, ec.ECDSA(hashes.SHA384()))
    with pytest.raises(KeyFileError, match="another kind"):
        sign(IMAGE, key)
    with pytest.raises(KeyFileError, match="another kind"):
        attach(IMAGE, value, key.public_key())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for algorithm in ALGORITHMS:
        with pytest.raises(SignatureInvalid, match="another kind"):
            with_signature(IMAGE, Signature(algorithm, spki, value))


def test_a_key_of_one_algorithm_does_not_verify_as_the_other() -> None:
    for algorithm, other in (ALGORITHMS, ALGORITHMS[::-1]):
        signature = sign(IMAGE, generate_key(algorithm)).signature
        assert signature is not None
        confused = Signature(other, signature.public_key, signature.signature)
        with pytest.raises(SignatureInvalid, match="another kind"):
            with_signature(IMAGE, confused)


@given(st.sampled_from(ALGORITHMS), st.binary(max_size=150), st.binary(max_size=120))
def test_arbitrary_signatures_are_refused(algorithm: str, key: bytes, value: bytes) -> None:
    with pytest.raises(SignatureInvalid):
        verify(IMAGE.to_be_signed, Signature(algorithm, key, value))


# --- key files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_saved_key_signs_as_before(
    tmp_path: Path, algorithm: str, passphrase: bytes | None
) -> None:
    key, path = generate_key(algorithm), tmp_path / "key.pem"
    old = os.umask(0)
    try:
        save_private_key(key, path, passphrase)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signer_of(load_private_key(path, passphrase)) == signer_of(key)
    with pytest.raises(KeyFileError, match="exists already"):
        save_private_key(generate_key(), path)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(KeyFileError, match="ed25519, ecdsa-p384-sha384"):
        generate_key("rsa")


def test_passphrase_mistakes_are_told_apart_and_not_repeated(tmp_path: Path) -> None:
    clear, locked = tmp_path / "clear.pem", tmp_path / "locked.pem"
    save_private_key(generate_key(), clear)
    save_private_key(generate_key(), locked, b"correct horse")
    for path, passphrase, message in [
        (clear, b"canary-passphrase", "not encrypted"),
        (locked, None, "give its passphrase"),
        (locked, b"canary-passphrase", "wrong passphrase"),
    ]:
        with pytest.raises(KeyFileError, match=message) as caught:
            load_private_key(path, passphrase)
        text = "".join(traceback.format_exception(caught.value))
        assert "canary" not in text
        assert str(path) in text


def test_key_material_is_in_no_message_and_no_repr(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    key = generate_key()
    save_private_key(key, path)
    secret = path.read_text().splitlines()[1]
    raw = key.private_bytes_raw() if isinstance(key, ed25519.Ed25519PrivateKey) else b""
    path.write_text(path.read_text().replace("PRIVATE KEY", "PRIVATE KEYS"))
    with pytest.raises(KeyFileError) as caught:
        load_private_key(path)
    shown = "".join(traceback.format_exception(caught.value)) + repr(key) + repr(sign(IMAGE, key))
    assert caught.value.__cause__ is None
    assert secret not in shown
    assert raw.hex() not in shown


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP256R1()),
        ed448.Ed448PrivateKey.generate(),
        dsa.generate_private_key(1024),
    ],
)
def test_a_key_file_of_another_kind_is_refused(tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    private, public = tmp_path / "private", tmp_path / "public"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    for load, path in ((load_private_key, private), (load_public_key, public)):
        with pytest.raises(KeyFileError, match="another kind"):
            load(path)
    for load, path in ((load_private_key, public), (load_public_key, private)):
        with pytest.raises(KeyFileError, match="key"):
            load(path)


@pytest.mark.parametrize("load", [load_private_key, load_public_key])
def test_files_that_are_no_keys_are_named(tmp_path: Path, load: object) -> None:
    assert callable(load)
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    (tmp_path / "text").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----")
    for name in ("missing", "large", "text", "."):
        with pytest.raises(KeyFileError, match=str(tmp_path)):
            load(tmp_path / name)
