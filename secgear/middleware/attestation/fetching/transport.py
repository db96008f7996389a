"""How collateral is asked for: one request, one bounded answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import msgspec

from secgear.errors import CollateralError
from secgear.middleware.attestation.answers import AS_IT_IS, AnswerRefused, body_of

MAX_ANSWER: Final = 4 << 20  # bytes
_ATTEMPTS: Final = 4
_LONGEST_PAUSE: Final = 30.0  # seconds
_BUSY: Final = frozenset((429, 502, 503, 504))


class Request(msgspec.Struct, frozen=True):
    """What is asked. body: sent with POST if there is one."""

    url: str
    body: bytes = b""
    content_type: str = ""


class Response(msgspec.Struct, frozen=True):
    """A good answer. headers: names in small letters."""

    body: bytes
    headers: Mapping[str, str] = {}


class Transport(Protocol):
    """Anything that answers requests: HTTP, a mirror, an archive. Raises CollateralError."""

    def ask(self, request: Request) -> Response:
        """The answer to a request; one that is no success is an error."""
        ...


class HttpxTransport:
    """HTTP by httpx (``secgear[fetch]``).

    Proxies come from the environment (``HTTPS_PROXY``), and so does a certificate authority
    (``SSL_CERT_FILE``) unless `trust` names one. Redirects are not followed: they lead to where
    nobody said. A service that is busy is asked again when it says so, a few times.
    """

    def __init__(
        self,
        *,
        trust: Path | None = None,
        timeout: float = 30,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises CollateralError without httpx, or if `trust` is no file of certificates."""
        import ssl

        try:
            import httpx
        except ImportError:
            raise CollateralError("fetching needs httpx: secgear[fetch]") from None
        self._httpx = httpx
        try:
            verify = ssl.create_default_context(cafile=trust) if trust else True
        except (OSError, ssl.SSLError) as error:
            raise CollateralError(f"{trust}: no certificates: {error}") from None
        self._client = httpx.Client(
            timeout=timeout, follow_redirects=False, verify=verify, headers=AS_IT_IS
        )
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, request: Request) -> Response:
        """The answer; the URL is in every error."""
        for attempt in range(1, _ATTEMPTS + 1):
            status, response = self._once(request)
            if status == 200:
                return response
            if status not in _BUSY or attempt == _ATTEMPTS:
                break
            self._sleep(_pause(response.headers.get("retry-after", ""), attempt))
        if 300 <= status < 400:
            where = response.headers.get("location", "elsewhere")[:200]
            raise CollateralError(f"{request.url}: redirects to {where}; name that if you trust it")
        raise CollateralError(f"{request.url}: status {status}")

    def _once(self, request: Request) -> tuple[int, Response]:
        method = "POST" if request.body else "GET"
        headers = {"Content-Type": request.content_type} if request.content_type else {}
        try:
            with self._client.stream(
                method, request.url, content=request.body or None, headers=headers
            ) as answer:
                body = body_of(answer, MAX_ANSWER)
                named = {name.lower(): value for name, value in answer.headers.items()}
                return answer.status_code, Response(body, named)
        except (
            self._httpx.HTTPError,
            self._httpx.InvalidURL,
            AnswerRefused,
            ValueError,
        ) as error:
            raise CollateralError(f"{request.url}: {error}") from None


def _pause(retry_after: str, attempt: int) -> float:
    """Seconds until the next attempt: what the service says, within reason."""
    wanted = float(retry_after) if retry_after.isdecimal() else 2.0**attempt
    return min(wanted, _LONGEST_PAUSE)
