"""Which module and token a command of ``secgear crypto`` means, and who asks there.

A PIN comes from the terminal or from a file, never from the command line or the environment.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from secgear.cli import inputs
from secgear.cli.connect import checked_address
from secgear.cli.inputs import ReferenceFiles, Roots
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
UserName = Annotated[
    str | None, typer.Option(help="The user's name; the user without one by default.")
]
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

    checked_address(str(address))
    with connect(
        str(address),
        load_policy(inputs.read_text(Path(str(policy))).encode()),
        anchors=bundles.anchors_with(inputs.read_roots(roots)),
        reference_values=inputs.read_reference_values(reference_values),
    ) as module:
        yield module


def on_token(command: Callable[..., None]) -> Callable[..., None]:
    """A command with a session on a token, in which the user is logged in, as its first argument.

    The options that say which token and who asks are added to the command's own.
    """
    return _with_session(command, _session_at)


def on_any_token(command: Callable[..., None]) -> Callable[..., None]:
    """The same, with nobody logged in."""
    return _with_session(command, _public_session_at)


def _with_session(
    command: Callable[..., None], opened: Callable[..., contextlib.AbstractContextManager[Session]]
) -> Callable[..., None]:
    # Typer wants annotations as objects; the session's is none of its business.
    unknown = {"Session": object}
    own = inspect.signature(command, locals=unknown, eval_str=True)
    place = inspect.signature(opened, locals=unknown, eval_str=True)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        where = {name: given.pop(name) for name in place.parameters}
        with opened(**where) as session:
            command(session, **given)

    added = [*list(own.parameters.values())[1:], *place.parameters.values()]
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in added]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


@contextlib.contextmanager
def _public_session_at(
    token: TokenLabel,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
) -> Iterator[Session]:
    with (
        module_at(socket, address, policy, root, reference_values) as module,
        module.token(token).session() as session,
    ):
        yield session


@contextlib.contextmanager
def _session_at(
    token: TokenLabel,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    user: UserName = None,
    pin_file: PinFile = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
) -> Iterator[Session]:
    with _public_session_at(token, socket, address, policy, root, reference_values) as session:
        session.login(lambda: pin_of(pin_file), user=user)
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


def parse_nonce(text: str | None, *, shortest: int, longest: int) -> bytes:
    """A nonce of so many bytes from hexadecimal digits, none without any."""
    nonce = parse_hex(text, "--nonce")
    if text is not None and not shortest <= len(nonce) <= longest:
        size = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        raise UsageError(f"--nonce takes {size} bytes, two hexadecimal digits each")
    return nonce


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
