"""Requests and approvals: documents that people sign far from the module, and the module believes.

A request is JSON in one encoding: what is signed is what people read. The module makes it, with a
nonce of its own; every approver signs its text; the module executes it once.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from typing import Annotated, Final, TypeVar

import msgspec

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles.operations import Operation
from secgear.services.crypto.roles.persons import (
    MAX_PEOPLE,
    MAX_SIGNATURE,
    Name,
    PrivateKey,
    sign,
)

_T = TypeVar("_T")
VERSION: Final = 1
MAX_REQUEST: Final = 64 << 10  # bytes
MAX_APPROVALS: Final = 32 << 10  # bytes of all of them
MAX_VALID: Final = 7 * 24 * 3600  # seconds
_LABEL: Final = b"secgear crypto approval v1\n"
_PIN: Final = b"secgear crypto officer PIN v1\n"
_MAX_PIN: Final = 1024
_LOGIN: Final = b"secgear crypto role login v1\n"
_HEX_16 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
_HEX_32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Time = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One operation, for one module, until it expires.

    nonce: the module's, which executes each once. expires: seconds since 1970, by the clock of the
    module's host. opened_by: the administrator who has asked for it.
    """

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)] = msgspec.field(
        name="secgear-crypto-request", default=VERSION
    )
    module: _HEX_16
    nonce: _HEX_16
    opened_by: Name
    expires: _Time
    operation: Operation

    def words(self) -> str:
        """What an approver has to read."""
        until = datetime.datetime.fromtimestamp(self.expires, datetime.UTC)
        return (
            f"module     {self.module}\n"
            f"asked by   {self.opened_by}, as the module says\n"
            f"until      {until.isoformat()}\n"
            f"operation  {self.operation.kind}\n\n{self.operation.words()}"
        )


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody wants to request. seconds: how long the request is to be valid."""

    operation: Operation
    seconds: int


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One person's yes. request: the digest of what was signed. signature: in base64."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)] = msgspec.field(
        name="secgear-crypto-approval", default=VERSION
    )
    request: _HEX_32
    approver: Name
    signature: Annotated[str, msgspec.Meta(max_length=MAX_SIGNATURE * 4 // 3)]

    @property
    def raw(self) -> bytes:
        """The signature's bytes. Raises CryptoRefused."""
        return _unarmoured(self.signature)


class NewPin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security officer's new PIN, from the administrator who hands a request in.

    signature: over `pin_message`, base64. Without it, whoever carries the administrator's
    connection could put a PIN of its own in.
    """

    pin: bytes
    signature: Annotated[str, msgspec.Meta(max_length=MAX_SIGNATURE * 4 // 3)]

    def __repr__(self) -> str:
        return "NewPin(…)"

    @property
    def raw(self) -> bytes:
        """The signature's bytes. Raises CryptoRefused."""
        return _unarmoured(self.signature)


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person says who they are, for one connection. signature: over `login_message`, base64."""

    role: str
    name: Name
    signature: Annotated[str, msgspec.Meta(max_length=MAX_SIGNATURE * 4 // 3)]

    @property
    def raw(self) -> bytes:
        """The signature's bytes. Raises CryptoRefused."""
        return _unarmoured(self.signature)


def parse_request(data: bytes) -> Request:
    """A request from its one encoding. Raises CryptoRefused."""
    if len(data) > MAX_REQUEST:
        raise CryptoRefused(f"no request: more than {MAX_REQUEST} bytes")
    try:
        request = _REQUESTS.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CryptoRefused(f"no request: {error}") from None
    if encode(request) != data:
        raise CryptoRefused("no request: its encoding is not the one that there is")
    request.operation.check()
    return request


def digest(request: bytes) -> str:
    """Names a request: SHA-256 of its bytes, in hexadecimal."""
    return hashlib.sha256(request).hexdigest()


def to_be_signed(request: bytes) -> bytes:
    """What an approver signs, as it is: a line, and the request."""
    return _LABEL + request


def approve(request: bytes, name: str, key: PrivateKey) -> bytes:
    """An approval's bytes. Raises CryptoRefused for what is no request."""
    parse_request(request)
    return attach(request, name, sign(key, to_be_signed(request)))


def attach(request: bytes, name: str, signature: bytes) -> bytes:
    """An approval of a signature that was made elsewhere, over `to_be_signed`."""
    text = base64.b64encode(signature).decode()
    return encode(Approval(request=digest(request), approver=name, signature=text))


def parse_approval(data: bytes) -> Approval:
    """One approval. Raises CryptoRefused."""
    return _parsed(_APPROVAL, data, MAX_APPROVALS // MAX_PEOPLE, "approval")


def parse_approvals(data: bytes) -> tuple[Approval, ...]:
    """Approvals as they are handed to the module, an array. Raises CryptoRefused."""
    found = _parsed(_APPROVALS, data, MAX_APPROVALS, "approvals")
    if len(found) > MAX_PEOPLE:
        raise CryptoRefused(f"no approvals: more than {MAX_PEOPLE}")
    return found


def parse_wish(data: bytes) -> Wish:
    """Raises CryptoRefused."""
    return _parsed(_WISH, data, MAX_REQUEST, "wish")


def parse_proof(data: bytes) -> Proof:
    """Raises CryptoRefused."""
    return _parsed(_PROOF, data, 1024, "login")


def new_pin(request: bytes, pin: bytes, key: PrivateKey) -> bytes:
    """The document of `NewPin`; it is secret. key: of the administrator who hands `request` in."""
    signature = sign(key, pin_message(request, pin))
    return encode(NewPin(pin, base64.b64encode(signature).decode()))


def parse_new_pin(data: bytes) -> NewPin:
    """Raises CryptoRefused, which tells nothing of the data."""
    if len(data) <= _MAX_PIN:
        try:
            return _NEW_PIN.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass
    raise CryptoRefused("what came with the request is no new PIN") from None


def pin_message(request: bytes, pin: bytes) -> bytes:
    """What an administrator signs to give a PIN with a request."""
    return _PIN + digest(request).encode() + b"\n" + pin


def login_message(module: bytes, challenge: bytes, role: str, name: str) -> bytes:
    """What somebody with a role signs to log in. challenge: the module's, for one try."""
    text = f"module {module.hex()}\nchallenge {challenge.hex()}\nrole {role}\nname {name}\n"
    return _LOGIN + text.encode()


def encode(document: msgspec.Struct) -> bytes:
    """The one encoding."""
    return _encode(document)


def _unarmoured(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise CryptoRefused("a signature is no base64") from None


def _parsed(decoder: msgspec.json.Decoder[_T], data: bytes, limit: int, what: str) -> _T:
    if len(data) > limit:
        raise CryptoRefused(f"no {what}: more than {limit} bytes")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CryptoRefused(f"no {what}: {error}") from None


_encode = msgspec.json.Encoder(order="deterministic").encode
# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_REQUESTS = msgspec.json.Decoder(Request)
_APPROVAL = msgspec.json.Decoder(Approval)
_APPROVALS = msgspec.json.Decoder(tuple[Approval, ...])
_WISH = msgspec.json.Decoder(Wish)
_NEW_PIN = msgspec.json.Decoder(NewPin)
_PROOF = msgspec.json.Decoder(Proof)
