"""A simulated platform that signs any claims: what somebody with the root's file can do."""

from __future__ import annotations

import datetime
import time
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from secgear.base.tee import Evidence
from secgear.middleware.attestation.anchors import Anchors
from tests.adversary.vendors.pki import YEAR, Authority, ec_key


class SimulatedVendor:
    """Its root is valid now, in real time, as the simulated platform's is, or until `end`."""

    def __init__(self, *, end: datetime.datetime | None = None) -> None:
        end = end or datetime.datetime.now(datetime.UTC) + YEAR
        self.key = ec_key()
        self.authority = Authority("simulated", key=self.key, start=end - 2 * YEAR, end=end)
        self.certificate = self.authority.certificate
        self.anchors = Anchors((self.authority.anchor("fake-simulated", "simulated"),))

    def claims(self, **changes: Any) -> dict[Any, Any]:
        """What a genuine token would say; `changes` replace the claims with text keys."""
        return {
            265: "tag:secgear,2026:process-simulated",
            6: int(time.time()),
            10: bytes(64),
            263: 1,
            "tee": "process",
            "simulated": True,
            "measurement": b"m" * 48,
            "signer": b"s" * 32,
            "product": "product",
            "svn": 7,
            "layers": {"seccomp": True, "landlock": False},
        } | changes

    def evidence(
        self,
        claims: dict[Any, Any] | None = None,
        *,
        report_data: bytes | None = None,
        certificate: Any = None,
    ) -> Evidence:
        """A token over `claims`, signed with this vendor's key."""
        claims = claims if claims is not None else self.claims()
        if report_data is not None:
            claims[10] = report_data
        payload = cbor2.dumps(claims, canonical=True)
        protected = cbor2.dumps({1: -35})
        to_sign = cbor2.dumps(["Signature1", protected, b"", payload])
        r, s = decode_dss_signature(self.key.sign(to_sign, ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
        headers = {33: (certificate or self.certificate).der}
        data = cbor2.dumps(cbor2.CBORTag(18, [protected, headers, payload, signature]))
        return Evidence("secgear.process.cwt", data)
