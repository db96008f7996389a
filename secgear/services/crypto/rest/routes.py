"""The one table of routes: what is served, what is described, and what is refused."""

from __future__ import annotations

import enum
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.work import Work

if TYPE_CHECKING:
    from secgear.services.crypto.rest.logins import Login, Logins
    from secgear.services.crypto.rest.service import Service

MAX_SEGMENTS: Final = 12
MAX_SEGMENT: Final = 256
_SAFE = re.compile(r"[^\x00-\x1f\x7f/]+")


class Form(enum.Enum):
    """What an answer's body is."""

    DATA = enum.auto()  # Vault's envelope around it
    LOGIN = enum.auto()  # Vault's envelope around a login
    PLAIN = enum.auto()  # itself
    TEXT = enum.auto()  # text that is no JSON


class Partial(NamedTuple):
    """A result of a handler with a status of its own: some of it has failed."""

    status: int
    result: Any


class Query(NamedTuple):
    """A parameter behind the question mark. values: all that it can be; none for any."""

    name: str
    about: str
    values: tuple[str, ...] = ()


class Request(NamedTuple):
    """What a handler is given. work: on the token of who has logged in."""

    service: Service
    logins: Logins
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    namespace: str | None
    token: str | None
    login: Login | None
    session: Work | None

    @property
    def work(self) -> Work:
        """Raises Refusal(403) where nobody is logged in."""
        if self.session is None:
            raise Refusal(403, "permission denied")
        return self.session

    @property
    def caller(self) -> Login:
        """Who has logged in. Raises Refusal(403)."""
        if self.login is None:
            raise Refusal(403, "permission denied")
        return self.login


Handler = Callable[[Request], Any]


class Route(NamedTuple):
    """One thing that can be asked for. body, answer: their types; None for no body.

    path: segments in braces are parameters. public: nobody has to be logged in. partial: its answer
    may come with another status, because some of it has failed.
    """

    method: str
    path: str
    about: str
    handler: Handler
    body: Any = None
    answer: Any = None
    form: Form = Form.DATA
    public: bool = False
    query: tuple[Query, ...] = ()
    status: int = 200
    partial: bool = False

    @property
    def name(self) -> str:
        """What the description calls it."""
        words = re.sub(r"[^A-Za-z0-9]+", "_", self.path.removeprefix("/v1/")).strip("_")
        return f"{self.method.lower()}_{words}"


class Found(NamedTuple):
    """A route with the values of its parameters."""

    route: Route
    path: Mapping[str, str]
    query: Mapping[str, str]


@final
class Router:
    """Finds routes. LIST is GET with ``list=true``, and PUT is POST, as with Vault."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._by_length: dict[int, list[tuple[tuple[str, ...], Route]]] = {}
        for route in self.routes:
            segments = tuple(route.path.strip("/").split("/"))
            self._by_length.setdefault(len(segments), []).append((segments, route))
        for entries in self._by_length.values():  # what is spelled out comes before parameters
            entries.sort(key=lambda entry: sum(one.startswith("{") for one in entry[0]))

    def find(self, method: str, target: str) -> Found:
        """The route of a request. Raises Refusal: 400, 404 or 405."""
        path, _, query = target.partition("?")
        segments = _segments(path)
        values = _query(query)
        if method == "LIST":
            method, values = "GET", {**values, "list": "true"}
        method = {"PUT": "POST", "HEAD": "GET"}.get(method, method)
        known = False
        for pattern, route in self._by_length.get(len(segments), ()):
            matched = _match(pattern, segments)
            if matched is None:
                continue
            known = True
            if route.method == method:
                _check(route, values)
                return Found(route, matched, values)
        if known:
            raise Refusal(405, "this can't be asked of that path")
        raise Refusal(404)


def _match(pattern: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for one, segment in zip(pattern, segments, strict=True):
        if one.startswith("{"):
            found[one[1:-1]] = segment
        elif one != segment:
            return None
    return found


def _check(route: Route, values: Mapping[str, str]) -> None:
    """Raise Refusal unless a route knows all of a query's parameters, with these values."""
    known = {query.name: query.values for query in route.query}
    for name, value in values.items():
        if name not in known or (known[name] and value not in known[name]):
            raise Refusal(400, "the query has a parameter or a value that this path does not take")


def _segments(path: str) -> tuple[str, ...]:
    """A path's segments, decoded. Raises Refusal for what no path of ours can be."""
    if not path.startswith("/") or len(path) > MAX_SEGMENTS * MAX_SEGMENT:
        raise Refusal(400, "the path is none")
    raw = path[1:].removesuffix("/").split("/")
    if len(raw) > MAX_SEGMENTS:
        raise Refusal(404)
    segments = []
    for part in raw:
        try:
            segment = urllib.parse.unquote(part, errors="strict")
        except UnicodeDecodeError:
            raise Refusal(400, "the path is none") from None
        if not _SAFE.fullmatch(segment) or segment in (".", "..") or len(segment) > MAX_SEGMENT:
            raise Refusal(400, "the path is none")
        segments.append(segment)
    return tuple(segments)


def _query(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        pairs = urllib.parse.parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=8
        )
    except ValueError:
        raise Refusal(400, "the query is none") from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise Refusal(400, "the query is none")
    return dict(pairs)
