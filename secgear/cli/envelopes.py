"""``secgear envelope``: data sealed to an enclave's key, keys verified, envelopes looked at.

Only the enclave opens an envelope, so there is no command for that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import typer

from secgear.cli import inputs
from secgear.cli.inputs import At, CollateralFiles, ReferenceFiles, Roots
from secgear.cli.output import (
    AsJson,
    UsageError,
    check_target,
    emit,
    open_data,
    read,
    watching,
    write_file,
)

if TYPE_CHECKING:
    from secgear.middleware.envelopes import TrustedKey
    from secgear.middleware.envelopes.format import Header

app = typer.Typer(name="envelope", help="Data for one enclave only.", no_args_is_help=True)

_PIECE: Final = 4 << 20  # bytes that are read at once
_MAX_ASSOCIATED: Final = 1 << 20

KeyFile = Annotated[Path, typer.Option("--to", help="The enclave's key.", readable=False)]
Policy = Annotated[
    Path, typer.Option("--policy", help="The policy (TOML) that decides.", readable=False)
]
Context = Annotated[
    str | None, typer.Option(help="The nonce that you asked to have in the evidence (hexadecimal).")
]


@app.command("seal")
def seal(
    file: Annotated[Path, typer.Argument(help="What to seal: a file or a pipe.", readable=False)],
    to: KeyFile,
    policy: Policy,
    purpose: Annotated[str, typer.Option(help="What the data is for, as the enclave has it.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the envelope.", readable=False)
    ],
    associated: Annotated[
        str,
        typer.Option(
            help="What the enclave has to know as well: a text, or @FILE; not sent along."
        ),
    ] = "",
    context: Context = None,
    collateral: CollateralFiles = None,
    reference_values: ReferenceFiles = None,
    root: Roots = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Seal a file of any size to an enclave's key, once the policy trusts that.

    Exit code 6 if it does not; nothing is written then.
    """
    from secgear.middleware.envelopes import Sealer
    from secgear.middleware.envelopes.format import MAGIC

    check_target(output, MAGIC)
    key = _verified(to, policy, context, collateral, reference_values, root, at)
    sealer = Sealer(
        key, purpose=purpose, associated=_associated(associated), at=inputs.parse_time(at)
    )
    with open_data(file) as source, watching(f"sealing {file}", _size(source)) as more:
        write_file(output, sealer.stream(_pieces(file, source, more)))
    if as_json:
        emit(
            {
                "envelope": str(output),
                "envelope_id": sealer.envelope_id.hex(),
                "bytes": sealer.total,
                "purpose": purpose,
                "key": _described(key),
            }
        )
    else:
        typer.echo(
            f"envelope  {output}, {sealer.total} bytes of data\n"
            f"id        {sealer.envelope_id.hex()}\n"
            f"for       {key.key.id.hex()}, which is trusted until {key.expires.isoformat()}"
        )


@app.command("verify")
def verify(
    key: Annotated[Path, typer.Argument(help="The enclave's key.", readable=False)],
    policy: Policy,
    context: Context = None,
    collateral: CollateralFiles = None,
    reference_values: ReferenceFiles = None,
    root: Roots = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Judge an enclave's key, offline. Exit code 0 means trusted, 6 means not."""
    trusted = _verified(key, policy, context, collateral, reference_values, root, at)
    if as_json:
        emit(_described(trusted) | {"verdict": trusted.verdict.to_dict()})
        return
    typer.echo(
        f"{trusted.verdict.explain()}\n"
        f"key       {trusted.key.id.hex()}\n"
        f"suite     {trusted.key.suite}\n"
        f"purposes  {', '.join(trusted.key.purposes) or 'any'}\n"
        f"until     {trusted.expires.isoformat()}"
    )


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="An envelope.", readable=False)],
    as_json: AsJson = False,
) -> None:
    """What an envelope says without its key. Nothing of it is verified."""
    from secgear.middleware.envelopes.format import FIXED_SIZE, read_header

    with open_data(file) as source:
        fixed = source.read(FIXED_SIZE)
        if len(fixed) < FIXED_SIZE:
            raise UsageError(f"{file}: too short to be an envelope")
        header = read_header(fixed)
        size = _size(source)
        data = None if size is None else _data_size(header, source, size)
    content: dict[str, Any] = {
        "suite": header.suite.name,
        "key": header.key_id.hex(),
        "chunk": header.chunk,
        "bytes": data,
    }
    if size is not None:
        content["cut_off"] = data is None
    if as_json:
        emit(content)
        return
    shown = f"{data} bytes"
    if data is None:
        shown = "unknown, of a pipe" if size is None else "cut off: the end is missing"
    typer.echo(
        f"suite  {content['suite']}\nkey    {content['key']}\n"
        f"chunk  {content['chunk']} bytes\ndata   {shown}"
    )


def _data_size(header: Header, file: IO[bytes], size: int) -> int | None:
    """Bytes of data in an envelope of `size` bytes, by its last record; None if that is cut off."""
    from secgear.middleware.envelopes.format import FINAL, FIXED_SIZE, WORD, record_size

    begin = FIXED_SIZE + header.wrapped_size
    whole, rest = divmod(size - begin, record_size(header.chunk))
    last = rest - record_size(0)
    if whole < 0 or last < 0:
        return None
    file.seek(begin + whole * record_size(header.chunk))
    if file.read(WORD.size) != WORD.pack(FINAL | last):
        return None
    return whole * header.chunk + last


def _verified(
    document: Path,
    policy: Path,
    context: str | None,
    collateral: list[Path] | None,
    reference_values: list[Path] | None,
    root: list[str] | None,
    at: str | None,
) -> TrustedKey:
    from secgear.middleware.attestation.bundle import anchors_with
    from secgear.middleware.attestation.policy import load_policy
    from secgear.middleware.envelopes import verify_key
    from secgear.middleware.envelopes.document import MAX_SIZE

    try:
        nonce = None if context is None else bytes.fromhex(context)
    except ValueError:
        raise UsageError("--context takes hexadecimal digits") from None
    return verify_key(
        read(document, MAX_SIZE),
        load_policy(inputs.read_text(policy).encode()),
        at=inputs.parse_time(at),
        context=nonce,
        collateral=inputs.read_collateral(collateral),
        anchors=anchors_with(inputs.read_roots(root)),
        reference_values=inputs.read_reference_values(reference_values),
    )


def _described(key: TrustedKey) -> dict[str, Any]:
    return {
        "id": key.key.id.hex(),
        "suite": key.key.suite,
        "purposes": list(key.key.purposes),
        "trusted_until": key.expires.isoformat(),
    }


def _associated(text: str) -> bytes:
    if text.startswith("@"):
        return read(Path(text[1:]), _MAX_ASSOCIATED)
    return text.encode("utf-8", "surrogateescape")


def _size(file: IO[bytes]) -> int | None:
    """Bytes of a file, None for a pipe."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _pieces(path: Path, file: IO[bytes], more: Callable[[int], object]) -> Iterator[bytes]:
    while True:
        try:
            piece = file.read(_PIECE)
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror or error}") from error
        if not piece:
            return
        more(len(piece))
        yield piece
