"""``secgear connect``: verify an enclave over the network, and talk to it if it is trusted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secgear.cli import inputs
from secgear.cli.inputs import At, CollateralFiles, ReferenceFiles, Roots
from secgear.cli.output import AsJson, UsageError, emit, read, say, to_json
from secgear.errors import UnknownCall, Untrusted

if TYPE_CHECKING:
    from secgear.middleware.channel.session import Session

UNTRUSTED = 6  # exit code: the answer is no
_MAX_MESSAGE = 64 << 20


def connect(
    address: Annotated[
        str,
        typer.Argument(help="host:port, tcp://host:port, unix:/path or vsock://cid:port."),
    ],
    ecall: Annotated[
        str | None, typer.Argument(help="What to call; without it, only the verdict is shown.")
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="Values or name=value: JSON, else text; @FILE for data from a file."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="The policy (TOML) that decides.", readable=False),
    ] = None,
    collateral: CollateralFiles = None,
    reference_values: ReferenceFiles = None,
    root: Roots = None,
    at: At = None,
    message: Annotated[
        Path | None,
        typer.Option(help="Send this file as one message, print the answer.", readable=False),
    ] = None,
    service: Annotated[
        str, typer.Option(help="The handler to speak to; empty: the only one.")
    ] = "",
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for the handshake, and for a message's answer.")
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Verify an enclave over the network; make a call, or send a message, if it is trusted.

    Nothing is sent to an enclave that the policy does not trust: exit code 6. A call's result is
    printed as JSON, a stream as one line an item; a message's answer as it comes.
    """
    import secgear
    from secgear.middleware.attestation.bundle import anchors_with
    from secgear.middleware.attestation.policy import load_policy
    from secgear.middleware.attestation.verdict import Verdict

    if policy is None:
        raise UsageError("without --policy nobody is trusted, and nobody is talked to")
    if ecall is not None and message is not None:
        raise UsageError("a session is for calls or for messages: an ECALL or --message")
    checked_address(address)
    data = None if message is None else read(message, _MAX_MESSAGE)
    rules = load_policy(inputs.read_text(policy).encode())
    try:
        session = secgear.connect(
            address,
            rules,
            service=service,
            anchors=anchors_with(inputs.read_roots(root)),
            collateral=inputs.read_collateral(collateral),
            reference_values=inputs.read_reference_values(reference_values),
            at=inputs.parse_time(at) if at is not None else None,
            timeout=timeout,
        )
    except Untrusted as error:
        if not isinstance(error.verdict, Verdict):
            raise
        if as_json:
            emit(error.verdict.to_dict())
        else:
            typer.echo(error.verdict.explain())
        raise SystemExit(UNTRUSTED) from None
    with session:
        if ecall is not None:
            _call(session, ecall, arguments or [], as_json=as_json)
        elif data is not None:
            session.send(data)
            answer = session.recv(timeout)
            if as_json:
                emit({"answer": answer})
            else:
                sys.stdout.buffer.write(answer)
        else:
            _show(session, as_json=as_json)


def checked_address(address: str) -> None:
    """Raise UsageError for what is no address."""
    from secgear.middleware.channel.addresses import parse

    try:
        parse(address)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _show(session: Session, *, as_json: bool) -> None:
    peer = session.peer
    verdict = peer.verdict
    if verdict is None:  # a client's session always has one
        raise UsageError("the session has no verdict")
    if as_json:
        emit(verdict.to_dict() | {"connection": peer.tls})
    else:
        typer.echo(verdict.explain())
        say(f"connection: {peer.tls['version']}, {peer.tls['suite']}, {peer.tls['group']}")


def _call(session: Session, ecall: str, arguments: list[str], *, as_json: bool) -> None:
    from secgear.base.schema import HostTypes
    from secgear.cli.arguments import parse

    interface = session.interface
    function = interface.ecalls.get(ecall)
    if function is None:
        raise UnknownCall(f"{interface.name} offers no ECALL {ecall!r} to its clients")
    positional, named = parse(function, HostTypes(interface), arguments)
    result: Any = getattr(session.call, ecall)(*positional, **named)
    if not function.result_stream:
        emit({"result": result}) if as_json else typer.echo(to_json(result))
    elif as_json:
        emit({"result": list(result)})
    else:
        for item in result:
            typer.echo(to_json(item))
