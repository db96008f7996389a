"""Which module and token a command of ``secgear crypto`` means, and who asks there.

A PIN comes from the terminal or from a file, never from the command line or the environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from secgear.cli import inputs
from secgear.cli.output import UsageError, read

if TYPE_CHECKING:
    from secgear.services.crypto.client import Module, PrivateKey, PublicKey, SecretKey, Session

_MAX_PIN_FILE: Final = 4096

Socket = Annotated[
    Path | None,
    typer.Option(
        help="The socket of a module on this machine; its host hears all.", readable=False
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="The address of its attested channel, tcp://host:port; needs --policy."),
]
Policy = Annotated[
    Path | None,
    typer.Option(help="The policy (TOML) under which the module is trusted.", readable=False),
]
TokenLabel = Annotated[str, typer.Option("--token", help="The token's label.")]
PinFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the user's PIN.", readable=False),
]
Label = Annotated[str, typer.Argument(help="The key's label.")]
Id = Annotated[str | None, typer.Option("--id", help="The key's id (hexadecimal), too.")]
Uses = Annotated[
    list[str] | None,
    typer.Option(
        "--use", help="What the key is for: sign, decrypt, wrap, derive, …; may be repeated."
    ),
]


@contextlib.contextmanager
def module_at(
    socket: Path | None,
    address: str | None,
    policy: Path | None,
    roots: list[str] | None,
    reference_values: list[Path] | None,
) -> Iterator[Module]:
    """The module that the options name."""
    from secgear.services.crypto.client import connect

    if (socket is None) == (address is None):
        raise UsageError("name the module with --socket, or with --address and --policy")
    if (address is None) != (policy is None):
        raise UsageError("--address and --policy go together")
    if socket is not None:
        with connect(socket) as module:
            yield module
        return
    from secgear.middleware.attestation import bundle as bundles
    from secgear.middleware.attestation import load_policy

    with connect(
        str(address),
        load_policy(inputs.read_text(Path(str(policy))).encode()),
        anchors=bundles.anchors_with(inputs.read_roots(roots)),
        reference_values=inputs.read_reference_values(reference_values),
    ) as module:
        yield module


@contextlib.contextmanager
def session_on(module: Module, token: str, pin_file: Path | None) -> Iterator[Session]:
    """A session on the token with the user logged in."""
    with module.token(token).session(lambda: pin_of(pin_file)) as session:
        yield session


def pin_of(file: Path | None) -> bytes:
    """The user's PIN."""
    if file is None:
        pin: str = typer.prompt("PIN", hide_input=True, err=True)
        return pin.encode()
    found = read(file, _MAX_PIN_FILE).split(b"\n", 1)[0].rstrip(b"\r")
    if not found:
        raise UsageError(f"{file}: its first line is empty; a PIN belongs there")
    return found


def parse_hex(text: str | None, option: str) -> bytes:
    """Bytes from hexadecimal digits, none without any."""
    try:
        return bytes.fromhex(text or "")
    except ValueError:
        raise UsageError(f"{option} takes hexadecimal digits") from None


def keys_named(
    session: Session, label: str, id: str | None
) -> list[SecretKey | PublicKey | PrivateKey]:
    """The keys with this label and id, at least one."""
    found = session.find(label, None if id is None else parse_hex(id, "--id"))
    if not found:
        raise UsageError(f"no key with the label {label!r}{f' and id {id}' if id else ''}")
    return found


def described(key: SecretKey | PublicKey | PrivateKey) -> dict[str, Any]:
    """A key, for people and programs."""
    return {
        "class": {"SecretKey": "secret", "PublicKey": "public", "PrivateKey": "private"}[
            type(key).__name__
        ],
        "kind": key.kind,
        "label": key.label,
        "id": key.id.hex(),
        "flags": key.flags(),
    }
