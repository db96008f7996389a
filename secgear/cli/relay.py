"""``secgear relay``: run an enclave for clients on the network, until told to end."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli.connect import checked_address
from secgear.cli.images import ImageOrSource, MinSvn, Signer, is_source, open_image, policy
from secgear.cli.output import AsJson, emit, note
from secgear.cli.run import ocall_handlers
from secgear.cli.serve import service_logs
from secgear.errors import EnclaveLost

if TYPE_CHECKING:
    import secgear

_LOOK = 1.0  # seconds between looks at whether the enclave still lives


def relay(
    app: ImageOrSource,
    listen: Annotated[
        str,
        typer.Option(
            help="host:port, tcp://host:port, unix:/path or vsock://cid:port; port 0: any."
        ),
    ] = "tcp://127.0.0.1:0",
    tee: Annotated[str, typer.Option(help="Which TEE, or auto for the strongest.")] = "auto",
    require: Annotated[
        list[str] | None, typer.Option(help="Isolation layer that must hold; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Connections at once.")] = 256,
    per_client: Annotated[
        int, typer.Option(min=1, help="Connections at once from one address.")
    ] = 64,
    metrics: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port on this machine for Prometheus; 0 for any."),
    ] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Accept a production image that nobody signed.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Accept a debug image, which tells its secrets.")
    ] = False,
    signer: Signer = None,
    min_svn: MinSvn = 0,
    as_json: AsJson = False,
) -> None:
    """Launch an app and carry its clients' connections to it, until SIGINT or SIGTERM.

    The relay is the host's part: it sees ciphertext. Clients: secgear connect. With --json, one
    document says where it listens once it does, and another one its counters at the end.
    """
    import secgear

    service_logs()
    checked_address(listen)
    image = open_image(app)
    ended = threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with (
        secgear.launch(
            image,
            tee=tee,
            ocalls=ocall_handlers(image.interface),
            policy=policy(signer, min_svn, unsigned=unsigned, debug=debug or is_source(app)),
            require=require or (),
        ) as enclave,
        secgear.Relay(enclave, listen, limit=limit, per_client=per_client) as running,
    ):
        shown = {"address": running.address, "measurement": image.measurement.hex()}
        if metrics is not None:
            shown["metrics"] = _export(running, metrics)
        if as_json:
            emit(shown | {"tee": enclave.tee, "pid": enclave.pid})
        else:
            note(f"{image.manifest.name} in {enclave.tee} at {running.address}")
            note(f"measurement {shown['measurement']}")
            if metrics is not None:
                note(f"metrics at {shown['metrics']}")
        while not ended.wait(_LOOK):
            if not enclave.alive:
                raise EnclaveLost("the enclave has ended; start it again")
        stats = running.stats
    if as_json:
        emit({"stats": stats})
    else:
        note(f"{stats.accepted} connections, {stats.received} bytes in, {stats.sent} out")
    sys.stdout.flush()


def _export(running: secgear.Relay, port: int) -> str:
    """Serve the relay's counters on the loopback address; returns where."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(running)
    server, _ = start_http_server(port, "127.0.0.1", registry)
    return f"http://127.0.0.1:{server.server_port}/metrics"
