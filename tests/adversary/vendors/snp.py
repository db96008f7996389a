"""A fake AMD: roots, intermediates, VCEK and VLEK, and a processor that reports anything."""

from __future__ import annotations

import functools
import struct
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from secgear.base.tee import Evidence
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.certificates import Certificate, load_certificate, to_pem
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key, opaque

ARC = "1.3.6.1.4.1.3704.1"
MILAN, GENOA, TURIN = (0x19, 0x01), (0x19, 0x11), (0x1A, 0x02)
CHIP = bytes(range(1, 65))
TCB = {"bootloader": 4, "tee": 0, "snp": 22, "microcode": 213}


@functools.cache
def _rsa(_: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


class Amd:
    """One product's hierarchy, and one chip."""

    def __init__(self, product: str = "Milan", processor: tuple[int, int] = MILAN) -> None:
        self.product, self.processor = product, processor
        self.ark = Authority(f"ARK-{product}", key=_rsa(f"ark{product}"), pss=True)
        self.ask = Authority(f"SEV-{product}", key=_rsa(f"ask{product}"), issuer=self.ark, pss=True)
        self.asvk = Authority(
            f"SEV-VLEK-{product}", key=_rsa(f"asvk{product}"), issuer=self.ark, pss=True
        )
        self.key = ec_key()
        self.turin = processor == TURIN
        self.chip = CHIP[:8].ljust(64, b"\0") if self.turin else CHIP
        self.tcb = TCB | ({"fmc": 1} if self.turin else {})

    @property
    def anchors(self) -> Anchors:
        return Anchors((self.ark.anchor("fake-amd", "amd"),))

    def endorsement(
        self,
        *,
        chip: bytes | None = None,
        csp: str | None = None,
        tcb: dict[str, int] | None = None,
        product: str | None = None,
        without: tuple[str, ...] = (),
        replaced: dict[str, bytes] | None = None,
        key: Any = None,
        issuer: Authority | None = None,
        zero_serial: bool = True,
        **times: Any,
    ) -> Certificate:
        """A VCEK, or with `csp` a VLEK."""
        versions = self.tcb | (tcb or {})
        oids = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
        values = {oids[name]: _integer(value) for name, value in versions.items()}
        name = (product or f"{self.product}-B0").encode()
        values["2"] = bytes([0x16, len(name)]) + name
        identity = self.chip[: 8 if self.turin else 64] if chip is None else chip
        if csp is None:
            values["4"] = identity
        else:
            values["5"] = bytes([0x16, len(csp)]) + csp.encode()
        values |= replaced or {}
        above = issuer or (self.ask if csp is None else self.asvk)
        certificate = above.issue(
            "SEV-VCEK" if csp is None else "SEV-VLEK",
            (key or self.key).public_key(),
            extensions=[
                (opaque(f"{ARC}.{oid}", value), False)
                for oid, value in values.items()
                if oid not in without
            ],
            **times,
        )
        return _reissued_as_number_zero(certificate, above) if zero_serial else certificate

    def report(self, **changes: Any) -> bytes:
        """A signed report. Any field by name; `sign=False` leaves the signature empty."""
        fields: dict[str, Any] = {
            "version": 3,
            "guest_svn": 5,
            "policy": 0x30000,
            "family_id": bytes(16),
            "image_id": bytes(16),
            "vmpl": 0,
            "algorithm": 1,
            "platform_info": 1,
            "key_info": 0,
            "report_data": b"r" * 64,
            "measurement": b"m" * 48,
            "host_data": bytes(32),
            "id_key_digest": bytes(48),
            "author_key_digest": bytes(48),
            "chip_id": self.chip,
            "tcb": self.tcb,
            "committed": None,
            "launch": None,
            "processor": self.processor,
            "tail": b"",
            "key": self.key,
            "r": None,
            "s": None,
        } | changes
        tcb, committed, launch = (
            self._tcb(fields[name] or fields["tcb"]) for name in ("tcb", "committed", "launch")
        )
        identity = bytes((*fields["processor"], 1)) if fields["version"] > 2 else bytes(3)
        body = struct.pack("<IIQ", fields["version"], fields["guest_svn"], fields["policy"])
        body += fields["family_id"] + fields["image_id"]
        body += struct.pack("<II", fields["vmpl"], fields["algorithm"]) + tcb
        body += struct.pack("<QII", fields["platform_info"], fields["key_info"], 0)
        body += fields["report_data"] + fields["measurement"] + fields["host_data"]
        body += fields["id_key_digest"] + fields["author_key_digest"] + bytes(32) + b"\xff" * 32
        body += tcb + identity + bytes(21) + fields["chip_id"]
        body += committed + bytes((9, 55, 1, 0)) * 2 + launch + fields["tail"]
        body = body.ljust(0x2A0, b"\0")
        r, s = decode_dss_signature(fields["key"].sign(body, ec.ECDSA(hashes.SHA384())))
        r = r if fields["r"] is None else fields["r"]
        s = s if fields["s"] is None else fields["s"]
        return body + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(1184 - 0x330)

    def evidence(self, *, certificate: Certificate | None = None, **changes: Any) -> Evidence:
        """A report with its certificate and the fake intermediate."""
        return Evidence(
            "amd.sev-snp",
            self.report(**changes),
            {"vcek": (certificate or self.endorsement()).der, "chain": self.chain},
        )

    @property
    def chain(self) -> bytes:
        return b"".join(to_pem(one.certificate) for one in (self.ask, self.asvk, self.ark))

    def _tcb(self, tcb: dict[str, int]) -> bytes:
        if self.turin:
            front = (tcb["fmc"], tcb["bootloader"], tcb["tee"], tcb["snp"], 0, 0, 0)
            return bytes((*front, tcb["microcode"]))
        return bytes((tcb["bootloader"], tcb["tee"], 0, 0, 0, 0, tcb["snp"], tcb["microcode"]))


def _integer(value: int) -> bytes:
    return bytes((2, 2, 0, value)) if value > 127 else bytes((2, 1, value))


def _reissued_as_number_zero(certificate: Certificate, issuer: Authority) -> Certificate:
    """The same certificate with AMD's serial number, signed again over the changed bytes."""
    size = certificate.serial.bit_length() // 8 + 1
    old = b"\x02" + bytes([size]) + certificate.serial.to_bytes(size, "big")
    content = certificate.tbs[_header(certificate.tbs) :].replace(old, b"\x02\x01\x00", 1)
    tbs = _tlv(0x30, content)
    assert isinstance(issuer.key, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
    signature = issuer.key.sign(tbs, pss, hashes.SHA384())
    _, _, behind = certificate.der.partition(certificate.tbs)
    algorithm = behind[: _header(behind) + behind[1]]
    return load_certificate(_tlv(0x30, tbs + algorithm + _tlv(3, b"\0" + signature)))


def _header(der: bytes) -> int:
    return 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def expired() -> dict[str, Any]:
    return {"start": NOW - YEAR / 2, "end": NOW - YEAR / 4}
