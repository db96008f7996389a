/* SM2 and RSA with keys of the token and with public keys from outside. */
#include <string.h>

#include "sdf_rooms.h"

/* --- SM2 signatures ---------------------------------------------------------------------------- */

SG_EXPORT int SDF_InternalSign_ECC(void *hSessionHandle, unsigned int uiISKIndex, unsigned char *pucData,
                                   unsigned int uiDataLength, ECCSignature *pucSignature)
{
    if (pucData == NULL || uiDataLength != SDF_DIGEST)
        return SDR_INARGERR;
    if (pucSignature == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_MECHANISM mechanism = {CKM_SM2, NULL, 0};
    uint8_t octets[2 * SDF_HALF];
    CK_ULONG size = sizeof octets;
    CK_OBJECT_HANDLE key;
    int result = sdf_find_private(session, SDF_SIGN, uiISKIndex, CKK_SM2, &key);
    if (result == SDR_OK) {
        CK_RV rv = sdf_sign(session->handle, &mechanism, key, pucData, uiDataLength, octets, &size);
        result = sdf_outcome(session, rv, SDR_SIGNERR);
        if (result == SDR_OK && size != sizeof octets)
            result = SDR_HARDFAIL;
    }
    if (result == SDR_OK)
        sdf_signature_to(octets, pucSignature);
    sdf_leave(session);
    return result;
}

static int verify(struct sdf_session *session, CK_OBJECT_HANDLE key, unsigned char *data, unsigned size,
                  const ECCSignature *signature)
{
    CK_MECHANISM mechanism = {CKM_SM2, NULL, 0};
    uint8_t octets[2 * SDF_HALF];
    if (!sdf_signature_of(signature, octets))
        return SDR_VERIFYERR;
    CK_RV rv = sdf_verify(session->handle, &mechanism, key, data, size, octets, sizeof octets);
    return sdf_outcome(session, rv, SDR_PKOPERR);
}

SG_EXPORT int SDF_InternalVerify_ECC(void *hSessionHandle, unsigned int uiIPKIndex, unsigned char *pucData,
                                     unsigned int uiDataLength, ECCSignature *pucSignature)
{
    if (pucData == NULL || uiDataLength != SDF_DIGEST || pucSignature == NULL)
        return SDR_INARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_find(session, SDF_SIGN, uiIPKIndex, CKO_PUBLIC_KEY, CKK_SM2, &key);
    if (result == SDR_OK)
        result = verify(session, key, pucData, uiDataLength, pucSignature);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_ExternalVerify_ECC(void *hSessionHandle, unsigned int uiAlgID, ECCrefPublicKey *pucPublicKey,
                                     unsigned char *pucDataInput, unsigned int uiInputLength,
                                     ECCSignature *pucSignature)
{
    if (uiAlgID != SGD_SM2 && uiAlgID != SGD_SM2_1)
        return SDR_ALGNOTSUPPORT;
    if (pucPublicKey == NULL || pucDataInput == NULL || uiInputLength != SDF_DIGEST || pucSignature == NULL)
        return SDR_INARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_import_point(session, pucPublicKey, &key);
    if (result == SDR_OK) {
        result = verify(session, key, pucDataInput, uiInputLength, pucSignature);
        C_DestroyObject(session->handle, key);
    }
    sdf_leave(session);
    return result;
}

/* --- SM2 encryption ---------------------------------------------------------------------------- */

static int encrypt(struct sdf_session *session, CK_OBJECT_HANDLE key, unsigned char *data, unsigned size,
                   ECCCipher *to)
{
    CK_MECHANISM mechanism = {CKM_SM2_ENCRYPT, NULL, 0};
    uint8_t octets[SDF_OVERHEAD + SDF_MAX_SM2];
    CK_ULONG made = sizeof octets;
    CK_RV rv = sdf_encrypt(session->handle, &mechanism, key, data, size, octets, &made);
    int result = sdf_outcome(session, rv, SDR_PKOPERR);
    if (result == SDR_OK && made != SDF_OVERHEAD + size) /* that is what the caller has room for */
        result = SDR_HARDFAIL;
    if (result == SDR_OK)
        sdf_cipher_to(octets, made, to);
    return result;
}

static int check_encryption(unsigned algorithm, const unsigned char *data, unsigned size, const ECCCipher *to)
{
    if (algorithm != SGD_SM2 && algorithm != SGD_SM2_3)
        return SDR_ALGNOTSUPPORT;
    if (data == NULL || size == 0 || size > SDF_MAX_SM2)
        return SDR_INARGERR;
    return to == NULL ? SDR_OUTARGERR : SDR_OK;
}

SG_EXPORT int SDF_ExternalEncrypt_ECC(void *hSessionHandle, unsigned int uiAlgID, ECCrefPublicKey *pucPublicKey,
                                      unsigned char *pucData, unsigned int uiDataLength, ECCCipher *pucEncData)
{
    int result = check_encryption(uiAlgID, pucData, uiDataLength, pucEncData);
    if (result != SDR_OK)
        return result;
    if (pucPublicKey == NULL)
        return SDR_INARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    result = sdf_import_point(session, pucPublicKey, &key);
    if (result == SDR_OK) {
        result = encrypt(session, key, pucData, uiDataLength, pucEncData);
        C_DestroyObject(session->handle, key);
    }
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_InternalEncrypt_ECC(void *hSessionHandle, unsigned int uiIPKIndex, unsigned int uiAlgID,
                                      unsigned char *pucData, unsigned int uiDataLength, ECCCipher *pucEncData)
{
    int result = check_encryption(uiAlgID, pucData, uiDataLength, pucEncData);
    if (result != SDR_OK)
        return result;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    result = sdf_find(session, SDF_ENC, uiIPKIndex, CKO_PUBLIC_KEY, CKK_SM2, &key);
    if (result == SDR_OK)
        result = encrypt(session, key, pucData, uiDataLength, pucEncData);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_InternalDecrypt_ECC(void *hSessionHandle, unsigned int uiISKIndex, unsigned int uiAlgID,
                                      ECCCipher *pucEncData, unsigned char *pucData, unsigned int *puiDataLength)
{
    if (uiAlgID != SGD_SM2 && uiAlgID != SGD_SM2_3)
        return SDR_ALGNOTSUPPORT;
    if (pucEncData == NULL)
        return SDR_INARGERR;
    if (puiDataLength == NULL)
        return SDR_OUTARGERR;
    uint8_t octets[SDF_OVERHEAD + SDF_MAX_SM2];
    size_t size;
    if (!sdf_cipher_of(pucEncData, octets, sizeof octets, &size))
        return SDR_ENCDATAERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_MECHANISM mechanism = {CKM_SM2_ENCRYPT, NULL, 0};
    CK_OBJECT_HANDLE key;
    int result = sdf_find_private(session, SDF_ENC, uiISKIndex, CKK_SM2, &key);
    if (result == SDR_OK)
        result = sdf_room(pucData, puiDataLength, size - SDF_OVERHEAD);
    if (result == SDR_OK) {
        CK_ULONG made = *puiDataLength;
        CK_RV rv = sdf_decrypt(session->handle, &mechanism, key, octets, size, pucData, &made);
        result = sdf_outcome(session, rv, SDR_SKOPERR);
        if (result == SDR_OK)
            *puiDataLength = (unsigned)made;
    }
    sdf_leave(session);
    return result;
}

/* --- RSA without padding ----------------------------------------------------------------------- */

static int public_rsa(struct sdf_session *session, CK_OBJECT_HANDLE key, unsigned char *data, unsigned size,
                      unsigned char *to, unsigned *length)
{
    uint8_t block[RSAref_MAX_LEN];
    CK_ULONG made = sizeof block;
    CK_RV rv = S_PublicRSA(session->handle, key, data, size, block, &made);
    int result = rv == CKR_BUFFER_TOO_SMALL ? SDR_KEYTYPEERR : sdf_outcome(session, rv, SDR_PKOPERR);
    if (result == SDR_OK)
        result = sdf_room(to, length, made);
    if (result == SDR_OK)
        memcpy(to, block, made);
    return result;
}

SG_EXPORT int SDF_ExternalPublicKeyOperation_RSA(void *hSessionHandle, RSArefPublicKey *pucPublicKey,
                                                 unsigned char *pucDataInput, unsigned int uiInputLength,
                                                 unsigned char *pucDataOutput, unsigned int *puiOutputLength)
{
    if (pucPublicKey == NULL || pucDataInput == NULL || uiInputLength == 0 || uiInputLength > RSAref_MAX_LEN)
        return SDR_INARGERR;
    if (puiOutputLength == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_import_rsa(session, pucPublicKey, &key);
    if (result == SDR_OK) {
        result = public_rsa(session, key, pucDataInput, uiInputLength, pucDataOutput, puiOutputLength);
        C_DestroyObject(session->handle, key);
    }
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_InternalPublicKeyOperation_RSA(void *hSessionHandle, unsigned int uiKeyIndex,
                                                 unsigned char *pucDataInput, unsigned int uiInputLength,
                                                 unsigned char *pucDataOutput, unsigned int *puiOutputLength)
{
    if (pucDataInput == NULL || uiInputLength == 0 || uiInputLength > RSAref_MAX_LEN)
        return SDR_INARGERR;
    if (puiOutputLength == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_find(session, SDF_SIGN, uiKeyIndex, CKO_PUBLIC_KEY, CKK_RSA, &key);
    if (result == SDR_OK)
        result = public_rsa(session, key, pucDataInput, uiInputLength, pucDataOutput, puiOutputLength);
    sdf_leave(session);
    return result;
}

/* What is signed in a block of PKCS#1 v1.5, 00 01 FF … FF 00; NULL for any other block. */
static unsigned char *signed_in(unsigned char *block, unsigned size, unsigned *left)
{
    unsigned at = 2;
    if (size < 11 || block[0] != 0 || block[1] != 1)
        return NULL;
    while (at < size && block[at] == 0xff)
        at++;
    if (at < 10 || at == size || block[at] != 0)
        return NULL;
    *left = size - at - 1;
    return block + at + 1;
}

/* GM/T 0018 leaves the padding to the application, and limits this to signature keys. A private key
 * that is applied to whatever comes signs and decrypts whatever somebody likes; the module has no
 * such thing. So the block has to be what PKCS#1 v1.5 signs, and the module signs what is in it:
 * the result is the same. */
SG_EXPORT int SDF_InternalPrivateKeyOperation_RSA(void *hSessionHandle, unsigned int uiKeyIndex,
                                                  unsigned char *pucDataInput, unsigned int uiInputLength,
                                                  unsigned char *pucDataOutput, unsigned int *puiOutputLength)
{
    unsigned char block[RSAref_MAX_LEN], *content;
    unsigned size;
    if (pucDataInput == NULL || uiInputLength > sizeof block)
        return SDR_INARGERR;
    if (puiOutputLength == NULL)
        return SDR_OUTARGERR;
    memcpy(block, pucDataInput, uiInputLength);
    content = signed_in(block, uiInputLength, &size);
    if (content == NULL)
        return SDR_INARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_MECHANISM mechanism = {CKM_RSA_PKCS, NULL, 0};
    uint8_t signature[4 * RSAref_MAX_LEN]; /* of the longest key that the module has */
    CK_ULONG made = sizeof signature;
    CK_OBJECT_HANDLE key;
    int result = sdf_find_private(session, SDF_SIGN, uiKeyIndex, CKK_RSA, &key);
    if (result == SDR_OK)
        result = sdf_room(pucDataOutput, puiOutputLength, uiInputLength);
    if (result == SDR_OK) {
        CK_RV rv = sdf_sign(session->handle, &mechanism, key, content, size, signature, &made);
        result = sdf_outcome(session, rv, SDR_SKOPERR);
        if (rv == CKR_OK && made != uiInputLength)
            result = SDR_INARGERR; /* the block was made for a key of another length */
    }
    if (result == SDR_OK)
        memcpy(pucDataOutput, signature, made);
    sdf_leave(session);
    return result;
}
