"""``secgear crypto rotate``: the next version of a named key."""

from __future__ import annotations

from typing import Annotated

import typer

from secgear.cli.crypto_place import Address, PinFile, Policy, Socket, UserName, module_at, pin_of
from secgear.cli.inputs import ReferenceFiles, Roots
from secgear.cli.output import AsJson, CommandError, UsageError, emit, say


def rotate(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    token: Annotated[str | None, typer.Option(help="The token's label; or --slot.")] = None,
    slot: Annotated[int, typer.Option(min=0, max=63, help="The token's slot.")] = 0,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    user: UserName = None,
    pin_file: PinFile = None,
    pre_active: Annotated[
        bool, typer.Option("--pre-active", help="Only make it; it is activated later.")
    ] = False,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    as_json: AsJson = False,
) -> None:
    """Make the next version of a key; older ones only decrypt and verify from then on."""
    from secgear.services.crypto.client import TokenRefused
    from secgear.services.crypto.pkcs11.constants import KeyState
    from secgear.services.crypto.pkcs11.rv import Rv

    state = KeyState.PRE_ACTIVE if pre_active else KeyState.ACTIVE
    with module_at(socket, address, policy, root, reference_values) as module:
        if token is not None:
            found = module.token(token)
        else:
            there = [one for one in module.tokens() if one.slot == slot]
            if not there:
                raise UsageError(f"the module has no slot {slot}")
            (found,) = there
        with found.session(lambda: pin_of(pin_file), user=user) as session:
            try:
                version, _ = session.call("S_RotateKey", name.encode(), state)
            except TokenRefused as refused:
                if refused.rv is not Rv.KEY_HANDLE_INVALID:
                    raise
                raise CommandError(
                    f"no named key {name!r} on {found.label!r}; those have versions, and are made "
                    "by REST or S_NewKey"
                ) from None
    if as_json:
        emit({"name": name, "version": version, "state": state.name.lower()})
    else:
        say(f"key  {name}, version {version}, {state.name.lower()}")
