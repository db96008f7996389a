"""AWS Nitro documents: what is accepted, and by which check each forgery falls."""

from __future__ import annotations

import base64
import contextlib
import datetime
from collections.abc import Callable

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import DNSName, SubjectAlternativeName
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.certificates import load_certificate, load_pem
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.formats import nitro
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.aws import ES256, ES512, HOUR, PCRS, SecurityModule, milliseconds
from tests.adversary.vendors.pki import NOW, Authority, ec_key

MODULE = SecurityModule()
DOCUMENT = MODULE.document()
DEBUG_AT = datetime.datetime(2022, 10, 12, 13, 50, 6, tzinfo=datetime.UTC)
VALID_AT = datetime.datetime(2023, 9, 18, 15, 3, 30, tzinfo=datetime.UTC)


def judge(
    data: bytes = DOCUMENT, *, anchors: Anchors = MODULE.anchors, at: datetime.datetime = NOW
) -> Claims:
    return verify(Evidence("aws.nitro", data), at=at, anchors=anchors)


def refused(
    check: str,
    data: bytes = DOCUMENT,
    *,
    anchors: Anchors = MODULE.anchors,
    at: datetime.datetime = NOW,
    kind: type[EvidenceRefused] = EvidenceRefused,
) -> EvidenceRefused:
    with pytest.raises(kind) as caught:
        judge(data, anchors=anchors, at=at)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return caught.value


def malformed(data: bytes) -> str:
    return str(refused("format", data, kind=EvidenceMalformed))


def test_a_genuine_document_passes_every_check() -> None:
    claims = judge()
    assert [check.name for check in claims.checks] == [
        "format",
        "certificate-chain",
        "root",
        "validity",
        "signature",
        "binding.cabundle",
        "binding.timestamp",
    ]
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}
    assert claims.tee == "nitro"
    assert not claims.debug
    assert not claims.simulated
    assert claims.root.name == "fake-aws"
    assert not claims.root.builtin
    assert claims.evidence_time == NOW
    assert claims.platform == {"module_id": "i-0123456789abcdef0-enc0123456789abcdef"}


def test_measurements_are_the_registers_that_are_not_zero() -> None:
    claims = judge()
    assert claims.measurements == {"launch": PCRS[0]} | {
        f"pcr{index}": PCRS[index] for index in (0, 1, 2, 3, 4, 8)
    }
    assert claims.signer == PCRS[8]


def test_an_image_that_nobody_signed_has_no_signer() -> None:
    assert judge(MODULE.document(pcrs=PCRS | {8: bytes(48)})).signer is None
    assert judge(MODULE.document(pcrs={0: PCRS[0]})).signer is None


def test_debug_mode_shows_in_the_claims() -> None:
    zeros = {index: bytes(48) for index in range(16)}
    claims = judge(MODULE.document(pcrs=zeros))
    assert claims.debug
    assert claims.measurements == {"launch": bytes(48)}


def test_the_report_data_is_the_nonce_and_nothing_else() -> None:
    document = MODULE.document(nonce=None, user_data=b"\1user", public_key=b"\2key")
    claims = judge(document)
    assert claims.report_data == b""
    assert claims.details == {"user_data": b"\1user".hex(), "public_key": b"\2key".hex()}
    assert judge(MODULE.document(nonce=b"n", user_data=b"u")).report_data == b"n"


@pytest.mark.parametrize("absent", ["public_key", "user_data", "nonce"])
def test_optional_fields_may_be_absent(absent: str) -> None:
    judge(MODULE.document(**{absent: ...}))


def test_the_tag_of_cose_may_be_there() -> None:
    judge(MODULE.document(tag=18))
    assert "tag 98" in malformed(MODULE.document(tag=98))


def test_another_root_of_the_same_name_is_refused() -> None:
    refused("certificate-chain", anchors=SecurityModule().anchors)
    refused("certificate-chain", anchors=Anchors())


def test_a_root_pinned_for_another_vendor_is_refused() -> None:
    refused("certificate-chain", anchors=Anchors((MODULE.root.anchor("x", "nvidia"),)))


def test_an_old_document_needs_the_time_it_is_about() -> None:
    refusal = refused("validity", at=NOW + 3 * HOUR)
    last = refusal.checks[-1]
    assert isinstance(last, Check)
    assert "at=" in last.fix
    refused("validity", at=NOW - 2 * HOUR)


@pytest.mark.parametrize("offset", [-2 * HOUR, 3 * HOUR])
def test_a_time_outside_the_leafs_validity_is_refused(offset: datetime.timedelta) -> None:
    refused("binding.timestamp", MODULE.document(timestamp=milliseconds(NOW + offset)))


def test_another_key_than_the_leafs_is_refused() -> None:
    refused("signature", MODULE.document(key=ec_key()))
    refused("signature", MODULE.document(key=MODULE.instance.key))


def test_a_leaf_with_an_rsa_key_or_another_curve_is_refused() -> None:
    weak = rsa.generate_private_key(65537, 2048)
    leaf = MODULE.instance.issue("rsa", weak.public_key())
    refused("signature", MODULE.document(certificate=leaf.der))
    p256 = ec_key(ec.SECP256R1())
    leaf = MODULE.instance.issue("p256", p256.public_key())
    refused("signature", MODULE.document(certificate=leaf.der, key=p256))


@pytest.mark.parametrize("algorithm", [ES256, ES512, -37, -8, 5, 0, "none", None])
def test_other_algorithms_are_refused(algorithm: object) -> None:
    document = MODULE.document(cose={"algorithm": algorithm})
    refused("format", document, kind=EvidenceUnsupported)


@pytest.mark.parametrize(
    "cose",
    [
        {"protected": {}, "unprotected": {1: -35}},
        {"unprotected": {4: b"kid"}},
        {"protected": {1: -35, 4: b"kid"}},
        {"protected": {"1": -35}},
    ],
)
def test_headers_that_aws_does_not_write_are_refused(cose: dict[str, object]) -> None:
    refused("format", MODULE.document(cose=cose), kind=EvidenceUnsupported)


@pytest.mark.parametrize("cose", [{"aad": b"other"}, {"context": "Signature"}, {"context": "MAC0"}])
def test_signatures_over_something_else_are_refused(cose: dict[str, object]) -> None:
    refused("signature", MODULE.document(cose=cose))


def test_a_payload_of_another_document_is_refused() -> None:
    header, unprotected, _, signature = cbor2.loads(DOCUMENT)
    other = cbor2.dumps(MODULE.fields(nonce=b"other"))
    refused("signature", cbor2.dumps([header, unprotected, other, signature]))


def test_a_bundle_that_is_not_the_chain_is_refused() -> None:
    refused("binding.cabundle", MODULE.document(cabundle=MODULE.bundle[::-1]))
    refused("binding.cabundle", MODULE.document(cabundle=MODULE.bundle[1:]))
    stranger = Authority("stranger").certificate.der
    refused("binding.cabundle", MODULE.document(cabundle=[*MODULE.bundle, stranger]))
    refused("binding.cabundle", MODULE.document(cabundle=[stranger, *MODULE.bundle[1:]]))


def test_a_bundle_with_a_gap_is_refused() -> None:
    gap = [MODULE.bundle[0], *MODULE.bundle[2:]]
    refused("certificate-chain", MODULE.document(cabundle=gap))


def test_a_leaf_that_issues_another_leaf_is_refused() -> None:
    """An enclave's certificate is no authority, whatever it signs."""
    rogue = Authority("fake rogue", issuer=MODULE.instance, ca=False)
    key = ec_key()
    leaf = rogue.issue("victim", key.public_key())
    bundle = [*MODULE.bundle, rogue.certificate.der]
    document = MODULE.document(certificate=leaf.der, cabundle=bundle, key=key)
    refused("certificate-chain", document)


def test_an_expired_intermediate_is_refused() -> None:
    module = SecurityModule()
    module.instance = Authority("fake old", issuer=module.zone, end=NOW - HOUR)
    module.leaf = module.instance.issue("leaf", module.leaf_key.public_key())
    module.bundle[3] = module.instance.certificate.der
    refused("validity", module.document(), anchors=module.anchors)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("module_id", ""),
        ("module_id", 7),
        ("module_id", "x" * 257),
        ("module_id", ...),
        ("timestamp", 0),
        ("timestamp", -1),
        ("timestamp", True),
        ("timestamp", 1.5),
        ("timestamp", 1 << 63),
        ("timestamp", 1 << 100),
        ("pcrs", {}),
        ("pcrs", None),
        ("pcrs", [bytes(48)]),
        ("pcrs", {index: bytes(48) for index in range(33)}),
        ("pcrs", {0: bytes(48), 32: bytes(48)}),
        ("pcrs", {0: bytes(48), -1: bytes(48)}),
        ("pcrs", {0: bytes(48), "1": bytes(48)}),
        ("pcrs", {False: bytes(48)}),
        ("pcrs", {0: bytes(47)}),
        ("pcrs", {0: b""}),
        ("pcrs", {0: "0" * 48}),
        ("pcrs", {1: bytes(48)}),
        ("certificate", b""),
        ("certificate", None),
        ("certificate", bytes(1025)),
        ("certificate", b"no certificate"),
        ("cabundle", []),
        ("cabundle", {}),
        ("cabundle", [b""]),
        ("cabundle", [None]),
        ("cabundle", [b"x"] * 9),
        ("public_key", b""),
        ("public_key", bytes(1025)),
        ("user_data", bytes(513)),
        ("user_data", "text"),
        ("nonce", bytes(513)),
        ("nonce", 5),
        ("extra", 1),
    ],
)
def test_fields_out_of_aws_ranges_are_refused(field: str, value: object) -> None:
    malformed(MODULE.document(**{field: value}))


@pytest.mark.parametrize("digest", ["SHA256", "sha384", 384, None])
def test_another_register_digest_is_not_supported(digest: object) -> None:
    refused("format", MODULE.document(digest=digest), kind=EvidenceUnsupported)


def test_a_field_twice_is_refused() -> None:
    once = cbor2.dumps(MODULE.fields())
    assert once[0] == 0xA9
    twice = bytes([0xAA]) + once[1:] + cbor2.dumps("nonce") + cbor2.dumps(b"second")
    assert "Duplicate map key" in malformed(MODULE.document(payload=twice))


@pytest.mark.parametrize("payload", [b"", b"\xa0", b"\x80", b"\xf6", b"\xff", DOCUMENT])
def test_payloads_that_are_no_document_are_refused(payload: bytes) -> None:
    malformed(MODULE.document(payload=payload))


def test_an_oversized_document_is_refused_unread() -> None:
    assert "at most" in malformed(bytes(nitro.MAX_SIZE + 1))


def test_a_framed_document_is_refused_unless_it_is_unwrapped() -> None:
    framed = b"\0\1\2\3" + DOCUMENT
    malformed(framed)
    judge(nitro.unwrap(framed))
    for broken in (framed + b"\0", framed[1:], b"", b"\0\0\0\0"):
        with pytest.raises(EvidenceMalformed):
            nitro.unwrap(broken)


def test_no_flipped_bit_is_accepted() -> None:
    for at in range(0, len(DOCUMENT), 5):
        with pytest.raises(EvidenceRefused):
            judge(DOCUMENT[:at] + bytes([DOCUMENT[at] ^ (1 << at % 8)]) + DOCUMENT[at + 1 :])


@given(st.binary(max_size=300))
def test_random_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        nitro.parse(data)


@settings(max_examples=50)
@given(st.integers(0, len(DOCUMENT) - 1), st.binary(max_size=8))
def test_spliced_documents_are_refused(at: int, patch: bytes) -> None:
    forged = DOCUMENT[:at] + patch + DOCUMENT[at + len(patch) :]
    if forged != DOCUMENT:
        with pytest.raises(EvidenceRefused):
            judge(forged)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.binary(max_size=60)
    | st.text(max_size=5)
    | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers(-1, 40) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=100)
@given(st.sampled_from(sorted(MODULE.fields())), _VALUES)
def test_any_value_in_any_field_is_read_or_refused(field: str, value: object) -> None:
    with contextlib.suppress(EvidenceRefused):
        judge(MODULE.document(**{field: value}))


Vector = Callable[[str], bytes]


def test_vector_of_2023_verifies_and_shows_debug_mode(vector: Vector) -> None:
    data = base64.b64decode(vector("nitro/evervault-valid-attestation-doc.b64"))
    claims = verify(Evidence("aws.nitro", data), at=VALID_AT)
    assert claims.root.name == "aws-nitro-g1"
    assert claims.root.builtin
    assert claims.debug
    assert len(claims.report_data) == 256
    assert claims.evidence_time is not None
    assert claims.evidence_time.replace(microsecond=0) == VALID_AT
    with pytest.raises(EvidenceRefused, match=r"^validity"):
        verify(Evidence("aws.nitro", data), at=NOW)
    with pytest.raises(EvidenceRefused, match=r"^certificate-chain"):
        verify(Evidence("aws.nitro", data), at=VALID_AT, anchors=MODULE.anchors)


def test_vector_in_debug_mode_verifies_and_says_so(vector: Vector) -> None:
    data = vector("nitro/evervault-debug-mode-attestation-doc.bin")
    claims = verify(Evidence("aws.nitro", data), at=DEBUG_AT)
    assert claims.debug
    assert claims.report_data == b""
    assert bytes.fromhex(claims.details["user_data"]) == b"hello, world!"
    assert bytes.fromhex(claims.details["public_key"]) == b"my super secret key"


@pytest.mark.parametrize(
    ("name", "debug"),
    [("evervault-cert-with-attdoc.der", False), ("evervault-debug-cert-with-attdoc.pem", True)],
)
def test_documents_inside_certificates_in_the_wild_verify(
    vector: Vector, name: str, debug: bool
) -> None:
    """A TLS certificate of 2023 carries the document in hexadecimal, as a DNS name."""
    data = vector(f"nitro/{name}")
    certificate = load_pem(data)[0] if debug else load_certificate(data)
    names = certificate.parsed.extensions.get_extension_for_class(SubjectAlternativeName).value
    text = max(names.get_values_for_type(DNSName), key=len)
    document = bytes.fromhex(text.partition(".")[0])
    made = nitro.parse(document).time
    claims = verify(Evidence("aws.nitro", document), at=made)
    assert claims.debug is debug
    assert abs(made - certificate.parsed.not_valid_before_utc) < HOUR
    with pytest.raises(EvidenceRefused, match=r"^validity"):
        verify(Evidence("aws.nitro", document), at=made + 4 * HOUR)


def test_no_mutation_of_a_vector_is_accepted(vector: Vector) -> None:
    data = vector("nitro/evervault-debug-mode-attestation-doc.bin")
    for at in range(0, len(data), 7):
        for forged in (data[:at], data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]):
            with pytest.raises(EvidenceRefused):
                verify(Evidence("aws.nitro", forged), at=DEBUG_AT)
