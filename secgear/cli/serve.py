"""``secgear serve``: services that run until they are told to end."""

from __future__ import annotations

import datetime
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secgear.cli.output import UsageError, note

if TYPE_CHECKING:
    from secgear.middleware.attestation.service.settings import AnchorFile

app = typer.Typer(name="serve", help="Run a service.", no_args_is_help=True)

Directory = Annotated[
    Path,
    typer.Option(help="Where the service keeps its database and keys; only its owner may read it."),
]
Database = Annotated[
    str,
    typer.Option(
        help="Another database: sqlite:////path/file.db, or postgresql://user@host/name with the "
        "password in ~/.pgpass. Instances that share one are one service."
    ),
]
Issuer = Annotated[str, typer.Option(help="The service's name in results, for example its URL.")]
Host = Annotated[str, typer.Option(help="Address to listen on; beyond this machine only with TLS.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")]
Certificate = Annotated[
    Path | None, typer.Option("--tls-certificate", help="Certificate chain (PEM).", readable=False)
]
Key = Annotated[
    Path | None, typer.Option("--tls-key", help="The certificate's key (PEM).", readable=False)
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Listen without TLS: a balancer in front ends it."),
]
Proxies = Annotated[
    list[str] | None,
    typer.Option("--trusted-proxy", help="Its X-Forwarded-For is believed; may be repeated."),
]
Roots = Annotated[
    list[str] | None,
    typer.Option(
        "--root",
        help="Trust another root: FAMILY=FILE.pem, or FAMILY:SUBJECT=FILE.pem for a key. "
        "'simulated' alone is this user's own simulated platform.",
    ),
]
PerSecond = Annotated[
    float,
    typer.Option(
        "--rate", min=0.1, help="Requests a second for one client address; five times that at once."
    ),
]


@app.command("attestation")
def attestation(
    issuer: Issuer,
    directory: Directory,
    database: Database = "",
    host: Host = "127.0.0.1",
    port: Port = 8443,
    tls_certificate: Certificate = None,
    tls_key: Key = None,
    insecure: Insecure = False,
    trusted_proxy: Proxies = None,
    root: Roots = None,
    rate: PerSecond = 20,
    result_keys: Annotated[
        Path | None,
        typer.Option(help="Keys that sign results (PEM), made if missing.", readable=False),
    ] = None,
    result_minutes: Annotated[
        int, typer.Option(min=1, max=10080, help="How long a result is good.")
    ] = 10,
) -> None:
    """Judge evidence for others over HTTP and sign the results.

    Administrators need a token: secgear token create. Everything is documented by the service
    itself, at /openapi.json.
    """
    service_logs()
    from secgear.middleware.attestation.service.serving import serve
    from secgear.middleware.attestation.service.settings import Settings

    made = Settings(
        **_common(issuer, directory, database, root, rate),
        host=host,
        port=port,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        insecure=insecure,
        trusted_proxies=tuple(trusted_proxy or ()),
        keys=result_keys,
        result_lifetime=datetime.timedelta(minutes=result_minutes),
    )
    serve(made, lambda url: note(f"verification service at {url}"))


@app.command("broker")
def broker(
    directory: Directory,
    database: Database = "",
    host: Host = "127.0.0.1",
    port: Port = 8443,
    tls_certificate: Certificate = None,
    tls_key: Key = None,
    insecure: Insecure = False,
    trusted_proxy: Proxies = None,
    root: Roots = None,
    rate: PerSecond = 20,
    master_key: Annotated[
        Path | None,
        typer.Option(help="Keys that encrypt the secrets, made if missing.", readable=False),
    ] = None,
) -> None:
    """Keep secrets and release each to the enclaves that its policy names.

    Secrets: secgear secret put. Policies and administrators: as for the verification service. Also
    speaks Confidential Containers' KBS protocol 0.4.0, under /kbs/v0.
    """
    service_logs()
    from secgear.middleware.attestation.broker.app import BrokerSettings, serve_broker

    made = BrokerSettings(
        **_common("key broker", directory, database, root, rate),
        host=host,
        port=port,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        insecure=insecure,
        trusted_proxies=tuple(trusted_proxy or ()),
        master_key=master_key,
    )
    serve_broker(made, lambda url: note(f"key broker at {url}"))


@app.command("witness")
def witness(
    directory: Annotated[
        Path,
        typer.Option(help="Where the counters and the key are kept; never restore it from a copy."),
    ],
    listen: Annotated[
        str, typer.Option(help="tcp://host:port, unix:/path or vsock://cid:port.")
    ] = "tcp://127.0.0.1:8444",
    holder: Annotated[
        list[str] | None,
        typer.Option(help="Whose counters are kept (identity in hexadecimal); may be repeated."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Counters that are kept at most.")] = 100_000,
) -> None:
    """Remember counters for enclaves whose own hosts could set them back.

    Run it where those hosts can't reach its directory. Requests and answers are signed, so no TLS
    is needed. Prints the public key that enclaves have to know.
    """
    service_logs()
    from secgear.middleware.channel.addresses import parse
    from secgear.middleware.sealing.witness import Witness, witness_key
    from secgear.middleware.sealing.witness_service import serve

    try:
        address = parse(listen)
        holders = None if holder is None else [bytes.fromhex(one) for one in holder]
    except ValueError as error:
        raise UsageError(f"serve witness: {error}") from None
    with Witness(directory, witness_key(directory), holders=holders, most=most) as kept:
        serve(kept, address, lambda at: note(f"witness at {at} with key {kept.public_key.hex()}"))


@app.command("crypto")
def crypto(
    directory: Annotated[
        Path, typer.Option(help="The module's directory: secgear crypto init has made it.")
    ],
    socket: Annotated[
        Path | None,
        typer.Option(help="Unix socket for p11-kit's clients, by default in the directory."),
    ] = None,
    socket_mode: Annotated[
        str, typer.Option(help="The socket's permissions: they decide who may connect.")
    ] = "600",
    attested: Annotated[
        str | None,
        typer.Option(help="Address for attested channels from afar, for example tcp://[::]:8442."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=64, help="Enclaves; 0 is one for each core, 8 at most.")
    ] = 0,
    metrics: Annotated[
        str | None,
        typer.Option(help="Address for Prometheus, for example 127.0.0.1:9100."),
    ] = None,
) -> None:
    """Run a cryptographic module: keys in the enclave, PKCS#11 for unmodified applications."""
    service_logs()
    from secgear.services.crypto.serving import Places, serve

    if not re.fullmatch(r"0?[0-7]{3}", socket_mode, re.ASCII):
        raise UsageError("--socket-mode takes three octal digits, for example 660")

    def ready(places: Places) -> None:
        note(f"cryptographic module at {places.socket}")
        if places.attested is not None:
            note(f"attested channels at {places.attested}")
        if places.metrics is not None:
            note(f"metrics at {places.metrics}")

    serve(
        directory,
        ready,
        socket=socket,
        mode=int(socket_mode, 8),
        attested=attested,
        workers=workers or min(len(os.sched_getaffinity(0)), 8),
        metrics=metrics,
    )


def _common(
    issuer: str, directory: Path, database: str, roots: Sequence[str] | None, rate: float
) -> dict[str, Any]:
    """What both services' settings have in common, from what was typed."""
    from secgear.middleware.attestation.service.settings import Rate

    limit = Rate(rate, max(1, round(5 * rate)))
    return {
        "issuer": issuer,
        "directory": directory,
        "database": checked_url(database),
        "extra_anchors": tuple(_anchor(root) for root in roots or ()),
        "challenge_rate": limit,
        "attest_rate": limit,
    }


def checked_url(url: str) -> str:
    """The database URL, unless it carries what everybody on this machine could read."""
    from urllib.parse import urlsplit

    if url and urlsplit(url).password:
        raise UsageError(
            "a password on the command line can be read by every user of this machine; "
            "put it into ~/.pgpass (PGPASSFILE)"
        )
    return url


def service_logs() -> None:
    """Warnings and errors of services go to stderr, with the time."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")


def _anchor(root: str) -> AnchorFile:
    from secgear.base.tees.simulated import SimulatedPlatform, home
    from secgear.middleware.attestation.service.settings import AnchorFile

    if root == "simulated":
        SimulatedPlatform(home())  # makes it, the first time
        return AnchorFile("simulated", home() / "simulated-platform" / "root.crt")
    selector, equals, file = root.partition("=")
    family, _, subject = selector.partition(":")
    if not equals or not family or not file:
        raise UsageError(f"--root {root}: write FAMILY=FILE.pem")
    return AnchorFile(family, Path(file), subject.lower())
