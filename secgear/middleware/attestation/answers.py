"""What a service answers over HTTP: so much and no more, however it is wrapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import httpx

# A compressed answer would be unpacked before anybody could count it.
AS_IT_IS: Final[Mapping[str, str]] = {"Accept-Encoding": "identity"}


class AnswerRefused(Exception):
    """The answer is too large, or compressed though nobody asked for that."""


def body_of(answer: httpx.Response, limit: int) -> bytes:
    """The body of an answer that is being streamed. limit: bytes. Raises AnswerRefused."""
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise AnswerRefused(f"an answer in the encoding {encoding[:32]!r}, which was not asked for")
    body = bytearray()
    for chunk in answer.iter_raw():
        body += chunk
        if len(body) > limit:
            raise AnswerRefused(f"an answer of more than {limit} bytes")
    return bytes(body)
