"""RSA with a public key and no padding: GM/T 0018 leaves the padding to the application.

There is no such thing with a private key: who may apply it to any number can sign and decrypt
whatever they like.
"""

from __future__ import annotations

from ctypes import byref, c_char_p
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secgear.services.crypto.algorithms import libcrypto
from secgear.services.crypto.algorithms.sm2_keys import Key, Operation, failed, run

_NO_PADDING: Final = 3  # RSA_NO_PADDING


def apply(key: rsa.RSAPublicKey, block: bytes) -> bytes:
    """``block ^ e mod n``, as long as the modulus.

    Raises ValueError for a block that is not as long as the modulus, or not below it.
    """
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    library = libcrypto.load()
    owned = Key(library.d2i_PUBKEY(None, byref(c_char_p(der)), len(der)))
    with Operation(owned) as context:
        if (
            library.EVP_PKEY_encrypt_init(context.handle) != 1
            or library.EVP_PKEY_CTX_set_rsa_padding(context.handle, _NO_PADDING) != 1
        ):
            raise failed("RSA")
        result = run(library.EVP_PKEY_encrypt, context.handle, block)
    if result is None:
        raise ValueError("RSA: a block is a number below the modulus, and as long as that")
    return result
