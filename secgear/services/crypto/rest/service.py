"""From a request to its reply: the route, the login, the body, the work, the answer."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final, final

import msgspec

from secgear.errors import CryptoModuleError
from secgear.services.crypto.pkcs11.rv import CryptokiError
from secgear.services.crypto.rest import (
    connection,
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
ROUTER: Final = Router(
    (
        *system.ROUTES,
        *transit_keys.ROUTES,
        *transit_data.ROUTES,
        *transit_signatures.ROUTES,
        *keys.ROUTES,
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
    """REST for a module: what all of its connections share."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.logins = Logins(module)
        self.description = DESCRIPTION

    def serve(self, session: connection.Peer, peer: str) -> None:
        """Serve one connection. peer: who it is, for the audit trail.

        Raises ChannelError when it breaks, CryptoModuleError when the module has to start again.
        """
        connection.serve(session, lambda asked: self.reply(asked, peer), refused)

    def reply(self, asked: Asked, peer: str) -> Reply:
        """The reply to one request. Raises CryptoModuleError."""
        try:
            return self._reply(asked, peer)
        except Refusal as refusal:
            return refused(refusal)
        except CryptokiError as error:
            return refused(of(error))
        except CryptoModuleError:
            raise
        except MemoryError:
            return refused(Refusal(503, "the module has no room for that"))
        except Exception as error:  # noqa: BLE001  (a defect here must not end everybody's service)
            # Its kind only: the text may hold what a client has sent.
            _logger.error("a request failed: %s", type(error).__name__)
            return refused(Refusal(500, "internal error"))

    def _reply(self, asked: Asked, peer: str) -> Reply:
        headers = asked.headers
        if "origin" in headers:
            # A page in somebody's browser, at a local door: it could try PINs until they lock.
            raise Refusal(403, "requests from web pages are not served")
        route, path, query = ROUTER.find(asked.method, asked.target)
        token = headers.get("x-vault-token") or _bearer(headers.get("authorization"))
        request = Request(
            service=self,
            path=path,
            query=query,
            body=None,
            namespace=headers.get("x-vault-namespace"),
            peer=peer,
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


def _bearer(header: str | None) -> str | None:
    kind, _, token = (header or "").partition(" ")
    return token if kind.lower() == "bearer" else None


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
