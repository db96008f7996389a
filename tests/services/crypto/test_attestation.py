"""Certificates of keys: what they say, who can have made them, and every way to forge one."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from secgear.errors import (
    EvidenceMalformed,
    EvidenceRefused,
    EvidenceUnsupported,
    GuestError,
    Untrusted,
)
from secgear.middleware.attestation import cose
from secgear.middleware.attestation.verdict import Verdict
from secgear.middleware.channel import Identity
from secgear.middleware.channel.ratls import certify, forms
from secgear.services.crypto import pkix
from secgear.services.crypto.algorithms import sm2
from secgear.services.crypto.attestation import KeyAttestation, ModuleAttestation, verify_key
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.statement import KEY_STATEMENT, KeyStatement, ModuleStatement
from secgear.services.crypto.token.attesting import Attestor
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import MemoryStore, connect
from tests.services.crypto.attested import (
    LAX,
    ROOM,
    STRICT,
    VENDOR,
    VendorGuest,
    attested_module,
    now,
    policy,
    verified,
)
from tests.services.crypto.conftest import P256, User, refusal

NONCE = b"verifier's nonce"
ED25519 = bytes.fromhex("06032b6570")
X25519 = bytes.fromhex("06032b656e")


@pytest.fixture
def module(store: MemoryStore) -> Module:
    return attested_module(store)


@pytest.fixture
def user(module: Module) -> User:
    return User(connect(module))


def attest(user: User, key: int, nonce: bytes = b"") -> bytes:
    data: bytes = user.call("S_AttestKey", key, nonce, ROOM)
    return data


def said(data: bytes, **more: Any) -> KeyStatement:
    found = verified(data, **more)
    assert isinstance(found, KeyAttestation)
    return found.statement


# --- what is said --------------------------------------------------------------------------------


PAIRS: dict[str, tuple[Mech, dict[str, Any], KeyType]] = {
    "rsa": (Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 2048}, KeyType.RSA),
    "p256": (Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256}, KeyType.EC),
    "ed25519": (Mech.EC_EDWARDS_KEY_PAIR_GEN, {"EC_PARAMS": ED25519}, KeyType.EC_EDWARDS),
    "x25519": (Mech.EC_MONTGOMERY_KEY_PAIR_GEN, {"EC_PARAMS": X25519}, KeyType.EC_MONTGOMERY),
    "ml-dsa": (Mech.ML_DSA_KEY_PAIR_GEN, {"PARAMETER_SET": 1}, KeyType.ML_DSA),
    "ml-kem": (Mech.ML_KEM_KEY_PAIR_GEN, {"PARAMETER_SET": 2}, KeyType.ML_KEM),
    "sm2": (Mech.SM2_KEY_PAIR_GEN, {}, KeyType.SM2),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_generated_pair_has_a_certificate_of_its_public_key(user: User, kind: str) -> None:
    mech, public, key_type = PAIRS[kind]
    one, other = user.pair(mech, public, {"LABEL": b"signer", "ID": b"\1", "TOKEN": True})
    found = verified(attest(user, other))
    assert isinstance(found, KeyAttestation)
    assert found.public_key_info == user.get(one, Attr.PUBLIC_KEY_INFO)
    statement = found.require("always_sensitive", "never_extractable", "local").statement
    assert statement.type == key_type
    assert statement.class_ == ObjectClass.PRIVATE_KEY
    assert (statement.label, statement.id, statement.token) == (b"signer", b"\1", "first")
    assert (statement.origin, statement.generated_by) == ("generated", mech)
    assert "extractable" not in statement.flags
    assert found.claims.measurements["launch"] == b"m" * 48
    assert found.to_dict()["type"] == key_type.name


def test_of_a_secret_key_there_is_a_signed_statement(user: User) -> None:
    key = user.aes(LABEL=b"secret", ALLOWED_MECHANISMS=(int(Mech.AES_GCM),), EXTRACTABLE=True)
    found = verified(attest(user, key))
    assert isinstance(found, KeyAttestation)
    assert found.public_key_info is None
    assert found.public_key is None
    statement = found.statement
    assert statement.class_ == ObjectClass.SECRET_KEY
    assert statement.mechanisms == (int(Mech.AES_GCM),)
    assert {"encrypt", "decrypt", "extractable", "sensitive"} <= set(statement.flags)
    assert "never_extractable" not in statement.flags
    assert statement.size == 32
    assert statement.check_value == user.get(key, Attr.CHECK_VALUE)


def test_a_key_that_came_from_elsewhere_says_so(user: User) -> None:
    key = user.secret(b"k" * 32, SENSITIVE=True)
    statement = said(attest(user, key))
    assert statement.origin == "other"
    assert not {"local", "always_sensitive", "never_extractable"} & set(statement.flags)
    # Three bytes of a digest would help to guess what somebody has chosen.
    assert statement.check_value == b""
    with pytest.raises(EvidenceRefused, match="origin is other"):
        verify_key(attest(user, key), LAX, at=now(), anchors=VENDOR.anchors).require(
            origin="generated"
        )


def test_the_module_says_which_one_it_is(module: Module, user: User) -> None:
    data = user.caller.one("S_AttestModule", NONCE, ROOM)
    found = verified(data, STRICT, nonce=NONCE)
    assert isinstance(found, ModuleAttestation)
    assert found.audit_key == module.vault.audit_key
    assert found.statement.audit_seq == module.vault.head.audit_seq
    assert [token.label for token in found.statement.tokens] == ["first", ""]
    assert found.to_dict()["tokens"][1]["initialised"] is False
    with pytest.raises(EvidenceRefused, match="a module's"):
        verify_key(data, STRICT, at=now(), nonce=NONCE, anchors=VENDOR.anchors)


def test_what_is_required_and_not_said_is_refused(user: User) -> None:
    found = verified(attest(user, user.ec()[1]))
    assert isinstance(found, KeyAttestation)
    module, serial = found.statement.module, found.statement.serial
    assert found.require("sign", without=("extractable",), module=module, serial=serial) is found
    for wrong in (
        {"without": ("sign",)}, {"module": bytes(32)}, {"serial": "0"}, {"origin": "envelope"},
    ):  # fmt: skip
        with pytest.raises(EvidenceRefused):
            found.require(**wrong)
    with pytest.raises(EvidenceRefused, match="is not decrypt"):
        found.require("decrypt")


def test_openssl_follows_the_chain(user: User, tmp_path: Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    leaf, issuer = x509.load_pem_x509_certificates(attest(user, user.ec()[1]))
    (tmp_path / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    (tmp_path / "issuer.pem").write_bytes(issuer.public_bytes(Encoding.PEM))
    done = subprocess.run(
        [program, "verify", "-x509_strict", "-CAfile", tmp_path / "issuer.pem",
         tmp_path / "leaf.pem"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# --- freshness -----------------------------------------------------------------------------------


def test_a_nonce_brings_new_evidence_that_holds_for_it_alone(user: User) -> None:
    _, key = user.ec()
    for made in (key, user.aes()):
        data = attest(user, made, NONCE)
        assert said(data, by=STRICT, nonce=NONCE).nonce == NONCE
        with pytest.raises(EvidenceRefused, match="nonce"):
            verified(data, STRICT, nonce=b"another's nonce..")
        with pytest.raises(EvidenceRefused, match="nonce"):
            verified(data, STRICT, nonce=b"")


def test_old_evidence_is_not_enough_for_a_policy_that_wants_it_fresh(user: User) -> None:
    data = attest(user, user.ec()[1])
    assert verified(data, LAX)
    with pytest.raises(Untrusted, match="freshness"):
        verified(data, STRICT)
    with pytest.raises(EvidenceRefused, match="nonce"):
        verified(data, STRICT, nonce=NONCE)


def test_without_a_nonce_evidence_is_made_once(store: MemoryStore) -> None:
    guest = VendorGuest()
    attestor = Attestor(guest)
    assert attestor.certificate() == attestor.certificate()
    assert guest.asked == 1
    assert attestor.certificate(NONCE) != attestor.certificate(NONCE)
    assert guest.asked == 3
    assert repr(attestor) == "<Attestor>"


def test_another_start_has_another_attestation_key(store: MemoryStore) -> None:
    keys = set()
    for _ in range(2):
        user = User(connect(attested_module(store)))
        _, issuer = x509.load_pem_x509_certificates(attest(user, user.ec()[1]))
        keys.add(issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert len(keys) == 2


# --- the call ------------------------------------------------------------------------------------


def test_what_is_no_key_of_the_caller_has_no_certificate(module: Module, user: User) -> None:
    public, private = user.ec()
    data = user.call("C_CreateObject", {int(Attr.CLASS): 0, int(Attr.LABEL): b"data"})
    assert refusal(user.call, "S_AttestKey", public, b"", ROOM) is Rv.KEY_TYPE_INCONSISTENT
    assert refusal(user.call, "S_AttestKey", data, b"", ROOM) is Rv.KEY_TYPE_INCONSISTENT
    assert refusal(user.call, "S_AttestKey", 4711, b"", ROOM) is Rv.KEY_HANDLE_INVALID
    for nonce in (b"short", bytes(65)):
        assert refusal(user.call, "S_AttestKey", private, nonce, ROOM) is Rv.ARGUMENTS_BAD
        assert refusal(user.caller.call, "S_AttestModule", nonce, ROOM) is Rv.ARGUMENTS_BAD
    kept = user.pair(Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256}, {"TOKEN": True})[1]
    stranger = User(connect(module), login=False)
    assert refusal(stranger.call, "S_AttestKey", kept, b"", ROOM) is Rv.KEY_HANDLE_INVALID


def test_too_little_room_is_told_with_what_is_enough(user: User) -> None:
    _, private = user.ec()
    for nonce in (b"", NONCE):
        size = user.call("S_AttestKey", private, nonce, 0)
        assert len(user.call("S_AttestKey", private, nonce, size.number)) <= size.number


def test_a_label_that_fits_in_no_certificate_is_refused(user: User) -> None:
    _, private = user.ec(LABEL=b"l" * 1025)
    assert refusal(user.call, "S_AttestKey", private, b"", ROOM) is Rv.DATA_LEN_RANGE


def test_a_tee_without_evidence_is_a_failing_device(
    user: User, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, __: bytes) -> None:
        raise GuestError("the device is gone")

    monkeypatch.setattr(VendorGuest, "evidence", refuse)
    _, private = user.ec()
    assert refusal(user.call, "S_AttestKey", private, b"", ROOM) is Rv.DEVICE_ERROR
    assert refusal(user.call, "S_AttestKey", user.aes(), b"", ROOM) is Rv.DEVICE_ERROR
    assert refusal(user.caller.call, "S_AttestModule", b"", ROOM) is Rv.DEVICE_ERROR


# --- forgeries -----------------------------------------------------------------------------------


def test_another_module_or_a_wrong_policy_is_not_trusted(store: MemoryStore) -> None:
    other = User(connect(attested_module(store, measurement=b"o" * 48)))
    data = attest(other, other.ec()[1])
    with pytest.raises(Untrusted, match=r"policy\.identity|policy\.measurement"):
        verified(data)
    assert verified(data, policy(b"o" * 48))
    debug = User(connect(attested_module(store, debug=True)))
    with pytest.raises(Untrusted):
        verified(attest(debug, debug.aes()))


def value_of(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes:
    extension = certificate.extensions.get_extension_for_oid(oid).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    return extension.value


def forged(
    pem: bytes, key: ec.EllipticCurvePrivateKey, issuer: bytes | None = None, **changed: Any
) -> bytes:
    """The host's version: the same certificates, with changes, signed by a key of its own."""
    leaf, real = x509.load_pem_x509_certificates(pem)
    statement = KeyStatement.from_cbor(value_of(leaf, KEY_STATEMENT))
    content = msgspec.structs.replace(statement, **changed).to_cbor()
    made = pkix.certificate(
        issuer=leaf.issuer.public_bytes(),
        subject=leaf.subject.public_bytes(),
        spki=leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        serial=5,
        not_before=now(),
        not_after=pkix.NO_END,
        extensions=[
            x509.Extension(KEY_STATEMENT, False, x509.UnrecognizedExtension(KEY_STATEMENT, content))
        ],
        algorithm=pkix.ECDSA_SHA256,
        sign=lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())),
    )
    second = real if issuer is None else x509.load_der_x509_certificate(issuer)
    both = (x509.load_der_x509_certificate(made), second)
    return b"".join(one.public_bytes(Encoding.PEM) for one in both)


def test_a_statement_that_was_changed_is_refused(user: User) -> None:
    data = attest(user, user.ec(EXTRACTABLE=True)[1])
    with pytest.raises(EvidenceRefused, match="not signed by the attestation key"):
        verified(
            forged(data, ec.generate_private_key(ec.SECP256R1()), flags=("local", "sensitive"))
        )
    der = bytearray(x509.load_pem_x509_certificates(data)[0].public_bytes(Encoding.DER))
    at = der.index(b"extractable")
    der[at : at + 11] = b"encapsulate"
    leaf = x509.load_der_x509_certificate(bytes(der)).public_bytes(Encoding.PEM)
    issuer = x509.load_pem_x509_certificates(data)[1].public_bytes(Encoding.PEM)
    with pytest.raises(EvidenceRefused):
        verified(leaf + issuer)


def test_a_certificate_of_another_key_does_not_take_the_statement(user: User) -> None:
    one, other = attest(user, user.ec()[1]), attest(user, user.ec()[1])
    ours, theirs = (x509.load_pem_x509_certificates(data)[0] for data in (one, other))
    der = ours.public_bytes(Encoding.DER)
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    swapped = der.replace(
        ours.public_key().public_bytes(*spki), theirs.public_key().public_bytes(*spki)
    )
    issuer = x509.load_pem_x509_certificates(one)[1].public_bytes(Encoding.PEM)
    leaf = x509.load_der_x509_certificate(swapped).public_bytes(Encoding.PEM)
    with pytest.raises(EvidenceRefused):
        verified(leaf + issuer)


def test_an_attestation_key_of_the_hosts_has_no_evidence_of_its_own(user: User) -> None:
    data = attest(user, user.ec()[1])
    real = x509.load_pem_x509_certificates(data)[1]
    mine = ec.generate_private_key(ec.SECP256R1())
    spki = mine.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    stolen = value_of(real, x509.ObjectIdentifier(forms.INTEROPERABLE_OID))
    evidence, _ = forms.unpack(stolen)
    lie = forms.pack(evidence, forms.claims_about(spki, {"secgear-attests": b"keys"}))
    for value, refused in ((stolen, EvidenceMalformed), (lie, Untrusted)):
        issuer = pkix.certificate(
            issuer=real.subject.public_bytes(),
            subject=real.subject.public_bytes(),
            spki=spki,
            serial=6,
            not_before=now(),
            not_after=pkix.NO_END,
            extensions=[
                x509.Extension(
                    x509.ObjectIdentifier(forms.INTEROPERABLE_OID),
                    False,
                    x509.UnrecognizedExtension(
                        x509.ObjectIdentifier(forms.INTEROPERABLE_OID), value
                    ),
                )
            ],
            algorithm=pkix.ECDSA_SHA256,
            sign=lambda content: mine.sign(content, ec.ECDSA(hashes.SHA256())),
        )
        with pytest.raises(refused):
            verified(forged(data, mine, issuer))


def test_a_key_of_the_enclave_for_other_things_attests_nothing(user: User) -> None:
    """A TLS key has evidence, too; what it signs must not count as a word about keys."""
    data = attest(user, user.ec()[1])
    identity = certify(Identity.fresh(), VendorGuest().evidence)
    assert isinstance(identity.key, ec.EllipticCurvePrivateKey)
    issuer = identity.certificate.public_bytes(Encoding.DER)
    with pytest.raises(EvidenceUnsupported, match="attests no keys"):
        verified(forged(data, identity.key, issuer))


def test_a_secret_keys_statement_does_not_pass_for_a_modules(user: User) -> None:
    data = attest(user, user.aes())
    message = list(cbor2.loads(data).value)
    header = dict(cbor2.loads(message[0]))
    header[3] = "application/secgear-module-statement+cbor"
    message[0] = cbor2.dumps(header, canonical=True)
    with pytest.raises(EvidenceRefused):
        verified(cbor2.dumps(cbor2.CBORTag(cose.TAG, message)))
    for name in (3, 33):
        short = {key: value for key, value in header.items() if key != name}
        message[0] = cbor2.dumps(short, canonical=True)
        message[1] = {name: header[name]}  # where no signature covers it
        with pytest.raises(EvidenceMalformed):
            verified(cbor2.dumps(cbor2.CBORTag(cose.TAG, message)))


def test_nothing_that_was_not_verified_makes_an_attestation(user: User) -> None:
    data, other = attest(user, user.ec()[1]), attest(user, user.ec()[1], NONCE)
    verdict = verified(data).verdict
    assert KeyAttestation(data=data, verdict=verdict).statement.type == KeyType.EC
    with pytest.raises(EvidenceRefused, match="other evidence"):
        KeyAttestation(data=other, verdict=verdict)
    untrusted = Verdict(checks=(), claims=None, policy="none", policy_digest=bytes(32), at=now())
    with pytest.raises(Untrusted):
        KeyAttestation(data=data, verdict=untrusted)


def test_plain_certificates_and_their_disorder_are_refused(user: User) -> None:
    data = attest(user, user.ec()[1])
    leaf, issuer = x509.load_pem_x509_certificates(data)
    pems = {"leaf": leaf.public_bytes(Encoding.PEM), "issuer": issuer.public_bytes(Encoding.PEM)}
    for names in (("issuer", "leaf"), ("leaf",), ("leaf", "leaf"), ("leaf", "issuer", "issuer")):
        with pytest.raises(EvidenceRefused):
            verified(b"".join(pems[name] for name in names))
    for nothing in (b"", b"no attestation", bytes(200 << 10), b"-----BEGIN CERTIFICATE-----"):
        with pytest.raises(EvidenceMalformed):
            verified(nothing)


# --- parsers -------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_the_answer_is_an_error_of_ours(data: bytes) -> None:
    for read in (KeyStatement.from_cbor, ModuleStatement.from_cbor, verified):
        with pytest.raises(EvidenceRefused):
            read(data)


STATEMENT = KeyStatement(
    version=1, module=bytes(32), token="demo", serial="1", class_=3, type=0,
    flags=("local", "sign"), generated_by=0, at=1,
)  # fmt: skip
SECRET = msgspec.structs.replace(STATEMENT, class_=4, type=0x1F)
ATTESTOR = Attestor(VendorGuest())
SPKI = (
    ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)
CERTIFIED, SIGNED = ATTESTOR.certify(SPKI, STATEMENT), ATTESTOR.sign(SECRET)


@given(st.data())
def test_a_statement_with_a_changed_byte_is_another_one_or_none(data: st.DataObject) -> None:
    content = bytearray(STATEMENT.to_cbor())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(EvidenceMalformed):
        assert KeyStatement.from_cbor(bytes(content)) != STATEMENT


@given(st.data())
def test_an_attestation_with_a_changed_byte_says_the_same_or_nothing(data: st.DataObject) -> None:
    """What is around the signed parts may be different: a second PEM of the same bytes."""
    content = bytearray(data.draw(st.sampled_from((CERTIFIED, SIGNED))))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(EvidenceRefused, Untrusted):
        found = verified(bytes(content))
        assert isinstance(found, KeyAttestation)
        assert found.statement in (STATEMENT, SECRET)


@given(st.binary(max_size=100))
@example("密".encode() * 30)
@example(b"\x80" * 60)
def test_whatever_a_label_is_it_fits_into_a_certificate(label: bytes) -> None:
    statement = msgspec.structs.replace(STATEMENT, label=label)
    assert said(ATTESTOR.certify(SPKI, statement)) == statement


def test_a_secret_keys_label_that_looks_like_a_certificate_is_a_label(user: User) -> None:
    label = b"-----BEGIN CERTIFICATE-----"
    assert said(attest(user, user.aes(LABEL=label))).label == label


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2}, {"module": b"short"}, {"class_": 2}, {"label": bytes(1025)},
        {"flags": ("sign", "local")}, {"flags": ("local", "local")}, {"flags": ("owns",)},
        {"generated_by": None}, {"envelope": b"e"}, {"nonce": b"short"}, {"nonce": bytes(65)},
    ],
)  # fmt: skip
def test_a_statement_that_can_not_be_is_none(changed: dict[str, Any]) -> None:
    with pytest.raises(EvidenceMalformed):
        msgspec.structs.replace(STATEMENT, **changed)


@given(st.binary(max_size=400))
def test_what_is_no_certificate_request_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        pkix.Request(data)


def test_a_request_is_read_as_it_was_written() -> None:
    key = sm2.PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "asks")]).public_bytes()
    signed: list[bytes] = []

    def sign(content: bytes) -> bytes:
        signed.append(content)
        return b"signature"

    der = pkix.request(subject=name, spki=key.public.spki(), algorithm=pkix.SM2_SM3, sign=sign)
    read = pkix.Request(der)
    assert (read.subject, read.spki, read.signature) == (name, key.public.spki(), b"signature")
    assert [read.content] == signed
    assert read.algorithm == pkix.SM2_SM3
    with pytest.raises(ValueError, match="bytes"):
        pkix.Request(bytes(65 << 10))


def test_a_time_is_written_as_certificates_have_it() -> None:
    """RFC 5280: UTCTime until 2049, GeneralizedTime from then on."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([]).public_bytes()
    end = datetime.datetime(2049, 12, 31, 23, 59, 59, 7, tzinfo=datetime.UTC)
    for until, tag in ((end, b"\x17"), (pkix.NO_END, b"\x18")):
        der = pkix.certificate(
            issuer=name, subject=name,
            spki=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            serial=1, not_before=now(), not_after=until, extensions=[],
            algorithm=pkix.ECDSA_SHA256,
            sign=lambda content: key.sign(content, ec.ECDSA(hashes.SHA256())),
        )  # fmt: skip
        read = x509.load_der_x509_certificate(der)
        assert read.not_valid_after_utc == until.replace(microsecond=0)
        assert tag + bytes((13 if tag == b"\x17" else 15,)) in der
