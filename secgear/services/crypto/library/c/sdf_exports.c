/* Public keys of the token, in the structures of GM/T 0018. */
#include <string.h>

#include "sdf_rooms.h"

static int export_ecc(void *handle, enum sdf_role role, unsigned index, ECCrefPublicKey *to)
{
    if (to == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(handle);
    if (session == NULL)
        return sdf_no_session();
    uint8_t point[SDF_POINT + 2];
    int result = sdf_export_point(session, role, index, point);
    if (result == SDR_OK)
        sdf_point_to(point + 2, to);
    sdf_leave(session);
    return result;
}

int sdf_export_point(struct sdf_session *session, enum sdf_role role, unsigned index,
                     uint8_t point[SDF_POINT + 2])
{
    CK_OBJECT_HANDLE key;
    int result = sdf_find(session, role, index, CKO_PUBLIC_KEY, CKK_SM2, &key);
    if (result != SDR_OK)
        return result;
    return sdf_outcome(session, sdf_read_point(session, key, point), SDR_KEYERR);
}

/* A point comes as an OCTET STRING in DER. */
CK_RV sdf_read_point(struct sdf_session *session, CK_OBJECT_HANDLE key, uint8_t point[SDF_POINT + 2])
{
    CK_ATTRIBUTE attribute = {CKA_EC_POINT, point, SDF_POINT + 2};
    CK_RV rv = C_GetAttributeValue(session->handle, key, &attribute, 1);
    if (rv == CKR_OBJECT_HANDLE_INVALID)
        return CKR_KEY_HANDLE_INVALID;
    if (rv == CKR_OK && (attribute.ulValueLen != SDF_POINT + 2 || point[0] != 4 || point[1] != SDF_POINT))
        return CKR_DEVICE_ERROR;
    return rv;
}

SG_EXPORT int SDF_ExportSignPublicKey_ECC(void *hSessionHandle, unsigned int uiKeyIndex,
                                          ECCrefPublicKey *pucPublicKey)
{
    return export_ecc(hSessionHandle, SDF_SIGN, uiKeyIndex, pucPublicKey);
}

SG_EXPORT int SDF_ExportEncPublicKey_ECC(void *hSessionHandle, unsigned int uiKeyIndex,
                                         ECCrefPublicKey *pucPublicKey)
{
    return export_ecc(hSessionHandle, SDF_ENC, uiKeyIndex, pucPublicKey);
}

static void move_to_end(unsigned char field[RSAref_MAX_LEN], size_t size)
{
    memmove(field + RSAref_MAX_LEN - size, field, size);
    memset(field, 0, RSAref_MAX_LEN - size);
}

static int export_rsa(void *handle, enum sdf_role role, unsigned index, RSArefPublicKey *to)
{
    if (to == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(handle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_find(session, role, index, CKO_PUBLIC_KEY, CKK_RSA, &key);
    if (result == SDR_OK) {
        RSArefPublicKey made = {0};
        CK_ULONG bits = 0;
        CK_ATTRIBUTE attributes[] = {
            {CKA_MODULUS, made.m, sizeof made.m},
            {CKA_PUBLIC_EXPONENT, made.e, sizeof made.e},
            {CKA_MODULUS_BITS, &bits, sizeof bits},
        };
        CK_RV rv = C_GetAttributeValue(session->handle, key, attributes, 3);
        if (rv == CKR_BUFFER_TOO_SMALL)
            result = SDR_KEYTYPEERR; /* longer than GM/T 0018 has room for */
        else if (rv == CKR_OBJECT_HANDLE_INVALID)
            result = sdf_outcome(session, CKR_KEY_HANDLE_INVALID, SDR_KEYERR);
        else
            result = sdf_error(rv, SDR_KEYERR);
        if (attributes[0].ulValueLen > sizeof made.m || attributes[1].ulValueLen > sizeof made.e)
            result = result == SDR_OK ? SDR_HARDFAIL : result;
        if (result == SDR_OK) {
            move_to_end(made.m, attributes[0].ulValueLen);
            move_to_end(made.e, attributes[1].ulValueLen);
            made.bits = (unsigned)bits;
            *to = made;
        }
    }
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_ExportSignPublicKey_RSA(void *hSessionHandle, unsigned int uiKeyIndex,
                                          RSArefPublicKey *pucPublicKey)
{
    return export_rsa(hSessionHandle, SDF_SIGN, uiKeyIndex, pucPublicKey);
}

SG_EXPORT int SDF_ExportEncPublicKey_RSA(void *hSessionHandle, unsigned int uiKeyIndex,
                                         RSArefPublicKey *pucPublicKey)
{
    return export_rsa(hSessionHandle, SDF_ENC, uiKeyIndex, pucPublicKey);
}
