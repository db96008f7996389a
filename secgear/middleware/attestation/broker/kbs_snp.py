"""SEV-SNP reports as Confidential Containers' clients print them: a JSON object, field by field.

Their library (virtee's ``sev``) parses the report and prints the fields; this puts the 1,184 bytes
together again, in the layout of the SEV-SNP ABI, table 23. The signature over the bytes tells
whether that succeeded, so a field that is missing or too large is an error and nothing more subtle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed

_SIZE = 1184
_TURIN_FAMILY = 0x1A

# Offset and size of byte arrays, and of little-endian integers.
_ARRAYS = {
    "family_id": (0x10, 16),
    "image_id": (0x20, 16),
    "report_data": (0x50, 64),
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "chip_id": (0x1A0, 64),
}
_INTEGERS = {
    "version": (0x00, 4),
    "guest_svn": (0x04, 4),
    "policy": (0x08, 8),
    "vmpl": (0x30, 4),
    "sig_algo": (0x34, 4),
    "plat_info": (0x40, 8),
    "key_info": (0x48, 4),
}
_OPTIONAL_INTEGERS = {
    "cpuid_fam_id": (0x188, 1),
    "cpuid_mod_id": (0x189, 1),
    "cpuid_step": (0x18A, 1),
    "launch_mit_vector": (0x1F8, 8),
    "current_mit_vector": (0x200, 8),
}
_TCBS = {
    "current_tcb": 0x38,
    "reported_tcb": 0x180,
    "committed_tcb": 0x1E0,
    "launch_tcb": 0x1F0,
}
_FIRMWARES = {"current": 0x1E8, "committed": 0x1EC}
_R, _S, _SIGNATURE_INTEGER = 0x2A0, 0x2A0 + 72, 72
_KEY_INFO_ALIASES = ("key_info", "author_key_en", "_author_key_en")


def to_evidence(report: object, chain: object) -> Evidence:
    """The report, as bytes or as fields, with the key's certificate if the client sent one.

    Raises EvidenceMalformed.
    """
    data = _bytes(report) if isinstance(report, list) else _assemble(report)
    attachments: dict[str, bytes] = {}
    for entry in chain if isinstance(chain, list) else ():
        if not isinstance(entry, dict):
            raise EvidenceMalformed("format: an entry of the certificate chain is no object")
        kind = entry.get("cert_type")
        if kind in ("VCEK", "VLEK"):
            attachments[kind.lower()] = _bytes(entry.get("data"))
    return Evidence("amd.sev-snp", data, attachments)


def _assemble(report: object) -> bytes:
    if not isinstance(report, dict):
        raise EvidenceMalformed("format: the attestation report is no object")
    data = bytearray(_SIZE)
    for name, (offset, size) in _ARRAYS.items():
        data[offset : offset + size] = _array(report, name, size)
    for name, (offset, size) in _INTEGERS.items():
        value = _key_info(report) if name == "key_info" else report.get(name)
        data[offset : offset + size] = _integer(value, name, size)
    for name, (offset, size) in _OPTIONAL_INTEGERS.items():
        if report.get(name) is not None:
            data[offset : offset + size] = _integer(report[name], name, size)
    turin = report.get("cpuid_fam_id") == _TURIN_FAMILY
    for name, offset in _TCBS.items():
        data[offset : offset + 8] = _tcb(report.get(name), name, turin=turin)
    for name, offset in _FIRMWARES.items():
        data[offset : offset + 3] = _firmware(report.get(name), name)
    signature = report.get("signature")
    if not isinstance(signature, dict):
        raise EvidenceMalformed("format: the report's signature is no object")
    data[_R : _R + _SIGNATURE_INTEGER] = _array(signature, "r", _SIGNATURE_INTEGER)
    data[_S : _S + _SIGNATURE_INTEGER] = _array(signature, "s", _SIGNATURE_INTEGER)
    return bytes(data)


def _key_info(report: Mapping[str, Any]) -> object:
    """Older releases of the client's library call the field after its lowest bit."""
    for name in _KEY_INFO_ALIASES:
        if name in report:
            return report[name]
    return None


def _tcb(value: object, name: str, *, turin: bool) -> bytes:
    """SEV-SNP ABI, TCB_VERSION: Turin puts FMC first, earlier products have four reserved bytes."""
    if not isinstance(value, dict):
        raise EvidenceMalformed(f"format: {name} is no object")
    part = {
        key: _integer(value.get(key), f"{name}.{key}", 1)
        for key in ("bootloader", "tee", "snp", "microcode")
    }
    if turin:
        fmc = _integer(value.get("fmc"), f"{name}.fmc", 1)
        return fmc + part["bootloader"] + part["tee"] + part["snp"] + bytes(3) + part["microcode"]
    return part["bootloader"] + part["tee"] + bytes(4) + part["snp"] + part["microcode"]


def _firmware(value: object, name: str) -> bytes:
    if not isinstance(value, dict):
        raise EvidenceMalformed(f"format: {name} is no object")
    return b"".join(
        _integer(value.get(key), f"{name}.{key}", 1) for key in ("build", "minor", "major")
    )


def _array(report: Mapping[str, Any], name: str, size: int) -> bytes:
    data = _bytes(report.get(name))
    if len(data) != size:
        raise EvidenceMalformed(f"format: {name} has {len(data)} bytes, not {size}")
    return data


def _bytes(value: object) -> bytes:
    if not isinstance(value, list) or not all(
        type(item) is int and 0 <= item < 256 for item in value
    ):
        raise EvidenceMalformed("format: a list of bytes is missing")
    return bytes(value)


def _integer(value: object, name: str, size: int) -> bytes:
    if isinstance(value, bool) and size == 4:
        value = int(value)  # the flag that older releases printed
    if type(value) is not int or not 0 <= value < 1 << (8 * size):
        raise EvidenceMalformed(f"format: {name} is no unsigned integer of {size} bytes")
    return value.to_bytes(size, "little")
