"""Our own paths about keys: the life of versions, public keys, import, any mechanism by name."""

from __future__ import annotations

import base64
from typing import Any, Final, Literal

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from secgear.services.crypto.algorithms import keys as material
from secgear.services.crypto.pkcs11.constants import Attr, KeyState, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Value
from secgear.services.crypto.rest.bodies import Body
from secgear.services.crypto.rest.kinds import KINDS, Kind
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.ring import Ring, octets
from secgear.services.crypto.rest.routes import Form, Query, Request, Route
from secgear.services.crypto.rest.system import NONCE, nonce_of
from secgear.services.crypto.rest.transit_keys import listed, make, pem, spki
from secgear.services.crypto.rest.work import ROOM
from secgear.services.crypto.token.versions import Version

StateName = Literal["pre_active", "active", "deactivated", "compromised"]


class Generate(Body, frozen=True):
    """type: as with transit. key_size: of an hmac key, in bytes."""

    type: str
    key_size: int = 32


class Import(Body, frozen=True):
    """A key from elsewhere: private_key, PKCS#8 in PEM, or secret, base64."""

    type: str
    private_key: str = ""
    secret: str = ""


class Rotate(Body, frozen=True):
    """state: of the new version; a pre-active one is activated later."""

    state: Literal["active", "pre_active"] = "active"


class Step(Body, frozen=True):
    """A version's next state. Nothing comes back to life."""

    version: int
    state: StateName


class Operation(Body, frozen=True):
    """One use of a key. mechanism: of PKCS#11, without ``CKM_``; parameter: where it is bytes."""

    mechanism: str
    input: str
    version: int = 0
    parameter: str | None = None
    signature: str = ""


class VersionInfo(msgspec.Struct, frozen=True):
    """A version. created: seconds since 1970, by the host's clock. public_key: PEM, of a pair."""

    version: int
    state: StateName
    created: int
    public_key: str | None


class Key(msgspec.Struct, frozen=True):
    """A key. current: the version that protects, None where no one is active."""

    name: str
    type: str | None
    current: int | None
    imported: bool
    deletable: bool
    min_decryption_version: int
    min_encryption_version: int
    versions: list[VersionInfo]


class Keys(msgspec.Struct, frozen=True):
    """Names, sorted."""

    keys: list[str]


class Attested(msgspec.Struct, frozen=True):
    """Proof of where a version's key is and what may become of it.

    certificates: of a pair, PEM. statement: of a secret key, COSE_Sign1 in base64.
    """

    version: int
    certificates: str | None = None
    statement: str | None = None


class Output(msgspec.Struct, frozen=True):
    """What an operation has made: base64. version: that has made it."""

    output: str
    version: int


class Verdict(msgspec.Struct, frozen=True):
    """Whether a signature is valid."""

    valid: bool


def _list(request: Request) -> Keys:
    return Keys(listed(request))


def _read(request: Request) -> Key:
    return _about(_ring(request))


def _generate(request: Request) -> Key:
    kind = _kind(request.body.type)
    secret = dict(kind.secret)
    if kind.macs:
        if not 32 <= request.body.key_size <= 512:
            raise Refusal(400, "key_size: from 32 to 512 bytes")
        secret[Attr.VALUE_LEN] = request.body.key_size
    make(request, request.path["name"], kind, secret)
    return _about(_ring(request))


def _import(request: Request) -> Key:
    body: Import = request.body
    kind = _kind(body.type)
    if bool(body.private_key) == bool(body.secret) or bool(kind.public) != bool(body.private_key):
        raise Refusal(400, "private_key for a pair, secret for another key, and not both")
    template: dict[int, Value] = {
        attr: value for attr, value in kind.secret.items() if attr != Attr.VALUE_LEN
    }
    template[Attr.KEY_TYPE] = int(kind.key_type)
    if body.secret:
        value = octets(body.secret, "secret")
        if not kind.macs and len(value) != kind.secret[Attr.VALUE_LEN]:
            raise Refusal(400, f"a key of type {kind.name} has another size")
        template |= {int(Attr.CLASS): int(ObjectClass.SECRET_KEY), int(Attr.VALUE): value}
    else:
        template |= {
            int(Attr.CLASS): int(ObjectClass.PRIVATE_KEY),
            **_parts(body.private_key, kind),
        }
    request.work.call("S_ImportNamedKey", request.path["name"].encode(), template)
    return _about(_ring(request))


def _parts(text: str, kind: Kind) -> dict[int, Value]:
    """The attributes of a private key. Raises Refusal."""
    try:
        key = load_pem_private_key(text.encode(), None, unsafe_skip_rsa_key_validation=True)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        loaded = material.from_pkcs8(der)  # which looks whether it is one
    except (ValueError, TypeError, UnsupportedAlgorithm, CryptokiError):
        raise Refusal(400, "private_key is no private key in PEM that can be imported") from None
    described = material.describe(material.public_of(loaded), private=False)
    if material.type_of(loaded) != kind.key_type or any(
        described.get(attr) != value for attr, value in kind.found.items()
    ):
        raise Refusal(400, f"private_key is no {kind.name}")
    public = material.describe(material.public_of(loaded), private=True)
    return {int(attr): value for attr, value in (public | material.components(loaded)).items()}


def _rotate(request: Request) -> Key:
    state = KeyState[request.body.state.upper()]
    request.work.call("S_RotateKey", _ring(request).name.encode(), state)
    return _about(_ring(request))


def _step(request: Request) -> Key:
    body: Step = request.body
    ring = _ring(request)
    if body.version < 1:
        raise Refusal(400, "version: a version")
    state = KeyState[body.state.upper()]
    request.work.call("S_SetKeyState", ring.name.encode(), body.version, state)
    return _about(_ring(request))


def _delete(request: Request) -> None:
    request.work.call("S_DestroyKey", _ring(request).name.encode())


def _public(request: Request) -> str:
    return pem(spki(_version(request)))


def _attest(request: Request) -> Attested:
    version = _version(request)
    if version.secret is None:
        raise Refusal(403, "permission denied")
    made = request.work.call("S_AttestKey", version.secret.id << 1, nonce_of(request), ROOM)
    if version.public is not None:
        return Attested(version.number, certificates=made.decode())
    return Attested(version.number, statement=base64.b64encode(made).decode())


def _version(request: Request) -> Version:
    number = request.query.get("version", "0")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise Refusal(400, "version: a version")
    try:
        return _ring(request).named.version(int(number))
    except CryptokiError:
        raise Refusal(404) from None


def _encrypt(request: Request) -> Output:
    return _operate(request, "Encrypt")


def _decrypt(request: Request) -> Output:
    body: Operation = request.body
    ring, mechanism, data = _asked(request)
    number = ring.named.version(body.version).number
    output = request.work.run("Decrypt", mechanism, ring.opening(number), data)
    return Output(base64.b64encode(output).decode(), number)


def _sign(request: Request) -> Output:
    return _operate(request, "Sign")


def _verify(request: Request) -> Verdict:
    body: Operation = request.body
    ring, mechanism, data = _asked(request)
    handle = ring.checking(ring.named.version(body.version).number)
    try:
        request.work.verify(mechanism, handle, data, octets(body.signature, "signature"))
    except CryptokiError as error:
        if error.rv in (Rv.SIGNATURE_INVALID, Rv.SIGNATURE_LEN_RANGE):
            return Verdict(False)
        raise
    return Verdict(True)


def _operate(request: Request, what: str) -> Output:
    ring, mechanism, data = _asked(request)
    run = ring.enclose if what == "Encrypt" else ring.protect
    number, output = run(
        request.body.version, lambda handle: request.work.run(what, mechanism, handle, data)
    )
    return Output(base64.b64encode(output).decode(), number)


def _asked(request: Request) -> tuple[Ring, Mechanism, bytes]:
    body: Operation = request.body
    if body.version < 0:
        raise Refusal(400, "version: a version, or 0 for the current one")
    if body.mechanism not in Mech.__members__:
        raise Refusal(400, "this mechanism is not offered")
    parameter = None if body.parameter is None else octets(body.parameter, "parameter")
    data = octets(body.input, "input")
    return _ring(request), Mechanism(Mech[body.mechanism], parameter), data


def _about(ring: Ring) -> Key:
    named, kind = ring.named, ring.kind
    current = named.current
    return Key(
        ring.name,
        kind.name if kind is not None else None,
        current.number if current is not None else None,
        not named.versions[0].any.flag(Attr.LOCAL),
        named.settings.deletable,
        named.settings.min_decryption,
        named.settings.min_encryption,
        [
            VersionInfo(
                one.number,
                _STATES[one.state],
                one.created,
                pem(spki(one)) if one.public is not None else None,
            )
            for one in named.versions
        ],
    )


def _kind(name: str) -> Kind:
    kind = KINDS.get(name)
    if kind is None:
        raise Refusal(400, "unknown key type")
    return kind


def _ring(request: Request) -> Ring:
    return Ring(request.work, request.path["name"], 404)


_STATES: Final[dict[KeyState, StateName]] = {
    KeyState.PRE_ACTIVE: "pre_active",
    KeyState.ACTIVE: "active",
    KeyState.DEACTIVATED: "deactivated",
    KeyState.COMPROMISED: "compromised",
}
_K: Final = "/v1/keys/{name}"
_VERSION: Final = (Query("version", "Which; the current one where nobody says."),)
_P: Final[Any] = Form.PLAIN
ROUTES: Final = (
    Route("GET", "/v1/keys", "All keys.", _list, answer=Keys, form=_P,
          query=(Query("list", "As with Vault.", ("true",)),)),
    Route("GET", _K, "About a key and its versions.", _read, answer=Key, form=_P),
    Route("POST", _K, "Make a key.", _generate, body=Generate, answer=Key, form=_P, status=201),
    Route("DELETE", _K, "Destroy a key, if its settings allow it.", _delete),
    Route("POST", f"{_K}/import", "Make a key of what was one elsewhere.", _import, body=Import,
          answer=Key, form=_P, status=201),
    Route("GET", f"{_K}/public.pem", "A version's public key.", _public, form=Form.TEXT,
          query=_VERSION),
    Route("GET", f"{_K}/attestation", "Proof of where a version's key is.", _attest,
          answer=Attested, form=_P, query=(*_VERSION, *NONCE)),
    Route("POST", f"{_K}/rotate", "Make the next version.", _rotate, body=Rotate, answer=Key,
          form=_P),
    Route("POST", f"{_K}/state", "Take a version to another state.", _step, body=Step, answer=Key,
          form=_P),
    Route("POST", f"{_K}/encrypt", "Encrypt with any mechanism.", _encrypt, body=Operation,
          answer=Output, form=_P),
    Route("POST", f"{_K}/decrypt", "Decrypt with any mechanism.", _decrypt, body=Operation,
          answer=Output, form=_P),
    Route("POST", f"{_K}/sign", "Sign, or make a MAC, with any mechanism.", _sign, body=Operation,
          answer=Output, form=_P),
    Route("POST", f"{_K}/verify", "Verify with any mechanism.", _verify, body=Operation,
          answer=Verdict, form=_P),
)  # fmt: skip
