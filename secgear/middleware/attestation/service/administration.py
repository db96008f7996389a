"""Routes for administrators and auditors: documents and the audit trail."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Response, delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from secgear.middleware.attestation.service import audit, documents
from secgear.middleware.attestation.service.appraiser import Clock
from secgear.middleware.attestation.service.documents import Entry, Kind
from secgear.middleware.attestation.service.http import (
    ROLE,
    AnyRequest,
    principal_of,
    received,
    service_of,
)
from secgear.middleware.attestation.service.openapi import CONTENT
from secgear.middleware.attestation.service.problems import Problem
from secgear.middleware.attestation.service.tokens import Role

# What each kind is called, and the media type of its content.
_FORMS: Final = {
    Kind.POLICY: ("policy", "application/toml"),
    Kind.REFERENCE_VALUES: ("reference values", "application/json"),
    Kind.COLLATERAL: ("collateral", "application/octet-stream"),
}
_READ: Final[dict[str, Any]] = {ROLE: Role.AUDITOR}
_WRITE: Final[dict[str, Any]] = {ROLE: Role.ADMIN}

_Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="How many records at most.")]
_After = Annotated[
    int, QueryParameter(ge=0, le=2**63 - 1, description="Number of the last record you have.")
]
_Version = Annotated[
    int | None, QueryParameter(ge=1, le=2**31 - 1, description="A version; else the current one.")
]


class Trail(msgspec.Struct, frozen=True):
    """Records of the audit trail, and its end: keep that, and a later one must still lead there."""

    records: list[audit.Record]
    head: audit.Head


def document_routes(kind: Kind, clock: Clock) -> list[HTTPRouteHandler]:
    """List, get, put and delete documents of one kind, and read their versions."""
    what, media_type = _FORMS[kind]
    place = f"/v1/{kind.value}"

    @get(place, opt=_READ, summary=f"List {what}", name=f"{kind.value}.list")
    async def listed(request: AnyRequest) -> list[Entry]:
        """All that count now, by name."""
        service = service_of(request)
        return await service.database.run(lambda: documents.current(service.store, kind))

    @get(f"{place}/{{name:str}}", opt=_READ, summary=f"Get {what}", media_type=media_type)
    async def got(
        request: AnyRequest, name: FromPath[str], version: _Version = None
    ) -> Response[bytes]:
        """The content, byte for byte as it was stored; of another version if you name one."""
        service = service_of(request)
        found = await service.database.run(
            lambda: documents.get(service.store, kind, name, version)
        )
        if found is None:
            raise _missing(what)
        entry, data = found
        return Response(
            data,
            media_type=media_type,
            headers={"ETag": f'"{entry.version}"', "X-Content-Type-Options": "nosniff"},
        )

    @get(f"{place}/{{name:str}}/versions", opt=_READ, summary=f"List versions of {what}")
    async def versions(request: AnyRequest, name: FromPath[str]) -> list[Entry]:
        """Every version, oldest first; one without a digest says that it was deleted then."""
        service = service_of(request)
        return await service.database.run(lambda: documents.history(service.store, kind, name))

    @put(
        f"{place}/{{name:str}}",
        opt=_WRITE | {CONTENT: media_type},
        status_code=200,
        summary=f"Store {what}",
    )
    async def stored(request: AnyRequest, name: FromPath[str]) -> Entry:
        """Store a new version, which counts from now on for all instances.

        It is read strictly first: 400 says what is wrong with it, and nothing changes.
        """
        service, author = service_of(request), principal_of(request).name
        async with received(request) as data:
            entry = await service.database.run(
                lambda: documents.put(service.store, kind, name, data, author=author, at=clock())
            )
        service.metrics.changes.labels(kind.value, "put").inc()
        return entry

    @delete(f"{place}/{{name:str}}", opt=_WRITE, status_code=200, summary=f"Delete {what}")
    async def deleted(request: AnyRequest, name: FromPath[str]) -> Entry:
        """Delete it: it does not count any longer. Its versions can still be read."""
        service, author = service_of(request), principal_of(request).name
        entry = await service.database.run(
            lambda: documents.delete(service.store, kind, name, author=author, at=clock())
        )
        if entry is None:
            raise _missing(what)
        service.metrics.changes.labels(kind.value, "delete").inc()
        return entry

    return [listed, got, versions, stored, deleted]


def audit_routes() -> list[HTTPRouteHandler]:
    """Read the audit trail."""

    @get("/v1/audit", opt=_READ, summary="Read the audit trail")
    async def trail(request: AnyRequest, after: _After = 0, limit: _Limit = 100) -> Trail:
        """Records, oldest first: appraisals, changes by administrators, tokens."""
        service = service_of(request)

        def read() -> Trail:
            with service.store.reading() as connection:
                records = audit.read(connection, after=after, limit=limit)
                return Trail(records, audit.head(connection))

        return await service.database.run(read)

    return [trail]


def _missing(what: str) -> Problem:
    return Problem(404, "not-found", f"There is no {what} of that name")
