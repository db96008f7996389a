"""An SEV-SNP report, from bytes to claims."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.attestation.chains import Path, check_path
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.claims import Claims, Root, Tcb
from secgear.middleware.attestation.formats.snp.certificates import (
    Endorsement,
    intermediates,
    load_any,
    read_endorsement,
    read_table,
)
from secgear.middleware.attestation.formats.snp.report import SIGNED, Report, parse
from secgear.middleware.attestation.formats.snp.tcb import Product
from secgear.middleware.attestation.verification import Context

FORMAT = "amd.sev-snp"

_KINDS = {0: "vcek", 1: "vlek"}
_MAX_CANDIDATES = 32
_PLATFORM_BITS = {
    0: "smt_en",
    1: "tsme_en",
    2: "ecc_en",
    3: "rapl_dis",
    4: "ciphertext_hiding_dram_en",
    5: "alias_check_complete",
    7: "tio_en",
}


def verify(evidence: Evidence, context: Context) -> Claims:
    """Report under the chip's or the cloud's key, up to AMD's root of the product."""
    checks = context.checks
    report = parse(evidence.data)
    kind = _KINDS.get(report.signing_key)
    if kind is None:
        raise EvidenceUnsupported(
            f"format: SEV-SNP report signed by key {report.signing_key}, neither VCEK nor VLEK"
        )
    checks.passed("format", f"SEV-SNP report version {report.version}, signed by {kind.upper()}")
    endorsement = _endorsement(evidence, report, kind, context)
    root = authenticate(evidence, report, endorsement, context)
    check_binding(report, endorsement, context)
    checks.passed(
        "tcb", f"{report.reported_tcb}; AMD names no levels, the policy's minimum decides"
    )
    return _claims(report, endorsement, root, context)


def authenticate(
    evidence: Evidence, report: Report, endorsement: Endorsement, context: Context
) -> Root:
    """Chain of the key, then the signature over the report.

    AMD's lists are its roots'; they cover the intermediates, and leaves only if one is named there.
    """
    checks = context.checks
    chain = evidence.attachments.get("chain")
    path = check_path(
        endorsement.certificate,
        (*intermediates(), *(load_pem(chain) if chain else ()), *context.collateral.certificates),
        context.anchors.of("amd"),
        at=context.at,
        crls=context.collateral.crls,
        checks=checks,
        revocable="issuers",
    )
    _check_roles(path, endorsement, checks)
    fault = signature_fault(report, endorsement)
    checks.require(fault is None, "signature", "ECDSA P-384 over the report", fault or "")
    return path.root


def _check_roles(path: Path, endorsement: Endorsement, checks: Checks) -> None:
    """Each product has an authority for VCEKs and one for VLEKs, and neither is another's."""
    if endorsement.line is Product.UNSTATED:
        return  # `check_binding` refuses it
    line = endorsement.line.value
    authority = f"SEV-{line}" if endorsement.kind == "vcek" else f"SEV-VLEK-{line}"
    names = [certificate.common_name for certificate in path.certificates[1:]]
    checks.require(
        names == [authority, f"ARK-{line}"],
        "binding.issuer",
        f"issued by {authority}",
        f"a {endorsement.kind.upper()} of {line} is issued by another authority",
        expected=f"{authority}, ARK-{line}",
        found=", ".join(names),
    )


def signature_fault(report: Report, endorsement: Endorsement) -> str | None:
    """Why the report is not signed by this key; None if it is."""
    key = endorsement.certificate.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return f"the {endorsement.kind.upper()} is no P-384 key"
    try:
        key.verify(
            encode_dss_signature(report.r, report.s),
            report.raw[:SIGNED],
            ec.ECDSA(hashes.SHA384()),
        )
    except InvalidSignature:
        return f"the report is not signed by this {endorsement.kind.upper()}"
    return None


def check_binding(report: Report, endorsement: Endorsement, context: Context) -> None:
    """The certificate is of this product, this chip and this TCB."""
    checks = context.checks
    stated = report.product
    checks.require(
        endorsement.line is not Product.UNSTATED and stated in (endorsement.line, Product.UNSTATED),
        "binding.product",
        f"the certificate is for {endorsement.product}",
        "the report is not of the product that the certificate is for",
        expected=stated.value,
        found=endorsement.product,
    )
    if endorsement.hardware_id is not None:
        _check_chip(report, endorsement, endorsement.hardware_id, context)
    wanted = dict(report.reported_tcb.components)
    checks.require(
        endorsement.versions == wanted,
        "binding.tcb",
        "the certificate is for the reported TCB",
        "the certificate is for another TCB than the report states",
        expected=str(report.reported_tcb),
        found=", ".join(f"{name} {value}" for name, value in endorsement.versions.items()),
        fix="the certificate for the reported TCB, from AMD's KDS",
    )


def _check_chip(
    report: Report, endorsement: Endorsement, hardware_id: bytes, context: Context
) -> None:
    checks = context.checks
    if report.mask_chip_key and not any(report.chip_id):
        checks.not_performed(
            "binding.chip",
            "the host masks the chip's identity (MASK_CHIP_KEY); its key signed all the same",
        )
        return
    size = endorsement.line.chip_id_size
    chip, rest = report.chip_id[:size], report.chip_id[size:]
    checks.require(
        chip == hardware_id and not any(rest) and any(chip),
        "binding.chip",
        f"the certificate is for chip {chip.hex()}",
        "the certificate is for another chip",
        expected=chip.hex(),
        found=hardware_id.hex(),
        fix="the VCEK of this chip, from AMD's KDS",
    )


def _endorsement(evidence: Evidence, report: Report, kind: str, context: Context) -> Endorsement:
    """The certificate of the key that signed: attached, or that of the collateral that fits best.

    Whatever is attached is taken as it is, so that a wrong one is named; among collateral, which
    may be for many machines, the one is looked for whose key made the signature.
    """
    checks = context.checks
    attached = evidence.attachments.get(kind)
    table = evidence.attachments.get("certs")
    if attached is None and table:
        attached = read_table(table).get(kind)
    if attached is not None:
        endorsement = read_endorsement(load_any(attached))
        if endorsement.kind != kind:
            checks.failed(
                "binding.key",
                f"the report is signed by a {kind.upper()}, the certificate is a "
                f"{endorsement.kind.upper()}",
            )
        return endorsement
    for data in context.collateral.certificates[:_MAX_CANDIDATES]:
        try:
            endorsement = read_endorsement(load_any(data))
        except EvidenceMalformed:
            continue
        if endorsement.kind == kind and signature_fault(report, endorsement) is None:
            return endorsement
    return checks.failed(
        "certificate-chain",
        f"no {kind.upper()} certificate for this report is here",
        fix=f"attach the {kind.upper()}, or give it as collateral (AMD's KDS, or the host's table)",
    )


def _claims(report: Report, endorsement: Endorsement, root: Root, context: Context) -> Claims:
    named = {
        "launch": report.measurement,
        "host_data": report.host_data,
        "id_key": report.id_key_digest,
        "author_key": report.author_key_digest,
    }
    platform = {"product": endorsement.product}
    if any(report.chip_id):
        platform["chip_id"] = report.chip_id[: endorsement.line.chip_id_size].hex()
    if endorsement.csp_id:
        platform["csp_id"] = endorsement.csp_id
    image = report.family_id + report.image_id
    return Claims(
        format=FORMAT,
        tee="snp",
        measurements={
            name: value for name, value in named.items() if name == "launch" or any(value)
        },
        debug=report.policy.debug,
        simulated=False,
        migratable=report.policy.migrate_ma,
        report_data=report.report_data,
        root=root,
        checks=context.checks.done,
        signer=report.id_key_digest if any(report.id_key_digest) else None,
        product=f"{report.family_id.hex()}/{report.image_id.hex()}" if any(image) else None,
        svn=report.guest_svn,
        tcb=Tcb(components=report.reported_tcb.components, shortfalls=_shortfalls(report)),
        platform=platform,
        details={
            "product": endorsement.line.value,
            "version": report.version,
            "policy": report.policy.to_dict(),
            "vmpl": report.vmpl,
            "signing_key": endorsement.kind,
            "author_key_en": report.author_key_en,
            "mask_chip_key": report.mask_chip_key,
            "platform_info": {
                name: bool(report.platform_info >> bit & 1) for bit, name in _PLATFORM_BITS.items()
            },
            "report_id": report.report_id.hex(),
            "report_id_ma": report.report_id_ma.hex(),
            "current_tcb": dict(report.current_tcb.components),
            "committed_tcb": dict(report.committed_tcb.components),
            "launch_tcb": dict(report.launch_tcb.components),
            "current_firmware": report.current_firmware,
            "committed_firmware": report.committed_firmware,
        },
    )


def _shortfalls(report: Report) -> tuple[str, ...]:
    """Where the platform could fall back to, or the guest was started on, less than it reports."""
    lines = []
    reported = report.reported_tcb.components
    for what, other in (("committed", report.committed_tcb), ("launch", report.launch_tcb)):
        for name, value in other.components.items():
            if value < reported.get(name, 0):
                lines.append(
                    f"{name}: {what} TCB has {value}, less than the reported {reported[name]}"
                )
    return tuple(lines)
