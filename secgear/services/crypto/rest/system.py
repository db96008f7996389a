"""Routes about the module and about logging in: ``sys``, ``auth``, the description of all."""

from __future__ import annotations

import base64
import datetime
from typing import Any, Final

import msgspec

from secgear.services.crypto.rest.bodies import Auth, Body, Nothing, encode
from secgear.services.crypto.rest.connection import Reply
from secgear.services.crypto.rest.logins import Login
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.routes import Form, Query, Request, Route
from secgear.services.crypto.rest.work import ROOM, call
from secgear.services.crypto.token.module import MANUFACTURER
from secgear.services.crypto.token.roles import Phase

VERSION: Final = "0.1.0+secgear"
_HEALTH: Final = tuple(
    Query(name, "Accepted for Vault's clients; changes nothing.")
    for name in (
        *("standbyok", "perfstandbyok", "activecode"),
        *("standbycode", "sealedcode", "uninitcode"),
    )
)


class Health(msgspec.Struct, frozen=True):
    """Whether the module serves. sealed: while it is restored, and once it is zeroised."""

    initialized: bool
    sealed: bool
    server_time_utc: int
    version: str = VERSION
    standby: bool = False
    performance_standby: bool = False
    replication_performance_mode: str = "disabled"
    replication_dr_mode: str = "disabled"


class SealStatus(msgspec.Struct, frozen=True):
    """As Vault has it; what opens the seal here is the enclave's measurement or signer."""

    initialized: bool
    sealed: bool
    type: str = "tee"
    t: int = 0
    n: int = 0
    progress: int = 0
    nonce: str = ""
    version: str = VERSION
    storage_type: str = MANUFACTURER


class Initialized(msgspec.Struct, frozen=True):
    """Whether the token has PINs."""

    initialized: bool


class Password(Body, frozen=True):
    """password: the PIN."""

    password: str


class Renewal(Body, frozen=True):
    """increment: seconds, as a number or with ``s``, ``m`` or ``h`` behind it."""

    increment: int | str | None = None
    token: str | None = None


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """About the token that asks."""

    id: str
    accessor: str = ""
    creation_time: int
    creation_ttl: int
    ttl: int
    display_name: str
    path: str
    policies: list[str]
    meta: dict[str, str]
    type: str = "service"
    renewable: bool = True
    num_uses: int = 0
    orphan: bool = True
    entity_id: str = ""
    explicit_max_ttl: int
    issue_time: str
    expire_time: str


class Proof(msgspec.Struct, frozen=True):
    """A statement about the module, signed by its enclave: COSE_Sign1 in base64."""

    statement: str


class Status(msgspec.Struct, frozen=True):
    """What the module tells about itself. audit_key, audit_hash: hexadecimal."""

    slots: int
    objects: int
    logins: int
    audit_key: str
    audit_seq: int
    audit_hash: str


def _initialized(request: Request) -> bool:
    state = request.logins.slot(request.namespace).state
    return state.so is not None and state.user is not None


def _sealed(request: Request) -> bool:
    return request.service.module.vault.head.roles.phase is not Phase.OPEN


def _health(request: Request) -> Reply:
    ready, sealed = _initialized(request), _sealed(request)
    body = Health(ready, sealed, int(datetime.datetime.now(datetime.UTC).timestamp()))
    status = 503 if sealed else 200 if ready else 501
    return Reply(status, encode(body), "application/json")


def _seal_status(request: Request) -> SealStatus:
    return SealStatus(_initialized(request), _sealed(request))


def _init(request: Request) -> Initialized:
    return Initialized(_initialized(request))


def _description(request: Request) -> Reply:
    return Reply(200, request.service.description, "application/json")


def _status(request: Request) -> Status:
    module = request.service.module
    head = module.vault.head
    return Status(
        slots=len(module.slots),
        objects=sum(len(slot.table) for slot in module.slots),
        logins=len(request.logins),
        audit_key=module.vault.audit_key.hex(),
        audit_seq=head.audit_seq,
        audit_hash=head.audit_hash.hex(),
    )


def _attestation(request: Request) -> Proof:
    made = call("S_AttestModule", request.work.app, nonce_of(request), ROOM)
    return Proof(base64.b64encode(made).decode())


def nonce_of(request: Request) -> bytes:
    """The nonce that is asked for, in hexadecimal; none for what is there. Raises Refusal."""
    try:
        return bytes.fromhex(request.query.get("nonce", ""))
    except ValueError:
        raise Refusal(400, "nonce: hexadecimal") from None


def _login(request: Request) -> Auth:
    logins = request.logins
    text, login = logins.begin(
        logins.slot(request.namespace), request.path["username"], request.body.password
    )  # fmt: skip
    return _auth(text, login)


def _lookup(request: Request) -> TokenInfo:
    login = request.caller
    issued = datetime.datetime.fromtimestamp(login.issued, datetime.UTC)
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=login.left)
    return TokenInfo(
        id=request.token or "",
        creation_time=int(login.issued),
        creation_ttl=int(login.ends - login.began),
        ttl=login.left,
        display_name=f"userpass-{login.user}",
        path=f"auth/userpass/login/{login.user}",
        policies=["default"],
        meta=_meta(login),
        explicit_max_ttl=0,
        issue_time=issued.isoformat(),
        expire_time=ends.isoformat(),
    )


def _renew(request: Request) -> Auth:
    body = request.body
    if body.token not in (None, request.token):
        raise Refusal(403, "permission denied")
    request.caller.renew(_seconds(body.increment))
    return _auth(request.token or "", request.caller)


def _revoke(request: Request) -> None:
    request.logins.end(request.caller)


def _seconds(given: int | str | None) -> float | None:
    if given is None or given in (0, "0", ""):
        return None
    if isinstance(given, int):
        return float(given)
    number, unit = given.rstrip("smh"), given.lstrip("0123456789")
    if not (number.isascii() and number.isdigit()) or len(number) > 9 or len(unit) > 1:
        raise Refusal(400, "increment: seconds, or a number with s, m or h")
    return float(number) * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]


def _meta(login: Login) -> dict[str, str]:
    return {"username": login.user, "slot": str(login.slot.number)}


def _auth(text: str, login: Login) -> Auth:
    return Auth(
        client_token=text,
        policies=["default"],
        token_policies=["default"],
        metadata=_meta(login),
        lease_duration=login.left,
    )


NONCE: Final = (Query("nonce", "Of who wants new evidence: 8 to 64 bytes, hexadecimal."),)
ROUTES: Final = (
    Route("GET", "/openapi.json", "This description.", _description, form=Form.PLAIN,
          answer=dict[str, Any], public=True),
    Route("GET", "/v1/sys/health", "Whether the module serves: 501 without PINs, 503 without keys.",
          _health, answer=Health, form=Form.PLAIN, public=True,
          query=_HEALTH),
    Route("GET", "/v1/sys/seal-status", "As Vault has it.", _seal_status, answer=SealStatus,
          form=Form.PLAIN, public=True),
    Route("GET", "/v1/sys/init", "Whether the token has PINs.", _init, answer=Initialized,
          form=Form.PLAIN, public=True),
    Route("GET", "/v1/status", "What the module tells about itself.", _status, answer=Status,
          form=Form.PLAIN),
    Route("GET", "/v1/attestation", "Proof of which module this is.", _attestation, answer=Proof,
          form=Form.PLAIN, query=NONCE),
    Route("POST", "/v1/auth/userpass/login/{username}",
          "Log in with a PIN; failures count towards its lock-out.", _login,
          body=Password, answer=Auth, form=Form.LOGIN, public=True),
    Route("GET", "/v1/auth/token/lookup-self", "About the token that asks.", _lookup,
          answer=TokenInfo),
    Route("POST", "/v1/auth/token/renew-self", "Let the token count for longer, a day at the most.",
          _renew, body=Renewal, answer=Auth, form=Form.LOGIN),
    Route("POST", "/v1/auth/token/revoke-self", "Log out.", _revoke, body=Nothing),
)  # fmt: skip
