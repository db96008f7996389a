"""Run an application with uvicorn, with TLS unless only this machine can reach it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.h11_impl import H11Protocol

from secgear.errors import ServiceError
from secgear.middleware.attestation.service.app import create_app
from secgear.middleware.attestation.service.settings import Settings

_KEEP_ALIVE: Final = 15  # seconds an idle connection stays open
_WATCH: Final = 10.0  # seconds; a connection on which nothing happens for 10 to 20 is closed
_GRACE: Final = 20  # seconds for running requests when the service ends


def serve(settings: Settings, listening: Callable[[str], None] | None = None) -> None:
    """Run the verification service until it is told to end (SIGINT, SIGTERM).

    listening: is told the service's URL as soon as it can be used.
    Raises ServiceError before listening: settings, database; KeyFileError: result keys.
    """
    settings.check_listening()
    run(create_app(settings), settings, listening)


def run(app: Litestar, settings: Settings, listening: Callable[[str], None] | None = None) -> None:
    """Serve any application as the settings say. Raises ServiceError."""
    settings.check_listening()
    running = server(app, settings, listening)
    try:
        running.run()
    except SystemExit:
        if running.started:
            raise  # a signal has ended it
        # How the server ends when it can't listen; it has logged why.
        raise ServiceError(f"can't listen on {settings.host} port {settings.port}") from None


def server(
    app: Litestar, settings: Settings, listening: Callable[[str], None] | None = None
) -> uvicorn.Server:
    """The server, not started yet."""
    return _Server(
        listening,
        uvicorn.Config(
            app,
            http=_Protocol,
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
        ),
    )


class _Protocol(H11Protocol):
    """Closes connections on which no request comes, and those on which no answer goes.

    uvicorn waits for a first request for ever, for the rest of one that has begun to arrive, and
    for a client to read: those that went away, or mean it, would hold all of `max_connections` in
    the end.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection is there; so, from now on, is the watch."""
        super().connection_made(transport)
        self._idle_since: object = None  # the last request, if it was answered when last looked
        self._stuck = False  # whether an answer waited for the client to read when last looked
        self._watch = self.loop.call_later(_WATCH, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._watch.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """The client has read most of what waited for it: 48 KiB at least, by asyncio's limits."""
        self._stuck = False
        super().resume_writing()

    def _look(self) -> None:
        if self._stuck or self.transport.is_closing():
            self.transport.abort()  # closing waits until all is read
            return
        self._stuck = self.flow.write_paused
        last = self.cycle
        answered = last is None or last.response_complete
        if answered and last is self._idle_since:
            self.transport.close()
        self._idle_since = last if answered else self  # self: no request is that
        self._watch = self.loop.call_later(_WATCH, self._look)


class _Server(uvicorn.Server):
    """Says where it listens once it does: with port 0 nobody knows before."""

    def __init__(self, listening: Callable[[str], None] | None, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._listening is not None:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            self._listening(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
