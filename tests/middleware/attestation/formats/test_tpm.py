"""TPM quotes: what is claimed is what the quote covers, under a key that is provisioned."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.formats.tpm import pcrs, structures
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.pki import NOW, Authority, ec_key
from tests.adversary.vendors.tpm import SHA256, VALUES, FakeTpm, event_log, extended, selection

TPM = FakeTpm()
RSA = rsa.generate_private_key(65537, 2048)
EVENTS = [(0, b"firmware"), (4, b"loader"), (4, b"kernel"), (7, b"secure boot")]


def judge(evidence: Evidence, anchors: Anchors | None = None, **collateral: Any) -> Claims:
    return verify(
        evidence, at=NOW, anchors=anchors or TPM.anchors, collateral=Collateral(**collateral)
    )


def refused(check: str, evidence: Evidence, *args: Any, **kwargs: Any) -> EvidenceRefused:
    with pytest.raises(EvidenceRefused) as caught:
        judge(evidence, *args, **kwargs)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return caught.value


def over(values: dict[int, bytes]) -> bytes:
    return hashlib.sha256(b"".join(values[index] for index in sorted(values))).digest()


def test_a_quote_of_a_provisioned_key_passes() -> None:
    claims = judge(TPM.evidence())
    assert claims.tee == "tpm"
    assert not claims.simulated
    assert not claims.root.builtin
    assert claims.report_data == b"r" * 32
    assert claims.measurements["pcr7"] == VALUES[7]
    selected = b"sha256\0" + bytes.fromhex("00ffffff")
    assert (
        claims.measurements["launch"]
        == hashlib.sha256(b"secgear tpm launch v1\0" + selected + over(VALUES)).digest()
    )
    assert len(claims.measurements) == 25
    assert claims.evidence_time is None
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}


@pytest.mark.parametrize("pss", [False, True])
def test_rsa_keys_sign_in_both_ways(pss: bool) -> None:
    tpm = FakeTpm(RSA)
    attest = tpm.attest()
    evidence = Evidence("tpm.quote", attest, {"signature": tpm.sign(attest, pss=pss)})
    assert [check.name for check in judge(evidence, tpm.anchors).not_checked] == ["binding.pcrs"]


def test_a_quote_of_another_key_is_refused() -> None:
    other = FakeTpm()
    refused("root", TPM.evidence(), other.anchors)
    refused("root", TPM.evidence(), Anchors())
    for attached, check in ((TPM, "signature"), (other, "root")):
        ak = attached.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        refused(check, other.evidence(attachments={"ak": ak}))


def test_launch_says_which_registers_were_quoted() -> None:
    """The system may reset PCR 16, and bring it to what PCR 7 had on a good machine."""
    launches = {
        judge(
            TPM.evidence(
                values=None,
                selection=selection([(SHA256, (index,))]),
                digest=over({index: VALUES[7]}),
            )
        ).measurements["launch"]
        for index in (7, 16)
    }
    assert len(launches) == 2


AK = x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.3")])
TLS = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
ENCIPHERS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=True,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@pytest.mark.parametrize(
    "extensions",
    [
        [],
        [(TLS, True)],
        [(AK, False), (x509.BasicConstraints(ca=True, path_length=None), True)],
        [(AK, False), (ENCIPHERS, True)],
    ],
)
def test_other_certificates_of_the_maker_are_no_attestation_keys(
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> None:
    maker = Authority("maker of TPMs")
    certificate = maker.issue("other", TPM.key.public_key(), extensions=extensions)
    refused(
        "binding.purpose",
        TPM.evidence(attachments={"ak": certificate.der}),
        Anchors((maker.anchor("maker", "tpm"),)),
        crls=(maker.revoke(),),
    )


def test_a_certified_key_needs_no_provisioning() -> None:
    maker = Authority("maker of TPMs")
    certificate = maker.issue("ak", TPM.key.public_key(), extensions=[(AK, False)])
    anchors = Anchors((maker.anchor("maker", "tpm"),))
    evidence = TPM.evidence(attachments={"ak": to_pem(certificate)})
    claims = judge(evidence, anchors, crls=(maker.revoke(),))
    assert claims.root.name == "maker"
    refused("revocation", evidence, anchors, crls=(maker.revoke(certificate),))
    refused("certificate-chain", evidence)
    wrong = maker.issue("ak", ec_key(ec.SECP256R1()).public_key(), extensions=[(AK, False)])
    refused("signature", TPM.evidence(attachments={"ak": wrong.der}), anchors)


def test_values_that_were_not_quoted_are_no_claims() -> None:
    refused("binding.pcrs", TPM.evidence(values=VALUES | {7: b"\xff" * 32}))
    refused("binding.pcrs", TPM.evidence(values={0: VALUES[0]}))
    few = {index: VALUES[index] for index in (0, 7)}
    claims = judge(
        TPM.evidence(selection=selection([(SHA256, (0, 7))]), digest=over(few), values=VALUES)
    )
    assert set(claims.measurements) == {"launch", "pcr0", "pcr7"}  # the rest was given, not quoted


def test_without_values_only_the_digest_is_claimed() -> None:
    claims = judge(TPM.evidence(values=None))
    assert set(claims.measurements) == {"launch"}
    assert [check.name for check in claims.not_checked] == ["binding.pcrs"]


def test_a_log_whose_replay_was_quoted_passes() -> None:
    values = extended(EVENTS)
    log = {"eventlog": event_log(EVENTS)}
    for attached in (values, None):
        claims = judge(TPM.evidence(values=attached, digest=over(values), attachments=log))
        assert claims.measurements["pcr4"] == values[4]
        assert "event-log" in {check.name for check in claims.checks}


@pytest.mark.parametrize(
    "events",
    [
        [EVENTS[0], *EVENTS[2:]],
        EVENTS[::-1],
        [*EVENTS, (7, b"one more")],
        [(0, b"firmware"), (4, b"another loader"), (4, b"kernel"), (7, b"secure boot")],
    ],
    ids=["missing", "reordered", "added", "changed"],
)
def test_a_lying_log_is_refused(events: list[tuple[int, bytes]]) -> None:
    values = extended(EVENTS)
    lying = {"eventlog": event_log(events)}
    refused("event-log", TPM.evidence(values=values, digest=over(values), attachments=lying))
    refused("binding.pcrs", TPM.evidence(values=None, digest=over(values), attachments=lying))


def test_a_log_about_nothing_quoted_is_refused() -> None:
    few = {0: VALUES[0]}
    evidence = TPM.evidence(
        selection=selection([(SHA256, (0,))]),
        digest=over(few),
        attachments={"eventlog": event_log([(5, b"x")])},
    )
    refused("event-log", evidence)
    refused("event-log", TPM.evidence(attachments={"eventlog": b"rubbish"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": 0},
        {"magic": 0x474354FF},
        {"kind": 0x8017},  # certify
        {"kind": 0x801A},  # creation
        {"safe": 2},
        {"tail": b"\0"},
        {"nonce": bytes(67)},
        {"digest": bytes(65)},
        {"selection": struct.pack(">I", 9)},
        {"selection": struct.pack(">I", 0xFFFFFFFF)},
        {"selection": struct.pack(">IHB", 1, SHA256, 5) + bytes(5)},
        {"selection": struct.pack(">IHB", 1, SHA256, 255)},
        {"selection": struct.pack(">IHB", 1, SHA256, 4) + b"\0\0\0\1"},
        {"selection": selection([(SHA256, (0,)), (SHA256, (1,))])},
    ],
)
def test_other_structures_are_refused(changes: dict[str, Any]) -> None:
    refused("format", TPM.evidence(**changes))


def test_sha_1_is_refused_everywhere() -> None:
    with pytest.raises(EvidenceUnsupported):
        judge(TPM.evidence(selection=selection([(0x0004, (0,))])))
    attest = TPM.attest()
    weak = struct.pack(">HH", 0x0018, 0x0004) + TPM.sign(attest)[4:]
    with pytest.raises(EvidenceUnsupported):
        judge(Evidence("tpm.quote", attest, {"signature": weak}))
    empty = selection([(0x0004, ()), (SHA256, range(24))])  # a bank without PCRs says nothing
    judge(TPM.evidence(selection=empty))


@pytest.mark.parametrize("scheme", [0, 0x0010, 0x0015, 0x001A])
def test_other_schemes_are_refused(scheme: int) -> None:
    attest = TPM.attest()
    data = struct.pack(">H", scheme) + TPM.sign(attest)[2:]
    with pytest.raises(EvidenceUnsupported):
        judge(Evidence("tpm.quote", attest, {"signature": data}))


def test_scheme_and_key_must_fit() -> None:
    attest = TPM.attest()
    rsa_signature = FakeTpm(RSA).sign(attest)
    refused("root", Evidence("tpm.quote", attest, {"signature": rsa_signature}))
    refused("format", Evidence("tpm.quote", attest))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"sha256": {"24": "00"}}',
        b'{"sha256": {"-1": "00"}}',
        b'{"sha256": {"0": "00"}}',
        b'{"sha1": {}}',
        b'{"sha256": {"0": "zz"}}',
        bytes(pcrs.MAX_SIZE + 1),
    ],
)
def test_malformed_values_are_refused(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        pcrs.parse_values(data)


@given(
    st.dictionaries(
        st.sampled_from(["sha256"]),
        st.dictionaries(st.integers(0, 23), st.binary(min_size=32, max_size=32)),
    )
)
def test_values_survive_their_form(values: dict[str, dict[int, bytes]]) -> None:
    assert pcrs.parse_values(pcrs.write_values(values)) == values


def public_area(**changes: Any) -> bytes:
    numbers = TPM.key.public_key().public_numbers()
    fields: dict[str, Any] = {
        "kind": 0x0023,
        "attributes": 0x00050072,
        "symmetric": 0x0010,
        "curve": 0x0003,
        "x": numbers.x.to_bytes(32, "big"),
        "y": numbers.y.to_bytes(32, "big"),
        "tail": b"",
    } | changes
    head = struct.pack(">HHIH", fields["kind"], 0x000B, fields["attributes"], 0)
    middle = struct.pack(">HHHHH", fields["symmetric"], 0x0018, 0x000B, fields["curve"], 0x0010)
    x, y = (struct.pack(">H", len(fields[name])) + fields[name] for name in ("x", "y"))
    return head + middle + x + y + fields["tail"]


def test_a_public_area_gives_its_key() -> None:
    assert structures.parse_public(public_area()) == TPM.key.public_key()
    judge(TPM.evidence(attachments={"ak": public_area()}))


@pytest.mark.parametrize(
    "changes",
    [
        {"attributes": 0x00040072},  # not restricted: would sign anything that looks like a quote
        {"attributes": 0x00050070},  # may leave its TPM
        {"symmetric": 0x0006},
        {"curve": 0x0020},
        {"kind": 0x0008},
        {"x": bytes(32)},
        {"tail": b"\0"},
    ],
)
def test_other_keys_are_refused(changes: dict[str, Any]) -> None:
    refused("format", TPM.evidence(attachments={"ak": public_area(**changes)}))


def test_attached_keys_of_other_kinds_are_refused() -> None:
    pem = (
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for ak in (pem, b"-----BEGIN PUBLIC KEY-----\n", b"\x30\x03", b""):
        refused("format", TPM.evidence(attachments={"ak": ak}))


def test_the_simulated_machines_quote_is_simulated() -> None:
    platform = Authority("simulated root")
    certificate = platform.issue("ak", TPM.key.public_key())
    evidence = TPM.evidence(kind="secgear.vm.tpm", attachments={"ak": certificate.der})
    anchors = Anchors((platform.anchor("mine", "simulated"),))
    claims = judge(evidence, anchors)
    assert (claims.tee, claims.simulated, claims.root.builtin) == ("vm", True, False)
    refused("certificate-chain", evidence, Anchors((platform.anchor("mine", "tpm"),)))
    refused("format", TPM.evidence(kind="secgear.vm.tpm"), anchors)
    forged = FakeTpm().evidence(kind="secgear.vm.tpm", attachments={"ak": certificate.der})
    refused("signature", forged, anchors)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TPM.attest()) - 1), st.integers(1, 255))
def test_no_changed_quote_is_accepted(position: int, change: int) -> None:
    data = bytearray(_EVIDENCE.data)
    data[position] ^= change
    with pytest.raises(EvidenceRefused):
        judge(msgspec.structs.replace(_EVIDENCE, data=bytes(data)))


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200) | st.integers(0, 300).map(lambda n: _EVIDENCE.data[:n]),
    st.binary(max_size=200),
    st.binary(max_size=100),
)
def test_rubbish_is_refused(data: bytes, signature: bytes, ak: bytes) -> None:
    if data == _EVIDENCE.data:
        return
    for attachments in (
        {"signature": _EVIDENCE.attachments["signature"]},
        {"signature": signature},
    ):
        for more in ({}, {"ak": ak}, {"pcrs": ak}, {"eventlog": ak}):
            with pytest.raises(EvidenceRefused):
                judge(Evidence("tpm.quote", data, attachments | more))


_EVIDENCE = TPM.evidence()
