/* Structures of GM/T 0018 to what the module takes, and back; return values. */
#include <string.h>

#include "sdf_rooms.h"

int sdf_error(CK_RV rv, int other)
{
    switch (rv) {
    case CKR_OK:
        return SDR_OK;
    case CKR_HOST_MEMORY:
    case CKR_BUFFER_TOO_SMALL:
        return SDR_NOBUFFER;
    case CKR_ARGUMENTS_BAD:
        return SDR_INARGERR;
    case CKR_CRYPTOKI_NOT_INITIALIZED:
    case CKR_DEVICE_REMOVED:
    case CKR_SESSION_HANDLE_INVALID:
        sdf_lost();
        return SDR_COMMFAIL;
    case CKR_DEVICE_ERROR:
    case CKR_DEVICE_MEMORY:
        return SDR_HARDFAIL;
    case CKR_KEY_HANDLE_INVALID:
    case CKR_WRAPPING_KEY_HANDLE_INVALID:
        return SDR_KEYNOTEXIST;
    case CKR_MECHANISM_INVALID:
        return SDR_ALGNOTSUPPORT;
    case CKR_USER_NOT_LOGGED_IN:
    case CKR_KEY_FUNCTION_NOT_PERMITTED:
        return SDR_PARDENY;
    case CKR_KEY_TYPE_INCONSISTENT:
    case CKR_WRAPPING_KEY_TYPE_INCONSISTENT:
    case CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT:
        return SDR_KEYTYPEERR;
    case CKR_PUBLIC_KEY_INVALID:
    case CKR_ATTRIBUTE_VALUE_INVALID:
        return SDR_KEYERR;
    case CKR_OPERATION_ACTIVE:
    case CKR_OPERATION_NOT_INITIALIZED:
        return SDR_STEPERR;
    case CKR_SIGNATURE_INVALID:
    case CKR_SIGNATURE_LEN_RANGE:
        return SDR_VERIFYERR;
    case CKR_ENCRYPTED_DATA_INVALID:
    case CKR_ENCRYPTED_DATA_LEN_RANGE:
    case CKR_WRAPPED_KEY_INVALID:
    case CKR_WRAPPED_KEY_LEN_RANGE:
        return SDR_ENCDATAERR;
    case CKR_DATA_LEN_RANGE:
        return SDR_INARGERR;
    case CKR_FUNCTION_NOT_SUPPORTED:
        return SDR_NOTSUPPORT;
    default:
        return other;
    }
}

int sdf_room(const void *buffer, unsigned *length, size_t size)
{
    bool enough = buffer != NULL && *length >= size;
    *length = (unsigned)size;
    return enough ? SDR_OK : SDR_NOBUFFER;
}

/* A number of 32 bytes in a field of 64: it stands at the end. */
static bool half_of(const unsigned char field[ECCref_MAX_LEN], uint8_t half[SDF_HALF])
{
    static const unsigned char zeros[ECCref_MAX_LEN - SDF_HALF];
    memcpy(half, field + sizeof zeros, SDF_HALF);
    return memcmp(field, zeros, sizeof zeros) == 0;
}

static void half_to(const uint8_t half[SDF_HALF], unsigned char field[ECCref_MAX_LEN])
{
    memset(field, 0, ECCref_MAX_LEN - SDF_HALF);
    memcpy(field + ECCref_MAX_LEN - SDF_HALF, half, SDF_HALF);
}

bool sdf_point_of(const ECCrefPublicKey *key, uint8_t point[SDF_POINT])
{
    point[0] = 4;
    return key->bits == 8 * SDF_HALF && half_of(key->x, point + 1) &&
           half_of(key->y, point + 1 + SDF_HALF);
}

void sdf_point_to(const uint8_t point[SDF_POINT], ECCrefPublicKey *key)
{
    key->bits = 8 * SDF_HALF;
    half_to(point + 1, key->x);
    half_to(point + 1 + SDF_HALF, key->y);
}

bool sdf_signature_of(const ECCSignature *signature, uint8_t octets[2 * SDF_HALF])
{
    return half_of(signature->r, octets) && half_of(signature->s, octets + SDF_HALF);
}

void sdf_signature_to(const uint8_t octets[2 * SDF_HALF], ECCSignature *signature)
{
    half_to(octets, signature->r);
    half_to(octets + SDF_HALF, signature->s);
}

bool sdf_cipher_of(const ECCCipher *cipher, uint8_t *octets, size_t room, size_t *size)
{
    size_t length = cipher->L; /* read once: the caller may change what is his */
    if (length == 0 || room < SDF_OVERHEAD || length > room - SDF_OVERHEAD)
        return false;
    octets[0] = 4;
    if (!half_of(cipher->x, octets + 1) || !half_of(cipher->y, octets + 1 + SDF_HALF))
        return false;
    memcpy(octets + SDF_POINT, cipher->M, sizeof cipher->M);
    memcpy(octets + SDF_OVERHEAD, (const uint8_t *)cipher + offsetof(ECCCipher, C), length);
    *size = SDF_OVERHEAD + length;
    return true;
}

void sdf_cipher_to(const uint8_t *octets, size_t size, ECCCipher *cipher)
{
    half_to(octets + 1, cipher->x);
    half_to(octets + 1 + SDF_HALF, cipher->y);
    memcpy(cipher->M, octets + SDF_POINT, sizeof cipher->M);
    cipher->L = (unsigned)(size - SDF_OVERHEAD);
    memcpy((uint8_t *)cipher + offsetof(ECCCipher, C), octets + SDF_OVERHEAD, size - SDF_OVERHEAD);
}
