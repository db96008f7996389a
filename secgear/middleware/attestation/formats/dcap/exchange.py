"""Collateral as dcap-qvl files it: a JSON object with PEM chains, documents and signatures."""

from __future__ import annotations

import msgspec

from secgear.errors import CollateralError, EvidenceMalformed
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.attestation.collateral import Collateral, Document
from secgear.middleware.attestation.formats.dcap import qeidentity, tcbinfo


class _File(msgspec.Struct):
    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str
    pck_certificate_chain: str | None = None


_DECODER = msgspec.json.Decoder(_File)


def collateral_from_dcap_qvl(data: bytes) -> Collateral:
    """What dcap-qvl keeps for one quote. Raises CollateralError. Nothing is verified here."""
    try:
        file = _DECODER.decode(data)
        tcb = _document(b"tcbInfo", file.tcb_info, file.tcb_info_signature)
        qe = _document(b"enclaveIdentity", file.qe_identity, file.qe_identity_signature)
        certificates = _chain(file.pck_crl_issuer_chain)
        if file.pck_certificate_chain:
            certificates = (*_chain(file.pck_certificate_chain), *certificates)
        info = tcbinfo.parse(tcb)
        return Collateral(
            certificates=tuple(dict.fromkeys(certificates)),
            crls=(bytes.fromhex(file.root_ca_crl), bytes.fromhex(file.pck_crl)),
            documents=(
                Document(
                    tcbinfo.KIND,
                    tcb,
                    f"{info.fmspc.hex()}/{info.tee}",
                    _chain(file.tcb_info_issuer_chain),
                ),
                Document(
                    qeidentity.KIND,
                    qe,
                    qeidentity.parse(qe).tee,
                    _chain(file.qe_identity_issuer_chain),
                ),
            ),
        )
    except (ValueError, EvidenceMalformed, RecursionError) as error:
        raise CollateralError(f"dcap-qvl collateral: {error}") from None


def _document(member: bytes, body: str, signature: str) -> bytes:
    """The form that the PCS serves, with the signed text unchanged."""
    return b'{"%b":%b,"signature":%b}' % (member, body.encode(), msgspec.json.encode(signature))


def _chain(pem: str) -> tuple[bytes, ...]:
    return tuple(certificate.der for certificate in load_pem(pem.encode()))
