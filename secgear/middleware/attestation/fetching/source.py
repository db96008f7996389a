"""Asking through a cache: what is there and still counts is not asked for again."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from secgear.errors import CollateralError, EvidenceMalformed
from secgear.middleware.attestation.fetching.cache import Cache, Entry
from secgear.middleware.attestation.fetching.transport import Request, Response, Transport

T = TypeVar("T")

Read = Callable[[Response], tuple[T, datetime.datetime]]


@dataclass(frozen=True, slots=True)
class Source:
    """A transport with a cache in front.

    at: the time that counts for what expires. progress: is told what is being fetched. offline:
    only the cache is asked.
    """

    transport: Transport | None
    cache: Cache
    at: datetime.datetime
    progress: Callable[[str], None]

    def get(self, what: str, request: Request, read: Read[T]) -> T:
        """What `read` makes of the answer.

        what: for people. read: the value, and until when the answer counts; it raises what parsers
        raise for an answer that is something else, which then is not kept.
        Raises CollateralError with the URL.
        """
        kept = self.cache.get(request)
        if kept is not None and kept.expires > self.at:
            try:
                return read(kept.response)[0]
            except (CollateralError, EvidenceMalformed, ValueError):
                pass  # not what was asked for: whoever wrote it there, it does not count
        if self.transport is None:
            raise CollateralError(
                f"{request.url}: not in the cache, and nothing is fetched offline"
            )
        self.progress(f"{what}: {urlsplit(request.url).hostname}")
        response = self.transport.ask(request)
        try:
            value, expires = read(response)
        except (CollateralError, EvidenceMalformed, ValueError) as error:
            raise CollateralError(f"{request.url}: not {what}: {error}") from None
        self.cache.put(request, Entry(response, expires))
        return value


def endpoint(url: str | None, option: str, what: str) -> str:
    """The endpoint without a slash at its end. Raises CollateralError if the caller named none."""
    if not url:
        raise CollateralError(f"{what}: name the endpoint to fetch it from ({option})")
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise CollateralError(f"{url}: no endpoint; write https://host or https://host/path")
    return url.rstrip("/")
