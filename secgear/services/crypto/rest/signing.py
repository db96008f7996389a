"""How a signature is asked for in Vault's words, and what mechanism and bytes that means."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from secgear.services.crypto.pkcs11.constants import KeyType, Mech
from secgear.services.crypto.pkcs11.mechanism import Mechanism, PssParams
from secgear.services.crypto.rest.hashes import SIZES, digest_info, digest_of, known, mask_of
from secgear.services.crypto.rest.kinds import Kind
from secgear.services.crypto.rest.refusals import Refusal

_SM3_SIZE: Final = 32
_CURVE_BYTES: Final = {"ecdsa-p256": 32, "ecdsa-p384": 48, "ecdsa-p521": 66, "sm2": 32}
"""Bytes of each of a signature's two numbers."""


class Options(NamedTuple):
    """What a request says about the signature. hash, algorithm, marshaling, salt: Vault's words."""

    hash: str
    prehashed: bool
    algorithm: str
    marshaling: str
    salt: str


class Plan(NamedTuple):
    """What to ask the token for: a mechanism, over these bytes."""

    mechanism: Mechanism
    data: bytes


def plans(kind: Kind, options: Options, data: bytes, *, verify: bool = False) -> Iterator[Plan]:
    """How to sign, or in which ways to try to verify: one, but for salts that nobody has named.

    Raises Refusal for what this kind of key can't do.
    """
    if options.marshaling not in ("asn1", "jws"):
        raise Refusal(400, "marshaling_algorithm: asn1 or jws")
    if kind.key_type is KeyType.RSA:
        yield from _rsa(kind, options, data, verify=verify)
    elif kind.key_type is KeyType.EC:
        yield _ecdsa(options, data)
    elif kind.key_type is KeyType.SM2:
        yield _sm2(options, data)
    elif options.prehashed:
        raise Refusal(400, f"{kind.name} signs messages, not digests: prehashed is not offered")
    else:
        mechanism = Mech.EDDSA if kind.key_type is KeyType.EC_EDWARDS else Mech.ML_DSA
        yield Plan(Mechanism(mechanism), data)


def marshal(kind: Kind, options: Options, signature: bytes) -> str:
    """A signature as text, without its prefix."""
    size = _CURVE_BYTES.get(kind.name)
    if size is None:
        return base64.b64encode(signature).decode()
    if options.marshaling == "jws":
        return base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    r, s = (int.from_bytes(part, "big") for part in (signature[:size], signature[size:]))
    return base64.b64encode(encode_dss_signature(r, s)).decode()


def unmarshal(kind: Kind, options: Options, text: str) -> bytes:
    """The same back. Raises Refusal for what is no signature of any key."""
    size = _CURVE_BYTES.get(kind.name)
    jws = size is not None and options.marshaling == "jws"
    try:
        if jws:
            padded = text + "=" * (-len(text) % 4)
            return base64.b64decode(padded.encode(), altchars=b"-_", validate=True)
        data = base64.b64decode(text, validate=True)
        if size is None:
            return data
        r, s = decode_dss_signature(data)
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    except (binascii.Error, ValueError, OverflowError):
        raise Refusal(400, "the signature is none of this key's kind") from None


def mac(name: str) -> Mechanism:
    """The mechanism of an HMAC. Raises Refusal."""
    if name == "sm3":
        return Mechanism(Mech.SM3_HMAC)
    return Mechanism(Mech[f"{known(name)}_HMAC"])


def _rsa(kind: Kind, options: Options, data: bytes, *, verify: bool) -> Iterator[Plan]:
    if options.algorithm == "pkcs1v15":
        yield _pkcs1(options, data)
        return
    if options.algorithm not in ("", "pss"):
        raise Refusal(400, "signature_algorithm: pss or pkcs1v15")
    if options.hash == "none":
        raise Refusal(
            400, "hash_algorithm=none requires both prehashed=true and signature_algorithm=pkcs1v15"
        )
    number, mask = digest_of(options.hash), mask_of(options.hash)
    _check_digest(options, data)
    mechanism = (
        Mech.RSA_PKCS_PSS if options.prehashed else Mech[f"{known(options.hash)}_RSA_PKCS_PSS"]
    )
    for salt in _salts(kind, options, verify=verify):
        yield Plan(Mechanism(mechanism, PssParams(number, mask, salt)), data)


def _salts(kind: Kind, options: Options, *, verify: bool) -> tuple[int, ...]:
    """Lengths of the salt. RFC 8017, section 9.1.1: at most the modulus less the digest less 2."""
    size = SIZES[options.hash]
    most = int(kind.name.removeprefix("rsa-")) // 8 - size - 2
    if options.salt in ("auto", "0"):
        return (most, size) if verify else (most,)
    if options.salt in ("hash", "-1"):
        return (size,)
    text = options.salt
    if not (text.isascii() and text.isdigit()) or len(text) > 3 or int(text) > most:
        raise Refusal(400, "salt_length: auto, hash, or a number of bytes for which there is room")
    return (int(text),)


def _pkcs1(options: Options, data: bytes) -> Plan:
    if options.hash == "none":
        if not options.prehashed:
            raise Refusal(400, "hash_algorithm=none requires prehashed=true")
        return Plan(Mechanism(Mech.RSA_PKCS), data)
    name = known(options.hash)
    _check_digest(options, data)
    if options.prehashed:
        return Plan(Mechanism(Mech.RSA_PKCS), digest_info(options.hash, data))
    return Plan(Mechanism(Mech[f"{name}_RSA_PKCS"]), data)


def _ecdsa(options: Options, data: bytes) -> Plan:
    name = known(options.hash)
    _check_digest(options, data)
    if options.prehashed:
        return Plan(Mechanism(Mech.ECDSA), data)
    return Plan(Mechanism(Mech[f"ECDSA_{name}"]), data)


def _sm2(options: Options, data: bytes) -> Plan:
    """SM2 goes with SM3, whatever the default of the others is."""
    if options.hash not in ("sm3", "sha2-256"):
        raise Refusal(400, "sm2 signs with sm3")
    if not options.prehashed:
        return Plan(Mechanism(Mech.SM2_SM3), data)
    if len(data) != _SM3_SIZE:
        raise Refusal(400, "the input is no digest of this hash algorithm")
    return Plan(Mechanism(Mech.SM2), data)


def _check_digest(options: Options, data: bytes) -> None:
    if options.prehashed and len(data) != SIZES.get(options.hash):
        raise Refusal(400, "the input is no digest of this hash algorithm")
