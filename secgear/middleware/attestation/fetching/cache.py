"""Where fetched answers are kept: what can't change for good, the rest until it expires."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from secgear.errors import CollateralError
from secgear.middleware.attestation.fetching.transport import MAX_ANSWER, Request, Response
from secgear.middleware.attestation.reader import UNREADABLE

FOREVER: Final = datetime.datetime.max.replace(tzinfo=datetime.UTC)
_MAX_ENTRY: Final = 2 * MAX_ANSWER  # bytes of a file: base64 and a little more
_VERSION: Final = 1


class Entry(msgspec.Struct, frozen=True):
    """An answer and until when it counts."""

    response: Response
    expires: datetime.datetime


class Cache(Protocol):
    """Answers by request. It decides nothing: who asks looks at the time."""

    def get(self, request: Request) -> Entry | None:
        """What was kept for exactly this request."""
        ...

    def put(self, request: Request, entry: Entry) -> None:
        """Keep an answer in place of the one before."""
        ...


class MemoryCache:
    """In this process."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}

    def get(self, request: Request) -> Entry | None:
        """What was kept for exactly this request."""
        return self._entries.get(_key(request))

    def put(self, request: Request, entry: Entry) -> None:
        """Keep an answer in place of the one before."""
        self._entries[_key(request)] = entry


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    url: str
    asked: bytes  # SHA-256 of the request's body
    fetched: datetime.datetime
    expires: datetime.datetime
    headers: Mapping[str, str]
    body: bytes


_DECODER: Final = msgspec.json.Decoder(_File)


class DirectoryCache:
    """In a directory, for several processes at once; made for its owner only if missing.

    One file an answer, written in one step. A file that is damaged or about something else counts
    as missing: it is fetched again.
    """

    def __init__(self, directory: Path) -> None:
        """Raises CollateralError if the directory can't be used."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CollateralError(f"cache: {directory}: {error.strerror}") from None

    def get(self, request: Request) -> Entry | None:
        """What was kept for exactly this request."""
        try:
            with self._path(request).open("rb") as file:
                data = file.read(_MAX_ENTRY + 1)
        except OSError:
            return None
        try:
            found = _DECODER.decode(data)
        except UNREADABLE:
            return None
        asked = hashlib.sha256(request.body).digest()
        if (found.version, found.url, found.asked) != (_VERSION, request.url, asked):
            return None
        if found.expires.tzinfo is None:
            return None
        return Entry(Response(found.body, found.headers), found.expires)

    def put(self, request: Request, entry: Entry) -> None:
        """Keep an answer in place of the one before. Raises CollateralError."""
        content = msgspec.json.encode(
            _File(
                version=_VERSION,
                url=request.url,
                asked=hashlib.sha256(request.body).digest(),
                fetched=datetime.datetime.now(datetime.UTC),
                expires=entry.expires,
                headers=entry.response.headers,
                body=entry.response.body,
            )
        )
        path = self._path(request)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108  (also where the write has failed)
            raise CollateralError(f"cache: {self._directory}: {error.strerror}") from None

    def _path(self, request: Request) -> Path:
        return self._directory / f"{_key(request).hex()}.json"


def _key(request: Request) -> bytes:
    url = request.url.encode()
    return hashlib.sha256(len(url).to_bytes(4) + url + request.body).digest()
