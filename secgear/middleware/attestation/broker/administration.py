"""Routes for administrators: store, describe and delete secrets. None of them gives one out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from litestar import delete, get, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from secgear.middleware.attestation.broker import secrets
from secgear.middleware.attestation.broker.names import SecretInvalid, SecretName
from secgear.middleware.attestation.broker.secrets import Entry
from secgear.middleware.attestation.broker.vault import Secret, Vault
from secgear.middleware.attestation.service.appraiser import Clock
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

T = TypeVar("T")

_READ: Final[dict[str, Any]] = {ROLE: Role.AUDITOR}
_WRITE: Final[dict[str, Any]] = {ROLE: Role.ADMIN}
_PLACE: Final = "/v1/secrets/{repository:str}/{kind:str}/{tag:str}"

_Policy = Annotated[
    str, QueryParameter(max_length=64, description="Name of the policy that evidence must satisfy.")
]


def secret_routes(vault: Vault, clock: Clock) -> list[HTTPRouteHandler]:
    """List, describe, put and delete secrets."""

    @get("/v1/secrets", opt=_READ, summary="List secrets")
    async def listed(request: AnyRequest) -> list[Entry]:
        """All secrets, without their content, by name."""
        service = service_of(request)
        return await service.database.run(lambda: secrets.current(service.store))

    @get(_PLACE, opt=_READ, summary="Describe a secret")
    async def described(
        request: AnyRequest, repository: FromPath[str], kind: FromPath[str], tag: FromPath[str]
    ) -> Entry:
        """A secret without its content, which no administrator gets."""
        service = service_of(request)
        name = _checked(lambda: SecretName(repository, kind, tag))
        found = await service.database.run(lambda: secrets.describe(service.store, name))
        if found is None:
            raise _missing()
        return found

    @put(
        _PLACE,
        opt=_WRITE | {CONTENT: "application/octet-stream"},
        status_code=200,
        summary="Store a secret",
    )
    async def stored(
        request: AnyRequest,
        repository: FromPath[str],
        kind: FromPath[str],
        tag: FromPath[str],
        policy: _Policy,
    ) -> Entry:
        """Store the body as a secret under a policy that exists. It counts from now on.

        The version before is erased.
        """
        service, author = service_of(request), principal_of(request).name
        async with received(request) as content:
            secret = Secret(_checked(lambda: SecretName(repository, kind, tag)), content)
            return await service.database.run(
                lambda: _checked(
                    lambda: secrets.put(
                        service.store, vault, secret, policy=policy, author=author, at=clock()
                    )
                )
            )

    @delete(_PLACE, opt=_WRITE, status_code=200, summary="Delete a secret")
    async def deleted(
        request: AnyRequest, repository: FromPath[str], kind: FromPath[str], tag: FromPath[str]
    ) -> Entry:
        """Delete a secret: no release follows, and its ciphertext is erased."""
        service, author = service_of(request), principal_of(request).name
        name = _checked(lambda: SecretName(repository, kind, tag))
        found = await service.database.run(
            lambda: secrets.delete(service.store, name, author=author, at=clock())
        )
        if found is None:
            raise _missing()
        return found

    return [listed, described, stored, deleted]


def _checked(work: Callable[[], T]) -> T:
    """The result of `work`; what is wrong with a secret is the client's problem."""
    try:
        return work()
    except SecretInvalid as error:
        raise Problem(400, error.code, "The secret can't be stored like that", str(error)) from None


def _missing() -> Problem:
    return Problem(404, "not-found", "There is no secret of that name")
