"""Vault's transit paths that sign, verify and make MACs."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rest import batches
from secgear.services.crypto.rest.bodies import Body
from secgear.services.crypto.rest.kinds import Kind
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.ring import Ring, octets, prefixed, unprefixed
from secgear.services.crypto.rest.routes import Request, Route
from secgear.services.crypto.rest.signing import Options, mac, marshal, plans, unmarshal

_DEFAULT: Final = "sha2-256"
_NO: Final = frozenset({Rv.SIGNATURE_INVALID, Rv.SIGNATURE_LEN_RANGE})


class ToSign(Body, frozen=True):
    """An item to sign. input: base64. reference: comes back as it is."""

    input: str
    context: str = ""
    reference: str = ""


class Sign(Body, frozen=True):
    """What to sign, and how: input, or batch_input."""

    input: str | None = None
    key_version: int = 0
    hash_algorithm: str = ""
    algorithm: str = ""
    prehashed: bool = False
    signature_algorithm: str = ""
    marshaling_algorithm: str = "asn1"
    salt_length: str | int = "auto"
    context: str = ""
    batch_input: list[ToSign] | None = None


class ToVerify(Body, frozen=True):
    """An item to verify: its signature or its hmac."""

    input: str
    signature: str = ""
    hmac: str = ""
    context: str = ""
    reference: str = ""


class Verify(Body, frozen=True):
    """What to verify, and how: input with signature or hmac, or batch_input."""

    input: str | None = None
    signature: str = ""
    hmac: str = ""
    hash_algorithm: str = ""
    algorithm: str = ""
    prehashed: bool = False
    signature_algorithm: str = ""
    marshaling_algorithm: str = "asn1"
    salt_length: str | int = "auto"
    context: str = ""
    batch_input: list[ToVerify] | None = None
    name: str = ""


class Hmac(Body, frozen=True):
    """What to make a MAC of: input, or batch_input."""

    input: str | None = None
    key_version: int = 0
    algorithm: str = ""
    batch_input: list[ToSign] | None = None


class Signed(msgspec.Struct, frozen=True):
    """An item's result."""

    signature: str | UnsetType = UNSET
    key_version: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    reference: str | UnsetType = UNSET


class SignAnswer(msgspec.Struct, frozen=True):
    """signature and the version that made it, or the results of a batch."""

    signature: str | UnsetType = UNSET
    key_version: int | UnsetType = UNSET
    batch_results: list[Signed] | UnsetType = UNSET


class Verified(msgspec.Struct, frozen=True):
    """An item's result."""

    valid: bool
    error: str | UnsetType = UNSET
    reference: str | UnsetType = UNSET


class VerifyAnswer(msgspec.Struct, frozen=True):
    """Whether it is valid, or the results of a batch."""

    valid: bool | UnsetType = UNSET
    batch_results: list[Verified] | UnsetType = UNSET


class Macked(msgspec.Struct, frozen=True):
    """An item's result."""

    hmac: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    reference: str | UnsetType = UNSET


class HmacAnswer(msgspec.Struct, frozen=True):
    """hmac, or the results of a batch."""

    hmac: str | UnsetType = UNSET
    batch_results: list[Macked] | UnsetType = UNSET


def _sign(request: Request) -> object:
    body: Sign = request.body
    ring = Ring(request.work, request.path["name"], 400, "signing key not found")
    kind = ring.needs(lambda kind: kind.signs, "signing")
    options = _options(request)

    def one(item: ToSign) -> Signed:
        _no_context(item.context)
        plan = next(plans(kind, options, octets(item.input, "input")))
        number, signature = ring.protect(
            body.key_version,
            lambda handle: request.work.run("Sign", plan.mechanism, handle, plan.data),
        )
        text = f"vault:v{number}:{marshal(kind, options, signature)}"
        return Signed(text, number, reference=item.reference)

    if body.batch_input is not None:
        return batches.run(
            body.batch_input,
            batches.singly(one),
            lambda item, text: Signed(error=text, reference=item.reference),
            lambda results: SignAnswer(batch_results=results),
        )
    done = one(ToSign(body.input or "", body.context))
    return SignAnswer(done.signature, done.key_version)


def _verify(request: Request) -> object:
    body: Verify = request.body
    if body.name not in ("", request.path["name"]):
        raise Refusal(400, "name: another key than the path's")
    ring = Ring(request.work, request.path["name"], 400, "signature verification key not found")
    options = _options(request)

    def one(item: ToVerify) -> Verified:
        _no_context(item.context)
        if bool(item.signature) == bool(item.hmac):
            raise Refusal(400, "one of signature and hmac, and not both")
        data = octets(item.input, "input")
        if item.hmac:
            valid = _same_mac(ring, options.hash, data, item.hmac)
        else:
            kind = ring.needs(lambda kind: kind.signs, "signing")
            valid = _valid(ring, kind, options, data, item.signature)
        return Verified(valid, reference=item.reference)

    if body.batch_input is not None:
        return batches.run(
            body.batch_input,
            batches.singly(one),
            lambda item, text: Verified(False, text, item.reference),
            lambda results: VerifyAnswer(batch_results=results),
        )
    done = one(ToVerify(body.input or "", body.signature, body.hmac, body.context))
    return VerifyAnswer(done.valid)


def _hmac(request: Request) -> object:
    body: Hmac = request.body
    ring = Ring(request.work, request.path["name"], 400, "encryption key not found")
    ring.needs(lambda kind: kind.macs, "hmac; make one of type hmac")
    mechanism = mac(request.path.get("algorithm", body.algorithm) or _DEFAULT)

    def one(item: ToSign) -> Macked:
        _no_context(item.context)
        data = octets(item.input, "input")
        number, made = ring.protect(
            body.key_version, lambda handle: request.work.run("Sign", mechanism, handle, data)
        )
        return Macked(prefixed(number, made), reference=item.reference)

    if body.batch_input is not None:
        return batches.run(
            body.batch_input,
            batches.singly(one),
            lambda item, text: Macked(error=text, reference=item.reference),
            lambda results: HmacAnswer(batch_results=results),
        )
    if body.input is None:
        raise Refusal(400, "missing input")
    return HmacAnswer(one(ToSign(body.input)).hmac)


def _valid(ring: Ring, kind: Kind, options: Options, data: bytes, text: str) -> bool:
    version, encoded = unprefixed(text, "signature")
    signature = unmarshal(kind, options, encoded)
    handle = ring.checking(version)
    return any(
        _accepted(ring, plan.mechanism, handle, plan.data, signature)
        for plan in plans(kind, options, data, verify=True)
    )


def _same_mac(ring: Ring, name: str, data: bytes, text: str) -> bool:
    ring.needs(lambda kind: kind.macs, "hmac; make one of type hmac")
    version, encoded = unprefixed(text, "hmac")
    made = octets(encoded, "hmac")
    return _accepted(ring, mac(name), ring.checking(version), data, made)


def _accepted(ring: Ring, mechanism: Mechanism, handle: int, data: bytes, signature: bytes) -> bool:
    try:
        ring.work.verify(mechanism, handle, data, signature)
    except CryptokiError as error:
        if error.rv in _NO:
            return False
        raise
    return True


def _options(request: Request) -> Options:
    body: Sign | Verify = request.body
    name = request.path.get("hash_algorithm", "") or body.hash_algorithm or body.algorithm
    return Options(
        name or _DEFAULT,
        body.prehashed,
        body.signature_algorithm,
        body.marshaling_algorithm,
        str(body.salt_length).lower(),
    )


def _no_context(context: str) -> None:
    if context:
        raise Refusal(400, "context: derived keys are not offered")


_T: Final = "/v1/transit"
ROUTES: Final = (
    Route("POST", f"{_T}/sign/{{name}}", "Sign.", _sign, body=Sign,
          answer=SignAnswer, partial=True),
    Route("POST", f"{_T}/sign/{{name}}/{{hash_algorithm}}", "Sign.", _sign, body=Sign,
          answer=SignAnswer, partial=True),
    Route("POST", f"{_T}/verify/{{name}}", "Verify.", _verify, body=Verify, answer=VerifyAnswer,
          partial=True),
    Route("POST", f"{_T}/verify/{{name}}/{{hash_algorithm}}", "Verify.", _verify, body=Verify,
          answer=VerifyAnswer, partial=True),
    Route("POST", f"{_T}/hmac/{{name}}", "Make a MAC.", _hmac, body=Hmac, answer=HmacAnswer,
          partial=True),
    Route("POST", f"{_T}/hmac/{{name}}/{{algorithm}}", "Make a MAC.", _hmac, body=Hmac,
          answer=HmacAnswer, partial=True),
)  # fmt: skip
