"""Which format a file of evidence has. A guess by its first bytes; the verifiers check the rest.

Envelopes of this package, raw evidence of each TEE, the JSON of Confidential Containers and of
NVIDIA's SDK, the CBOR of configfs-tsm collectors; all of it also as hexadecimal or base64 text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

import cbor2
import msgspec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation import cbor, envelope
from secgear.middleware.attestation.reader import UNREADABLE

MAX_SIZE = 16 << 20  # bytes: an envelope in text

_SNP_REPORT, _TDREPORT, _SGX_REPORT = 1184, 1024, 432
_SNP_VERSIONS = frozenset(range(2, 16))
_CCA_TAG = 399
_CCA_PLATFORM, _CCA_REALM = 44234, 44241
_NITRO_FIELDS = frozenset(("module_id", "pcrs", "cabundle"))
_PSA_KEYS = frozenset((2394, 2396, -75001, -75008))  # client id and instance id, new and old
_TSM_FORMATS = {
    "sev_guest": "amd.sev-snp",
    "tdx_guest": "intel.tdx.quote",
    "arm_cca_guest": "arm.cca",
}
_HEX = re.compile(rb"(?:0x)?(?:[0-9a-fA-F]{2})+", re.ASCII)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}", re.ASCII)


def recognise(data: bytes) -> Evidence:
    """The evidence in a file.

    Raises EvidenceUnsupported if it is nothing known, and for what is known and no evidence for
    others (local reports of Intel's); EvidenceMalformed for what begins like one form and is not.
    """
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: a file of {len(data)} bytes; at most {MAX_SIZE} are read")
    found = _binary(data)
    if found is not None:
        return found
    text = data.strip()
    if text[:1] in (b"{", b"["):
        return _json(text)
    decoded = _text(text)
    found = _binary(decoded) if decoded is not None else None
    if found is None and decoded is not None and decoded.lstrip()[:1] in (b"{", b"["):
        return _json(decoded.strip())
    if found is None and {len(data), len(decoded or b"")} & {_TDREPORT, _SGX_REPORT}:
        raise EvidenceUnsupported(
            "format: by its size a local report of SGX or TDX: its MAC can be checked on its own "
            "machine only; have it turned into a quote"
        )
    if found is None:
        raise EvidenceUnsupported(
            f"format: {len(data)} bytes that are no evidence known here: neither an envelope, an "
            "SEV-SNP report, an SGX or TDX quote, a Nitro document, a CCA, virtCCA or PSA token, a "
            "token of the process TEE, nor JSON of Confidential Containers or NVIDIA. Name the "
            "format if you know it"
        )
    return found


def _binary(data: bytes) -> Evidence | None:
    for test in (_snp, _quote, _cbor):
        found = test(data)
        if found is not None:
            return found
    return None


def _snp(data: bytes) -> Evidence | None:
    """A report, alone or with the certificate table behind it."""
    if len(data) < _SNP_REPORT or int.from_bytes(data[:4], "little") not in _SNP_VERSIONS:
        return None
    if any(data[0x4C:0x50]) or data[0x34:0x38] != b"\1\0\0\0":
        return None
    report, table = data[:_SNP_REPORT], data[_SNP_REPORT:]
    return Evidence("amd.sev-snp", report, {"certs": table} if any(table) else {})


def _quote(data: bytes) -> Evidence | None:
    """A quote: version, attestation key type, TEE type (DCAP quote library API, appendix A)."""
    if len(data) < 48:
        return None
    version, key_type = (int.from_bytes(data[at : at + 2], "little") for at in (0, 2))
    tee = int.from_bytes(data[4:8], "little")
    if version == 3 and key_type in (2, 3):
        return Evidence("intel.sgx.quote", bytes(data))
    if version in (4, 5) and key_type in (2, 3) and tee in (0, 0x81):
        return Evidence("intel.tdx.quote" if tee else "intel.sgx.quote", bytes(data))
    return None


def _cbor(data: bytes) -> Evidence | None:
    for body in (data, data[4:] if len(data) > 4 else b""):  # NSM answers have a length in front
        try:
            item = cbor.decode(body, "file", max_size=envelope.MAX_SIZE)
        except EvidenceMalformed:
            continue
        return _cbor_item(item, body)
    return None


def _cbor_item(item: Any, data: bytes) -> Evidence | None:
    if isinstance(item, cbor2.CBORTag) and item.tag == _CCA_TAG and isinstance(item.value, Mapping):
        known = {_CCA_PLATFORM, _CCA_REALM} & set(item.value)
        if known == {_CCA_PLATFORM, _CCA_REALM}:
            return Evidence("arm.cca", bytes(data))
        return Evidence("huawei.virtcca", bytes(data)) if known == {_CCA_REALM} else None
    if isinstance(item, Mapping):
        return _cbor_map(item, data)
    payload = item.value if isinstance(item, cbor2.CBORTag) and item.tag == 18 else item
    match payload:
        case [bytes(), Mapping(), bytes() as inside, bytes()]:
            return _cose(inside, data)
        case _:
            return None


def _cbor_map(item: Mapping[Any, Any], data: bytes) -> Evidence | None:
    if "secgear-evidence" in item:
        return envelope.from_cbor(data)
    match item:
        case {"provider": str() as provider, "outblob": bytes() as report}:
            kind = _TSM_FORMATS.get(provider.strip())
            if kind is None:
                raise EvidenceUnsupported(f"format: a report of configfs-tsm by {provider[:32]!r}")
            table = item.get("auxblob")
            attached = {"certs": table} if isinstance(table, bytes) and table else {}
            return Evidence(kind, report, attached if kind == "amd.sev-snp" else {})
        case _:
            return None


def _cose(payload: bytes, data: bytes) -> Evidence | None:
    """By what the payload claims to be."""
    try:
        claims = cbor.decode(payload, "payload")
    except EvidenceMalformed:
        return None
    if not isinstance(claims, Mapping):
        return None
    if _NITRO_FIELDS.issubset(claims):
        return Evidence("aws.nitro", bytes(data))
    if claims.get("tee") == "process":
        return Evidence("secgear.process.cwt", bytes(data))
    return Evidence("arm.psa", bytes(data)) if _PSA_KEYS & set(claims) else None


def _json(text: bytes) -> Evidence:
    try:
        content = msgspec.json.decode(text, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
    except UNREADABLE as error:
        raise EvidenceMalformed(f"format: JSON that can't be read: {error}") from None
    if isinstance(content, list):
        return _nvidia(text)
    for member, read in _BY_MEMBER:
        if member in content:
            return read(text)
    raise EvidenceUnsupported(
        f"format: JSON that is no evidence known here (members: {', '.join(list(content)[:8])})"
    )


def _nvidia(text: bytes) -> Evidence:
    """One device of NVIDIA's SDK's list; of several, nobody can say which is meant."""
    from secgear.middleware.attestation.formats.nvidia.exchange import evidence_from_nvat

    devices = evidence_from_nvat(text)
    if len(devices) != 1:
        raise EvidenceUnsupported(
            f"format: evidence of {len(devices)} NVIDIA devices; give each in a file of its own, "
            "or as parts of the machine's evidence"
        )
    return devices[0]


def _azure(text: bytes) -> Evidence:
    from secgear.middleware.attestation.formats.tpm.azure_coco import from_coco

    return from_coco(text)


def _csv(text: bytes) -> Evidence:
    return Evidence("hygon.csv", text)


def _tdx(text: bytes) -> Evidence:
    """Confidential Containers' TDX evidence: quote and log in base64."""
    try:
        content: Any = msgspec.json.decode(text, type=dict[str, Any])
        quote, log = content.get("quote"), content.get("cc_eventlog")
        data = base64.b64decode(quote, validate=True)
        attached = {"ccel": base64.b64decode(log, validate=True)} if log else {}
    except (binascii.Error, TypeError, *UNREADABLE):
        raise EvidenceMalformed("format: a quote in JSON that is not base64") from None
    found = _quote(data)
    if found is None:
        raise EvidenceMalformed("format: JSON with a quote that is none")
    return msgspec.structs.replace(found, attachments=attached)


# Members that tell one JSON form from the others, most telling first.
_BY_MEMBER: tuple[tuple[str, Callable[[bytes], Evidence]], ...] = (
    ("secgear-evidence", envelope.from_json),
    ("hcl_report", _azure),
    ("vcek", _azure),
    ("attestation_report", _csv),
    ("quote", _tdx),
)


def _text(text: bytes) -> bytes | None:
    """What hexadecimal or base64 text stands for."""
    joined = b"".join(text.split())
    if _HEX.fullmatch(joined):
        return binascii.unhexlify(joined.removeprefix(b"0x"))
    if _BASE64.fullmatch(joined) and len(joined.rstrip(b"=")) % 4 != 1:
        standard = joined.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
        except binascii.Error:
            return None
    return None
