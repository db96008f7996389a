"""A mechanism with its parameter, as the token takes it: pointers are gone, lengths are checked.

PKCS#11 2.40 current mechanisms; each structure's fields have the names of the specification.
"""

from __future__ import annotations

import msgspec


class PssParams(msgspec.Struct, frozen=True):
    """CK_RSA_PKCS_PSS_PARAMS. salt: bytes."""

    hash: int
    mgf: int
    salt: int


class OaepParams(msgspec.Struct, frozen=True):
    """CK_RSA_PKCS_OAEP_PARAMS. label: pSourceData."""

    hash: int
    mgf: int
    source: int
    label: bytes


class RsaAesParams(msgspec.Struct, frozen=True):
    """CK_RSA_AES_KEY_WRAP_PARAMS. bits: of the AES key that is made for it."""

    bits: int
    oaep: OaepParams


class CtrParams(msgspec.Struct, frozen=True):
    """CK_AES_CTR_PARAMS. bits: of the block that count. block: the first one, 16 bytes."""

    bits: int
    block: bytes


class GcmParams(msgspec.Struct, frozen=True):
    """CK_GCM_PARAMS."""

    iv: bytes
    aad: bytes
    tag_bits: int


class CcmParams(msgspec.Struct, frozen=True):
    """CK_CCM_PARAMS. size: bytes of the plaintext. mac: bytes of the MAC."""

    size: int
    nonce: bytes
    aad: bytes
    mac: int


class ChachaParams(msgspec.Struct, frozen=True):
    """CK_SALSA20_CHACHA20_POLY1305_PARAMS."""

    nonce: bytes
    aad: bytes


class EcdhParams(msgspec.Struct, frozen=True):
    """CK_ECDH1_DERIVE_PARAMS."""

    kdf: int
    shared_data: bytes
    public_data: bytes


class HkdfParams(msgspec.Struct, frozen=True):
    """CK_HKDF_PARAMS of PKCS#11 3.0. hash: of a digest. salt_key: the handle of a key."""

    extract: bool
    expand: bool
    hash: int
    salt_type: int
    salt: bytes
    salt_key: int
    info: bytes


class KdfParams(msgspec.Struct, frozen=True):
    """CK_SP800_108_KDF_PARAMS of PKCS#11 3.0 in counter mode, as far as it is offered.

    Its list of parts is put together already. prf: the number of a MAC. counter_bits: of the
    counter, big endian. before, after: what the PRF reads around it. One key is derived.
    """

    prf: int
    counter_bits: int
    before: bytes
    after: bytes


class Sm2ExchangeParams(msgspec.Struct, frozen=True):
    """Key exchange of SM2 (GM/T 0003.3), ours: the parameter of C_DeriveKey with CKM_SM2_EXCHANGE.

    The base key is one's own static key, of which only the private half is needed. Each side does:

    1. C_GenerateKeyPair with CKM_SM2_KEY_PAIR_GEN: both halves as session objects, the private one
       with CKA_DERIVE. This is the ephemeral key; CKA_EC_POINT of its public half goes to the peer
       with one's static public key and identity.
    2. C_DeriveKey, once what the peer has sent is there. The template says what the key is
       (CKA_KEY_TYPE, CKA_VALUE_LEN). The ephemeral private key is destroyed, whatever comes of it.
    3. Where keys are confirmed: the new key has CKA_SM2_CONFIRMATION, 32 bytes to send to the
       peer, and CKA_SM2_PEER_CONFIRMATION, the ones that the peer has to send. They are no
       secrets. Destroy the key if what the peer sends is different.

    initiator: whether one has sent one's ephemeral key first, role A of the standard.
    ephemeral: handle of one's own ephemeral private key. peer_public, peer_ephemeral: the peer's
    points, 65 bytes that begin with 04, or the same as a DER OCTET STRING. identity,
    peer_identity: none for the one of GM/T 0009, ``1234567812345678``.

    On the wire: u8 initiator, u64 ephemeral, then the four arrays in the order below.

    SDF's three calls are these steps: SDF_GenerateAgreementDataWithECC is step 1 of the initiator
    (the agreement handle keeps the handles of both keys, the identity and the length),
    SDF_GenerateKeyWithECC step 2 of the initiator, SDF_GenerateAgreementDataAndKeyWithECC steps 1
    and 2 of the responder.
    """

    initiator: bool
    ephemeral: int
    peer_public: bytes
    peer_ephemeral: bytes
    identity: bytes
    peer_identity: bytes


class EddsaParams(msgspec.Struct, frozen=True):
    """CK_EDDSA_PARAMS."""

    prehash: bool
    context: bytes


class ContextParams(msgspec.Struct, frozen=True):
    """CK_SIGN_ADDITIONAL_CONTEXT."""

    hedge: int
    context: bytes


class LengthParam(msgspec.Struct, frozen=True):
    """CK_MAC_GENERAL_PARAMS: bytes of the MAC."""

    length: int


Parameter = (
    bytes
    | PssParams
    | OaepParams
    | RsaAesParams
    | CtrParams
    | GcmParams
    | CcmParams
    | ChachaParams
    | EcdhParams
    | HkdfParams
    | KdfParams
    | Sm2ExchangeParams
    | EddsaParams
    | ContextParams
    | LengthParam
    | None
)


class Mechanism(msgspec.Struct, frozen=True):
    """CK_MECHANISM. parameter: bytes for an initialisation vector, None for none."""

    type: int
    parameter: Parameter = None


class MessageParams(msgspec.Struct, frozen=True):
    """The parameter of one message (PKCS#11 3.0).

    CK_GCM_MESSAGE_PARAMS, CK_CCM_MESSAGE_PARAMS and CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS in one.
    iv: or nonce; where the token makes it, as many bytes as it is to have. fixed_bits: that are to
    be kept of them. tag: to decrypt; or MAC. tag_bits: of the one to make. size: bytes of the
    message; of CCM only.
    """

    iv: bytes
    fixed_bits: int = 0
    generator: int = 0
    tag: bytes = b""
    tag_bits: int = 128
    size: int = 0


class Mechanisms(msgspec.Struct, frozen=True):
    """One mechanism with a parameter for each input of a batch, or one parameter for all."""

    type: int
    parameters: tuple[Parameter, ...] = (None,)
