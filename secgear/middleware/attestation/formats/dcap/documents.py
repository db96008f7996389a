"""Intel's signed documents: choosing the right one, and checking who signed it and until when."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.anchors import Anchor
from secgear.middleware.attestation.certificates import Certificate, load_certificate
from secgear.middleware.attestation.chains import Path, check_path
from secgear.middleware.attestation.collateral import Document
from secgear.middleware.attestation.formats.dcap import qeidentity, tcbinfo
from secgear.middleware.attestation.formats.dcap.memory import Memory, Same, dates_of
from secgear.middleware.attestation.formats.dcap.pck import Pck
from secgear.middleware.attestation.formats.dcap.qeidentity import QeIdentity
from secgear.middleware.attestation.formats.dcap.signing import SignedJson, signed_by
from secgear.middleware.attestation.formats.dcap.tcbinfo import TcbInfo
from secgear.middleware.attestation.verification import Context

_SIGNER = "Intel SGX TCB Signing"
_SIGNER_CHAIN = 2  # certificates: Intel's root issues the signer's itself
_MAX_SIGNERS = 16


class _Dated(Protocol):
    @property
    def signed(self) -> SignedJson: ...
    @property
    def issued(self) -> datetime.datetime: ...
    @property
    def next_update(self) -> datetime.datetime: ...


D = TypeVar("D", bound=_Dated)


@dataclass(frozen=True, slots=True)
class _Kind(Generic[D]):
    """A kind of document.

    check: what is recorded where none is given. label: goes before the names of all other checks.
    subject: whom a document is about, in print. memory: documents that were good before.
    """

    kind: str
    check: str
    label: str
    what: str
    parse: Callable[[bytes], D]
    subject: Callable[[D], str]
    memory: Memory[D] = field(default_factory=Memory)


def _platform(tee: str, fmspc: bytes, pce_id: bytes) -> str:
    return f"{tee}, FMSPC {fmspc.hex()}, PCEID {pce_id.hex()}"


_TCB_INFO = _Kind(
    tcbinfo.KIND,
    "tcb",
    "tcb-info.",
    "TCB information",
    tcbinfo.parse,
    lambda info: _platform(info.tee, info.fmspc, info.pce_id),
)
_QE_IDENTITY = _Kind(
    qeidentity.KIND,
    "qe-identity",
    "qe-identity.",
    "QE identity",
    qeidentity.parse,
    lambda identity: identity.tee,
)


def find_tcb_info(
    context: Context, tee: str, pck: Pck, roots: tuple[Anchor, ...]
) -> TcbInfo | None:
    """The platform's TCB information, authenticated.

    roots: who may vouch for it: the root of the platform's own chain. None if there is none, which
    is recorded. Raises EvidenceRefused for one that is wrong, not authentic or not current.
    """
    return _find(_TCB_INFO, _platform(tee, pck.fmspc, pck.pce_id), context, roots)


def find_qe_identity(context: Context, tee: str, roots: tuple[Anchor, ...]) -> QeIdentity | None:
    """The identity of the TEE's quoting enclave, likewise."""
    return _find(_QE_IDENTITY, tee, context, roots)


def _find(kind: _Kind[D], wanted: str, context: Context, roots: tuple[Anchor, ...]) -> D | None:
    documents = context.collateral.documents_of(kind.kind)
    if not documents:
        fix = f"the {kind.what} of Intel's PCS for {wanted}, as collateral"
        context.checks.not_performed(kind.check, f"no {kind.what}", fix=fix)
        return None
    key = (wanted, Same(context.collateral), roots)
    found = kind.memory.recall(key, context.at, context.checks)
    if found is None:
        before = len(context.checks.done)
        found, dates = _choose(kind, wanted, documents, context, roots)
        checks, size = context.checks.done[before:], context.collateral.size
        kind.memory.keep(key, context.at, dates, checks, found, size=size)
    return found


def _choose(
    kind: _Kind[D],
    wanted: str,
    documents: tuple[Document, ...],
    context: Context,
    roots: tuple[Anchor, ...],
) -> tuple[D, list[datetime.datetime]]:
    """The newest current document of those that fit, and all dates that this depends on."""
    checks, at = context.checks, context.at
    fix = f"the {kind.what} of Intel's PCS for {wanted}, as collateral"
    fitting: list[tuple[D, Document]] = []
    others: list[str] = []
    for document in documents:
        try:
            parsed = kind.parse(document.data)
        except ValueError as error:
            others.append(str(error))
            continue
        subject = kind.subject(parsed)
        if subject == wanted:
            fitting.append((parsed, document))
        else:
            others.append(subject)
    if not fitting:
        checks.failed(
            kind.check,
            f"no {kind.what} that is given is of use for this platform",
            expected=wanted,
            found="; ".join(others[:4]),
            fix=fix,
        )
    current = [pair for pair in fitting if pair[0].issued <= at <= pair[0].next_update]
    chosen, document = max(current or fitting, key=lambda pair: pair[0].issued)
    path = _authenticate(kind, chosen, document, context, roots)
    checks.require(
        bool(current),
        f"{kind.label}current",
        f"{kind.what} for {wanted}, until {chosen.next_update.isoformat()}",
        f"the {kind.what} is not current",
        expected=f"{chosen.issued.isoformat()} to {chosen.next_update.isoformat()}",
        found=at.isoformat(),
        fix=fix,
    )
    dates = [*dates_of(path.certificates, context.collateral)]
    for parsed, _ in fitting:
        dates += [parsed.issued, parsed.next_update]
    return chosen, dates


def _authenticate(
    kind: _Kind[D],
    parsed: D,
    document: Document,
    context: Context,
    roots: tuple[Anchor, ...],
) -> Path:
    checks, signed = context.checks, parsed.signed
    signers = list(_signers(document, context))
    signer = next(
        (one for one in signers if signed_by(one, signed.signature, signed.body)),
        signers[0] if signers else None,
    )
    if signer is None:
        checks.failed(
            f"{kind.label}certificate-chain",
            f"the {kind.what} comes without the certificate of its signer",
            fix=f'the certificate "{_SIGNER}", as collateral',
        )
    path = check_path(
        signer,
        (*document.chain[1:], *context.collateral.certificates),
        roots,
        at=context.at,
        crls=context.collateral.crls,
        checks=checks,
        label=kind.label,
    )
    if len(path.certificates) != _SIGNER_CHAIN:
        checks.failed(
            f"{kind.label}certificate-chain", f"{signer.subject} was not issued by the root itself"
        )
    checks.require(
        signed_by(signer, signed.signature, signed.body),
        f"{kind.label}signature",
        f"{kind.what} signed by {_SIGNER}",
        f"the {kind.what} was not signed by {signer.subject}, or was changed since",
    )
    return path


def _signers(document: Document, context: Context) -> Iterator[Certificate]:
    """Certificates that name the signer: the one that came with the document, else all given."""
    given = document.chain[:1] or context.collateral.certificates
    found = 0
    for der in given:
        try:
            certificate = load_certificate(der)
        except EvidenceMalformed:
            continue
        if certificate.common_name == _SIGNER:
            yield certificate
            found += 1
        if found >= _MAX_SIGNERS:
            return
