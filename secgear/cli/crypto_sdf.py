"""``secgear crypto sdf``: internal keys for applications that use GM/T 0018."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli.output import AsJson, CommandError, UsageError, emit

if TYPE_CHECKING:
    from secgear.services.crypto.client import Caller
    from secgear.services.crypto.sdf import InternalKey

app = typer.Typer(name="sdf", help="Keys for applications that use SDF.", no_args_is_help=True)

_MAX_PIN = 255
Socket = Annotated[Path, typer.Option(help="The running module's socket.", readable=False)]
Slot = Annotated[int, typer.Option(min=0, max=63, help="The token's slot.")]
PinFile = Annotated[
    Path | None, typer.Option(help="File with the user's PIN, one line.", readable=False)
]


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
def key(
    role: Annotated[Role, typer.Argument(help="Signatures, envelopes, or encrypting keys.")],
    index: Annotated[int, typer.Argument(min=1, max=2**32 - 1, help="Its index.")],
    socket: Socket,
    slot: Slot = 0,
    algorithm: Annotated[Algorithm, typer.Option(help="Of a key pair.")] = Algorithm.sm2,
    decrypt: Annotated[
        bool,
        typer.Option(
            "--decrypt",
            help="The enc key may decrypt what is no session key, too: for "
            "SDF_InternalDecrypt_ECC and the exchange of envelopes.",
        ),
    ] = False,
    pin_file: PinFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the internal key of an index."""
    from secgear.services.crypto.sdf import InternalKey, make_kek, make_pair

    if decrypt and role is not Role.enc:
        raise UsageError("--decrypt is for enc keys")
    with _logged_in(socket, slot, pin_file) as (caller, session):
        if role is Role.kek:
            made = make_kek(caller, session, index)
        else:
            wanted = InternalKey(role.value, index, algorithm.value)
            made = make_pair(caller, session, wanted, decrypt=decrypt)
    _show([made], as_json)


@app.command("list")
def list_keys(
    socket: Socket, slot: Slot = 0, pin_file: PinFile = None, as_json: AsJson = False
) -> None:
    """The internal keys of a token."""
    from secgear.services.crypto.sdf import keys

    with _logged_in(socket, slot, pin_file) as (caller, session):
        found = keys(caller, session)
    _show(found, as_json)


def _show(keys: list[InternalKey], as_json: bool) -> None:
    if as_json:
        emit({"keys": [_described(one) for one in keys]})
        return
    for one in keys:
        typer.echo(f"sdf:{one.role}:{one.index}  {one.algorithm}")


def _described(one: InternalKey) -> dict[str, str | int]:
    return {"role": one.role, "index": one.index, "algorithm": one.algorithm}


@contextlib.contextmanager
def _logged_in(socket: Path, slot: int, pin_file: Path | None) -> Iterator[tuple[Caller, int]]:
    from secgear.services.crypto.client import Caller, SocketExchange
    from secgear.services.crypto.pkcs11.rv import CryptokiError

    pin = _pin(pin_file)
    with SocketExchange(socket) as exchange:
        caller = Caller(exchange)
        try:
            caller.initialise()
            session = caller.one("C_OpenSession", slot, 6)
            caller.call("C_Login", session, 1, pin)
            yield caller, session
        except CryptokiError as error:
            raise CommandError(f"the module refuses: CKR_{error.rv.name}") from None


def _pin(file: Path | None) -> bytes:
    """The user's PIN: never from the command line, which others see."""
    if file is None:
        pin: str = typer.prompt("PIN of the user", hide_input=True, err=True)
        return pin.encode()
    try:
        with file.open("rb") as opened:
            line = opened.read(_MAX_PIN + 2).removesuffix(b"\n")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    if not 0 < len(line) <= _MAX_PIN or b"\n" in line:
        raise UsageError(f"{file}: one line: the user's PIN")
    return line
