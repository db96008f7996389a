"""Bodies that all routes share: Vault's envelope around an answer, and its form of errors."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends: JSON, in which nothing may stand that is not expected."""


class Errors(msgspec.Struct, frozen=True):
    """Why a request was not served; nothing for what is not there."""

    errors: list[str]


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """A login: the token, for X-Vault-Token, and how many seconds it counts."""

    client_token: str
    accessor: str = ""
    policies: list[str]
    token_policies: list[str]
    metadata: dict[str, str]
    lease_duration: int
    renewable: bool = True
    entity_id: str = ""
    token_type: str = "service"  # noqa: S105
    orphan: bool = True


class Answer(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Vault's envelope around the data of an answer."""

    request_id: str
    lease_id: str = ""
    renewable: bool = False
    lease_duration: int = 0
    data: T
    wrap_info: None = None
    warnings: list[str] | None = None
    auth: None = None


class LoggedIn(msgspec.Struct, frozen=True, kw_only=True):
    """The same envelope around a login."""

    request_id: str
    lease_id: str = ""
    renewable: bool = False
    lease_duration: int = 0
    data: None = None
    wrap_info: None = None
    warnings: list[str] | None = None
    auth: Auth


class Nothing(Body, frozen=True):
    """A body without content: ``{}``, or none at all."""


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
encode = msgspec.json.Encoder().encode
_DESCRIBED = [msgspec.json.Decoder(kind) for kind in (Errors, Auth, LoggedIn, Nothing)]
