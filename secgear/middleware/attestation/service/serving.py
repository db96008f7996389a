"""Run an application with uvicorn, with TLS unless only this machine can reach it."""

from __future__ import annotations

from typing import Final

import uvicorn
from litestar import Litestar

from secgear.middleware.attestation.service.app import create_app
from secgear.middleware.attestation.service.settings import Settings

_KEEP_ALIVE: Final = 15  # seconds an idle connection stays open
_GRACE: Final = 20  # seconds for running requests when the service ends


def serve(settings: Settings) -> None:
    """Run the verification service until it is told to end (SIGINT, SIGTERM).

    Raises ServiceError before listening: settings, database; KeyFileError: result keys.
    """
    settings.check_listening()
    run(create_app(settings), settings)


def run(app: Litestar, settings: Settings) -> None:
    """Serve any application as the settings say. Raises ServiceError."""
    settings.check_listening()
    server(app, settings).run()


def server(app: Litestar, settings: Settings) -> uvicorn.Server:
    """The server, not started yet."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            limit_concurrency=settings.max_connections,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
            server_header=False,
            access_log=False,
            log_level="warning",
        )
    )
