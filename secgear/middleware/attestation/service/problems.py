"""Errors as clients see them: ``application/problem+json`` (RFC 9457) with a stable ``code``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from secgear.errors import (
    AttestationError,
    CollateralError,
    EvidenceMalformed,
    EvidenceUnsupported,
    PolicyError,
    SecGearError,
    ServiceError,
)

MEDIA_TYPE: Final = "application/problem+json"
_LOG: Final = logging.getLogger(__name__)

# What the framework finds wrong, in our words.
_CODES: Final[Mapping[int, tuple[str, str]]] = {
    400: ("request.invalid", "The request is not in the form that this service reads"),
    401: ("token.missing", "This needs a token"),
    404: ("not-found", "There is nothing here"),
    405: ("method.unknown", "Not with this method"),
    413: ("request.too-large", "The request is too large"),
}


class Problem(Exception):
    """What went wrong, for a client. code never changes meaning; title and detail may."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(title)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def response(self) -> Response[bytes]:
        """As it is sent."""
        body = {"type": "about:blank", "title": self.title, "status": self.status}
        body |= {"code": self.code} | ({"detail": self.detail} if self.detail else {})
        return Response(
            msgspec.json.encode(body | self.members),
            status_code=self.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


def of(error: Exception) -> Problem:
    """The problem that an exception is to a client. What is our own fault is logged, not told."""
    match error:
        case Problem():
            return error
        case EvidenceMalformed() | EvidenceUnsupported() | PolicyError() | CollateralError():
            return Problem(400, error.code, "What was sent can't be used", str(error))
        case HTTPException() if error.status_code < 500:
            code, title = _CODES.get(error.status_code, _CODES[400])
            return Problem(error.status_code, code, title, headers=error.headers)
        case ServiceError():
            _LOG.error("%s", error)
            return Problem(503, error.code, "The service can't do its work now")
        case AttestationError() | SecGearError():
            _LOG.error("%s", error)
            return Problem(500, error.code, "The service failed")
        case _:
            _LOG.error("unexpected error", exc_info=error)
            return Problem(500, "service.failed", "The service failed")


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The framework's handler of every exception."""
    problem = of(error)
    request.app.state.service.metrics.refused.labels(problem.code).inc()
    return problem.response()
