"""Numbers of PKCS#11 2.40 that this module knows, and those of 3.0 and 3.2 that go beyond it.

Sources: OASIS ``pkcs11t.h`` of 2.40, 3.0 and 3.2. What is not here is unknown to the token.
"""

from __future__ import annotations

import enum
from typing import Final

UNAVAILABLE: Final = 2**64 - 1
"""CK_UNAVAILABLE_INFORMATION, as every ulong on the wire has 64 bits."""


VENDOR: Final = 0x80534700
"""Of the range for vendors: what PKCS#11 has no numbers for, the commercial algorithms of China."""


class ObjectClass(enum.IntEnum):
    """CKO_."""

    DATA = 0
    CERTIFICATE = 1
    PUBLIC_KEY = 2
    PRIVATE_KEY = 3
    SECRET_KEY = 4


class KeyType(enum.IntEnum):
    """CKK_."""

    RSA = 0x0
    EC = 0x3
    GENERIC_SECRET = 0x10
    AES = 0x1F
    CHACHA20 = 0x33
    EC_EDWARDS = 0x40
    EC_MONTGOMERY = 0x41
    HKDF = 0x42
    ML_KEM = 0x49
    ML_DSA = 0x4A
    SM2 = VENDOR | 0x1
    SM4 = VENDOR | 0x2


class CertificateType(enum.IntEnum):
    """CKC_."""

    X_509 = 0


class KeyState(enum.IntEnum):
    """Of one version of a key (NIST SP 800-57 part 1 rev. 5, section 7), with KMIP's numbers.

    What was destroyed has no state any more: its objects are gone, and the audit trail says so.
    """

    PRE_ACTIVE = 1
    ACTIVE = 2
    DEACTIVATED = 3
    COMPROMISED = 4


class UserType(enum.IntEnum):
    """CKU_."""

    SO = 0
    USER = 1
    CONTEXT_SPECIFIC = 2


class State(enum.IntEnum):
    """CKS_."""

    RO_PUBLIC_SESSION = 0
    RO_USER_FUNCTIONS = 1
    RW_PUBLIC_SESSION = 2
    RW_USER_FUNCTIONS = 3
    RW_SO_FUNCTIONS = 4


class SlotFlag(enum.IntFlag):
    """CKF_ of CK_SLOT_INFO."""

    TOKEN_PRESENT = 1 << 0


class TokenFlag(enum.IntFlag):
    """CKF_ of CK_TOKEN_INFO."""

    RNG = 1 << 0
    LOGIN_REQUIRED = 1 << 2
    USER_PIN_INITIALIZED = 1 << 3
    TOKEN_INITIALIZED = 1 << 10
    USER_PIN_COUNT_LOW = 1 << 16
    USER_PIN_FINAL_TRY = 1 << 17
    USER_PIN_LOCKED = 1 << 18
    SO_PIN_COUNT_LOW = 1 << 20
    SO_PIN_FINAL_TRY = 1 << 21
    SO_PIN_LOCKED = 1 << 22


class SessionFlag(enum.IntFlag):
    """CKF_ of CK_SESSION_INFO."""

    RW_SESSION = 1 << 1
    SERIAL_SESSION = 1 << 2


class MechanismFlag(enum.IntFlag):
    """CKF_ of CK_MECHANISM_INFO."""

    MESSAGE_ENCRYPT = 1 << 1
    MESSAGE_DECRYPT = 1 << 2
    MESSAGE_SIGN = 1 << 3
    MESSAGE_VERIFY = 1 << 4
    MULTI_MESSAGE = 1 << 5
    FIND_OBJECTS = 1 << 6
    ENCRYPT = 1 << 8
    DECRYPT = 1 << 9
    DIGEST = 1 << 10
    SIGN = 1 << 11
    SIGN_RECOVER = 1 << 12
    VERIFY = 1 << 13
    VERIFY_RECOVER = 1 << 14
    GENERATE = 1 << 15
    GENERATE_KEY_PAIR = 1 << 16
    WRAP = 1 << 17
    UNWRAP = 1 << 18
    DERIVE = 1 << 19
    EC_F_P = 1 << 20
    EC_NAMEDCURVE = 1 << 23
    EC_UNCOMPRESS = 1 << 24
    ENCAPSULATE = 1 << 28
    DECAPSULATE = 1 << 29


class Mgf(enum.IntEnum):
    """CKG_MGF1_."""

    SHA1 = 1
    SHA256 = 2
    SHA384 = 3
    SHA512 = 4
    SHA224 = 5
    SHA3_224 = 6
    SHA3_256 = 7
    SHA3_384 = 8
    SHA3_512 = 9


class Kdf(enum.IntEnum):
    """CKD_."""

    NULL = 1
    SHA1_KDF = 2
    SHA224_KDF = 5
    SHA256_KDF = 6
    SHA384_KDF = 7
    SHA512_KDF = 8


class Generator(enum.IntEnum):
    """CKG_: who makes the initialisation vector of a message."""

    NO_GENERATE = 0
    GENERATE = 1
    GENERATE_COUNTER = 2
    GENERATE_RANDOM = 3
    GENERATE_COUNTER_XOR = 4


class Salt(enum.IntEnum):
    """CKF_HKDF_SALT_: where HKDF's salt is."""

    NULL = 1
    DATA = 2
    KEY = 4


class Mech(enum.IntEnum):
    """CKM_."""

    RSA_PKCS_KEY_PAIR_GEN = 0x0
    RSA_PKCS = 0x1
    SHA1_RSA_PKCS = 0x6
    RSA_PKCS_OAEP = 0x9
    RSA_PKCS_PSS = 0xD
    SHA1_RSA_PKCS_PSS = 0xE
    ML_KEM_KEY_PAIR_GEN = 0xF
    ML_KEM = 0x17
    ML_DSA_KEY_PAIR_GEN = 0x1C
    ML_DSA = 0x1D
    SHA256_RSA_PKCS = 0x40
    SHA384_RSA_PKCS = 0x41
    SHA512_RSA_PKCS = 0x42
    SHA256_RSA_PKCS_PSS = 0x43
    SHA384_RSA_PKCS_PSS = 0x44
    SHA512_RSA_PKCS_PSS = 0x45
    SHA224_RSA_PKCS = 0x46
    SHA224_RSA_PKCS_PSS = 0x47
    SHA3_256_RSA_PKCS = 0x60
    SHA3_384_RSA_PKCS = 0x61
    SHA3_512_RSA_PKCS = 0x62
    SHA3_256_RSA_PKCS_PSS = 0x63
    SHA3_384_RSA_PKCS_PSS = 0x64
    SHA3_512_RSA_PKCS_PSS = 0x65
    SHA3_224_RSA_PKCS = 0x66
    SHA3_224_RSA_PKCS_PSS = 0x67
    SHA_1 = 0x220
    SHA_1_HMAC = 0x221
    SHA_1_HMAC_GENERAL = 0x222
    SHA256 = 0x250
    SHA256_HMAC = 0x251
    SHA256_HMAC_GENERAL = 0x252
    SHA224 = 0x255
    SHA224_HMAC = 0x256
    SHA224_HMAC_GENERAL = 0x257
    SHA384 = 0x260
    SHA384_HMAC = 0x261
    SHA384_HMAC_GENERAL = 0x262
    SHA512 = 0x270
    SHA512_HMAC = 0x271
    SHA512_HMAC_GENERAL = 0x272
    SHA3_256 = 0x2B0
    SHA3_256_HMAC = 0x2B1
    SHA3_256_HMAC_GENERAL = 0x2B2
    SHA3_224 = 0x2B5
    SHA3_224_HMAC = 0x2B6
    SHA3_224_HMAC_GENERAL = 0x2B7
    SHA3_384 = 0x2C0
    SHA3_384_HMAC = 0x2C1
    SHA3_384_HMAC_GENERAL = 0x2C2
    SHA3_512 = 0x2D0
    SHA3_512_HMAC = 0x2D1
    SHA3_512_HMAC_GENERAL = 0x2D2
    GENERIC_SECRET_KEY_GEN = 0x350
    SP800_108_COUNTER_KDF = 0x3AC
    EC_KEY_PAIR_GEN = 0x1040
    ECDSA = 0x1041
    ECDSA_SHA1 = 0x1042
    ECDSA_SHA224 = 0x1043
    ECDSA_SHA256 = 0x1044
    ECDSA_SHA384 = 0x1045
    ECDSA_SHA512 = 0x1046
    ECDSA_SHA3_224 = 0x1047
    ECDSA_SHA3_256 = 0x1048
    ECDSA_SHA3_384 = 0x1049
    ECDSA_SHA3_512 = 0x104A
    ECDH1_DERIVE = 0x1050
    RSA_AES_KEY_WRAP = 0x1054
    EC_EDWARDS_KEY_PAIR_GEN = 0x1055
    EC_MONTGOMERY_KEY_PAIR_GEN = 0x1056
    EDDSA = 0x1057
    AES_KEY_GEN = 0x1080
    AES_ECB = 0x1081
    AES_CBC = 0x1082
    AES_CBC_PAD = 0x1085
    AES_CTR = 0x1086
    AES_GCM = 0x1087
    AES_CCM = 0x1088
    AES_CMAC = 0x108A
    AES_CMAC_GENERAL = 0x108B
    CHACHA20_KEY_GEN = 0x1225
    AES_KEY_WRAP = 0x2109
    AES_KEY_WRAP_KWP = 0x210B
    CHACHA20_POLY1305 = 0x4021
    HKDF_DERIVE = 0x402A
    HKDF_DATA = 0x402B
    HKDF_KEY_GEN = 0x402C
    SM3 = VENDOR | 0x10
    SM3_HMAC = VENDOR | 0x11
    SM3_HMAC_GENERAL = VENDOR | 0x12
    SM4_KEY_GEN = VENDOR | 0x20
    SM4_ECB = VENDOR | 0x21
    SM4_CBC = VENDOR | 0x22
    SM4_CBC_PAD = VENDOR | 0x23
    SM4_CTR = VENDOR | 0x24
    SM4_GCM = VENDOR | 0x25
    SM4_CCM = VENDOR | 0x26
    SM4_GCM_WRAP = VENDOR | 0x27
    SM2_KEY_PAIR_GEN = VENDOR | 0x30
    SM2 = VENDOR | 0x31
    SM2_SM3 = VENDOR | 0x32
    SM2_ENCRYPT = VENDOR | 0x33
    SM2_EXCHANGE = VENDOR | 0x34
    AES_GCM_WRAP = VENDOR | 0x40


class Attr(enum.IntEnum):
    """CKA_."""

    CLASS = 0x0
    TOKEN = 0x1
    PRIVATE = 0x2
    LABEL = 0x3
    UNIQUE_ID = 0x4
    APPLICATION = 0x10
    VALUE = 0x11
    OBJECT_ID = 0x12
    CERTIFICATE_TYPE = 0x80
    ISSUER = 0x81
    SERIAL_NUMBER = 0x82
    TRUSTED = 0x86
    CERTIFICATE_CATEGORY = 0x87
    JAVA_MIDP_SECURITY_DOMAIN = 0x88
    URL = 0x89
    HASH_OF_SUBJECT_PUBLIC_KEY = 0x8A
    HASH_OF_ISSUER_PUBLIC_KEY = 0x8B
    NAME_HASH_ALGORITHM = 0x8C
    CHECK_VALUE = 0x90
    KEY_TYPE = 0x100
    SUBJECT = 0x101
    ID = 0x102
    SENSITIVE = 0x103
    ENCRYPT = 0x104
    DECRYPT = 0x105
    WRAP = 0x106
    UNWRAP = 0x107
    SIGN = 0x108
    SIGN_RECOVER = 0x109
    VERIFY = 0x10A
    VERIFY_RECOVER = 0x10B
    DERIVE = 0x10C
    START_DATE = 0x110
    END_DATE = 0x111
    MODULUS = 0x120
    MODULUS_BITS = 0x121
    PUBLIC_EXPONENT = 0x122
    PRIVATE_EXPONENT = 0x123
    PRIME_1 = 0x124
    PRIME_2 = 0x125
    EXPONENT_1 = 0x126
    EXPONENT_2 = 0x127
    COEFFICIENT = 0x128
    PUBLIC_KEY_INFO = 0x129
    VALUE_LEN = 0x161
    EXTRACTABLE = 0x162
    LOCAL = 0x163
    NEVER_EXTRACTABLE = 0x164
    ALWAYS_SENSITIVE = 0x165
    KEY_GEN_MECHANISM = 0x166
    MODIFIABLE = 0x170
    COPYABLE = 0x171
    DESTROYABLE = 0x172
    EC_PARAMS = 0x180
    EC_POINT = 0x181
    ALWAYS_AUTHENTICATE = 0x202
    WRAP_WITH_TRUSTED = 0x210
    PARAMETER_SET = 0x61D
    ENCAPSULATE = 0x633
    DECAPSULATE = 0x634
    SEED = 0x637
    WRAP_TEMPLATE = 0x40000211
    UNWRAP_TEMPLATE = 0x40000212
    DERIVE_TEMPLATE = 0x40000213
    ALLOWED_MECHANISMS = 0x40000600
    SM2_CONFIRMATION = VENDOR | 0x0
    SM2_PEER_CONFIRMATION = VENDOR | 0x1
    ENVELOPE = VENDOR | 0x20  # id of the sealed envelope that a key came in
    ENVELOPES_TAKEN = VENDOR | 0x21  # of an import key: ids, 16 bytes each
    KEY_NAME = VENDOR | 0x30
    KEY_VERSION = VENDOR | 0x31
    KEY_STATE = VENDOR | 0x32
    KEY_CREATED = VENDOR | 0x33
    KEY_MIN_DECRYPTION = VENDOR | 0x34
    KEY_MIN_ENCRYPTION = VENDOR | 0x35
    KEY_DELETABLE = VENDOR | 0x36
