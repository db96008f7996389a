"""``secgear result``: what a verifier signed, checked by the one who relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secgear.cli import inputs
from secgear.cli.inputs import At
from secgear.cli.output import AsJson, UsageError, emit, read, say

if TYPE_CHECKING:
    from secgear.middleware.attestation.results import Result

_MAX_FILE = 1 << 20


def result(
    file: Annotated[Path, typer.Argument(help="A result: a JWT or a CWT.", readable=False)],
    keys: Annotated[
        Path,
        typer.Option(
            help="The verifier's public keys, a JWK set as its /v1/keys gives it.", readable=False
        ),
    ],
    issuer: Annotated[str, typer.Option(help="The verifier that you trust (iss).")],
    audience: Annotated[str, typer.Option(help="Your own name (aud).")],
    nonce: Annotated[
        str | None,
        typer.Option(help="The nonce that you gave out (hexadecimal), if you did."),
    ] = None,
    user_data: Annotated[
        Path | None,
        typer.Option(help="What the enclave is said to vouch for, for example its key."),
    ] = None,
    warnings: Annotated[
        bool,
        typer.Option(
            "--allow-warning",
            help="Accept what the verifier's policy tolerated: debug, simulated, an older TCB.",
        ),
    ] = False,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Check a verifier's signed result. Exit code 0 means that it holds for you, now."""
    import hashlib

    from secgear.errors import ResultInvalid
    from secgear.middleware.attestation.results import public_keys, verify_cwt, verify_jwt

    token = read(file, _MAX_FILE)
    accept: dict[str, Any] = {
        "audience": audience,
        "issuer": issuer,
        "nonce": _nonce(nonce),
        "now": inputs.parse_time(at),
        "allow_warning": warnings,
    }
    known = public_keys(read(keys, _MAX_FILE))
    text = token.strip()
    if text[:1] == b"e":  # base64url of '{"'; no CWT begins like this
        found = verify_jwt(text.decode(errors="replace"), known, **accept)
    else:
        found = verify_cwt(token, known, **accept)
    if user_data is not None:
        digest = hashlib.sha256(read(user_data, _MAX_FILE)).digest()
        if digest != found.user_data:
            raise ResultInvalid(f"result: it does not vouch for what is in {user_data}")
    _show(found, as_json)


def _nonce(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError("--nonce takes hexadecimal digits") from None


def _show(result: Result, as_json: bool) -> None:
    from secgear.middleware.attestation.results.ear import to_json_claims

    if as_json:
        emit(to_json_claims(result))
        return
    lines = [
        ("status", result.status.name.lower()),
        ("issuer", result.issuer),
        ("audience", result.audience),
        ("issued", result.issued_at.isoformat()),
        ("expires", result.expires.isoformat()),
        ("user data", result.user_data.hex() if result.user_data else None),
    ]
    for name, appraisal in result.submods.items():
        lines += [
            (name, f"{appraisal.status.name.lower()} under policy {appraisal.policy}"),
            *(
                (f"  {what}", digest)
                for what, digest in appraisal.claims.get("measurements", {}).items()
            ),
        ]
    for label, shown in lines:
        if shown is not None:
            say(f"{label:<13} {shown}")
