"""What a fake Intel signs besides quotes: TCB information, QE identities, revocation lists."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.middleware.attestation.certificates import Certificate, to_pem
from secgear.middleware.attestation.collateral import Collateral, Document
from tests.adversary.vendors.pki import NOW, YEAR, Authority

MONTH = YEAR / 12
FMSPC, PCE_ID = bytes.fromhex("50806f000000"), bytes(2)
COMPONENTS = (7, 7, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
PCE_SVN = 13
TEE_TCB_SVN = bytes([5, 0, 7]) + bytes(13)
QE_SIGNER = hashlib.sha256(b"fake Intel's QE signer").digest()


def iso(at: datetime.datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def level(
    status: str = "UpToDate",
    *,
    sgx: Sequence[int] = COMPONENTS,
    pce_svn: int = PCE_SVN,
    tdx: Sequence[int] = TEE_TCB_SVN,
    date: str = "2026-02-11T00:00:00Z",
    advisories: Sequence[str] = (),
) -> dict[str, Any]:
    """One TCB level; the TDX components are dropped from SGX documents."""
    names = {0: ("BIOS", "Early Microcode Update"), 1: ("OS/VMM", "SGX Late Microcode Update")}
    components = [
        {"svn": svn} | dict(zip(("category", "type"), names.get(index, ()), strict=False))
        for index, svn in enumerate(sgx)
    ]
    found: dict[str, Any] = {
        "tcb": {
            "sgxtcbcomponents": components,
            "pcesvn": pce_svn,
            "tdxtcbcomponents": [{"svn": svn} for svn in tdx],
        },
        "tcbDate": date,
        "tcbStatus": status,
    }
    return found | ({"advisoryIDs": list(advisories)} if advisories else {})


def svn_level(svn: int, status: str = "UpToDate", advisories: Sequence[str] = ()) -> dict[str, Any]:
    """One level of a quoting enclave or TDX module."""
    found: dict[str, Any] = {
        "tcb": {"isvsvn": svn},
        "tcbDate": "2026-02-11T00:00:00Z",
        "tcbStatus": status,
    }
    return found | ({"advisoryIDs": list(advisories)} if advisories else {})


def module_identity(name: str, *levels: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The identity of a TDX module of one major version."""
    return {
        "id": name,
        "mrsigner": bytes(48).hex(),
        "attributes": bytes(8).hex(),
        "attributesMask": "ff" * 8,
        "tcbLevels": list(levels),
    } | changes


def tcb_info(tee: str, *levels: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The signed object of TCB information for `tee`; a change to `...` leaves a member out."""
    found: dict[str, Any] = {
        "id": tee.upper(),
        "version": 3,
        "issueDate": iso(NOW - MONTH / 2),
        "nextUpdate": iso(NOW + MONTH / 2),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": 20,
    }
    if tee == "tdx":
        module = module_identity("")
        del module["id"], module["tcbLevels"]
        found |= {"tdxModule": module, "tdxModuleIdentities": []}
    listed = [dict(one, tcb=dict(one["tcb"])) for one in levels or (level(),)]
    if tee == "sgx":
        for one in listed:
            del one["tcb"]["tdxtcbcomponents"]
    found |= {"tcbLevels": listed} | changes
    return {name: value for name, value in found.items() if value is not ...}


def qe_identity(tee: str, *levels: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The signed object of a QE identity for `tee`."""
    return {
        "id": "QE" if tee == "sgx" else "TD_QE",
        "version": 2,
        "issueDate": iso(NOW - MONTH / 2),
        "nextUpdate": iso(NOW + MONTH / 2),
        "tcbEvaluationDataNumber": 20,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "15000000000000000000000000000000",
        "attributesMask": "FFFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": list(levels) or [svn_level(6)],
    } | changes


@dataclass
class Pieces:
    """Collateral, in the pieces that both this package and dcap-qvl can be given."""

    tcb_body: bytes
    tcb_signature: bytes
    qe_body: bytes
    qe_signature: bytes
    signer: tuple[Certificate, ...]
    ca_chain: tuple[Certificate, ...]
    root_crl: bytes
    ca_crl: bytes

    def collateral(self) -> Collateral:
        """As this package takes it."""
        chain = tuple(certificate.der for certificate in self.signer)
        return Collateral(
            certificates=tuple(certificate.der for certificate in self.ca_chain),
            crls=(self.root_crl, self.ca_crl),
            documents=(
                Document("intel.tcb-info", self.tcb_document, chain=chain),
                Document("intel.qe-identity", self.qe_document, chain=chain),
            ),
        )

    @property
    def tcb_document(self) -> bytes:
        return _served("tcbInfo", self.tcb_body, self.tcb_signature)

    @property
    def qe_document(self) -> bytes:
        return _served("enclaveIdentity", self.qe_body, self.qe_signature)

    def dcap_qvl(self) -> dict[str, str]:
        """As dcap-qvl keeps it in a file."""
        signer = b"".join(to_pem(certificate) for certificate in self.signer).decode()
        return {
            "pck_crl_issuer_chain": b"".join(map(to_pem, self.ca_chain)).decode(),
            "root_ca_crl": self.root_crl.hex(),
            "pck_crl": self.ca_crl.hex(),
            "tcb_info_issuer_chain": signer,
            "tcb_info": self.tcb_body.decode(),
            "tcb_info_signature": self.tcb_signature.hex(),
            "qe_identity_issuer_chain": signer,
            "qe_identity": self.qe_body.decode(),
            "qe_identity_signature": self.qe_signature.hex(),
        }


def _served(member: str, body: bytes, signature: bytes) -> bytes:
    return b'{"%b":%b,"signature":"%b"}' % (member.encode(), body, signature.hex().encode())


def revocation_list(
    authority: Authority,
    *certificates: Certificate,
    start: datetime.datetime = NOW - MONTH,
    end: datetime.datetime = NOW + MONTH,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """A list in DER with the extensions that Intel's have, and that dcap-qvl insists on."""
    parsed = authority.certificate.parsed
    signing = key or authority.key
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(parsed.subject)
        .last_update(start)
        .next_update(end)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
    )
    for certificate in certificates:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial)
            .revocation_date(start)
            .build()
        )
    return builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
