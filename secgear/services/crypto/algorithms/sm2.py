"""SM2 (GB/T 32918): signatures, encryption and key exchange; arithmetic by OpenSSL.

Bytes in, bytes out: points are uncompressed (65 bytes), signatures ``r || s`` (64 bytes),
ciphertexts ``C1 || C3 || C2``. Private keys live in memory of OpenSSL and are not shown. Both
examples of GB/T 32918.5 are tried when a key is used first; a library that fails them serves
nobody.
"""

from __future__ import annotations

import ctypes
import functools
import hmac
from ctypes import byref, c_char, c_char_p, c_void_p
from typing import Final, NoReturn, Self, final

from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from secgear.errors import PlatformUnavailable
from secgear.services.crypto.algorithms import libcrypto
from secgear.services.crypto.algorithms.sm2_keys import (
    KEYPAIR,
    ORDER,
    POINT_SIZE,
    PUBLIC_KEY,
    SCALAR_SIZE,
    Arithmetic,
    Key,
    Operation,
    failed,
    from_data,
    invalid,
    point_of,
    run,
)

DEFAULT_ID: Final = b"1234567812345678"
"""The identity of who has none (GM/T 0009-2012, section 10)."""
SIGNATURE_SIZE: Final = 64
OVERHEAD: Final = POINT_SIZE + 32
"""Bytes that a ciphertext is longer than its message."""
MAX_ID: Final = 8191  # bytes; their number of bits is a field of 16
MAX_MESSAGE: Final = 1 << 20
"""Bytes of one encryption; it is meant for keys."""

_A = "FFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFC"
_B = "28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93"
_G = (
    "32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7"
    "BC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0"
)
_CURVE: Final = bytes.fromhex(_A + _B + _G)


class DecryptionFailed(ValueError):
    """The ciphertext was not made for this key, or was changed."""


@final
class PublicKey:
    """A point of the curve, checked to be one."""

    def __init__(self, key: Key, point: bytes) -> None:
        self._key = key
        self.point = point

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.point == self.point

    def __hash__(self) -> int:
        return hash(self.point)

    @classmethod
    def from_point(cls, point: bytes) -> Self:
        """From ``04 || x || y``. Raises ValueError for what is no point of the curve."""
        if len(point) != POINT_SIZE or point[0] != 4:
            raise ValueError(f"SM2: a public key is {POINT_SIZE} bytes that begin with 04")
        _self_test()
        return cls(from_data(PUBLIC_KEY, point, None), bytes(point))

    @classmethod
    def from_spki(cls, der: bytes) -> Self:
        """From a DER SubjectPublicKeyInfo. Raises ValueError for what is none of SM2."""
        _self_test()
        library = libcrypto.load()
        cursor = c_char_p(der)
        key = library.d2i_PUBKEY(None, byref(cursor), len(der))
        if not key:
            raise invalid("no SubjectPublicKeyInfo")
        owned = Key(key)
        if not library.EVP_PKEY_is_a(key, b"SM2"):
            raise ValueError("SM2: the key is of another algorithm")
        public = cls(owned, point_of(owned))
        if public.spki() != der:
            raise ValueError("SM2: the SubjectPublicKeyInfo is not in DER, or not uncompressed")
        return public

    def spki(self) -> bytes:
        """DER SubjectPublicKeyInfo (GM/T 0009-2012, section 7.1)."""
        library = libcrypto.load()
        size = library.i2d_PUBKEY(self._key.handle, None)
        if size <= 0:
            raise failed("encoding a public key")
        buffer = (c_char * size)()
        end = c_void_p(ctypes.addressof(buffer))
        library.i2d_PUBKEY(self._key.handle, byref(end))
        return bytes(buffer)

    def verify(self, signature: bytes, digest: bytes) -> bool:
        """Whether ``r || s`` is this key's over `digest`, see `message_digest`."""
        if len(signature) != SIGNATURE_SIZE:
            return False
        r, s = _integer(signature[:SCALAR_SIZE]), _integer(signature[SCALAR_SIZE:])
        if not (0 < r < ORDER and 0 < s < ORDER) or (r + s) % ORDER == 0:
            return False
        der = encode_dss_signature(r, s)
        with Operation(self._key) as context:
            library = context.library
            if library.EVP_PKEY_verify_init(context.handle) != 1:
                raise failed("verifying")
            done = library.EVP_PKEY_verify(context.handle, der, len(der), digest, len(digest))
            library.ERR_clear_error()
            return bool(done == 1)

    def encrypt(self, message: bytes) -> bytes:
        """``C1 || C3 || C2``: what only the private key's holder can read.

        Raises ValueError for an empty message or one beyond `MAX_MESSAGE`.
        """
        if not 0 < len(message) <= MAX_MESSAGE:
            raise ValueError(f"SM2: a message of 1 to {MAX_MESSAGE} bytes can be encrypted")
        while True:
            with Operation(self._key) as context:
                library = context.library
                if library.EVP_PKEY_encrypt_init(context.handle) != 1:
                    raise failed("encrypting")
                der = run(library.EVP_PKEY_encrypt, context.handle, message)
            if der is None:
                raise failed("encrypting")
            parts = asn1.decode_der(_Ciphertext, der)
            # A mask of zeros must not be used (GB/T 32918.4, section 6.1, A5); OpenSSL uses it.
            if not hmac.compare_digest(parts.text, message):
                break
        size = SCALAR_SIZE
        return b"".join(
            (b"\4", parts.x.to_bytes(size, "big"), parts.y.to_bytes(size, "big"), parts.digest)
        ) + bytes(parts.text)


@final
class PrivateKey:
    """A private key with its public one. It can be used, and exported by `scalar`; never shown."""

    def __init__(self, key: Key, public: PublicKey) -> None:
        self._key = key
        self.public = public

    def __repr__(self) -> str:
        return "PrivateKey(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key can't be pickled")

    @classmethod
    def generate(cls) -> Self:
        """A new key, with which a signature has been made and verified (GM/T 0062)."""
        _self_test()
        library = libcrypto.load()
        context = library.EVP_PKEY_CTX_new_from_name(None, b"SM2", None)
        made = c_void_p()
        try:
            if (
                not context
                or library.EVP_PKEY_keygen_init(context) != 1
                or library.EVP_PKEY_generate(context, byref(made)) != 1
            ):
                raise failed("generating a key")
        finally:
            library.EVP_PKEY_CTX_free(context)
        key = Key(made.value)
        found = cls(key, PublicKey.from_point(point_of(key)))
        digest = bytes(range(32))
        if not found.public.verify(found.sign(digest), digest):
            raise failed("the first signature of a new key")
        return found

    @classmethod
    def from_scalar(cls, scalar: bytes | bytearray) -> Self:
        """From its 32 bytes. Raises ValueError for what is no private key (1 to n - 2)."""
        _self_test()
        if len(scalar) != SCALAR_SIZE:
            raise ValueError(f"SM2: a private key is {SCALAR_SIZE} bytes")
        with Arithmetic() as arithmetic:
            number = arithmetic.number(scalar)
            most = arithmetic.number((ORDER - 2).to_bytes(SCALAR_SIZE, "big"))
            library = arithmetic.library
            if library.BN_is_zero(number) or library.BN_cmp(number, most) > 0:
                raise ValueError("SM2: a private key is a number from 1 to n - 2")
            point = arithmetic.octets(arithmetic.multiply_generator(number))
        key = from_data(KEYPAIR, point, scalar)
        return cls(key, PublicKey.from_point(point))

    def scalar(self) -> bytearray:
        """The key itself, 32 bytes, for sealing and wrapping; whoever asks overwrites it."""
        with Arithmetic() as arithmetic:
            number = arithmetic.private(self._key)
            out = bytearray(SCALAR_SIZE)
            view = (c_char * SCALAR_SIZE).from_buffer(out)
            if arithmetic.library.BN_bn2binpad(number, view, SCALAR_SIZE) != SCALAR_SIZE:
                raise failed("exporting a key")
            return out

    def sign(self, digest: bytes) -> bytes:
        """``r || s`` over `digest` (32 bytes), see `message_digest`."""
        if len(digest) != hashes.SM3.digest_size:
            raise ValueError("SM2: what is signed is a digest of 32 bytes")
        with Operation(self._key) as context:
            library = context.library
            if library.EVP_PKEY_sign_init(context.handle) != 1:
                raise failed("signing")
            der = run(library.EVP_PKEY_sign, context.handle, digest)
        if der is None:
            raise failed("signing")
        r, s = decode_dss_signature(der)
        return r.to_bytes(SCALAR_SIZE, "big") + s.to_bytes(SCALAR_SIZE, "big")

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The message in ``C1 || C3 || C2``.

        Raises DecryptionFailed; nothing tells by what it failed.
        """
        if not OVERHEAD < len(ciphertext) <= OVERHEAD + MAX_MESSAGE or ciphertext[0] != 4:
            raise DecryptionFailed("SM2: no ciphertext, or not for this key")
        text = ciphertext[OVERHEAD:]
        der = asn1.encode_der(
            _Ciphertext(
                x=_integer(ciphertext[1:33]),
                y=_integer(ciphertext[33:POINT_SIZE]),
                digest=ciphertext[POINT_SIZE:OVERHEAD],
                text=text,
            )
        )
        with Operation(self._key) as context:
            library = context.library
            if library.EVP_PKEY_decrypt_init(context.handle) != 1:
                raise failed("decrypting")
            message = run(library.EVP_PKEY_decrypt, context.handle, der)
        # As the sender must not use a mask of zeros, a receiver must not take one (B4).
        if message is None or hmac.compare_digest(message, text):
            raise DecryptionFailed("SM2: no ciphertext, or not for this key")
        return message

    def exchange(
        self,
        ephemeral: PrivateKey,
        peer: PublicKey,
        peer_ephemeral: PublicKey,
        *,
        initiator: bool,
        size: int,
        id: bytes = DEFAULT_ID,
        peer_id: bytes = DEFAULT_ID,
    ) -> Agreement:
        """The key that this side shares with `peer` (GB/T 32918.3, section 6).

        size: bytes of the key. initiator: who has sent its ephemeral key first. An ephemeral key
        is used once.
        Raises ValueError for a size out of range and where the result would be no point.
        """
        if not 0 < size <= 1 << 16:
            raise ValueError("SM2: a key of 1 to 65536 bytes can be agreed on")
        own_za, peer_za = identity_digest(self.public, id), identity_digest(peer, peer_id)
        with Arithmetic() as arithmetic:
            points = (ephemeral.public.point, peer.point, peer_ephemeral.point)
            shared = arithmetic.exchange(self._key, ephemeral._key, points)
        x, y = shared[1:33], shared[33:POINT_SIZE]
        first = (own_za, self.public, ephemeral.public, peer_za, peer, peer_ephemeral)
        za, _, ra, zb, _, rb = first if initiator else (*first[3:], *first[:3])
        derived = X963KDF(hashes.SM3(), size, None).derive(x + y + za + zb)
        inner = _sm3(x + za + zb + ra.point[1:] + rb.point[1:])
        return Agreement(
            key=derived,
            responder_tag=_sm3(b"\2" + y + inner),
            initiator_tag=_sm3(b"\3" + y + inner),
        )


@final
class Agreement:
    """What a key exchange comes to.

    key: the secret. responder_tag, initiator_tag: what either side may send to show that it has
    it (S_B and S_A of the standard); compare them in constant time.
    """

    def __init__(self, *, key: bytes, responder_tag: bytes, initiator_tag: bytes) -> None:
        self.key = key
        self.responder_tag = responder_tag
        self.initiator_tag = initiator_tag

    def __repr__(self) -> str:
        return f"Agreement({len(self.key)} bytes)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret can't be pickled")


def identity_digest(key: PublicKey, id: bytes = DEFAULT_ID) -> bytes:
    """Z of a user: SM3 over the identity, the curve and the key (GB/T 32918.2, section 5.5)."""
    if len(id) > MAX_ID:
        raise ValueError(f"SM2: an identity has at most {MAX_ID} bytes")
    return _sm3((len(id) * 8).to_bytes(2, "big") + id + _CURVE + key.point[1:])


def message_digest(key: PublicKey, message: bytes, id: bytes = DEFAULT_ID) -> bytes:
    """What is signed for `message`: SM3 over the signer's Z and the message."""
    return _sm3(identity_digest(key, id) + message)


@asn1.sequence
class _Ciphertext:
    """SM2Cipher (GM/T 0009-2012, section 7.2)."""

    x: int
    y: int
    digest: bytes
    text: bytes


def _integer(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


def _sm3(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


# --- the self-test -----------------------------------------------------------------------------

_TEST_KEY = "3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8"
_TEST_POINT = (
    "0409F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020"
    "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13"
)
_TEST_SIGNATURE = (
    "F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3"
    "B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA"
)
_TEST_CIPHERTEXT = (
    "0404EBFC718E8D1798620432268E77FEB6415E2EDE0E073C0F4F640ECD2E149A73"
    "E858F9D81E5430A57B36DAAB8F950A3C64E6EE6A63094D99283AFF767E124DF0"
    "59983C18F809E262923C53AEC295D30383B54E39D609D160AFCB1908D0BD8766"
    "21886CA989CA9C7D58087307CA93092D651EFA"
)


@functools.cache
def _self_test() -> None:
    """The examples of GB/T 32918.5-2017, annexes A and C. Raises PlatformUnavailable."""
    point, scalar = bytes.fromhex(_TEST_POINT), bytes.fromhex(_TEST_KEY)
    with Arithmetic() as arithmetic:
        found = arithmetic.octets(arithmetic.multiply_generator(arithmetic.number(scalar)))
    public = PublicKey(from_data(PUBLIC_KEY, point, None), point)
    private = PrivateKey(from_data(KEYPAIR, point, scalar), public)
    digest = message_digest(public, b"message digest")
    signature = bytes.fromhex(_TEST_SIGNATURE)
    tests = (
        found == point,
        public.verify(signature, digest),
        not public.verify(signature, bytes(32)),
        public.verify(private.sign(digest), digest),
        private.decrypt(bytes.fromhex(_TEST_CIPHERTEXT)) == b"encryption standard",
    )
    if not all(tests):
        raise PlatformUnavailable(
            f"SM2: {libcrypto.version()} fails the standard's examples; it is not used"
        )
