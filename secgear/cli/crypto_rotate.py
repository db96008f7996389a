"""``secgear crypto rotate``: the next version of a named key."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli import inputs
from secgear.cli.connect import checked_address
from secgear.cli.crypto_place import PinFile, pin_of
from secgear.cli.output import AsJson, CommandError, UsageError, emit

if TYPE_CHECKING:
    from secgear.services.crypto.client import Exchange


def rotate(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    address: Annotated[
        str, typer.Option(help="The module's address for attested channels; with --policy.")
    ] = "",
    policy: Annotated[
        Path | None,
        typer.Option(help="The policy (TOML) under which it is trusted.", readable=False),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(help="Instead: the socket of a module on this machine.", readable=False),
    ] = None,
    slot: Annotated[int, typer.Option(min=0, max=63, help="The token's slot.")] = 0,
    pin_file: PinFile = None,
    pre_active: Annotated[
        bool, typer.Option("--pre-active", help="Only make it; it is activated later.")
    ] = False,
    root: inputs.Roots = None,
    reference_values: inputs.ReferenceFiles = None,
    as_json: AsJson = False,
) -> None:
    """Make the next version of a key; older ones only decrypt and verify from then on."""
    from secgear.services.crypto.client import (
        SERVICE,
        Caller,
        ChannelExchange,
        SocketExchange,
        TokenRefused,
    )
    from secgear.services.crypto.pkcs11.constants import KeyState, UserType
    from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv

    if (socket is None) == (policy is None) or bool(address) != (policy is not None):
        raise UsageError("name the module with --socket, or with --address and --policy")
    if address:
        checked_address(address)
    pin = pin_of(pin_file)
    with contextlib.ExitStack() as stack:
        exchange: Exchange
        if socket is not None:
            exchange = stack.enter_context(SocketExchange(socket))
        else:
            assert policy is not None  # noqa: S101  (seen above)
            from secgear.middleware.attestation import bundle as bundles
            from secgear.middleware.attestation import load_policy
            from secgear.middleware.channel import connect as open_channel

            session = stack.enter_context(
                open_channel(
                    address,
                    load_policy(inputs.read_text(policy).encode()),
                    service=SERVICE,
                    anchors=bundles.anchors_with(inputs.read_roots(root)),
                    reference_values=inputs.read_reference_values(reference_values),
                )
            )
            exchange = ChannelExchange(session)
        caller = Caller(exchange)
        state = KeyState.PRE_ACTIVE if pre_active else KeyState.ACTIVE
        try:
            caller.initialise()
            handle = caller.one("C_OpenSession", slot, 6)
            caller.call("C_Login", handle, UserType.USER, pin)
            version, _ = caller.call("S_RotateKey", handle, name.encode(), state)
        except CryptokiError as error:
            if error.rv is Rv.KEY_HANDLE_INVALID:
                raise CommandError(
                    f"no named key {name!r} in slot {slot}; those have versions that were made by "
                    "REST or S_NewKey"
                ) from None
            raise TokenRefused(error.rv) from None
    if as_json:
        emit({"name": name, "version": version, "state": state.name.lower()})
    else:
        typer.echo(f"key  {name}, version {version}, {state.name.lower()}")
