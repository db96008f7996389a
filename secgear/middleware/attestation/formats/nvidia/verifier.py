"""Verification of NVIDIA GPU and NVSwitch evidence.

Authenticity comes from the device's chain of certificates alone. Whether the firmware is NVIDIA's
own is another matter: that shows in the manifests (RIMs) of its driver and VBIOS, which are
collateral of kind ``nvidia.rim``, found by their identifiers.

Claims: ``report_data`` is the request's nonce, 32 bytes. Measurements are ``block00``, ``block01``,
… by the index that the manifests use, and ``launch``: SHA-384 over all of them, in that order.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.certificates import Certificate, load_pem
from secgear.middleware.attestation.chains import Path, check_path
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.formats.nvidia import ocsp, rim, spdm
from secgear.middleware.attestation.formats.nvidia.compare import Conflict, compare
from secgear.middleware.attestation.formats.nvidia.device import Device, check_firmware, identify
from secgear.middleware.attestation.formats.nvidia.spdm import Field, Report
from secgear.middleware.attestation.verification import Context

RIM = "nvidia.rim"

# The only switch whose manifests NVIDIA publishes; project, SKU and chip SKU are fixed for it.
_LS10_MANIFEST = "NV_SWITCH_BIOS_5612_0002_890_"
_PROTECTED_PCIE = {b"\xaa": True, b"\x55": False}
_MODES = {0: "single-gpu", 1: "multi-gpu", 2: "protected-pcie"}


def verify_gpu(evidence: Evidence, context: Context) -> Claims:
    """A report of a GPU, under a certificate of NVIDIA's for a GPU."""
    return _verify(evidence, context, "gpu")


def verify_switch(evidence: Evidence, context: Context) -> Claims:
    """A report of an NVSwitch, under a certificate of NVIDIA's for a switch."""
    return _verify(evidence, context, "nvswitch")


def _verify(evidence: Evidence, context: Context, kind: str) -> Claims:
    checks = context.checks
    report = spdm.parse(evidence.data)
    if "chain" not in evidence.attachments:
        raise EvidenceMalformed("format: NVIDIA evidence without the attachment 'chain'")
    chain = load_pem(evidence.attachments["chain"])
    _check_texts(report, kind)
    checks.passed("format", f"SPDM 1.1 measurements, {len(report.blocks)} blocks")
    path = check_path(
        chain[0],
        (*chain[1:], *context.collateral.certificates),
        context.anchors.of("nvidia"),
        at=context.at,
        crls=(),
        checks=checks,
        revocable="nothing",
    )
    # The chip issues its firmware's certificate itself; nobody lists those.
    _check_revocation(path.certificates[1:], context)
    check_signature(report, path.leaf, checks)
    device = identify(path, kind, checks)
    check_firmware(report, path.leaf, checks)
    wanted = manifests_wanted(report, device)
    matched = check_measurements(report, device, wanted, context)
    return _claims(
        evidence.format, report, path, device, matched=matched, wanted=wanted, checks=checks
    )


def check_signature(report: Report, leaf: Certificate, checks: Checks) -> None:
    """ECDSA over P-384 with SHA-384, over request and answer. Check ``signature``."""
    key, half = leaf.public_key, spdm.SIGNATURE_SIZE // 2
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        checks.failed("signature", "the device's key is not on P-384")
    r, s = report.signature[:half], report.signature[half:]
    try:
        key.verify(
            encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")),
            report.signed,
            ec.ECDSA(hashes.SHA384()),
        )
    except InvalidSignature:
        checks.failed("signature", "the signature over request and answer does not verify")
    checks.passed("signature", "ECDSA P-384 over request and answer")


def manifests_wanted(report: Report, device: Device) -> tuple[str, ...]:
    """Identifiers of the manifests to compare with, as NVIDIA's RIM service calls them.

    Of a GPU those of its driver and its VBIOS, of a switch that of its BIOS. Raises
    EvidenceMalformed where the report does not say enough.
    """
    bios = (vbios_version(report, device.kind) or "").replace(".", "")
    if device.kind == "nvswitch":
        return (f"{_LS10_MANIFEST}{bios.upper()}",)
    driver = report.text(Field.DRIVER_VERSION)
    board = [report.text(field) for field in (Field.PROJECT, Field.PROJECT_SKU, Field.CHIP_SKU)]
    if not driver or not bios or None in board:
        raise EvidenceMalformed("format: NVIDIA's opaque data name no driver, VBIOS or board")
    series = "NV_GPU_DRIVER" if device.chip.startswith("GH") else "NV_GPU_CC_DRIVER"
    return (
        f"{series}_{_chip(report, device)}_{driver}",
        "_".join(("NV_GPU_VBIOS", *(str(part) for part in board), bios)),
    )


def vbios_version(report: Report, kind: str) -> str | None:
    """As NVIDIA prints it: ``96.00.5E.00.01``. Switches have it as text, GPUs as eight bytes."""
    if kind == "nvswitch":
        return report.text(Field.VBIOS_VERSION)
    value = report.raw(Field.VBIOS_VERSION)
    if value is None:
        return None
    if len(value) != 8:
        raise EvidenceMalformed(f"format: a VBIOS version of {len(value)} bytes")
    return ".".join(f"{value[at]:02X}" for at in (3, 2, 1, 0, 4))


def check_measurements(
    report: Report, device: Device, wanted: tuple[str, ...], context: Context
) -> bool:
    """Hold the measurements against the manifests `wanted`. Check ``measurements``.

    Returns whether all manifests were there and all measurements match. Manifests that are there
    must be authentic and for exactly this version; then every active golden value must match.
    """
    checks = context.checks
    given = {
        document.name: document.data
        for document in context.collateral.documents_of(RIM)
        if document.name in wanted
    }
    missing = [name for name in wanted if name not in given]
    if given and not rim.available():
        checks.not_performed(
            "measurements",
            "NVIDIA's manifests can't be read without lxml and signxml",
            fix='pip install "secgear[gpu]"',
        )
        return False
    manifests = [
        _manifest(name, given[name], _subject(report, device, position), context)
        for position, name in enumerate(wanted)
        if name in given
    ]
    try:
        comparison = compare(report, manifests)
    except Conflict as problem:
        checks.failed("measurements", str(problem))
    if comparison.mismatches:
        first = comparison.mismatches[0]
        checks.failed(
            "measurements",
            "not NVIDIA's values for this version: measurements "
            + ", ".join(str(mismatch) for mismatch in comparison.mismatches),
            expected=" or ".join(value.hex() for value in first.expected),
            found=first.found.hex(),
        )
    if missing:
        checks.not_performed(
            "measurements",
            f"not all could be compared; no manifest {' and '.join(missing)}",
            fix=f"give these as collateral of kind {RIM}, under these names",
        )
        return False
    checks.passed(
        "measurements",
        f"{len(comparison.compared)} have NVIDIA's values: "
        + ", ".join(f"{index:02}" for index in comparison.compared)
        + ("; 35 left out, the video decoder is off" if comparison.skipped else ""),
    )
    return True


def _manifest(name: str, data: bytes, subject: tuple[str, str], context: Context) -> rim.Manifest:
    """An authentic manifest about `subject`, which is chip and version.

    Its name is only what the collateral calls it, so what is signed must say the same. Checks
    ``rim.driver.*`` or ``rim.vbios.*``, and ``measurements`` where it is about something else.
    """
    checks = context.checks
    label = f"rim.{'driver' if '_DRIVER_' in name else 'vbios'}."
    try:
        manifest = rim.read(data)
    except rim.RimRefused as problem:
        checks.failed(f"{label}signature", f"{name}: {problem}")
    checks.passed(f"{label}signature", f"{name}: ECDSA P-384 over the whole manifest")
    signer, *others = manifest.certificates
    path = check_path(
        signer,
        (*others, *context.collateral.certificates),
        context.anchors.of("nvidia-rim"),
        at=context.at,
        crls=(),
        checks=checks,
        revocable="nothing",
        label=label,
    )
    _check_revocation(path.certificates, context, label)
    found = (manifest.product, manifest.version)
    if found != subject:
        checks.failed(
            "measurements",
            f"{name} is a manifest for another chip or version",
            expected=" ".join(subject),
            found=" ".join(found),
        )
    return manifest


def _subject(report: Report, device: Device, position: int) -> tuple[str, str]:
    """Chip and version that the manifest at `position` of those wanted must be about."""
    chip = _chip(report, device)
    if device.kind == "gpu" and position == 0:
        return chip, report.text(Field.DRIVER_VERSION) or ""
    return chip, vbios_version(report, device.kind) or ""


def _chip(report: Report, device: Device) -> str:
    """What manifests call the chip: reports of Blackwell say it, but for early firmware."""
    if device.chip.startswith("GB"):
        return report.text(Field.CHIP_INFO) or "GB100"
    return device.chip


def _check_revocation(
    certificates: tuple[Certificate, ...], context: Context, label: str = ""
) -> None:
    ocsp.check_revocation(
        certificates,
        responses=context.collateral.ocsp,
        crls=context.collateral.crls,
        at=context.at,
        checks=context.checks,
        label=label,
    )


def _check_texts(report: Report, kind: str) -> None:
    """Read once what claims are made of, so that a broken entry shows as malformed evidence."""
    for field in (Field.DRIVER_VERSION, Field.PROJECT, Field.PROJECT_SKU, Field.CHIP_SKU):
        report.text(field)
    report.text(Field.CHIP_INFO)
    if vbios_version(report, kind) is None:
        raise EvidenceMalformed("format: NVIDIA's opaque data name no VBIOS")


def _claims(
    name: str,
    report: Report,
    path: Path,
    device: Device,
    *,
    matched: bool,
    wanted: tuple[str, ...],
    checks: Checks,
) -> Claims:
    if matched:
        checks.passed(
            "debug", "off, as NVIDIA infers it: with debugging on, measurements would not match"
        )
    else:
        checks.not_performed(
            "debug",
            "the report does not say; only a match with NVIDIA's manifests shows that it is off",
            fix=f"give {' and '.join(wanted)} as collateral of kind {RIM}",
        )
    values = report.measurements
    launch = hashlib.sha384(b"".join(values[index] for index in sorted(values))).digest()
    platform = {"ueid": device.ueid, "serial": device.serial, "subject": path.leaf.subject}
    if device.pdi:
        platform["pdi"] = device.pdi
    return Claims(
        format=name,
        tee=device.kind,
        measurements={f"block{index:02}": value for index, value in values.items()}
        | {"launch": launch},
        debug=False,
        simulated=False,
        report_data=report.nonce,
        root=path.root,
        checks=checks.done,
        product=device.model,
        platform=platform,
        details=_details(report, device, wanted) | {"matches_manifests": matched},
    )


def _details(report: Report, device: Device, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Versions and states, where the report has them."""
    flag = report.raw(Field.FEATURE_FLAG)
    protected = report.raw(Field.PROTECTED_PCIE_STATUS)
    fwid = report.raw(Field.FWID)
    found: dict[str, Any] = {
        "chip": device.chip,
        "vbios_version": vbios_version(report, device.kind),
        "driver_version": report.text(Field.DRIVER_VERSION),
        "project": report.text(Field.PROJECT),
        "project_sku": report.text(Field.PROJECT_SKU),
        "chip_sku": report.text(Field.CHIP_SKU),
        "firmware_digest": fwid.hex() if fwid else None,
        "protected_pcie": _PROTECTED_PCIE.get(protected) if protected else None,
        "mode": _MODES.get(int.from_bytes(flag, "little")) if flag else None,
        "manifests": list(wanted),
    }
    return {key: value for key, value in found.items() if value is not None}
