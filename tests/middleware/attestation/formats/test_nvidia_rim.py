"""Manifests of NVIDIA: only what one strict signature covers is ever read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.middleware.attestation.formats.nvidia import rim
from tests.adversary.vendors.nvidia import (
    DRIVER,
    MEASURED,
    ManifestSigner,
    manifest,
    resource,
)
from tests.adversary.vendors.pki import ec_key

pytest.importorskip("signxml", reason="needs the extra gpu")

SIGNER = ManifestSigner()
SIGNED = SIGNER.sign(manifest())


def refused(data: bytes) -> str:
    with pytest.raises(rim.RimRefused) as caught:
        rim.read(data)
    return str(caught.value)


def changed(old: bytes, new: bytes, count: int = 1) -> bytes:
    assert old in SIGNED
    return SIGNED.replace(old, new, count)


def test_a_signed_manifest_is_read() -> None:
    read = rim.read(SIGNED)
    assert (read.version, read.product) == (DRIVER, "GH100")
    assert {index: entry.values for index, entry in read.measurements.items()} == {
        7: (MEASURED[7],),
        35: (MEASURED[35],),
    }
    assert read.certificates == SIGNER.certificates


def test_a_declaration_and_space_around_it_are_fine() -> None:
    rim.read(b'<?xml version="1.0" encoding="UTF-8"?>\n' + SIGNED)
    rim.read(b'\n<?xml version="1.0"?>\n' + SIGNED + b"\n")


def test_an_unsigned_manifest_is_refused() -> None:
    assert "0 signatures" in refused(manifest())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (MEASURED[7].hex().encode(), b"00" * 48),
        (b'active="True"', b'active="False"'),
        (DRIVER.encode(), b"550.144.04"),
        (b'product="GH100"', b'product="GB100"'),
        (b'index="7"', b'index="8"'),
    ],
)
def test_a_changed_manifest_is_refused(old: bytes, new: bytes) -> None:
    assert "Digest mismatch" in refused(changed(old, new))


def test_a_changed_signature_is_refused() -> None:
    value = re.search(rb"<ds:SignatureValue>(.)", SIGNED)
    assert value
    new = b"<ds:SignatureValue>" + (b"A" if value[1] != b"A" else b"B")
    assert "does not verify" in refused(changed(value[0], new))


def test_the_first_certificate_must_be_the_signers() -> None:
    assert "does not verify" in refused(SIGNER.sign(manifest(), key=ec_key()))
    assert "does not verify" in refused(
        SIGNER.sign(manifest(), certificates=SIGNER.certificates[::-1])
    )


def test_no_certificates_or_broken_ones_are_refused() -> None:
    without = re.sub(rb"<ds:X509Certificate>.*</ds:X509Certificate>", b"", SIGNED, flags=re.S)
    assert "0 certificates" in refused(without)
    refused(changed(b"<ds:X509Certificate>", b"<ds:X509Certificate>AAAA"))
    refused(changed(b"<ds:X509Certificate>", b"<ds:X509Certificate>!"))
    one = re.search(rb"<ds:X509Certificate>.*?</ds:X509Certificate>", SIGNED, flags=re.S)
    assert one
    refused(changed(one[0], one[0] * 11))


def test_a_signer_on_another_curve_or_with_rsa_is_refused() -> None:
    other = ManifestSigner(key=ec_key(ec.SECP256R1()))
    assert "secp256r1" in refused(other.sign(manifest()))
    key = rsa.generate_private_key(65537, 2048)
    certificate = SIGNER.series.issue("rsa", key.public_key())
    chain = (certificate, *SIGNER.certificates[1:])
    assert "not EC" in refused(SIGNER.sign(manifest(), certificates=chain))


@pytest.mark.parametrize("algorithms", [("ECDSA_SHA256", "SHA384"), ("ECDSA_SHA384", "SHA256")])
def test_other_algorithms_are_refused(algorithms: tuple[str, str]) -> None:
    method, digest = algorithms
    assert "not accepted" in refused(SIGNER.sign(manifest(), method=method, digest=digest))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"xmldsig#enveloped-signature", b"xmldsig#base64"),
        (b'<ds:Reference URI="">', b'<ds:Reference URI="#x">'),
        (b'<ds:Reference URI="">', b'<ds:Reference URI="file:///etc/passwd">'),
        (b'<ds:Reference URI="">', b'<ds:Reference URI="https://example.org/">'),
        (b'<ds:Reference URI="">', b'<ds:Reference URI="" Id="x">'),
        (b'<ds:Reference URI="">', b"<ds:Reference>"),
        (b"2006/12/xml-c14n11", b"2002/06/xmldsig-filter2"),
        (b"xmldsig-more#ecdsa-sha384", b"xmldsig-more#hmac-sha384"),
        (b"</ds:SignedInfo>", b"</ds:SignedInfo><ds:Object/>"),
        (b"<ds:Transforms>", b'<ds:Transforms><ds:Transform Algorithm="x"/>'),
    ],
)
def test_other_forms_of_signature_are_refused(old: bytes, new: bytes) -> None:
    """Refused for the form, before anything is computed or, worse, fetched."""
    reason = refused(changed(old, new))
    assert "does not verify" not in reason


def test_two_references_are_refused() -> None:
    reference = re.search(rb"<ds:Reference.*</ds:Reference>", SIGNED, flags=re.S)
    assert reference
    assert "one reference" in refused(changed(reference[0], reference[0] * 2))


def wrapped(kind: str) -> bytes:
    """The genuine signature, moved to where another content is read."""
    signature = re.search(rb"<ds:Signature .*</ds:Signature>", SIGNED, flags=re.S)
    assert signature
    genuine = SIGNED.replace(signature[0], b"")
    forged = manifest(DRIVER, {7: b"f" * 48})
    end = b"</SoftwareIdentity>"
    return {
        "signature in a forgery": forged.replace(end, signature[0] + end),
        "genuine inside of a forgery": forged.replace(end, SIGNED + end),
        "genuine beside, signature at the root": forged.replace(end, genuine + signature[0] + end),
        "forgery inside of genuine": SIGNED.replace(b"</ns0:Payload>", b"</ns0:Payload>" + forged),
        "forged object in the signature": SIGNED.replace(
            b"</ds:KeyInfo>", b"</ds:KeyInfo><ds:Object>" + forged + b"</ds:Object>"
        ),
        "forged key info": SIGNED.replace(b"<ds:X509Data>", b"<ds:X509Data>" + forged),
        "two signatures": SIGNED.replace(signature[0], signature[0] * 2),
        "signature in the payload": genuine.replace(
            b"</ns0:Payload>", signature[0] + b"</ns0:Payload>"
        ),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "signature in a forgery",
        "genuine inside of a forgery",
        "genuine beside, signature at the root",
        "forgery inside of genuine",
        "forged object in the signature",
        "two signatures",
        "signature in the payload",
    ],
)
def test_wrapping_a_genuine_signature_is_refused(kind: str) -> None:
    refused(wrapped(kind))


def test_what_is_put_into_the_signature_itself_is_never_read() -> None:
    """The key info is not signed. It may be refused or passed over, but never believed."""
    with contextlib.suppress(rim.RimRefused):
        assert rim.read(wrapped("forged key info")).measurements[7].values == (MEASURED[7],)


BOMB = (
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">'
    b'<!ENTITY c "&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize(
    "prefix",
    [
        BOMB,
        b'<?xml version="1.0"?>' + BOMB,
        b'<!DOCTYPE x SYSTEM "https://example.org/x.dtd">',
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        b"<!-- comment -->",
        b'<?xml-stylesheet href="x"?>',
    ],
)
def test_document_types_entities_and_instructions_are_refused(prefix: bytes) -> None:
    assert "document type" in refused(prefix + SIGNED)
    refused((prefix.decode() + SIGNED.decode()).encode("utf-16"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-7"])
def test_other_encodings_are_refused(encoding: str) -> None:
    text = SIGNED.decode()
    refused(text.encode(encoding))
    refused(f'<?xml version="1.0" encoding="{encoding}"?>{BOMB.decode()}{text}'.encode(encoding))


def test_comments_and_marked_sections_inside_are_refused() -> None:
    refused(changed(b"<ns0:Payload>", b"<ns0:Payload><!-- x -->"))
    refused(changed(b"<ns0:Payload>", b"<ns0:Payload><![CDATA[x]]>"))


@pytest.mark.parametrize(
    "unsigned",
    [
        manifest(manufacturer="1"),
        manifest(version=""),
        manifest(product=""),
        manifest(golden={}),
        manifest(resources=resource(1, bytes(48)) * 2),
        manifest(resources=resource(1, bytes(48), active="true")),
        manifest(resources=resource(1, bytes(48), active="")),
        manifest(resources=resource(1)),
        manifest(resources=resource(1, bytes(48), alternatives=2)),
        manifest(resources=resource(1, bytes(48), alternatives=65)),
        manifest(resources=resource(1, bytes(48), size=47)),
        manifest(resources=resource(1, bytes(48), size=32)),
        manifest(resources=resource(1, bytes(20), size=20)),
        manifest(resources=resource(1, bytes(48), size="-48")),
        manifest(resources=resource(1, bytes(48), size="٤٨")),
        manifest(resources=resource(-1, bytes(48))),
        manifest(resources=resource(513, bytes(48))),
        manifest(resources=resource(1, bytes(48), kind="Opaque")),
        manifest(resources=resource(1, bytes(48)).replace("00", "zz")),
        manifest(resources="".join(resource(1, active="False") for _ in range(513))),
        manifest().replace(b"<ns0:Payload>", b"<ns0:Payload/><ns0:Payload>"),
        manifest().replace(b"<ns0:Entity", b"<ns0:Meta/><ns0:Entity"),
    ],
)
def test_signed_nonsense_is_refused(unsigned: bytes) -> None:
    assert "verify" not in refused(SIGNER.sign(unsigned))


def test_another_xml_document_is_refused() -> None:
    assert "SWID" in refused(b"<a/>")
    refused(b"")
    refused(bytes(rim.MAX_SIZE + 1))
    refused(b"<a>" * 100_000)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_changes_what_is_read(at: int, flip: int) -> None:
    data = bytearray(SIGNED)
    data[at] ^= flip
    with contextlib.suppress(rim.RimRefused):
        read = rim.read(bytes(data))
        genuine = rim.read(SIGNED)
        assert (read.version, read.product) == (genuine.version, genuine.product)
        assert read.measurements == genuine.measurements
        # The certificates are not signed with it: their own chain is checked later.
        assert read.certificates[0].spki_digest == genuine.certificates[0].spki_digest


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_crash(data: bytes) -> None:
    for made in (data, b"<a>" + data, SIGNED[: len(SIGNED) // 2] + data):
        with contextlib.suppress(rim.RimRefused):
            rim.read(made)


# NVIDIA's own manifests.

GOOD = {
    "nvidia/nvat-ut-NV_GPU_DRIVER_GH100_550.144.03.xml": ("550.144.03", 21),
    "nvidia/nvat-ut-NV_GPU_VBIOS_1010_0200_882_96005E0001_measurement_mismatch.xml": (
        "96.00.5E.00.01",
        12,
    ),
    "nvidia/nvtrust-1010_0200_882_96005E0001_PROD.swidtag": ("96.00.5E.00.01", 12),
    "nvidia/nvtrust-1010_0200_882_96005E0001_test_no_gpu.swidtag": ("96.00.5E.00.01", 12),
    "nvidia/nvtrust-Driver_RIM_test_no_gpu.swidtag": ("545.00", 21),
}


@pytest.mark.parametrize("name", GOOD)
def test_manifests_of_nvidia_are_read(name: str, vector: Callable[[str], bytes]) -> None:
    read = rim.read(vector(name))
    assert read.product == "GH100"
    assert (read.version, len(read.measurements)) == GOOD[name]
    assert "RIM L4 Signer" in read.certificates[0].subject


@pytest.mark.parametrize(
    "name",
    [
        "nvat-ut-incorrect_signature_driver_rim.xml",
        "nvat-ut-NV_SWITCH_BIOS_5612_0002_890_9610550001_invalid_signature.xml",
        "nvat-ut-NV_SWITCH_BIOS_5612_0002_890_9610550001_measurement_mismatch.xml",
        "nvat-ut-NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml",
        "nvat-ut-NV_GPU_DRIVER_GH100_570.124.03_expired.xml",
    ],
)
def test_doctored_manifests_are_refused(name: str, vector: Callable[[str], bytes]) -> None:
    assert "does not verify" in refused(vector(f"nvidia/{name}"))


@pytest.mark.parametrize("name", list(GOOD)[:2])
def test_a_manifest_of_nvidia_with_a_flipped_byte_says_the_same_or_nothing(
    name: str, vector: Callable[[str], bytes]
) -> None:
    data = vector(name)
    genuine = rim.read(data)
    for at in range(0, len(data), 101):
        flipped = bytearray(data)
        flipped[at] ^= 1
        with contextlib.suppress(rim.RimRefused):
            assert rim.read(bytes(flipped)).measurements == genuine.measurements
    for size in range(0, len(data), 997):
        refused(data[:size])
