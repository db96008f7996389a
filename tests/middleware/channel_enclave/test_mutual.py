"""Enclaves that want to know who their clients are: by evidence, or by certificate."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import secgear
from secgear import errors
from secgear.base.build import build
from secgear.base.tee import Evidence
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation import Anchors
from secgear.middleware.channel import Identity, Relay
from tests.middleware.channel_enclave.conftest import policy_for

ATTESTED = """
from secgear import App, Session
from secgear.middleware.attestation import Anchor, builtin_anchors, load_policy
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.channel import Trust

ROOT = b'''{root}'''
POLICY = b'''
name = "peers"
[accept]
tees = ["process"]
measurements = ["{partner}"]
[allow]
simulated = true
debug = true
test_roots = true
'''
app = App("host", version="1.0")
anchors = builtin_anchors().adding(Anchor("ours", "simulated", load_pem(ROOT)[0]))
app.sessions.configure(clients=Trust(policy=load_policy(POLICY), anchors=anchors))

@app.session
def greet(session: Session) -> None:
    session.recv()
    session.send(session.peer.claims.product.encode())
"""

PARTNER = """
from secgear import App, guest
from secgear.base.tee import Evidence

app = App({name!r}, version="1.0")

@app.ecall
def evidence(report_data: bytes) -> bytes:
    return guest().evidence(report_data).data
"""

CERTIFIED = """
from secgear import App, Session

app = App("certified", version="1.0")
app.sessions.configure(authorities=({authority!r},))

@app.session
def who(session: Session) -> None:
    session.recv()
    session.send(session.peer.certificate.subject.rfc4514_string().encode())
"""


def _write(path: Path, text: str, **given: Any) -> Path:
    path.write_text(textwrap.dedent(text).format(**given))
    return path


@pytest.fixture(scope="module")
def attested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = SimulatedPlatform(home()).root.public_bytes(Encoding.PEM).decode()
    folder = tmp_path_factory.mktemp("app")
    known = build(_write(folder / "partner.py", PARTNER, name="partner"), debug=True)
    path = _write(folder / "host.py", ATTESTED, root=root, partner=known.measurement.hex())
    with secgear.launch(path, tee="process") as enclave, Relay(enclave) as relay:
        yield relay, policy_for(enclave.image.measurement)


def _partner(path: Path, name: str) -> Any:
    return secgear.launch(_write(path / "partner.py", PARTNER, name=name), tee="process")


def test_two_enclaves_verify_each_other(attested: Any, anchors: Anchors, tmp_path: Path) -> None:
    relay, policy = attested
    with _partner(tmp_path, "partner") as partner:

        def attester(report_data: bytes) -> Evidence:
            return Evidence("secgear.process.cwt", partner.evidence(report_data))

        with secgear.connect(relay.address, policy, anchors=anchors, attester=attester) as session:
            session.send(b"who am I?")
            assert session.recv(10) == b"partner"


def test_client_of_another_product_is_refused(
    attested: Any, anchors: Anchors, tmp_path: Path
) -> None:
    relay, policy = attested
    with _partner(tmp_path, "stranger") as partner:

        def attester(report_data: bytes) -> Evidence:
            return Evidence("secgear.process.cwt", partner.evidence(report_data))

        with pytest.raises(errors.HandshakeFailed, match=r"peer refused: attestation\.untrusted"):
            secgear.connect(relay.address, policy, anchors=anchors, attester=attester)


def test_clients_evidence_about_another_connection_is_refused(
    attested: Any, anchors: Anchors, tmp_path: Path
) -> None:
    relay, policy = attested
    with _partner(tmp_path, "partner") as partner:
        kept = Evidence("secgear.process.cwt", partner.evidence(bytes(64)))
        with pytest.raises(errors.HandshakeFailed, match="peer refused"):
            secgear.connect(relay.address, policy, anchors=anchors, attester=lambda _: kept)


def test_client_without_evidence_is_told_what_is_missing(attested: Any, anchors: Anchors) -> None:
    relay, policy = attested
    with pytest.raises(errors.HandshakeFailed, match="attester="):
        secgear.connect(relay.address, policy, anchors=anchors)


# --- certificates --------------------------------------------------------------------------------


class Issuer:
    """Issues certificates for clients."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._issue(self.name, self.key, authority=True, days=10)

    def client(self, name: str, *, days: int = 10) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return Identity(key, self._issue(subject, key, authority=False, days=days))

    def _issue(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool, days: int
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=20))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(usage, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    issuer = Issuer("clients' authority")
    path = _write(tmp_path_factory.mktemp("app") / "certified.py", CERTIFIED, authority=issuer.pem)
    with secgear.launch(path, tee="process") as enclave, Relay(enclave) as relay:
        yield relay, policy_for(enclave.image.measurement), issuer


def test_client_with_a_certificate_is_known_by_it(certified: Any, anchors: Anchors) -> None:
    relay, policy, issuer = certified
    identity = issuer.client("alice")
    with secgear.connect(relay.address, policy, anchors=anchors, identity=identity) as session:
        session.send(b"?")
        assert session.recv(10) == b"CN=alice"


@pytest.mark.parametrize("how", ["none", "foreign", "expired", "self-signed"])
def test_other_certificates_are_refused(certified: Any, anchors: Anchors, how: str) -> None:
    relay, policy, issuer = certified
    made: dict[str, Callable[[], Identity | None]] = {
        "none": lambda: None,
        "foreign": lambda: Issuer("clients' authority").client("alice"),
        "expired": lambda: issuer.client("alice", days=-1),
        "self-signed": lambda: Identity.fresh("alice"),
    }
    identity = made[how]()
    with pytest.raises(errors.HandshakeFailed, match="TLS"):
        secgear.connect(relay.address, policy, anchors=anchors, identity=identity)
