"""Which device signed: what NVIDIA's certificates say about it, and how that fits the report.

A device's chain has five certificates: the key of the running firmware ("FMC LF"), certified by the
chip itself ("BROM"), then NVIDIA's provisioner, the identity of the chip's kind, and the root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from cryptography import x509

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.certificates import Certificate
from secgear.middleware.attestation.chains import Path
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.formats.nvidia.spdm import Field, Report

# Extensions of the leaf with the firmware's digest: TCG DICE, as Hopper and as Blackwell use it.
COMPOSITE_DEVICE_ID = "2.23.133.5.4.1"
DICE_TCB_INFO = "2.23.133.5.4.1.1"

_DMTF_DEVICE = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
_SHA384 = bytes.fromhex("608648016503040202")
_GPU = re.compile(r"(G[A-Z]\d{2}[0-9A-Z])\b")  # GH100, GB100
_SWITCH = re.compile(r"LS_?(\d{2})\b")  # LS_10
_DEVICE_NAME = re.compile(r"NVIDIA:[A-Z0-9_]{1,16}:([0-9A-F]{16})")
_SEQUENCE, _OCTETS, _OID, _UTF8, _FWIDS = 0x30, 0x04, 0x06, 0x0C, 0xA6


class Device(msgspec.Struct, frozen=True):
    """A chip, as NVIDIA's certificates name it.

    kind: ``gpu`` or ``nvswitch``. model: hardware model and revision, ``GH100 A01 GSP BROM``.
    chip: its family, ``GH100`` or ``LS10``. ueid: the serial number that NVIDIA's own claims call
    so, decimal; it is of the firmware's key. serial: of the chip's certificate, hexadecimal.
    pdi: the chip's identifier on NVLink, hexadecimal; empty if the certificate does not tell.
    """

    kind: str
    model: str
    chip: str
    ueid: str
    serial: str
    pdi: str


def identify(path: Path, kind: str, checks: Checks) -> Device:
    """Which chip the chain is about; refuses one that is no `kind`. Check ``binding``."""
    leaf = path.leaf
    model = path.certificates[1].common_name if len(path.certificates) > 2 else ""
    gpu, switch = _GPU.match(model), _SWITCH.match(model)
    found = "gpu" if gpu else "nvswitch" if switch else "another device"
    checks.require(
        found == kind and _may_sign_evidence(leaf),
        "binding",
        f"the key belongs to {model}",
        f"the key does not belong to the firmware of a {kind}",
        expected=kind,
        found=f"{found}: {leaf.subject}",
    )
    return Device(
        kind=kind,
        model=model,
        chip=gpu[1] if gpu else f"LS{switch[1] if switch else ''}",
        ueid=str(leaf.serial),
        serial=f"{path.certificates[1].serial:x}",
        pdi=_pdi(leaf),
    )


def check_firmware(report: Report, leaf: Certificate, checks: Checks) -> None:
    """The firmware that the report names is the one the key was certified for.

    Check ``binding.firmware``: the chip derives the key from the digest of its firmware (FWID, TCG
    DICE), so a certificate of older firmware can't be used by newer firmware, nor the other way.
    """
    stated = report.raw(Field.FWID)
    if stated is None:
        checks.not_performed(
            "binding.firmware",
            "the report does not say which firmware signed it",
            fix="a driver that has it say so (not those of series 535)",
        )
        return
    certified = firmware_digests(leaf)
    checks.require(
        stated in certified,
        "binding.firmware",
        f"firmware {stated.hex()}, which its certificate names",
        "the key was certified for other firmware than the report names",
        expected=", ".join(digest.hex() for digest in certified) or "a digest in the certificate",
        found=stated.hex(),
    )


def firmware_digests(leaf: Certificate) -> tuple[bytes, ...]:
    """SHA-384 digests of the firmware that `leaf` was issued for. Raises EvidenceMalformed."""
    composite, tcb_info = leaf.extension(COMPOSITE_DEVICE_ID), leaf.extension(DICE_TCB_INFO)
    found: list[bytes] = []
    if composite is not None:
        # CompositeDeviceID: version, the device's key, FWID.
        *_, (tag, value) = ((0, b""), *_elements(_only(composite, _SEQUENCE)))
        if tag == _SEQUENCE:
            found.extend(_fwid(value))
    if tcb_info is not None:
        for tag, value in _elements(_only(tcb_info, _SEQUENCE)):
            if tag == _FWIDS:
                for inner, entry in _elements(value):
                    if inner == _SEQUENCE:
                        found.extend(_fwid(entry))
    return tuple(found)


def _fwid(value: bytes) -> Iterator[bytes]:
    """FWID ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, digest OCTET STRING }."""
    elements = tuple(_elements(value))
    if len(elements) == 2 and elements[0] == (_OID, _SHA384) and elements[1][0] == _OCTETS:
        yield elements[1][1]


def _may_sign_evidence(leaf: Certificate) -> bool:
    """A key for signatures, and not of an authority: those of chip and factory sign no reports."""
    extensions = leaf.parsed.extensions
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        pass
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return False


def _pdi(leaf: Certificate) -> str:
    """From DMTF's device name among the alternative names (DSP0274, section 10.8)."""
    try:
        names = leaf.parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    for name in names.get_values_for_type(x509.OtherName):
        if name.type_id != _DMTF_DEVICE:
            continue
        found = _DEVICE_NAME.fullmatch(_only(name.value, _UTF8).decode("ascii", "replace"))
        if found:
            return found[1].lower()
    return ""


def _only(der: bytes, tag: int) -> bytes:
    """The value of the one element that `der` must be."""
    elements = tuple(_elements(der))
    if len(elements) != 1 or elements[0][0] != tag:
        raise EvidenceMalformed("format: an extension of NVIDIA's certificate of another form")
    return elements[0][1]


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and value of each DER element, one after the other."""
    at = 0
    while at < len(der):
        header = der[at : at + 2]
        size, start = (header[1], at + 2) if len(header) == 2 else (0, len(der) + 1)
        if size & 0x80:
            octets = size & 0x7F
            size, start = int.from_bytes(der[start : start + octets], "big"), start + octets
            if octets not in (1, 2):
                start = len(der) + 1
        if start + size > len(der):
            raise EvidenceMalformed("format: an extension of NVIDIA's certificate that ends early")
        yield header[0], der[start : start + size]
        at = start + size
