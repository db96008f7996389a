"""Vault's transit paths about keys: make, read, list, configure, rotate, trim, delete."""

from __future__ import annotations

import base64
import datetime
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from secgear.services.crypto.pkcs11.constants import Attr, KeyState
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rest.bodies import Body, Nothing
from secgear.services.crypto.rest.kinds import CURVE_NAMES, KINDS, Kind
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.ring import Ring
from secgear.services.crypto.rest.routes import Query, Request, Route
from secgear.services.crypto.token.versions import Version

_HMAC_SIZES: Final = range(32, 513)  # bytes


class NewKey(Body, frozen=True):
    """type: of the key; key_size: of an hmac key, in bytes. What is not offered is refused."""

    type: str = "aes256-gcm96"
    key_size: int = 0
    derived: bool = False
    convergent_encryption: bool = False
    exportable: bool = False
    allow_plaintext_backup: bool = False
    auto_rotate_period: int | str = 0


class Config(Body, frozen=True):
    """What changes.

    min_decryption_version: below it nothing is decrypted or verified. min_encryption_version:
    from it on old versions go on encrypting and signing; 0 for the current one alone.
    """

    min_decryption_version: int | None = None
    min_encryption_version: int | None = None
    deletion_allowed: bool | None = None
    exportable: bool = False
    allow_plaintext_backup: bool = False
    auto_rotate_period: int | str = 0


class Trim(Body, frozen=True):
    """min_available_version: older ones are destroyed."""

    min_available_version: int


class PublicVersion(msgspec.Struct, frozen=True):
    """A version of a key pair. public_key: PEM, and of ed25519 its 32 bytes, as Vault has it."""

    name: str
    public_key: str
    creation_time: str


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """About a key.

    keys: when each version was made, of pairs with the public key. states: of each version, which
    Vault does not have.
    """

    name: str
    type: str
    latest_version: int
    min_available_version: int
    min_decryption_version: int
    min_encryption_version: int
    deletion_allowed: bool
    keys: dict[str, int | PublicVersion]
    states: dict[str, str]
    supports_encryption: bool
    supports_decryption: bool
    supports_signing: bool
    supports_derivation: bool = False
    derived: bool = False
    exportable: bool = False
    allow_plaintext_backup: bool = False
    auto_rotate_period: int = 0
    imported_key: bool


class Names(msgspec.Struct, frozen=True):
    """Names of keys, sorted."""

    keys: list[str]


def _create(request: Request) -> KeyInfo:
    body: NewKey = request.body
    _refuse_unoffered(body)
    kind = KINDS.get(body.type)
    if kind is None:
        raise Refusal(400, "unknown key type")
    secret = dict(kind.secret)
    if body.key_size:
        if not kind.macs:
            raise Refusal(400, f"key_size is not valid for {kind.name}")
        if body.key_size not in _HMAC_SIZES:
            raise Refusal(400, "key_size: from 32 to 512 bytes")
        secret[Attr.VALUE_LEN] = body.key_size
    name = request.path["name"]
    try:
        make(request, name, kind, secret)
    except CryptokiError as error:
        if error.rv is not Rv.FUNCTION_REJECTED:
            raise
        # As with Vault, who asks again for the same gets what is there.
        there = Ring(request.work, name).kind
        if there is not kind:
            raise Refusal(400, "there is a key of this name, and it is of another type") from None
    return _about(Ring(request.work, name, 404))


def make(request: Request, name: str, kind: Kind, secret: dict[int, Any]) -> None:
    """Generate version 1 of a key. Raises CryptokiError."""
    request.work.call(
        "S_NewKey", name.encode(), Mechanism(kind.generator), dict(kind.public), secret
    )


def _refuse_unoffered(body: NewKey | Config) -> None:
    if body.exportable or body.allow_plaintext_backup:
        raise Refusal(400, "keys never leave the module: neither exportable nor backed up in plain")
    if body.auto_rotate_period not in (0, "0", "0s", ""):
        raise Refusal(400, "the module does not rotate by itself: its clock is the host's")
    if isinstance(body, NewKey) and (body.derived or body.convergent_encryption):
        raise Refusal(400, "derived and convergent keys are not offered")


def _read(request: Request) -> KeyInfo:
    return _about(Ring(request.work, request.path["name"], 404))


def listed(request: Request) -> list[str]:
    """All names."""
    names: list[str] = []
    after: bytes | None = None
    while some := request.work.call("S_ListKeys", after):
        found = some.split(b"\n")
        names += [name.decode() for name in found]
        after = found[-1]
    return names


def _list(request: Request) -> Names:
    names = listed(request)
    if not names:
        raise Refusal(404)  # as Vault says it
    return Names(names)


def _configure(request: Request) -> KeyInfo:
    body: Config = request.body
    _refuse_unoffered(body)
    ring = Ring(request.work, request.path["name"], 404)
    settings = {
        int(attr): value
        for attr, value in (
            (Attr.KEY_MIN_DECRYPTION, body.min_decryption_version),
            (Attr.KEY_MIN_ENCRYPTION, body.min_encryption_version),
            (Attr.KEY_DELETABLE, body.deletion_allowed),
        )
        if value is not None
    }
    if settings:
        request.work.call("S_ConfigureKey", ring.name.encode(), settings)
    return _about(Ring(request.work, ring.name, 404))


def _rotate(request: Request) -> KeyInfo:
    ring = Ring(request.work, request.path["name"], 404)
    request.work.call("S_RotateKey", ring.name.encode(), KeyState.ACTIVE)
    return _about(Ring(request.work, ring.name, 404))


def _trim(request: Request) -> KeyInfo:
    ring = Ring(request.work, request.path["name"], 404)
    least = request.body.min_available_version
    if least < 1:
        raise Refusal(400, "min_available_version: a version")
    request.work.call("S_TrimKey", ring.name.encode(), least)
    return _about(Ring(request.work, ring.name, 404))


def _delete(request: Request) -> None:
    ring = Ring(request.work, request.path["name"], 404)
    if not ring.named.settings.deletable:
        raise Refusal(400, "deletion is not allowed for this key")
    request.work.call("S_DestroyKey", ring.name.encode())


def _never(request: Request) -> None:
    raise Refusal(400, "keys never leave the module: there is neither export nor plain backup")


def _restore(request: Request) -> None:
    raise Refusal(400, "backups are restored by the module's administrators, not over REST")


def _about(ring: Ring) -> KeyInfo:
    named, kind = ring.named, ring.kind
    oldest = named.versions[0].number
    return KeyInfo(
        name=ring.name,
        type=kind.name if kind is not None else "unnamed",
        latest_version=named.latest.number,
        min_available_version=oldest if oldest > 1 else 0,  # as Vault says: none was trimmed
        min_decryption_version=named.settings.min_decryption,
        min_encryption_version=named.settings.min_encryption,
        deletion_allowed=named.settings.deletable,
        keys={
            str(one.number): one.created if one.public is None else _public(kind, one)
            for one in named.versions
        },
        states={str(one.number): one.state.name.lower() for one in named.versions},
        supports_encryption=kind is not None and kind.encrypts,
        supports_decryption=kind is not None and kind.encrypts,
        supports_signing=kind is not None and kind.signs,
        imported_key=not named.versions[0].any.flag(Attr.LOCAL),
    )


def _public(kind: Kind | None, version: Version) -> PublicVersion:
    name = kind.name if kind is not None else "unnamed"
    at = datetime.datetime.fromtimestamp(version.created, datetime.UTC)
    return PublicVersion(CURVE_NAMES.get(name, name), public_text(name, version), at.isoformat())


def public_text(name: str, version: Version) -> str:
    """A version's public key as Vault writes it."""
    der = spki(version)
    if name == "ed25519":
        key = load_der_public_key(der)
        return base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    return pem(der)


def spki(version: Version) -> bytes:
    """A version's public key, SubjectPublicKeyInfo in DER. Raises Refusal."""
    value = version.public.get(Attr.PUBLIC_KEY_INFO) if version.public is not None else b""
    if not isinstance(value, bytes) or not value:
        raise Refusal(400, "the key is no pair")
    return value


def pem(der: bytes, label: str = "PUBLIC KEY") -> str:
    """A public key, or something else, as text (RFC 7468)."""
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


_LIST: Final = (Query("list", "As with Vault.", ("true",)),)
_T: Final = "/v1/transit"
ROUTES: Final = (
    Route("GET", f"{_T}/keys", "All keys; 404 where there is none.", _list, answer=Names,
          query=_LIST),
    Route("POST", f"{_T}/keys/{{name}}", "Make a key.", _create, body=NewKey, answer=KeyInfo),
    Route("GET", f"{_T}/keys/{{name}}", "About a key.", _read, answer=KeyInfo),
    Route("DELETE", f"{_T}/keys/{{name}}", "Destroy a key, if its settings allow it.", _delete),
    Route("POST", f"{_T}/keys/{{name}}/config", "Change settings.", _configure, body=Config,
          answer=KeyInfo),
    Route("POST", f"{_T}/keys/{{name}}/rotate", "Make the next version.", _rotate, body=Nothing,
          answer=KeyInfo),
    Route("POST", f"{_T}/keys/{{name}}/trim", "Destroy old versions that nobody can use.", _trim,
          body=Trim, answer=KeyInfo),
    Route("GET", f"{_T}/export/{{kind}}/{{name}}", "Refused.", _never),
    Route("GET", f"{_T}/export/{{kind}}/{{name}}/{{version}}", "Refused.", _never),
    Route("GET", f"{_T}/backup/{{name}}", "Refused.", _never),
    Route("POST", f"{_T}/restore", "Refused.", _restore, body=dict[str, Any]),
    Route("POST", f"{_T}/restore/{{name}}", "Refused.", _restore, body=dict[str, Any]),
)  # fmt: skip
