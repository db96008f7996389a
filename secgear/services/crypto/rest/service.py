"""From a request to its reply: the route, the login, the body, the work, the answer."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, final

import msgspec

from secgear.errors import CryptoModuleError
from secgear.services.crypto.pkcs11.rv import CryptokiError
from secgear.services.crypto.rest import (
    channel,
    connection,
    csr,
    keys,
    system,
    transit_data,
    transit_keys,
    transit_signatures,
)
from secgear.services.crypto.rest.bodies import Answer, Errors, LoggedIn, encode
from secgear.services.crypto.rest.connection import Asked, Reply
from secgear.services.crypto.rest.logins import Logins
from secgear.services.crypto.rest.openapi import describe
from secgear.services.crypto.rest.refusals import Refusal, of
from secgear.services.crypto.rest.routes import Form, Partial, Request, Route, Router
from secgear.services.crypto.rest.work import Work
from secgear.services.crypto.token.module import Module

_logger = logging.getLogger(__name__)
JSON: Final = "application/json"
MAX_CONNECTIONS: Final = 1024  # of HTTP, of all channels
ROUTER: Final = Router(
    (
        *system.ROUTES,
        *transit_keys.ROUTES,
        *transit_data.ROUTES,
        *transit_signatures.ROUTES,
        *keys.ROUTES,
        *csr.ROUTES,
    )
)
DESCRIPTION: Final = describe(ROUTER.routes)
"""The OpenAPI document."""
# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DECODERS: Final[Mapping[Any, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in {route.body for route in ROUTER.routes if route.body is not None}
}


@final
class Service:
    """REST for a module: what all of its clients share.

    torn: called when the module has to start again; returns nothing more.
    """

    def __init__(self, module: Module, torn: Callable[[CryptoModuleError], NoReturn]) -> None:
        self.module = module
        self.torn = torn
        self.description = DESCRIPTION
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def serve(self, session: channel.Session, peer: str) -> None:
        """Serve a channel. peer: who is at its other end, for the audit trail.

        Raises ChannelError when it breaks.
        """
        client = Client(self, peer)
        try:
            channel.Channel(session, client.serve, self._room).serve(client.logins.sweep)
        finally:
            client.logins.close()


@final
class Client:
    """Who is at the other end of a channel: what all of its connections share."""

    def __init__(self, service: Service, peer: str) -> None:
        self.service = service
        self.logins = Logins(service.module, peer)

    def serve(self, peer: connection.Peer) -> None:
        """Serve one connection. Raises ChannelError."""
        connection.serve(
            peer,
            self.reply,
            refused,
            lambda headers: self.logins.known(_token(headers)) is not None,
        )

    def reply(self, asked: Asked) -> Reply:
        """The reply to one request."""
        try:
            return self._reply(asked)
        except Refusal as refusal:
            return refused(refusal)
        except CryptokiError as error:
            return refused(of(error))
        except CryptoModuleError as error:
            self.service.torn(error)
        except MemoryError:
            return refused(Refusal(503, "the module has no room for that"))
        except Exception as error:  # noqa: BLE001  (a defect here must not end everybody's service)
            # Its kind only: the text may hold what a client has sent.
            _logger.error("a request failed: %s", type(error).__name__)
            return refused(Refusal(500, "internal error"))

    def _reply(self, asked: Asked) -> Reply:
        headers = asked.headers
        if "origin" in headers:
            # A page in somebody's browser, at a local door: it could try PINs until they lock.
            raise Refusal(403, "requests from web pages are not served")
        if "x-vault-wrap-ttl" in headers:  # else the secret would come as it is
            raise Refusal(400, "response wrapping is not offered")
        route, path, query = ROUTER.find(asked.method, asked.target)
        token = _token(headers)
        request = Request(
            service=self.service,
            logins=self.logins,
            path=path,
            query=query,
            body=None,
            namespace=headers.get("x-vault-namespace"),
            token=token,
            login=None,
            session=None,
        )
        if route.public:
            return _done(route, route.handler(request._replace(body=_read(route, asked.body))))
        login = self.logins.find(token)
        if request.namespace and self.logins.slot(request.namespace) is not login.slot:
            raise Refusal(403, "permission denied")
        # Read only now: who has not logged in has nothing parsed but its path.
        body = _read(route, asked.body)
        with Work(login.app, login.slot) as work:
            return _done(
                route, route.handler(request._replace(body=body, login=login, session=work))
            )


def _token(headers: Mapping[str, str]) -> str | None:
    kind, _, bearer = headers.get("authorization", "").partition(" ")
    return headers.get("x-vault-token") or (bearer if kind.lower() == "bearer" else None)


def _read(route: Route, data: bytes) -> Any:
    if route.body is None:
        if data.strip() not in (b"", b"{}"):
            raise Refusal(400, "this takes no body")
        return None
    try:
        return _DECODERS[route.body].decode(data or b"{}")
    except msgspec.ValidationError as error:
        raise Refusal(400, str(error)[:200]) from None  # says where, quotes no values
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Refusal(400, "the body is no JSON") from None


def _done(route: Route, result: Any) -> Reply:
    if route.form is Form.TEXT:
        return Reply(route.status, result.encode(), "text/plain; charset=utf-8")
    if isinstance(result, Reply):
        return result
    if result is None:
        return Reply(204)
    if route.form is Form.PLAIN:
        return Reply(route.status, encode(result), JSON)
    status = route.status
    if isinstance(result, Partial):
        status, result = result
    number = secrets.token_hex(16)
    if route.form is Form.LOGIN:
        return Reply(status, encode(LoggedIn(request_id=number, auth=result)), JSON)
    return Reply(status, encode(Answer(request_id=number, data=result)), JSON)


def refused(refusal: Refusal) -> Reply:
    """The reply that says no."""
    return Reply(refusal.status, encode(Errors(list(refusal.texts))), JSON)
