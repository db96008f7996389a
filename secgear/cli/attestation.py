"""``secgear attest``, ``secgear verify``, ``secgear bundle``: evidence made, judged and kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from secgear.cli import inputs
from secgear.cli.inputs import (
    At,
    CollateralFiles,
    FormatName,
    PolicyFile,
    ReferenceFiles,
    ReportData,
    Roots,
)
from secgear.cli.output import (
    AsJson,
    UsageError,
    check_target,
    emit,
    note,
    read,
    say,
    write_file,
)

if TYPE_CHECKING:
    import datetime

    from secgear.middleware.attestation.bundle import Bundle
    from secgear.middleware.attestation.claims import Claims
    from secgear.middleware.attestation.verdict import Verdict

UNTRUSTED = 6  # exit code: the answer is no
_MAX_FILE = 32 << 20
_ENVELOPE_BEGINNING = b'{"secgear-evidence"'
_RECORDED = "recorded"  # a bundle's own time, as --at
_BUNDLE_BEGINNING = b'{"secgear-bundle"'

EvidenceFile = Annotated[
    Path,
    typer.Argument(
        help="Evidence in any known form, a certificate with it, or a bundle.", readable=False
    ),
]


def attest(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write the evidence.", readable=False),
    ] = None,
    report_data: ReportData = None,
    source: Annotated[
        str, typer.Option(help="auto, tsm, sev-guest, gramine, nsm or tpm.")
    ] = "auto",
    service: Annotated[
        str | None,
        typer.Option(help="Have it judged by the verification service at this URL."),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Which policy of the service.")] = None,
    audience: Annotated[
        str | None, typer.Option(help="Who shall rely on the service's result.")
    ] = None,
    user_data: Annotated[
        Path | None,
        typer.Option(
            help="What this guest vouches for besides itself, for example its public key.",
            readable=False,
        ),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(help="Certificate authority of the service (PEM).", readable=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask this machine's TEE for evidence about itself. Run it inside the guest.

    With --service, evidence is made for that service's nonce, and what is written is the service's
    signed result (a JWT).
    """
    from secgear.middleware.attestation import envelope
    from secgear.middleware.attestation.collect import collect

    if service is not None:
        if policy is None or audience is None or report_data is not None:
            raise UsageError("--service needs --policy and --audience, and has its own nonce")
        _attest_to(service, output, source, policy, audience, user_data, trust, as_json)
        return
    if any(option is not None for option in (policy, audience, user_data, trust)):
        raise UsageError("--policy, --audience, --user-data and --trust go with --service")
    data = inputs.parse_report_data(report_data)
    if data is None:
        raise UsageError(
            "evidence without --report-data proves nothing about now; give the verifier's nonce"
        )
    if output is not None:
        check_target(output, _ENVELOPE_BEGINNING)
    evidence = collect(data.ljust(64, b"\0"), source=source)
    text = envelope.to_json(evidence)
    if output is None:
        typer.echo(text.decode())
        return
    write_file(output, text)
    attachments = ", ".join(evidence.attachments) or "none"
    if as_json:
        emit(
            {
                "evidence": str(output),
                "format": evidence.format,
                "size": len(evidence.data),
                "attachments": {name: len(item) for name, item in evidence.attachments.items()},
            }
        )
    else:
        typer.echo(
            f"evidence     {output}\nformat       {evidence.format}, {len(evidence.data)} bytes\n"
            f"attachments  {attachments}"
        )


def _attest_to(
    url: str,
    output: Path | None,
    source: str,
    policy: str,
    audience: str,
    user_data: Path | None,
    trust: Path | None,
    as_json: bool,
) -> None:
    """Get a service's result about this machine."""
    from secgear.middleware.attestation.collect import collect
    from secgear.middleware.attestation.service.binding import MAX_USER_DATA
    from secgear.middleware.attestation.service.client import VerificationClient

    if output is not None:
        check_target(output, b"eyJ")
    with VerificationClient(url, trust=trust) as client:
        attested = client.attest(
            lambda report_data: collect(report_data, source=source),
            policy=policy,
            audience=audience,
            user_data=None if user_data is None else read(user_data, MAX_USER_DATA),
        )
    token = str(attested.result)
    if output is not None:
        write_file(output, token.encode())
    if as_json:
        emit({"result": token, "verdict": attested.verdict})
    else:
        typer.echo(token if output is None else f"result  {output}")


def verify(
    file: EvidenceFile,
    policy: PolicyFile = None,
    collateral: CollateralFiles = None,
    reference_values: ReferenceFiles = None,
    root: Roots = None,
    at: At = None,
    report_data: ReportData = None,
    format_name: FormatName = None,
    as_json: AsJson = False,
) -> None:
    """Judge evidence, offline. Exit code 0 means trusted, 6 means not.

    Without --policy the claims are shown and the answer is no: authentic is not trusted. A bundle
    is judged by its own rules for the time it recorded; with --policy by yours, for now, or with
    --at recorded for the time that its maker says. An RA-TLS certificate alone is never fresh; a
    policy that insists on freshness is not met by one.
    """
    from secgear.middleware.attestation import bundle as bundles
    from secgear.middleware.attestation.appraisal import examine
    from secgear.middleware.attestation.policy import load_policy
    from secgear.middleware.channel import ratls

    content = read(file, _MAX_FILE)
    if bundles.is_bundle(content):
        if collateral is not None or format_name is not None:
            raise UsageError(
                f"{file} is a bundle and brings evidence and collateral along; --at, --policy, "
                "--root, --reference-values and --report-data apply"
            )
        if policy is None and any(
            option is not None for option in (root, reference_values, report_data)
        ):
            raise UsageError(
                "--root, --reference-values and --report-data need --policy: then all are yours"
            )
        kept = bundles.load_bundle(content)
        if policy is None:
            time = kept.at if at in (None, _RECORDED) else inputs.parse_time(at)
            _reverify(kept, time, as_json, recorded=kept.at, own_policy=False)
        made = bundles.with_rules(
            kept,
            inputs.read_text(policy),
            at=kept.at if at == _RECORDED else inputs.parse_time(at),
            report_data=inputs.parse_report_data(report_data),
            reference_values=inputs.text_of(reference_values),
            roots=inputs.read_roots(root),
        )
        _reverify(made, made.at, as_json, recorded=kept.at, own_policy=True)
    anchors = bundles.anchors_with(inputs.read_roots(root))
    gathered = inputs.read_collateral(collateral)
    time = inputs.parse_time(at)
    if format_name is None and ratls.carries_evidence(content):
        if policy is None or report_data is not None:
            raise UsageError(
                f"{file} is an RA-TLS certificate: it needs a --policy, and what its evidence must "
                "carry follows from its key"
            )
        judged = ratls.examine_certificate(
            content,
            load_policy(inputs.read_text(policy).encode()),
            at=time,
            collateral=gathered,
            anchors=anchors,
            reference_values=inputs.read_reference_values(reference_values),
        )
        _answer(judged, as_json)
    evidence = inputs.read_evidence(file, format_name)
    if policy is None:
        from secgear.middleware.attestation.verification import verify as authenticate

        claims = authenticate(evidence, at=time, collateral=gathered, anchors=anchors)
        _show_claims(claims, as_json)
    verdict = examine(
        evidence,
        load_policy(inputs.read_text(policy).encode()),
        at=time,
        report_data=inputs.parse_report_data(report_data),
        collateral=gathered,
        anchors=anchors,
        reference_values=inputs.read_reference_values(reference_values),
    )
    _answer(verdict, as_json)


def bundle(
    file: EvidenceFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the bundle.", readable=False)
    ],
    policy: PolicyFile = None,
    collateral: CollateralFiles = None,
    reference_values: ReferenceFiles = None,
    root: Roots = None,
    at: At = None,
    report_data: ReportData = None,
    format_name: FormatName = None,
    as_json: AsJson = False,
) -> None:
    """Judge evidence and keep all that the verdict stands on in one file.

    `secgear verify` judges it again, offline, at any later time. Exit code 6 if not trusted; the
    bundle is written all the same.
    """
    from secgear.middleware.attestation import bundle as bundles

    if policy is None:
        raise UsageError("a bundle keeps a verdict, and a verdict needs --policy")
    check_target(output, _BUNDLE_BEGINNING)
    made = bundles.make_bundle(
        inputs.read_evidence(file, format_name),
        inputs.read_text(policy),
        at=inputs.parse_time(at),
        collateral=inputs.read_collateral(collateral),
        report_data=inputs.parse_report_data(report_data),
        reference_values=inputs.text_of(reference_values),
        roots=inputs.read_roots(root),
    )
    write_file(output, made.to_json())
    note(f"bundle  {output}")
    _answer(bundles.reverify(made), as_json)


def _reverify(
    bundle: Bundle,
    at: datetime.datetime,
    as_json: bool,
    *,
    recorded: datetime.datetime,
    own_policy: bool,
) -> NoReturn:
    """Judge a bundle again; say whose policy and roots it was judged by, and for which time."""
    from secgear.middleware.attestation import bundle as bundles

    verdict = bundles.reverify(bundle, at=at)
    roots = [root.name for root in bundle.roots]
    more = {
        "recorded_at": recorded.isoformat(),
        "policy_from": "caller" if own_policy else "bundle",
        "added_roots": roots,
        "as_recorded": bundles.same_verdict(bundle, verdict),
    }
    if not as_json:
        say(f"bundle of {recorded.isoformat()}, judged for {verdict.at.isoformat()}")
        whose = "your policy" if own_policy else "the policy in the bundle: read it, or give yours"
        say(f"judged by {whose} (SHA-256 of its rules {verdict.policy_digest.hex()})")
        if roots:
            say(f"roots that are not built in: {', '.join(roots)}")
        agrees = "is" if more["as_recorded"] else "is NOT"
        say(f"the verdict {agrees} the recorded one")
    _answer(verdict, as_json, more)


def _answer(verdict: Verdict, as_json: bool, more: dict[str, Any] | None = None) -> NoReturn:
    if as_json:
        emit(verdict.to_dict() | (more or {}))
    else:
        typer.echo(verdict.explain())
    raise SystemExit(0 if verdict.trusted else UNTRUSTED)


def _show_claims(claims: Claims, as_json: bool) -> NoReturn:
    reason = "no policy was given; authentic evidence alone is no reason to trust"
    if as_json:
        emit({"trusted": False, "reason": reason, "claims": claims.to_dict()})
        raise SystemExit(UNTRUSTED)
    say(f"{claims.format}: authentic, under {claims.root.name}")
    flags = [name for name in ("debug", "simulated", "migratable") if getattr(claims, name)]
    if not claims.root.builtin:
        flags.append("root not built in")
    if flags:
        say(f"  attention     {', '.join(flags)}")
    for name, digest in claims.measurements.items():
        say(f"  {name:<13} {digest.hex()}")
    for label, shown in (
        ("signer", claims.signer.hex() if claims.signer else None),
        ("product", claims.product),
        ("svn", claims.svn),
        ("tcb", claims.tcb.status.value),
        ("advisories", ", ".join(claims.tcb.advisories) or None),
        ("report data", claims.report_data.hex()),
        ("made at", claims.evidence_time.isoformat() if claims.evidence_time else None),
    ):
        if shown is not None:
            say(f"  {label:<13} {shown}")
    for name, value in claims.platform.items():
        say(f"  {name:<13} {value}")
    for check in claims.not_checked:
        say(f"  not checked   {check.name}: {check.detail}")
    note(f"not trusted: {reason} (--policy)")
    raise SystemExit(UNTRUSTED)
