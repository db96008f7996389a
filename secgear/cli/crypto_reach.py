"""How commands reach a running cryptographic module, and who they are there.

By the host's socket, which the host can hear, or over an attested channel to an enclave that a
policy trusts. Who somebody is, their key says; it never leaves this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeVar

import typer

from secgear.cli import inputs
from secgear.cli.connect import checked_address
from secgear.cli.output import UsageError, emit, read, say
from secgear.cli.signing import load_key

if TYPE_CHECKING:
    from secgear.services.crypto.administration import Administration
    from secgear.services.crypto.client import Caller
    from secgear.services.crypto.roles.persons import Person

_Parsed = TypeVar("_Parsed")

MAX_DOCUMENT: Final = 1 << 20
MAX_APPLICATION: Final = 16 << 20

Name = Annotated[str, typer.Option("--as", help="Your name, as the module knows you.")]
Key = Annotated[Path, typer.Option(help="Your private key (PEM).", readable=False)]


class Place(NamedTuple):
    """Where a module is, from a command's options."""

    socket: Path | None
    address: str | None
    policy: Path | None
    root: list[str] | None = None
    reference_values: list[Path] | None = None


@contextlib.contextmanager
def reached(place: Place) -> Iterator[Caller]:
    """A connection to the module; what it refuses ends the command.

    Raises UsageError, CryptoModuleError, ChannelError, AttestationError.
    """
    from secgear.services.crypto.client import Caller, SocketExchange, TokenRefused
    from secgear.services.crypto.pkcs11.rv import CryptokiError

    with contextlib.ExitStack() as stack:
        try:
            if place.socket is not None and place.address is None and place.policy is None:
                caller = Caller(stack.enter_context(SocketExchange(place.socket)))
            elif place.socket is None and place.address is not None and place.policy is not None:
                caller = stack.enter_context(_channel(place, place.address, place.policy))
            else:
                raise UsageError("name the module with --socket, or with --address and --policy")
            caller.initialise()
            yield caller
        except CryptokiError as error:
            raise TokenRefused(error.rv) from None


@contextlib.contextmanager
def _channel(place: Place, address: str, policy: Path) -> Iterator[Caller]:
    from secgear.middleware.attestation import bundle as bundles
    from secgear.middleware.attestation import load_policy
    from secgear.middleware.channel import connect
    from secgear.services.crypto.client import SERVICE, Caller, ChannelExchange

    checked_address(address)
    with connect(
        address,
        load_policy(inputs.read_text(policy).encode()),
        service=SERVICE,
        anchors=bundles.anchors_with(inputs.read_roots(place.root)),
        reference_values=inputs.read_reference_values(place.reference_values),
    ) as session:
        yield Caller(ChannelExchange(session))


@contextlib.contextmanager
def logged_in(
    place: Place, role: str, name: str, key: Path, passphrase: Path | None
) -> Iterator[Administration]:
    """The same, after a login with a role."""
    from secgear.services.crypto.administration import Administration

    private = load_key(key, passphrase)
    with reached(place) as caller:
        one = Administration(caller)
        one.login(role, name, private)
        yield one


def people(options: list[str] | None) -> tuple[Person, ...]:
    """``NAME=FILE`` of each, with a public key in the file. Raises UsageError, CryptoRefused."""
    from secgear.services.crypto.roles.persons import load_key as load_public
    from secgear.services.crypto.roles.persons import person

    return tuple(
        person(name, parsed(path, load_public, "the public half is wanted"))
        for name, path in pairs(options)
    )


def parsed(path: Path, parse: Callable[[bytes], _Parsed], hint: str) -> _Parsed:
    """What is in a file. Raises CryptoRefused, which names the file."""
    from secgear.errors import CryptoRefused

    try:
        return parse(read(path, MAX_DOCUMENT))
    except CryptoRefused as error:
        raise CryptoRefused(f"{path}: {error}; {hint}") from None


def pairs(options: list[str] | None) -> list[tuple[str, Path]]:
    """``NAME=FILE`` of each. Raises UsageError."""
    found = []
    for option in options or ():
        name, equals, file = option.partition("=")
        if not name or not equals or not file:
            raise UsageError(f"{option}: write NAME=FILE")
        found.append((name, Path(file)))
    return found


def secret_line(path: Path | None, prompt: str, *, new: bool) -> bytes:
    """A PIN from a file's first line or the terminal: never from the command line.

    new: one that is to be set, and is asked for twice.
    """
    if path is None:
        return str(
            typer.prompt(prompt, hide_input=True, confirmation_prompt=new, err=True)
        ).encode()
    line = read(path, MAX_DOCUMENT).split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise UsageError(f"{path}: its first line is empty; a PIN belongs there")
    return line


def say_lines(text: str) -> None:
    """Several lines for people, on stdout."""
    for line in text.split("\n"):
        say(line)


def told(value: dict[str, Any], text: str, *, as_json: bool) -> None:
    """A result in either form."""
    if as_json:
        emit(value)
    else:
        say_lines(text)
