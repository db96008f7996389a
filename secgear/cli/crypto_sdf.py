"""``secgear crypto sdf``: internal keys for applications that use GM/T 0018."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli.crypto_place import on_token
from secgear.cli.output import AsJson, UsageError, emit, say

if TYPE_CHECKING:
    from secgear.services.crypto.client import Session
    from secgear.services.crypto.sdf import InternalKey

app = typer.Typer(name="sdf", help="Keys for applications that use SDF.", no_args_is_help=True)


class Role(enum.StrEnum):
    """What a key is for."""

    sign = enum.auto()
    enc = enum.auto()
    kek = enum.auto()


class Algorithm(enum.StrEnum):
    """Of key pairs; key encryption keys are of SM4."""

    sm2 = enum.auto()
    rsa = enum.auto()


@app.command("key")
@on_token
def key(
    session: Session,
    role: Annotated[Role, typer.Argument(help="Signatures, envelopes, or encrypting keys.")],
    index: Annotated[int, typer.Argument(min=1, max=2**32 - 1, help="Its index.")],
    algorithm: Annotated[Algorithm, typer.Option(help="Of a key pair.")] = Algorithm.sm2,
    decrypt: Annotated[
        bool,
        typer.Option(
            "--decrypt",
            help="The enc key may decrypt what is no session key, too: for "
            "SDF_InternalDecrypt_ECC and the exchange of envelopes.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the internal key of an index."""
    from secgear.services.crypto.sdf import InternalKey, make_kek, make_pair

    if decrypt and role is not Role.enc:
        raise UsageError("--decrypt is for enc keys")
    if role is Role.kek:
        made = make_kek(session, index)
    else:
        wanted = InternalKey(role.value, index, algorithm.value)
        made = make_pair(session, wanted, decrypt=decrypt)
    _show([made], as_json)


@app.command("list")
@on_token
def list_keys(session: Session, as_json: AsJson = False) -> None:
    """The internal keys of a token."""
    from secgear.services.crypto.sdf import internal_keys

    _show(internal_keys(session), as_json)


def _show(keys: list[InternalKey], as_json: bool) -> None:
    if as_json:
        emit({"keys": [_described(one) for one in keys]})
        return
    for one in keys:
        say(f"sdf:{one.role}:{one.index}  {one.algorithm}")


def _described(one: InternalKey) -> dict[str, str | int]:
    return {"role": one.role, "index": one.index, "algorithm": one.algorithm}
