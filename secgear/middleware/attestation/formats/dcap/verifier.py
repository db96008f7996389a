"""SGX and TDX quotes: from quote and collateral to claims.

The order of Intel's "Attestation Library", section 4.1.2.4: the platform's certificate up to
Intel's root, the quoting enclave (QE) that it certified, the attestation key that the QE vouches
for, the quote that this key signed; then the TCB, by Intel's signed documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.anchors import Anchor
from secgear.middleware.attestation.certificates import Certificate, load_certificate
from secgear.middleware.attestation.chains import Path, check_path
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.claims import Claims, Tcb
from secgear.middleware.attestation.formats.dcap import rtmr, tcb
from secgear.middleware.attestation.formats.dcap.describing import describe_sgx, describe_td
from secgear.middleware.attestation.formats.dcap.documents import (
    find_qe_identity,
    find_tcb_info,
)
from secgear.middleware.attestation.formats.dcap.memory import Memory, Same, dates_of
from secgear.middleware.attestation.formats.dcap.pck import SGX_EXTENSION, Pck, read_pck
from secgear.middleware.attestation.formats.dcap.quote import (
    SGX,
    Quote,
    TdReport,
    parse,
)
from secgear.middleware.attestation.formats.dcap.report import SgxReport
from secgear.middleware.attestation.formats.dcap.signing import (
    load_key,
    signature_holds,
    signed_by,
)
from secgear.middleware.attestation.verification import Context

SGX_FORMAT = "intel.sgx.quote"
TDX_FORMAT = "intel.tdx.quote"

_PCK = "Intel SGX PCK Certificate"
_PCK_CHAIN = 3  # certificates: PCK, platform or processor CA, root
_PCK_CAS = frozenset(("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"))
_MAX_CANDIDATES = 512  # certificates that are looked at for a PCK's

_paths: Memory[Path] = Memory()


def verify_sgx(evidence: Evidence, context: Context) -> Claims:
    """An SGX quote (v3, v4 or v5). Raises EvidenceRefused."""
    quote = parse(evidence.data)
    report = quote.body
    if not isinstance(report, SgxReport):
        raise EvidenceMalformed("format: a TDX quote, where an SGX quote belongs")
    context.checks.passed("format", f"SGX quote v{quote.version}")
    path, pck = authenticate(quote, context)
    found = assess(quote, pck, path, context)
    return Claims(
        format=SGX_FORMAT,
        tee="sgx",
        measurements={"launch": report.mrenclave},
        debug=report.debug,
        simulated=False,
        report_data=report.report_data,
        root=path.root,
        checks=context.checks.done,
        signer=report.mrsigner,
        product=str(report.product_id),
        svn=report.svn,
        tcb=found,
        platform=_platform(quote, pck),
        details=describe_sgx(report) | _certified(quote, pck),
    )


def verify_tdx(evidence: Evidence, context: Context) -> Claims:
    """A TDX quote (v4 or v5), with its event log if attached. Raises EvidenceRefused."""
    quote = parse(evidence.data)
    report = quote.body
    if not isinstance(report, TdReport):
        raise EvidenceMalformed("format: an SGX quote, where a TDX quote belongs")
    context.checks.passed("format", f"TDX quote v{quote.version}")
    path, pck = authenticate(quote, context)
    found = assess(quote, pck, path, context)
    if rtmr.ATTACHMENT in evidence.attachments:
        rtmr.check_event_log(evidence.attachments[rtmr.ATTACHMENT], report, context.checks)
    description = describe_td(report)
    return Claims(
        format=TDX_FORMAT,
        tee="tdx",
        measurements=description.measurements,
        debug=description.debug,
        migratable=description.migratable,
        simulated=False,
        report_data=report.report_data,
        root=path.root,
        checks=context.checks.done,
        tcb=found,
        platform=_platform(quote, pck),
        details={**description.details, **_certified(quote, pck)},
    )


def authenticate(quote: Quote, context: Context) -> tuple[Path, Pck]:
    """The platform's chain to Intel's root, and every signature down to the quote.

    Raises EvidenceRefused with the check that failed.
    """
    checks, certification = context.checks, quote.certification
    leaf = _find_pck(quote, context)
    path = _check_platform(leaf, certification.chain, context)
    pck = read_pck(leaf)
    _check_named_platform(quote, pck, checks)
    checks.require(
        signed_by(leaf, certification.qe_report_signature, certification.qe_report.raw),
        "qe-report.signature",
        "the quoting enclave's report is signed by the platform's PCK",
        "the quoting enclave's report is not signed by the platform's PCK, or was changed since",
    )
    _check_attestation_key(quote, checks)
    checks.require(
        signature_holds(load_key(quote.attestation_key), quote.signature, quote.signed),
        "signature",
        "ECDSA P-256 by the attestation key, over header and body",
        "the quote is not signed by its attestation key, or was changed since",
    )
    return path, pck


def assess(quote: Quote, pck: Pck, path: Path, context: Context) -> Tcb:
    """What Intel's documents say about platform, TDX module and quoting enclave.

    Raises EvidenceRefused for documents that are wrong, and for a TCB that Intel does not know.
    """
    checks, body = context.checks, quote.body
    tee = "sgx" if quote.tee_type == SGX else "tdx"
    td_report = body if isinstance(body, TdReport) else None
    roots = _root_of(path, context)
    if quote.certification.qe_report.debug:
        checks.failed(
            "qe-identity", "the quoting enclave is in debug mode: its host knows its keys"
        )
    info = find_tcb_info(context, tee, pck, roots)
    identity = find_qe_identity(context, tee, roots)
    platform = tcb.Platform(pck, td_report)
    if identity is not None:
        platform = tcb.with_qe(platform, identity, quote.certification.qe_report, checks)
    if info is None:
        if td_report is not None:
            checks.not_performed(
                "tdx-module",
                "without TCB information nobody knows which modules are genuine",
                fix="TCB information of Intel's PCS for this platform, as collateral",
            )
        return Tcb(components=tcb.components(pck, td_report))
    if td_report is not None:
        platform = tcb.with_module(platform, info, td_report, checks)
    return tcb.assess(info, platform, checks)


def _find_pck(quote: Quote, context: Context) -> Certificate:
    """The PCK certificate: from the quote, or the one of the collateral whose key signed."""
    certification = quote.certification
    for certificate in certification.chain:
        if certificate.extension(SGX_EXTENSION) is not None:
            return certificate
    if certification.chain:
        context.checks.failed("certificate-chain", "the quote's certificates hold no PCK's")
    signature, signed = certification.qe_report_signature, certification.qe_report.raw
    found = next((one for one in _candidates(context) if signed_by(one, signature, signed)), None)
    if found is None:
        context.checks.failed(
            "certificate-chain",
            "the quote names the platform without its PCK certificate (certification data of type "
            f"{certification.kind}), and no PCK certificate given signed the quoting enclave",
            fix="the platform's PCK certificate, as collateral",
        )
    return found


def _check_platform(leaf: Certificate, chain: tuple[Certificate, ...], context: Context) -> Path:
    """The chain from the PCK certificate to Intel's root, by way of a PCK CA."""
    anchors = context.anchors.of("intel")
    key = (leaf, chain, anchors, Same(context.collateral))
    path = _paths.recall(key, context.at, context.checks)
    if path is not None:
        return path
    before = len(context.checks.done)
    path = check_path(
        leaf,
        (*chain, *context.collateral.certificates),
        anchors,
        at=context.at,
        crls=context.collateral.crls,
        checks=context.checks,
    )
    _check_roles(path, context.checks)
    dates = dates_of(path.certificates, context.collateral)
    checks, size = context.checks.done[before:], context.collateral.size
    _paths.keep(key, context.at, dates, checks, path, size=size)
    return path


def _candidates(context: Context) -> Iterator[Certificate]:
    for der in context.collateral.certificates[:_MAX_CANDIDATES]:
        try:
            certificate = load_certificate(der)
            if certificate.extension(SGX_EXTENSION) is not None:
                yield certificate
        except EvidenceMalformed:
            continue


def _check_roles(path: Path, checks: Checks) -> None:
    """Intel's root signs more than PCK CAs; only these may vouch for platforms."""
    names = [certificate.common_name for certificate in path.certificates]
    fits = len(names) == _PCK_CHAIN and names[0] == _PCK and names[1] in _PCK_CAS
    if not fits:
        checks.failed(
            "certificate-chain",
            "not the chain of a PCK certificate",
            expected=f"{_PCK} <- {' or '.join(sorted(_PCK_CAS))} <- root",
            found=" <- ".join(names),
        )
    key = path.leaf.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        checks.failed("certificate-chain", "the PCK is no P-256 key")


def _check_named_platform(quote: Quote, pck: Pck, checks: Checks) -> None:
    named = quote.certification.platform
    if named is None:
        return
    pce_id = named.pce_id.to_bytes(2, "little")
    differing = [
        name
        for name, theirs, ours in (
            ("PPID", named.ppid, pck.ppid if named.ppid is not None else None),
            ("CPUSVN", named.cpu_svn, pck.cpu_svn),
            ("PCESVN", named.pce_svn, pck.pce_svn),
            ("PCEID", pce_id, pck.pce_id),
        )
        if theirs != ours
    ]
    checks.require(
        not differing,
        "binding.platform",
        "the PCK certificate is that of the platform and TCB which the quote names",
        f"the PCK certificate is for another platform or TCB: {', '.join(differing)} differ",
    )


def _check_attestation_key(quote: Quote, checks: Checks) -> None:
    """The QE puts the hash of the key into its own report: "Attestation Library", 4.1.2.4.13."""
    certification = quote.certification
    digest = hashlib.sha256(quote.attestation_key + certification.auth_data).digest()
    found = certification.qe_report.report_data
    checks.require(
        found == digest + bytes(32),
        "binding.attestation-key",
        "the quoting enclave vouches for the attestation key",
        "the quoting enclave's report is about another attestation key",
        expected=digest.hex() + bytes(32).hex(),
        found=found.hex(),
    )


def _root_of(path: Path, context: Context) -> tuple[Anchor, ...]:
    """The anchor that certified the platform: no other root may speak about its TCB."""
    return tuple(
        anchor
        for anchor in context.anchors.of("intel")
        if anchor.fingerprint == path.root.fingerprint
    )


def _platform(quote: Quote, pck: Pck) -> Mapping[str, str]:
    found = {
        "fmspc": pck.fmspc.hex(),
        "pceid": pck.pce_id.hex(),
        "ppid": pck.ppid.hex(),
        "qe_id": quote.user_data[:16].hex(),
    }
    if pck.instance_id is not None:
        found["platform_instance_id"] = pck.instance_id.hex()
    return found


def _certified(quote: Quote, pck: Pck) -> dict[str, Any]:
    """What the PCK certificate says about the platform's make, and what is known of the QE."""
    report = quote.certification.qe_report
    made = {
        "dynamic_platform": pck.dynamic_platform,
        "cached_keys": pck.cached_keys,
        "smt_enabled": pck.smt_enabled,
    }
    return {
        "quote_version": quote.version,
        "sgx_type": pck.sgx_type,
        **{name: value for name, value in made.items() if value is not None},
        "qe": {"mrenclave": report.mrenclave.hex(), "isvsvn": report.svn},
    }
