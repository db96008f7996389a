"""Azure's confidential virtual machines: the paravisor's report, and the vTPM's quote under it.

The hardware measured the paravisor (HCL); its report's report data is the digest of the runtime
data, a JSON text with the vTPM's attestation key in it; that key quotes the machine's own boot and
the nonce. Each step is bound to the one before, or the evidence is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.formats.tpm.pcrs import check_values
from secgear.middleware.attestation.formats.tpm.structures import (
    launch_digest,
    parse_quote,
    parse_signature,
    signature_fault,
)
from secgear.middleware.attestation.formats.tpm.verifier import describe
from secgear.middleware.attestation.reader import Reader
from secgear.middleware.attestation.verification import Context, verify_within

MAX_SIZE = 64 << 10  # bytes of an HCL report

_REPORT_AREA = 1184
_SNP, _TDX = 2, 4
_DIGESTS = {1: "sha256", 2: "sha384", 3: "sha512"}
_KEY_ID = "HCLAkPub"


class HclReport(msgspec.Struct, frozen=True):
    """The paravisor's report. hardware: of the CPU. digest: of runtime, by this name.

    kind: 2 for SEV-SNP, 4 for TDX. runtime: the JSON text whose digest is in `hardware`.
    """

    hardware: bytes
    kind: int
    digest: str
    runtime: bytes


def parse(data: bytes) -> HclReport:
    """Read the report. Raises EvidenceMalformed, EvidenceUnsupported."""
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: an HCL report of {len(data)} bytes")
    reader = Reader(data, "HCL report")
    if reader.take(4, "magic") != b"HCLA":
        raise EvidenceMalformed("format: not an HCL report")
    version = reader.integer(4, "version")
    if version not in (1, 2):
        raise EvidenceUnsupported(f"format: HCL report version {version}")
    reader.take(24, "sizes and status")
    hardware = reader.take(_REPORT_AREA, "hardware report")
    reader.integer(4, "size of runtime area")
    if reader.integer(4, "version of runtime area") != 1:
        raise EvidenceUnsupported("format: HCL report: runtime area of another version")
    kind, digest = reader.integer(4, "report type"), reader.integer(4, "hash type")
    if kind not in (_SNP, _TDX) or digest not in _DIGESTS:
        raise EvidenceUnsupported(f"format: HCL report of type {kind} with hash {digest}")
    runtime = reader.take(reader.integer(4, "size of runtime data"), "runtime data")
    reader.zeros(reader.remaining, "bytes after the runtime data")
    return HclReport(hardware, kind, _DIGESTS[digest], runtime)


def attestation_key(runtime: bytes) -> rsa.RSAPublicKey:
    """The vTPM's attestation key in the runtime data. Raises EvidenceMalformed."""
    try:
        keys = msgspec.json.decode(runtime, type=dict[str, Any])["keys"]
        (key,) = [key for key in keys if key.get("kid") == _KEY_ID and key.get("kty") == "RSA"]
        numbers = rsa.RSAPublicNumbers(_number(key["e"]), _number(key["n"]))
        if not 2048 <= numbers.n.bit_length() <= 4096:
            raise ValueError("a key of another size")
        return numbers.public_key()
    except (
        msgspec.DecodeError,
        binascii.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise EvidenceMalformed(f"format: HCL runtime data without {_KEY_ID}: {error}") from None


def verify_snp(evidence: Evidence, context: Context) -> Claims:
    """SEV-SNP report, runtime data, quote."""
    report = _read(evidence, _SNP)
    attachments = {
        name: data for name, data in evidence.attachments.items() if name in ("vcek", "chain")
    }
    hardware = Evidence("amd.sev-snp", report.hardware, attachments)
    return _verify("azure.snp", evidence, report, hardware, context)


def verify_tdx(evidence: Evidence, context: Context) -> Claims:
    """TD quote (the report in the paravisor's is local), runtime data, quote."""
    report = _read(evidence, _TDX)
    quote = evidence.attachments.get("td-quote")
    if quote is None:
        raise EvidenceMalformed("format: Azure TDX evidence without its TD quote (attachment)")
    return _verify("azure.tdx", evidence, report, Evidence("intel.tdx.quote", quote), context)


def _read(evidence: Evidence, kind: int) -> HclReport:
    report = parse(evidence.data)
    if report.kind != kind:
        raise EvidenceMalformed(f"format: an HCL report of type {report.kind}, not {kind}")
    missing = {"quote", "signature"} - set(evidence.attachments)
    if missing:
        raise EvidenceMalformed(f"format: Azure evidence without {', '.join(sorted(missing))}")
    return report


def _verify(
    format_name: str, evidence: Evidence, report: HclReport, hardware: Evidence, context: Context
) -> Claims:
    checks, attached = context.checks, evidence.attachments
    quote, signature = parse_quote(attached["quote"]), parse_signature(attached["signature"])
    key = attestation_key(report.runtime)
    checks.passed("format", f"HCL report with a hardware report for {hardware.format}")
    inner = context.fresh()
    below = verify_within(hardware, inner)
    checks.adopt("hardware", below.checks)
    checks.passed("root", f"that of the hardware's evidence: {below.root.name}")
    expected = hashlib.new(report.digest, report.runtime).digest()
    checks.require(
        below.report_data == expected.ljust(64, b"\0"),
        "binding.runtime-data",
        "the hardware vouches for the runtime data",
        "the hardware's report is about other runtime data",
        expected=expected.hex(),
        found=below.report_data.hex(),
    )
    if below.tee == "snp":
        _check_level(below, checks)
    fault = signature_fault(quote, signature, key)
    checks.require(
        fault is None, "signature", "quote by the vTPM's key in the runtime data", fault or ""
    )
    registers = check_values(quote, signature, attached, checks)
    return Claims(
        format=format_name,
        tee=below.tee,
        measurements={**below.measurements, **registers, "pcrs": launch_digest(quote)},
        debug=below.debug,
        simulated=below.simulated,
        migratable=below.migratable,
        report_data=quote.extra_data,
        root=below.root,
        checks=checks.done,
        signer=below.signer,
        product=below.product,
        svn=below.svn,
        tcb=below.tcb,
        platform=below.platform,
        details={**below.details, "vtpm": describe(quote), "runtime": _claims(report.runtime)},
    )


def _check_level(report: Claims, checks: Checks) -> None:
    """The paravisor is at VMPL 0; what runs above it could ask for a report over its own data."""
    level = report.details.get("vmpl")
    checks.require(
        level == 0,
        "binding.vmpl",
        "the report is the paravisor's own",
        "the report was asked for from a level below the paravisor's",
        expected="0",
        found=str(level),
    )


def _claims(runtime: bytes) -> Mapping[str, Any]:
    """What the paravisor says of the machine, apart from the keys."""
    content: Mapping[str, Any] = msgspec.json.decode(runtime, type=dict[str, Any])
    return {name: value for name, value in content.items() if name != "keys"}


def _number(text: str) -> int:
    return int.from_bytes(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_"), "big")
