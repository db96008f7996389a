"""Pinned roots: the vendors' own, and the ones a caller adds."""

from __future__ import annotations

import base64
import re
from importlib import resources

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from secgear.errors import CollateralError
from secgear.middleware.attestation.anchors import Anchors, builtin_anchors, read_anchors
from secgear.middleware.attestation.certificates import signature_fault, to_pem
from tests.adversary.vendors.pki import NOW, Authority, ec_key


def test_every_vendor_has_its_roots() -> None:
    names = {root.name: root.family for root in builtin_anchors().roots}
    assert names == {
        "amd-genoa": "amd",
        "amd-milan": "amd",
        "amd-turin": "amd",
        "aws-nitro-g1": "aws",
        "huawei-it-product": "huawei",
        "intel-sgx": "intel",
        "nvidia-device-identity": "nvidia",
        "nvidia-rim-root": "nvidia-rim",
    }
    assert not builtin_anchors().keys
    assert all(root.builtin for root in builtin_anchors().roots)


def test_the_roots_are_those_that_the_readme_names() -> None:
    readme = (resources.files("secgear.middleware.attestation") / "roots" / "README.md").read_text()
    listed = dict(re.findall(r"^\| ([a-z0-9-]+)\.pem \|.* ([0-9a-f]{64}) \|$", readme, re.M))
    assert listed == {root.name: root.fingerprint.hex() for root in builtin_anchors().roots}


def test_the_roots_sign_themselves_and_are_valid() -> None:
    for root in builtin_anchors().roots:
        assert root.certificate.valid_at(NOW)
        if root.name != "huawei-it-product":  # an intermediate, pinned
            assert signature_fault(root.certificate, root.certificate.public_key) is None


def test_nothing_simulated_is_built_in() -> None:
    for family in ("simulated", "arm", "tpm", "hygon"):
        assert not builtin_anchors().of(family)
        assert not builtin_anchors().keys_of(family)


def test_a_callers_roots_are_not_built_in() -> None:
    pem = to_pem(Authority("mine").certificate)
    anchors = read_anchors("amd", "laboratory", pem)
    assert [(root.name, root.builtin) for root in anchors.of("amd")] == [("laboratory", False)]
    both = builtin_anchors().adding(*anchors.roots)
    assert len(both.of("amd")) == 4
    assert len(builtin_anchors().of("amd")) == 3


def test_keys_belong_to_a_subject_or_to_anybody() -> None:
    pem = _public(ec_key())
    one = read_anchors("arm", "board", pem, subject="0102")
    every = one.adding(*read_anchors("arm", "any", pem).keys)
    assert [key.name for key in every.keys_of("arm", "0102")] == ["board", "any"]
    assert [key.name for key in every.keys_of("arm", "ffff")] == ["any"]
    assert not every.keys_of("tpm")
    assert len(every.keys[0].fingerprint) == 32


@pytest.mark.parametrize("pem", [b"", b"rubbish", b"-----BEGIN PUBLIC KEY-----\n!"])
def test_other_files_are_refused(pem: bytes) -> None:
    with pytest.raises(CollateralError):
        read_anchors("amd", "x", pem)


def test_other_families_and_kinds_of_keys_are_refused() -> None:
    with pytest.raises(CollateralError, match="no family"):
        read_anchors("acme", "x", _public(ec_key()))
    with pytest.raises(CollateralError, match="EC or RSA"):
        read_anchors("arm", "x", _public(ed25519.Ed25519PrivateKey.generate()))


def test_a_key_on_an_unknown_curve_is_refused() -> None:
    der = (
        ec_key()
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    p384, unknown = bytes.fromhex("06052b81040022"), bytes.fromhex("06052b8104007f")
    assert p384 in der
    text = base64.encodebytes(der.replace(p384, unknown))
    pem = b"-----BEGIN PUBLIC KEY-----\n" + text + b"-----END PUBLIC KEY-----\n"
    with pytest.raises(CollateralError, match="not supported"):
        read_anchors("arm", "key", pem)


def test_no_anchors_trust_nothing() -> None:
    assert not Anchors().of("amd")


def _public(key: object) -> bytes:
    return key.public_key().public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
