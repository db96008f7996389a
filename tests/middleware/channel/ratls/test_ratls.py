"""Certificates with evidence: of several makers, our own, and those that lie."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

import secgear
from secgear.base.tee import Evidence
from secgear.errors import ChannelError, EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation import envelope, load_policy
from secgear.middleware.attestation.checks import Outcome
from secgear.middleware.channel import Identity
from secgear.middleware.channel.ratls import (
    Form,
    carries_evidence,
    certify,
    examine_certificate,
    forms,
    read,
    reading,
)
from secgear.middleware.channel.ratls.certificate import parts, to_der
from tests.adversary.vendors.simulated import SimulatedVendor

VECTORS = Path(__file__).parents[3] / "vectors"
NOW = datetime.datetime.now(datetime.UTC)
VENDOR = SimulatedVendor()
POLICY = """
name = "certificates"
[accept]
tees = ["process"]
measurements = ["{measurement}"]
[allow]
simulated = true
test_roots = true
[freshness]
report_data = "{report_data}"
"""
LAX = load_policy(POLICY.format(measurement=(b"m" * 48).hex(), report_data="optional").encode())
STRICT = load_policy(POLICY.format(measurement=(b"m" * 48).hex(), report_data="required").encode())


def attest(report_data: bytes) -> Any:
    return VENDOR.evidence(report_data=report_data)


def der(identity: Identity) -> bytes:
    return identity.certificate.public_bytes(Encoding.DER)


def examine(certificate: bytes, policy: Any = LAX) -> Any:
    return examine_certificate(certificate, policy, at=NOW, anchors=VENDOR.anchors)


def issued(identity: Identity, oid: str, value: bytes, *more: tuple[str, bytes]) -> bytes:
    """Any extension under a certificate that signs itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made up")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(identity.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + datetime.timedelta(days=1))
    )
    for name, data in ((oid, value), *more):
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(name), data)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(identity.key, hashes.SHA256()).public_bytes(Encoding.DER)


OURS = certify(Identity.fresh("an enclave"), attest)
OTHER = Identity.fresh("other")


# --- others' -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ccc-intel-sgxsdk-cert.pem", "ccc-gramine-cert.pem"])
def test_certificates_of_other_makers_are_about_their_keys(
    name: str, vector: Callable[[str], bytes]
) -> None:
    carried = read(vector(f"ratls/{name}"))
    assert carried.form is Form.INTEROPERABLE
    assert carried.evidence.format == "intel.sgx.quote"
    assert carried.evidence.data[368:432] == carried.report_data  # of an SGX quote's report body


def test_gramines_own_form_is_read(vector: Callable[[str], bytes]) -> None:
    """The same certificate, as somebody sees it who knows the older form only."""
    found = parts(to_der(vector("ratls/ccc-gramine-cert.pem")))
    quote = found.extensions[Form.GRAMINE.value]
    assert quote[368:400] == hashlib.sha256(found.spki).digest()


def test_genuine_certificate_is_judged(vector: Callable[[str], bytes]) -> None:
    policy = load_policy(b'name = "sgx"\n[accept]\ntees = ["sgx"]\n')
    verdict = examine_certificate(vector("ratls/ccc-intel-sgxsdk-cert.pem"), policy, at=NOW)
    outcomes = {check.name: check.outcome for check in verdict.checks}
    assert outcomes["signature"] is Outcome.PASS
    assert outcomes["binding.certificate-key"] is Outcome.PASS
    assert outcomes["freshness"] is Outcome.NOT_PERFORMED
    assert not verdict.trusted


def test_form_of_the_original_is_read() -> None:
    digest = hashlib.sha256(OTHER.spki).digest()
    challenge = bytes(range(32)) + digest
    evidence = attest(challenge)
    value = json.dumps(
        {
            "challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "quote": envelope.to_json(evidence).decode(),
        }
    ).encode()
    certificate = issued(OTHER, "1.3.6.1.4.1.2011.2.8", value)
    carried = read(certificate)
    assert (carried.form, carried.report_data) == (Form.SECGEAR, challenge)
    assert examine(certificate).trusted
    stolen = issued(Identity.fresh("thief"), "1.3.6.1.4.1.2011.2.8", value)
    with pytest.raises(EvidenceMalformed, match="another key"):
        read(stolen)


def test_token_of_a_service_is_no_evidence() -> None:
    with pytest.raises(EvidenceUnsupported, match="token"):
        read(issued(OTHER, "1.3.6.1.4.1.2011.2.10", b'{"challenge":"","quote":"a.b.c"}'))


# --- our own -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_own_certificate_is_about_its_key(encoding: Encoding) -> None:
    certificate = OURS.certificate.public_bytes(encoding)
    assert carries_evidence(certificate)
    carried = read(certificate)
    assert carried.spki == OURS.spki
    assert carried.evidence.format == "secgear.process.cwt"
    verdict = examine(certificate)
    assert verdict.trusted
    assert {check.name for check in verdict.checks} >= {"binding.certificate-key", "freshness"}


def test_certificate_alone_is_never_fresh() -> None:
    """A policy must say in so many words that it does without, and most don't."""
    verdict = examine(der(OURS), STRICT)
    assert not verdict.trusted
    assert [check.name for check in verdict.reasons] == ["freshness"]


def test_quotes_of_intel_go_out_as_others_expect_them() -> None:
    from secgear.base.tee import Evidence

    def quote(report_data: bytes) -> Evidence:
        return Evidence("intel.tdx.quote", b"\4\0\2\0\x81\0\0\0" + report_data, {"ccel": b"log"})

    made = certify(OTHER, quote)
    value = parts(der(made)).extensions[Form.INTEROPERABLE.value]
    item = cbor2.loads(value)
    assert item.tag == 60000
    assert item.value[0][8:40] == hashlib.sha256(item.value[1]).digest()
    algorithm, digest = cbor2.loads(cbor2.loads(item.value[1])["pubkey-hash"])
    assert (algorithm, digest) == (1, hashlib.sha256(OTHER.spki).digest())
    assert read(der(made)).evidence.format == "intel.tdx.quote"


# --- lies ----------------------------------------------------------------------------------------


def value_of(certificate: bytes) -> bytes:
    return parts(certificate).extensions[Form.INTEROPERABLE.value]


def test_evidence_of_anothers_certificate_is_refused() -> None:
    stolen = issued(OTHER, forms.INTEROPERABLE_OID, value_of(der(OURS)))
    with pytest.raises(EvidenceMalformed, match="another key"):
        read(stolen)


def test_claims_that_the_evidence_does_not_vouch_for_are_refused() -> None:
    """The claims are about the thief's key; the evidence is genuine, and about others."""
    evidence, _ = forms.unpack(value_of(der(OURS)))
    lie = forms.pack(evidence, forms.claims_about(OTHER.spki))
    verdict = examine(issued(OTHER, forms.INTEROPERABLE_OID, lie))
    assert not verdict.trusted
    assert [check.name for check in verdict.reasons] == ["binding.certificate-key"]


def test_genuine_evidence_without_report_data_is_about_nobodys_key() -> None:
    """A document that Amazon has signed for an enclave that asked for no nonce."""
    document = (VECTORS / "nitro" / "evervault-debug-mode-attestation-doc.bin").read_bytes()
    thief = certify(Identity.fresh("a thief"), lambda _: Evidence("aws.nitro", document))
    policy = load_policy(
        b'name = "nitro"\n[accept]\ntees = ["nitro"]\nmeasurements = ["%s"]\n'
        b'[allow]\ndebug = true\n[freshness]\nreport_data = "optional"\n' % bytes(48).hex().encode()
    )
    then = datetime.datetime(2022, 10, 12, 13, 50, 7, tzinfo=datetime.UTC)
    verdict = examine_certificate(der(thief), policy, at=then)
    assert [check.name for check in verdict.reasons] == ["binding.certificate-key"]


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 80])
def test_whole_digest_has_to_be_there(size: int) -> None:
    digest = hashlib.sha256(b"claims").digest()
    expected = digest.ljust(64, b"\0")
    assert reading._is_about(expected, expected.ljust(80, b"\0")[:size]) is (size >= 32)
    assert not reading._is_about(expected, bytes(size))
    whole = digest * 2  # as in the original secGear's form
    assert reading._is_about(whole, whole.ljust(80, b"\0")[:size]) is (size >= 64)


def test_weaker_form_is_no_way_around_a_broken_one() -> None:
    stolen = value_of(der(OURS))
    both = issued(
        OTHER, forms.INTEROPERABLE_OID, stolen, ("1.2.840.113741.1.13.1", b"\3\0\2\0" + bytes(600))
    )
    with pytest.raises(EvidenceMalformed, match="another key"):
        read(both)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"pubkey-hash": "text"},
        {"pubkey-hash": b"\x82\x01\x41\0", 1: b""},
        {"pubkey-hash": b"\x82\x01\x41\0", "more": 1},
        {"pubkey-hash": b"\x82\x01\x41\0"},
        {"pubkey-hash": b"\x82\x02\x41\0"},
        {"pubkey-hash": b"\x81\x01"},
        {"pubkey-hash": b"\x82\x01\x41\0\0"},
        {"pubkey-hash": bytes(5000)},
        [],
    ],
)
def test_claims_that_are_none_are_refused(claims: Any) -> None:
    value = forms.pack(attest(bytes(64)), cbor2.dumps(claims))
    with pytest.raises(EvidenceRefused):
        read(issued(OTHER, forms.INTEROPERABLE_OID, value))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        cbor2.dumps([b"quote", b"claims"]),
        cbor2.dumps(cbor2.CBORTag(60000, [b"quote"])),
        cbor2.dumps(cbor2.CBORTag(60000, b"quote")),
        cbor2.dumps(cbor2.CBORTag(60002, [b"report", b"claims"])),
        cbor2.dumps(cbor2.CBORTag(forms.ENVELOPE, [b"no envelope", b"claims"])),
        cbor2.dumps(cbor2.CBORTag(60000, [b"", b""])) + b"\0",
    ],
)
def test_extensions_that_are_none_are_refused(value: bytes) -> None:
    with pytest.raises(EvidenceRefused):
        read(issued(OTHER, forms.INTEROPERABLE_OID, value))


def test_certificates_without_evidence_are_named_as_such() -> None:
    plain = der(OTHER)
    assert not carries_evidence(plain)
    with pytest.raises(EvidenceUnsupported, match="without evidence"):
        read(plain)


def test_every_flipped_byte_is_refused_or_changes_nothing_that_counts() -> None:
    certificate = bytearray(der(OURS))
    whole = read(bytes(certificate))
    for at in range(0, len(certificate), 3):
        certificate[at] ^= 0x11
        try:
            changed = read(bytes(certificate))
            verdict = examine(bytes(certificate))
        except EvidenceRefused:
            pass
        else:
            same = (changed.spki, changed.report_data) == (whole.spki, whole.report_data)
            assert same or not verdict.trusted
        certificate[at] ^= 0x11


def test_every_cut_is_refused() -> None:
    certificate = der(OURS)
    for size in range(0, len(certificate) - 1, 7):
        with pytest.raises(EvidenceRefused):
            read(certificate[:size])
    with pytest.raises(EvidenceRefused):
        read(certificate + b"\0")


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_such(data: bytes) -> None:
    for text in (data, b"-----BEGIN CERTIFICATE-----\n" + data):
        assert not carries_evidence(text)
        with pytest.raises(EvidenceRefused):
            read(text)


@pytest.mark.parametrize(
    "pem",
    [
        b"-----BEGIN CERTIFICATE-----\nAAAA",
        b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" * 2,
        bytes(70_000),
        b"\x30\x84\x7f\xff\xff\xff" + bytes(10),
    ],
)
def test_files_that_are_no_certificate_are_refused(pem: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        read(pem)


# --- no way into a session -----------------------------------------------------------------------


@pytest.mark.parametrize("says", ["nothing", "accept", "the certificate's evidence"])
def test_certificate_alone_opens_no_session(says: str) -> None:
    """A server with the enclave's key and certificate, and no enclave behind it."""
    import threading

    from secgear.middleware.channel.binding import Role
    from secgear.middleware.channel.core import Core, Present
    from secgear.middleware.channel.messages import ACCEPTED
    from secgear.middleware.channel.tls import Parameters

    near, far = socket.socketpair()
    core = Core(Role.SERVER, Parameters(), OURS)
    carried = read(der(OURS)).evidence

    def serve() -> None:
        with far:
            while data := far.recv(1 << 16):
                try:
                    for event in core.receive(data):
                        if isinstance(event, Present) and says == "accept":
                            core._tls.write(ACCEPTED)
                        elif isinstance(event, Present) and says != "nothing":
                            core.present(carried)
                except ChannelError:
                    return
                far.sendall(core.outgoing())
                if says == "nothing" and core._tls.established:
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with pytest.raises(secgear.errors.SecGearError) as caught:
        secgear.connect(near, LAX, anchors=VENDOR.anchors, timeout=10)
    thread.join(10)
    wanted = "attestation.untrusted" if "evidence" in says else "channel.handshake"
    assert caught.value.code == wanted
