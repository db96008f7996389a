"""Certificate chains: from a leaf to a pinned root, all valid and unrevoked at a time.

RFC 5280, section 6, reduced to what vendors of TEEs issue: no name constraints, no policies, and
certificates that have either are refused if they mark them critical. Each step is recorded under
``certificate-chain``, ``root``, ``validity`` and ``revocation``.
"""

from __future__ import annotations

import datetime
import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.anchors import Anchor
from secgear.middleware.attestation.certificates import (
    MAX_CHAIN,
    Certificate,
    load_certificate,
    signature_fault,
)
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.claims import Root

MAX_CRL = 16 << 20  # bytes
_REMEMBERED = 1 << 20  # bytes of lists; vendors' have a few thousand

# Extensions that path validation here understands, so that marking them critical is fine.
_UNDERSTOOD = frozenset(
    (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    )
)


@dataclass(frozen=True, slots=True)
class Path:
    """A checked chain: the leaf first, the pinned root's certificate last."""

    certificates: tuple[Certificate, ...]
    root: Root

    @property
    def leaf(self) -> Certificate:
        """The certificate whose key signed the evidence."""
        return self.certificates[0]


def check_path(
    leaf: Certificate,
    intermediates: Iterable[bytes | Certificate],
    anchors: Iterable[Anchor],
    *,
    at: datetime.datetime,
    crls: Iterable[bytes],
    checks: Checks,
    revocable: Literal["chain", "issuers", "nothing"] = "chain",
    label: str = "",
) -> Path:
    """Find and check the chain from `leaf` to one of `anchors`.

    intermediates: DER or parsed certificates that may lie between, in any order; unusable ones are
    passed over. anchors: the acceptable roots. at: when everything must be valid.
    crls: DER lists; each certificate but the root is looked up in its issuer's list. Where an
    issuer has none, ``revocation`` is recorded as not performed.
    revocable: which certificates the vendor's lists cover: all but the root, all but root and leaf
    (short-lived leaves, and AMD's), or none; then revocation is not mentioned.
    label: goes before the names of the checks, as in ``tcb-info.`` for a second chain.

    Raises EvidenceRefused with the check that failed.
    """
    pool = tuple(dict.fromkeys(_usable(intermediates)))
    # Of an authority whose certificate was renewed, the one that counts at the time comes first.
    pool = tuple(sorted(pool, key=lambda certificate: not certificate.valid_at(at)))
    roots = tuple(sorted(anchors, key=lambda anchor: not anchor.certificate.valid_at(at)))
    try:
        certificates, anchor, links = _find(leaf, pool, roots)
    except _NoPath as problem:
        checks.failed(f"{label}certificate-chain", str(problem), fix=problem.fix)
    checks.passed(f"{label}certificate-chain", links)
    checks.passed(f"{label}root", f"{anchor.name}, SHA-256 {anchor.fingerprint.hex()}")
    for certificate in certificates:
        if not certificate.valid_at(at):
            checks.failed(
                f"{label}validity",
                f"{certificate.subject} is not valid at {at.isoformat()}",
                expected=f"{certificate.not_before.isoformat()} to "
                f"{certificate.not_after.isoformat()}",
                found=at.isoformat(),
                fix="newer certificates; or, to judge the past, the time it is about (at=)",
            )
    ends = min(certificate.not_after for certificate in certificates)
    checks.passed(f"{label}validity", f"all certificates are valid until {ends.isoformat()}")
    if revocable != "nothing":
        covered = certificates if revocable == "chain" else certificates[1:]
        _check_revocation(covered, crls, at, checks, label)
    return Path(certificates, Root(anchor.name, anchor.fingerprint, anchor.builtin))


class _NoPath(Exception):
    """There is no acceptable chain, and why."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.fix = fix


def _usable(intermediates: Iterable[bytes | Certificate]) -> Iterator[Certificate]:
    for item in intermediates:
        try:
            yield item if isinstance(item, Certificate) else load_certificate(item)
        except EvidenceMalformed:
            continue


@functools.lru_cache(maxsize=256)
def _find(
    leaf: Certificate, pool: tuple[Certificate, ...], anchors: tuple[Anchor, ...]
) -> tuple[tuple[Certificate, ...], Anchor, str]:
    """The chain, its root, and both in print. Raises _NoPath, which is not remembered.

    Depth-first, each certificate used once; the number of steps is bounded. Nothing in here
    depends on the time.
    """
    reasons: list[str] = []
    budget = [64]  # signatures tried: chains have five links, and hostile pools may be large

    def extend(path: tuple[Certificate, ...]) -> tuple[tuple[Certificate, ...], Anchor] | None:
        last = path[-1]
        for anchor in anchors:
            root = anchor.certificate
            if last == root:
                return path, anchor
            if _issued(last, root, len(path) - 1, reasons, budget):
                return (*path, root), anchor
        if len(path) >= MAX_CHAIN:
            reasons.append(f"the chain is longer than {MAX_CHAIN}")
            return None
        for candidate in pool:
            if candidate in path or not _issued(last, candidate, len(path) - 1, reasons, budget):
                continue
            found = extend((*path, candidate))
            if found:
                return found
        return None

    found = extend((leaf,))
    if found is None:
        names = ", ".join(anchor.name for anchor in anchors) or "none"
        why = "; ".join(dict.fromkeys(reasons)) or f"nothing here issued {leaf.subject}"
        raise _NoPath(
            f"no chain from {leaf.subject} to a trusted root ({names}): {why}",
            fix="the intermediate certificates, as collateral; a root must be pinned by name",
        )
    for certificate in found[0]:
        unknown = [
            extension.oid.dotted_string
            for extension in certificate.parsed.extensions
            if extension.critical and extension.oid not in _UNDERSTOOD
        ]
        if unknown:
            raise _NoPath(
                f"{certificate.subject} has critical extensions that nobody here understands: "
                + ", ".join(unknown)
            )
    return *found, " <- ".join(certificate.subject for certificate in found[0])


def _issued(
    child: Certificate, issuer: Certificate, below: int, reasons: list[str], budget: list[int]
) -> bool:
    """Whether `issuer` issued `child`; `below`: how many authorities are under `issuer`."""
    if child.issuer_name != issuer.subject_name:
        return False
    if budget[0] <= 0:
        reasons.append("too many candidates")
        return False
    budget[0] -= 1
    fault = _may_issue(issuer, below) or signature_fault(child, issuer.public_key)
    if fault:
        reasons.append(f"{child.subject} under {issuer.subject}: {fault}")
    return fault is None


@functools.lru_cache(maxsize=1024)
def _may_issue(issuer: Certificate, below: int) -> str | None:
    extensions = issuer.parsed.extensions
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return "its issuer is no certification authority"
    if not constraints.ca:
        return "its issuer is no certification authority"
    if constraints.path_length is not None and below > constraints.path_length:
        return f"more than {constraints.path_length} authorities below its issuer"
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
    return None if usage.key_cert_sign else "its issuer's key may not sign certificates"


def _check_revocation(
    certificates: tuple[Certificate, ...],
    crls: Iterable[bytes],
    at: datetime.datetime,
    checks: Checks,
    label: str,
) -> None:
    """Each certificate but the root against a current list of its issuer."""
    name = f"{label}revocation"
    try:
        listings = _listed(certificates, tuple(crls))
    except _BadList as problem:
        checks.failed(name, str(problem), fix="a list as the vendor serves it, in DER")
    missing: list[str] = []
    until: list[datetime.datetime] = []
    for child, issuer, all_of_it in listings:
        current = [listing for listing in all_of_it if listing.start <= at]
        for listing in current:
            if listing.revoked:
                checks.failed(
                    name,
                    f"{child.subject} was revoked on {listing.revoked}",
                    found=f"serial number {child.serial:x}",
                )
        fresh = [listing.end for listing in current if listing.end >= at]
        if fresh:
            until.append(max(fresh))
        elif all_of_it:
            newest = max(all_of_it, key=lambda listing: listing.end)
            checks.failed(
                name,
                f"the revocation list of {issuer.subject} is not current",
                expected=f"{newest.start.isoformat()} to {newest.end.isoformat()}",
                found=at.isoformat(),
                fix="fetch a current list",
            )
        elif child is not issuer:  # a root needs no list, but if it withdraws itself, it counts
            missing.append(issuer.subject)
    if missing:
        checks.not_performed(
            name,
            "no revocation list of " + ", ".join(missing),
            fix="give the issuer's CRL as collateral",
        )
    elif until:
        checks.passed(name, f"nothing revoked; lists current until {min(until).isoformat()}")
    else:
        checks.passed(name, "the leaf is the pinned root itself")


class _BadList(Exception):
    """A list that can't be read. Passing it over could hide a revocation."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """What one list says about one certificate.

    start, end: between which the list is current. revoked: when and why; empty if it is not.
    """

    start: datetime.datetime
    end: datetime.datetime
    revoked: str


def _listed(
    certificates: tuple[Certificate, ...], crls: tuple[bytes, ...]
) -> tuple[tuple[Certificate, Certificate, tuple[_Listing, ...]], ...]:
    """`_listings`, remembered unless that would hold on to much of what somebody sent."""
    small = sum(map(len, crls)) <= _REMEMBERED
    return _listings(certificates, crls) if small else _listings.__wrapped__(certificates, crls)


@functools.lru_cache(maxsize=256)
def _listings(
    certificates: tuple[Certificate, ...], crls: tuple[bytes, ...]
) -> tuple[tuple[Certificate, Certificate, tuple[_Listing, ...]], ...]:
    """For each certificate and its issuer: what the lists that the issuer signed say about it.

    The last one, the root, is looked up in its own list. Nothing in here depends on the time.
    Raises _BadList, which is not remembered.
    """
    lists = [_parse_crl(der) for der in crls]
    return tuple(
        (child, issuer, tuple(_listing(crl, child) for crl in lists if _signed_crl(crl, issuer)))
        for child, issuer in (*itertools.pairwise(certificates), (certificates[-1],) * 2)
    )


def _listing(crl: x509.CertificateRevocationList, child: Certificate) -> _Listing:
    entry = _entry(crl, child.serial)
    revoked = ""
    if entry is not None:
        revoked = f"{entry.revocation_date_utc.isoformat()}{_reason(entry)}"
    return _Listing(crl.last_update_utc, _next_update(crl), revoked)


def _entry(crl: x509.CertificateRevocationList, serial: int) -> x509.RevokedCertificate | None:
    """Looked up by the real serial number: AMD's zero, not the one it was parsed with."""
    if serial > 0:
        return crl.get_revoked_certificate_by_serial_number(serial)
    return next((entry for entry in crl if entry.serial_number == serial), None)


def _reason(entry: x509.RevokedCertificate) -> str:
    try:
        found = entry.extensions.get_extension_for_oid(CRLEntryExtensionOID.CRL_REASON)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError, TypeError):
        return ""
    return f" ({found.value.reason.value})" if isinstance(found.value, x509.CRLReason) else ""


def _next_update(crl: x509.CertificateRevocationList) -> datetime.datetime:
    """A list that names no end (RFC 5280 demands one) is current at its beginning only."""
    return crl.next_update_utc or crl.last_update_utc


def _parse_crl(der: bytes) -> x509.CertificateRevocationList:
    if len(der) > MAX_CRL:
        raise _BadList(f"a revocation list of {len(der)} bytes; at most {MAX_CRL}")
    try:
        crl = x509.load_der_x509_crl(der)
        critical = [item.oid.dotted_string for item in crl.extensions if item.critical]
        crl.issuer, _next_update(crl)
        for entry in crl:
            entry.serial_number, entry.revocation_date_utc  # noqa: B018
    except Exception as error:  # noqa: BLE001  (a parser's own errors: InvalidVersion, …)
        raise _BadList(f"no revocation list: {error}") from None
    if critical:
        # Delta lists and lists for a part of the certificates say so in critical extensions.
        raise _BadList(f"a partial revocation list ({', '.join(critical)})")
    return crl


def _signed_crl(crl: x509.CertificateRevocationList, issuer: Certificate) -> bool:
    if crl.issuer.public_bytes() != issuer.subject_name:
        return False
    key = issuer.public_key
    try:
        usage = issuer.parsed.extensions.get_extension_for_class(x509.KeyUsage).value
        if not usage.crl_sign:
            return False
    except x509.ExtensionNotFound:
        pass
    try:
        digest, parameters = crl.signature_hash_algorithm, crl.signature_algorithm_parameters
        if digest is None or digest.name not in {"sha256", "sha384", "sha512"}:
            return False
        if isinstance(key, ec.EllipticCurvePublicKey):
            if not isinstance(parameters, ec.ECDSA):
                return False
            key.verify(crl.signature, crl.tbs_certlist_bytes, parameters)
        else:
            if not isinstance(parameters, padding.PSS | padding.PKCS1v15):
                return False
            key.verify(crl.signature, crl.tbs_certlist_bytes, parameters, digest)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True
