"""Keys in the module as objects: what is done with them is done there.

A key's `repr` shows its label and kind. Methods raise TokenRefused for what the module refuses.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from secgear.errors import CryptoModuleError
from secgear.services.crypto.client import algorithms
from secgear.services.crypto.client.caller import ROOM
from secgear.services.crypto.client.talk import Talk, TokenRefused, as_octets, template
from secgear.services.crypto.pkcs11.constants import Attr, Kdf, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import ChachaParams, EcdhParams, Mechanism
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.pkcs11.values import KINDS, Kind, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_READABLE = tuple(attr for attr in Attr if KINDS.get(attr) is not Kind.TEMPLATE)
_NONCE = algorithms.NONCE_SIZE
_WRONG = (Rv.SIGNATURE_INVALID, Rv.SIGNATURE_LEN_RANGE)


class Encrypted(NamedTuple):
    """What `SecretKey.encrypt` gives: the nonce, 12 bytes, and the ciphertext with its tag."""

    nonce: bytes
    ciphertext: bytes


class Key:
    """A key in the module. Made by a `Session`, and good as long as that."""

    def __init__(self, talk: Talk, handle: int) -> None:
        self._talk = talk
        self.handle = handle
        self._known = talk.read(
            handle, Attr.KEY_TYPE, Attr.LABEL, Attr.ID, Attr.EC_PARAMS, Attr.TOKEN
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label!r}, {self.kind}>"

    @property
    def type(self) -> int:
        """CKA_KEY_TYPE."""
        return int(self._known[Attr.KEY_TYPE])  # type: ignore[arg-type]

    @property
    def kind(self) -> str:
        """Its name, a number where it has none here."""
        return KeyType(self.type).name if self.type in set(KeyType) else f"{self.type:#x}"

    @property
    def label(self) -> str:
        """CKA_LABEL."""
        return self._octets(Attr.LABEL).decode("utf-8", "replace")

    @property
    def id(self) -> bytes:
        """CKA_ID."""
        return self._octets(Attr.ID)

    def attributes(self, *attrs: Attr) -> dict[Attr, Value]:
        """Attributes as they are now, all by default; without those that it has not, or keeps."""
        return self._talk.read(self.handle, *(attrs or _READABLE))

    def flags(self) -> list[str]:
        """The names of its attributes that are true, in lower case."""
        return sorted(
            attr.name.lower() for attr, value in self.attributes().items() if value is True
        )

    def change(self, label: str | None = None, id: bytes | None = None, **more: Value) -> None:
        """Change attributes: ``key.change(label="new", extractable=False)``."""
        self._talk.call("C_SetAttributeValue", self.handle, template(label, id, **more))
        self._known = type(self)(self._talk, self.handle)._known

    def destroy(self) -> None:
        """Remove it from the token for good."""
        self._talk.call("C_DestroyObject", self.handle)

    def _octets(self, attr: Attr) -> bytes:
        value = self._known.get(attr, b"")
        return value if isinstance(value, bytes) else b""

    def _signature(self, name: str | None) -> Mechanism:
        known = algorithms.SIGNATURES.get(KeyType(self.type), {})
        if name is None:
            name = algorithms.FITTING.get(self._octets(Attr.EC_PARAMS), next(iter(known), ""))
        if name not in known:
            raise ValueError(f"a {self.kind} key signs by {', '.join(known) or 'nothing'}")
        return known[name]


class _Signing(Key):
    def sign(self, data: bytes, algorithm: str | None = None) -> bytes:
        """A signature of `data`, which is hashed in the module.

        algorithm: by default ``pss-sha256`` of RSA keys, the digest that fits the curve of EC keys,
        ``hmac-sha256``. Raises ValueError for one that the key has not.
        """
        return self._given(self._talk.sign(self._signature(algorithm), self.handle, data))

    def sign_many(self, messages: Sequence[bytes], algorithm: str | None = None) -> list[bytes]:
        """The same for many messages, in few calls: for short ones it is the quicker way."""
        mechanism = self._signature(algorithm)
        made = self._talk.batch(
            "Sign", mechanism.type, self.handle, messages, [mechanism.parameter]
        )
        return [self._given(signature) for signature in made]

    def _given(self, signature: bytes) -> bytes:
        """A signature of the token's, as it is given out."""
        if self.type not in algorithms.DER_SIGNATURES:
            return signature
        half = len(signature) // 2
        r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        return encode_dss_signature(r, s)

    def attest(self, nonce: bytes = b"") -> bytes:
        """Proof of where this key is, for `secgear.services.crypto.attestation.verify`.

        nonce: of a verifier who wants new evidence, 8 to 64 bytes.
        """
        return self._talk.octets("S_AttestKey", self.handle, nonce, ROOM)


class _Verifying(Key):
    def verify(self, signature: bytes, data: bytes, algorithm: str | None = None) -> None:
        """Check a signature as `sign` makes it. Raises InvalidSignature of `cryptography`."""
        raw = signature
        if self.type in algorithms.DER_SIGNATURES:
            try:
                numbers = decode_dss_signature(signature)
                size = self._coordinate()
                raw = b"".join(number.to_bytes(size, "big") for number in numbers)
            except (ValueError, OverflowError):
                raise InvalidSignature from None
        try:
            self._talk.check(self._signature(algorithm), self.handle, data, raw)
        except TokenRefused as refused:
            if refused.rv in _WRONG:
                raise InvalidSignature from None
            raise

    def _coordinate(self) -> int:
        """Bytes of a coordinate of the key's curve."""
        fitting = algorithms.FITTING.get(self._octets(Attr.EC_PARAMS))
        return {"ecdsa-sha384": 48, "ecdsa-sha512": 66}.get(fitting or "", 32)


class _Paired(Key):
    @property
    def public_key_info(self) -> bytes:
        """SubjectPublicKeyInfo in DER."""
        spki = self.attributes(Attr.PUBLIC_KEY_INFO).get(Attr.PUBLIC_KEY_INFO)
        if not isinstance(spki, bytes):
            raise CryptoModuleError("the module has no public key for this key")
        return spki

    @property
    def public_key(self) -> Any:
        """The same as a key of `cryptography`. Raises UnsupportedAlgorithm where it has none."""
        try:
            return load_der_public_key(self.public_key_info)
        except ValueError as error:
            raise UnsupportedAlgorithm(str(error)) from None


class SecretKey(_Signing, _Verifying):
    """A secret key: AES, ChaCha20, SM4, or one for HMAC."""

    def encrypt(self, data: bytes, aad: bytes = b"") -> Encrypted:
        """Encrypt, so that changes are noticed, under a random nonce.

        AES and SM4 with GCM: one key is good for 2^32 messages. aad: is not sent, and has to be the
        same when it is decrypted. Raises ValueError for more than 3 MiB.
        """
        nonce = os.urandom(_NONCE)
        made = self._talk.cipher("Encrypt", self._cipher(nonce, aad), self.handle, data)
        return Encrypted(nonce, made)

    def decrypt(self, encrypted: Encrypted | tuple[bytes, bytes], aad: bytes = b"") -> bytes:
        """The data again. Raises TokenRefused (ENCRYPTED_DATA_INVALID) for what was changed."""
        nonce, ciphertext = encrypted
        return self._talk.cipher("Decrypt", self._cipher(nonce, aad), self.handle, ciphertext)

    def encrypt_many(self, messages: Sequence[bytes], aad: bytes = b"") -> list[Encrypted]:
        """`encrypt` for many messages, each under a nonce of its own, in few calls."""
        nonces = [os.urandom(_NONCE) for _ in messages]
        made = self._many("Encrypt", nonces, messages, aad)
        return [Encrypted(*one) for one in zip(nonces, made, strict=True)]

    def decrypt_many(
        self, encrypted: Sequence[Encrypted | tuple[bytes, bytes]], aad: bytes = b""
    ) -> list[bytes]:
        """The data again. Raises TokenRefused if one of them was changed."""
        nonces = [nonce for nonce, _ in encrypted]
        return self._many("Decrypt", nonces, [data for _, data in encrypted], aad)

    def _many(
        self, what: str, nonces: Sequence[bytes], inputs: Sequence[bytes], aad: bytes
    ) -> list[bytes]:
        mechanisms = [self._cipher(nonce, aad) for nonce in nonces]
        if not mechanisms:
            return []
        parameters = [one.parameter for one in mechanisms]
        return self._talk.batch(what, mechanisms[0].type, self.handle, inputs, parameters)

    def wrap(self, key: SecretKey | PrivateKey) -> bytes:
        """Another key's bytes under this one (RFC 5649), where its attributes let it leave."""
        mechanism = Mechanism(Mech.AES_KEY_WRAP_KWP)
        return self._talk.octets("C_WrapKey", mechanism, self.handle, key.handle, ROOM)

    def unwrap(
        self,
        wrapped: bytes,
        kind: str,
        *,
        label: str | None = None,
        id: bytes | None = None,
        **more: Value,
    ) -> SecretKey | PrivateKey:
        """The key in what `wrap` gave. kind: of the key. more: its attributes, by their names."""
        given = {"token": True, "class": ObjectClass.SECRET_KEY} | more
        if kind in algorithms.SECRETS:
            given["key_type"] = int(algorithms.SECRETS[kind].type)
        else:
            given |= {"class": int(ObjectClass.PRIVATE_KEY), "key_type": int(_type_of(kind))}
        handle = self._talk.call(
            "C_UnwrapKey",
            Mechanism(Mech.AES_KEY_WRAP_KWP),
            self.handle,
            wrapped,
            template(label, id, **given),
        )
        made = SecretKey if kind in algorithms.SECRETS else PrivateKey
        return made(self._talk, handle)

    def _cipher(self, nonce: bytes, aad: bytes) -> Mechanism:
        match self.type:
            case KeyType.AES:
                return algorithms.gcm(Mech.AES_GCM, nonce, aad)
            case KeyType.SM4:
                return algorithms.gcm(Mech.SM4_GCM, nonce, aad)
            case KeyType.CHACHA20:
                return Mechanism(Mech.CHACHA20_POLY1305, ChachaParams(nonce, aad))
        raise ValueError(f"a {self.kind} key does not encrypt")


class PublicKey(_Paired, _Verifying):
    """A public key that is an object of the token."""

    def encrypt(self, data: bytes) -> bytes:
        """Encrypt for the private key: RSA-OAEP with SHA-256, SM2."""
        return self._talk.cipher("Encrypt", _encryption(self), self.handle, data)

    def encapsulate(self, kind: str = "AES", **more: Value) -> tuple[SecretKey, bytes]:
        """A new secret key of 32 bytes, and what the private key makes it from (ML-KEM)."""
        ciphertext, handle = self._talk.call(
            "C_EncapsulateKey", Mechanism(Mech.ML_KEM), self.handle, _secret(kind, more), ROOM
        )
        return SecretKey(self._talk, handle), as_octets(ciphertext)


class PrivateKey(_Paired, _Signing):
    """A private key. Its public key need not be an object of the token."""

    def decrypt(self, data: bytes) -> bytes:
        """What `PublicKey.encrypt` was given."""
        return self._talk.cipher("Decrypt", _encryption(self), self.handle, data)

    def decapsulate(self, ciphertext: bytes, kind: str = "AES", **more: Value) -> SecretKey:
        """The secret key that `PublicKey.encapsulate` has made."""
        handle = self._talk.call(
            "C_DecapsulateKey",
            Mechanism(Mech.ML_KEM),
            self.handle,
            _secret(kind, more),
            ciphertext,
        )
        return SecretKey(self._talk, handle)

    def derive(
        self,
        peer: Any,
        kind: str = "AES",
        *,
        bits: int = 256,
        shared_info: bytes = b"",
        **more: Value,
    ) -> SecretKey:
        """The secret key that this one and the peer's agree on (ECDH, X9.63 KDF with SHA-256).

        peer: a public key of `cryptography`. shared_info: what else both know.
        """
        if self.type == KeyType.EC_MONTGOMERY:
            point = peer.public_bytes_raw()
        else:
            point = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        parameter = EcdhParams(Kdf.SHA256_KDF, shared_info, point)
        given = _secret(kind, more) | {int(Attr.VALUE_LEN): bits // 8}
        handle = self._talk.call(
            "C_DeriveKey", Mechanism(Mech.ECDH1_DERIVE, parameter), self.handle, given
        )
        return SecretKey(self._talk, handle)


CLASSES: Mapping[int, type[SecretKey | PublicKey | PrivateKey]] = {
    ObjectClass.SECRET_KEY: SecretKey,
    ObjectClass.PUBLIC_KEY: PublicKey,
    ObjectClass.PRIVATE_KEY: PrivateKey,
}


def _secret(kind: str, more: Mapping[str, Value]) -> dict[int, Value]:
    """The template of a new secret key that is not generated."""
    known = algorithms.SECRETS[kind]
    given: dict[str, Any] = {"token": False, "key_type": int(known.type)}
    return template(**(given | dict.fromkeys(known.uses, True) | dict(more)))


def _type_of(kind: str) -> KeyType:
    names = {"ED25519": KeyType.EC_EDWARDS, "X25519": KeyType.EC_MONTGOMERY}
    return names.get(kind) or KeyType[kind.replace("-", "_")]


def _encryption(key: Key) -> Mechanism:
    match key.type:
        case KeyType.RSA:
            return algorithms.OAEP_SHA256
        case KeyType.SM2:
            return Mechanism(Mech.SM2_ENCRYPT)
    raise ValueError(f"a {key.kind} key does not encrypt")
