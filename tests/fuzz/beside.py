"""What comes beside evidence: readers and seeds for `evidence.py`.

Revocation lists, OCSP responses, documents, attachments. A reader takes damaged bytes in the place
of one good thing among good others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.base.tee import Evidence
from secgear.errors import SecGearError
from secgear.middleware.attestation import Anchors, Collateral, verify
from secgear.middleware.attestation.broker import kbs
from secgear.middleware.attestation.certificates import load_certificate, load_pem
from secgear.middleware.attestation.chains import check_path
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.formats.dcap import qeidentity, tcbinfo
from secgear.middleware.attestation.formats.itrustee import read_basevalues
from secgear.middleware.attestation.formats.nvidia import ocsp, rim
from tests.adversary.vendors.azure import FakeAzure
from tests.adversary.vendors.intel import Intel
from tests.adversary.vendors.nvidia import Chip, ManifestSigner, appointed, manifest, respond
from tests.adversary.vendors.pki import NOW, Authority, ec_key
from tests.adversary.vendors.snp import Amd
from tests.adversary.vendors.tpm import FakeTpm, event_log

Read = Callable[[bytes], object]

_TEES = ("tdx", "sgx", "snp", "cca", "az-snp-vtpm", "az-tdx-vtpm", "secgear-process")
_LOG = event_log([(0, b"boot"), (7, b"keys")])


class Beside:
    """One hierarchy of each vendor, and what it would give with its evidence."""

    def __init__(self) -> None:
        self.root = Authority("root")
        self.issuer = Authority("issuer", issuer=self.root)
        self.leaf = self.issuer.issue("leaf", ec_key().public_key())
        self.chip, self.amd, self.intel = Chip(), Amd(), Intel()
        self.tpm, self.azure = FakeTpm(), FakeAzure()
        self.signer = ManifestSigner()

    def seeds(self) -> Mapping[str, bytes]:
        """Good ones of each kind."""
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        return {
            "certificate": self.leaf.der,
            "list": self.issuer.revoke(self.leaf),
            "response": respond(self.leaf, self.issuer, responder=appointed(self.issuer)),
            "manifest": self.signer.sign(manifest()),
            "chain": self.chip.chain,
            "log": _LOG,
            "values": self.tpm.evidence().attachments["pcrs"],
            "tpm signature": self.tpm.evidence().attachments["signature"],
            "key": key.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            "KBS evidence": b'{"quote": "AAEC", "cc_eventlog": "AwQ="}',
            "base values": b"f68fd704-6eb1-4d14-b218-722850eb3ef0 %b %b" % (b"1" * 64, b"2" * 64),
        }

    def readers(self) -> Mapping[str, Read]:
        """By what they take the bytes for."""
        td = Evidence("intel.tdx.quote", self.intel.td_quote())
        return {
            "certificate": load_certificate,
            "PEM": load_pem,
            "revocation list": self._list,
            "OCSP response": self._response,
            "manifest": only(rim.read, rim.RimRefused),
            "TCB information": only(tcbinfo.parse, ValueError),
            "QE identity": only(qeidentity.parse, ValueError),
            "base values": read_basevalues,
            "KBS evidence": _kbs,
            **self._attached("nvidia", self.chip.evidence(), self.chip.anchors, "chain"),
            **self._attached("tdx", td, self.intel.anchors, "ccel"),
            **self._attached("snp", self.amd.evidence(), self.amd.anchors, "certs", "chain"),
            **self._attached(
                "tpm",
                self.tpm.evidence(),
                self.tpm.anchors,
                *("signature", "pcrs", "eventlog", "ak"),
            ),
            **self._attached(
                "azure",
                self.azure.evidence(),
                self.azure.amd.anchors,
                *("quote", "signature", "pcrs", "eventlog", "vcek"),
            ),
        }

    def _list(self, data: bytes) -> None:
        check_path(
            self.leaf,
            (self.issuer.certificate,),
            (self.root.anchor("root", "amd"),),
            at=NOW,
            crls=(data, self.root.revoke()),
            checks=Checks(),
        )

    def _response(self, data: bytes) -> None:
        pair = (self.leaf, self.issuer.certificate)
        ocsp.check_revocation(pair, responses=(data,), crls=(), at=NOW, checks=Checks())

    def _attached(
        self, kind: str, evidence: Evidence, anchors: Anchors, *names: str
    ) -> Mapping[str, Read]:
        def reader(name: str) -> Read:
            def read(data: bytes) -> object:
                attachments = {**evidence.attachments, name: data}
                changed = Evidence(evidence.format, evidence.data, attachments)
                return verify(changed, at=NOW, anchors=anchors, collateral=Collateral())

            return read

        return {f"{kind}: {name}": reader(name) for name in names}


def only(read: Read, refused: type[Exception]) -> Read:
    """The same; `refused` is how it says no."""

    def reader(data: bytes) -> object:
        try:
            return read(data)
        except refused:
            return None

    return reader


def _kbs(data: bytes) -> None:
    """Primary evidence of each platform in a good attestation."""
    for tee in _TEES:
        try:
            primary = json.loads(data)
        except (ValueError, RecursionError):
            primary = data.decode("latin-1")
        attestation = kbs.Attestation(kbs.RuntimeData("", {}), kbs.CompositeEvidence(primary))
        try:
            kbs.to_evidence(tee, attestation)
        except SecGearError:
            continue
