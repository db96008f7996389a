"""``secgear crypto http``: a local door for clients of REST, with an attested channel behind it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli import inputs
from secgear.cli.connect import checked_address
from secgear.cli.output import AsJson, emit, note

if TYPE_CHECKING:
    from secgear.middleware.channel import Session


def http(
    address: Annotated[str, typer.Argument(help="The module's address, tcp://host:port.")],
    policy: Annotated[
        Path, typer.Option(help="The policy (TOML) under which it is trusted.", readable=False)
    ],
    listen: Annotated[
        str, typer.Option(help="Where the door is: host:port on this machine, or unix:/path.")
    ] = "127.0.0.1:8200",
    root: inputs.Roots = None,
    reference_values: inputs.ReferenceFiles = None,
    as_json: AsJson = False,
) -> None:
    """Let Vault's clients and curl on this machine reach a module, until SIGINT or SIGTERM.

    Each connection is carried over a channel of its own that ends in the module's enclave, which
    is verified first: once now, so that a policy that does not fit is told at once.
    """
    from secgear.cli.serve import service_logs
    from secgear.middleware.attestation import bundle as bundles
    from secgear.middleware.attestation import load_policy
    from secgear.middleware.channel import connect as open_channel
    from secgear.services.crypto.door import HTTP_SERVICE, Door

    service_logs()
    checked_address(address)
    rules = load_policy(inputs.read_text(policy).encode())
    anchors = bundles.anchors_with(inputs.read_roots(root))
    values = inputs.read_reference_values(reference_values)

    def open_session() -> Session:
        return open_channel(
            address, rules, service=HTTP_SERVICE, anchors=anchors, reference_values=values
        )

    open_session().close()
    ended = threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with Door(open_session, listen) as door:
        shown = door.address.replace("tcp://", "http://")
        if as_json:
            emit({"address": shown})
        else:
            note(f"door at {shown}")
        ended.wait()
