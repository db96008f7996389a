"""An audit trail's end as the module says it now, for a nonce: nobody can show a shorter trail."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secgear.errors import CryptoRefused
from secgear.services.crypto.trail import End

NONCE_SIZE: Final = 32
_MAX: Final = 2048
_LABEL: Final = b"secgear crypto audit end v1\0"
_HEX_16 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
_HEX_32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]

Records = list[tuple[int, bytes, bytes, bytes]]
"""Number, body, hash and signature of each: what `trail.Verifier` follows."""


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The trail had so many records with this hash when the module was asked with this nonce."""

    module: _HEX_16
    nonce: _HEX_32
    seq: Annotated[int, msgspec.Meta(ge=0)]
    hash: _HEX_32


class _Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    checkpoint: Checkpoint
    signature: bytes


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> bytes:
    """The document. key: the module's audit key."""
    return _encode(_Signed(checkpoint, key.sign(_LABEL + _encode(checkpoint))))


def verify(data: bytes, key: bytes, nonce: bytes) -> End:
    """The trail's end. key: the module's audit key, 32 bytes. Raises CryptoRefused."""
    try:
        if len(data) > _MAX:
            raise ValueError
        said = _SIGNED.decode(data)
        public = Ed25519PublicKey.from_public_bytes(key)
        public.verify(said.signature, _LABEL + _encode(said.checkpoint))
    except (InvalidSignature, msgspec.DecodeError, ValueError, RecursionError):
        raise CryptoRefused("the end of the trail is not signed by this module") from None
    if said.checkpoint.nonce != nonce.hex():
        raise CryptoRefused("the end of the trail was not signed for this nonce")
    return End(said.checkpoint.seq, said.checkpoint.hash)


def pack(records: Records) -> bytes:
    """Records on their way to an auditor."""
    return _pack(records)


def unpack(data: bytes) -> Records:
    """The same. Raises CryptoRefused."""
    try:
        return _RECORDS.decode(data)
    except msgspec.DecodeError:
        raise CryptoRefused("what came are no records of an audit trail") from None


_encode = msgspec.json.Encoder(order="deterministic").encode
_pack = msgspec.msgpack.Encoder().encode
# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_SIGNED = msgspec.json.Decoder(_Signed)
_RECORDS = msgspec.msgpack.Decoder(Records)
