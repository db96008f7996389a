"""A fake paravisor on a fake chip: HCL report, runtime data, vTPM quote."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from secgear.base.tee import Evidence
from secgear.middleware.attestation.formats.tpm.pcrs import write_values
from tests.adversary.vendors.snp import Amd
from tests.adversary.vendors.tpm import VALUES, FakeTpm


def jwk(key: rsa.RSAPrivateKey, kid: str = "HCLAkPub") -> dict[str, str]:
    numbers = key.public_key().public_numbers()

    def text(value: int) -> str:
        data = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return {"kid": kid, "kty": "RSA", "e": text(numbers.e), "n": text(numbers.n)}


class FakeAzure:
    """One machine: its chip and its vTPM."""

    def __init__(self) -> None:
        self.amd = Amd()
        self.tpm = FakeTpm(rsa.generate_private_key(65537, 2048))
        self.runtime = json.dumps(
            {"keys": [jwk(self.tpm.key)], "vm-configuration": {"secure-boot": True}}
        ).encode()

    def hcl(self, **changes: Any) -> bytes:
        fields: dict[str, Any] = {
            "magic": b"HCLA",
            "version": 2,
            "area_version": 1,
            "kind": 2,
            "hash": 1,
            "runtime": self.runtime,
            "bound": None,
            "size": None,
            "tail": bytes(50),
            "report": {},
        } | changes
        runtime: bytes = fields["runtime"]
        digest = {1: "sha256", 2: "sha384", 3: "sha512"}.get(fields["hash"], "sha256")
        bound = fields["bound"] or hashlib.new(digest, runtime).digest()
        hardware = self.amd.report(report_data=bound.ljust(64, b"\0"), **fields["report"])
        size = len(runtime) if fields["size"] is None else fields["size"]
        head = fields["magic"] + struct.pack("<I", fields["version"]) + bytes(24)
        area = struct.pack(
            "<IIIII", size + 20, fields["area_version"], fields["kind"], fields["hash"], size
        )
        return head + hardware + area + runtime + fields["tail"]

    def evidence(
        self,
        *,
        tpm: FakeTpm | None = None,
        nonce: bytes = b"n" * 32,
        drop: str = "",
        quote: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Evidence:
        tpm = tpm or self.tpm
        attest = tpm.attest(nonce=nonce, **(quote or {}))
        attachments = {
            "quote": attest,
            "signature": tpm.sign(attest),
            "pcrs": write_values({"sha256": VALUES}),
            "vcek": self.amd.endorsement().der,
            "chain": self.amd.chain,
        }
        attachments.pop(drop, None)
        return Evidence("azure.snp", self.hcl(**changes), attachments)
