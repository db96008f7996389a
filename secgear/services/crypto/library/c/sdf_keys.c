/* Session keys out and in: in envelopes, and in clear. */
#include "sdf_rooms.h"

/* --- envelopes ------------------------------------------------------------------------------- */

/* Destroys a session key, or an agreement. */
static int drop_key(struct sdf_session *session, void *handle)
{
    CK_OBJECT_HANDLE key = sdf_key_of(session, handle);
    struct sdf_object *object = key == CK_INVALID_HANDLE ? sdf_take_agreement(session, handle, &key)
                                                         : sdf_take(handle, SDF_KEY);
    if (object == NULL)
        return SDR_KEYNOTEXIST;
    int result = sdf_error(C_DestroyObject(session->handle, key), SDR_KEYERR);
    sdf_done(object);
    return result;
}

/* A new session key in an envelope of at most `*room` bytes. */
static int generate(struct sdf_session *session, unsigned bits, CK_ULONG mechanism, CK_OBJECT_HANDLE wrapper,
                    uint8_t *envelope, CK_ULONG *room, void **handle)
{
    CK_ULONG size = sdf_key_size(bits);
    if (size == 0)
        return SDR_INARGERR;
    CK_MECHANISM generator = {size == SDF_BLOCK ? CKM_SM4_KEY_GEN : CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    CK_MECHANISM wrapping = {mechanism, NULL, 0};
    CK_ATTRIBUTE template[SDF_KEY_ATTRIBUTES];
    CK_ULONG count = sdf_key_template(template, &size);
    CK_OBJECT_HANDLE key;
    CK_RV rv = S_GenerateEnvelopedKey(session->handle, &generator, template, count, &wrapping, wrapper,
                                      envelope, room, &key);
    return rv == CKR_OK ? sdf_keep_key(session, key, handle) : sdf_outcome(session, rv, SDR_PKOPERR);
}

/* The session key in an envelope. */
static int import(struct sdf_session *session, CK_ULONG mechanism, CK_OBJECT_HANDLE unwrapper,
                  const uint8_t *envelope, CK_ULONG size, void **handle)
{
    CK_MECHANISM unwrapping = {mechanism, NULL, 0};
    CK_ATTRIBUTE template[SDF_KEY_ATTRIBUTES];
    CK_ULONG count = sdf_key_template(template, NULL);
    CK_OBJECT_HANDLE key;
    CK_RV rv = S_OpenEnvelopedKey(session->handle, &unwrapping, unwrapper, (CK_BYTE_PTR)envelope, size, template,
                                  count, &key);
    return rv == CKR_OK ? sdf_keep_key(session, key, handle) : sdf_outcome(session, rv, SDR_SKOPERR);
}

static int generate_ecc(struct sdf_session *session, unsigned bits, CK_OBJECT_HANDLE wrapper, ECCCipher *to,
                        void **handle)
{
    uint8_t envelope[SDF_OVERHEAD + SDF_MAX_KEY];
    CK_ULONG size = sizeof envelope;
    void *made;
    int result = generate(session, bits, CKM_SM2_ENCRYPT, wrapper, envelope, &size, &made);
    if (result != SDR_OK)
        return result;
    if (size != SDF_OVERHEAD + bits / 8) { /* that is what the caller has room for */
        drop_key(session, made);
        return SDR_HARDFAIL;
    }
    sdf_cipher_to(envelope, size, to);
    *handle = made;
    return SDR_OK;
}

SG_EXPORT int SDF_GenerateKeyWithIPK_ECC(void *hSessionHandle, unsigned int uiIPKIndex, unsigned int uiKeyBits,
                                         ECCCipher *pucKey, void **phKeyHandle)
{
    if (pucKey == NULL || phKeyHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_find(session, SDF_ENC, uiIPKIndex, CKO_PUBLIC_KEY, CKK_SM2, &key);
    if (result == SDR_OK)
        result = generate_ecc(session, uiKeyBits, key, pucKey, phKeyHandle);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_GenerateKeyWithEPK_ECC(void *hSessionHandle, unsigned int uiKeyBits, unsigned int uiAlgID,
                                         ECCrefPublicKey *pucPublicKey, ECCCipher *pucKey, void **phKeyHandle)
{
    if (uiAlgID != SGD_SM2 && uiAlgID != SGD_SM2_3)
        return SDR_ALGNOTSUPPORT;
    if (pucPublicKey == NULL)
        return SDR_INARGERR;
    if (pucKey == NULL || phKeyHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_import_point(session, pucPublicKey, &key);
    if (result == SDR_OK) {
        result = generate_ecc(session, uiKeyBits, key, pucKey, phKeyHandle);
        C_DestroyObject(session->handle, key);
    }
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_ImportKeyWithISK_ECC(void *hSessionHandle, unsigned int uiISKIndex, ECCCipher *pucKey,
                                       void **phKeyHandle)
{
    if (pucKey == NULL)
        return SDR_INARGERR;
    if (phKeyHandle == NULL)
        return SDR_OUTARGERR;
    uint8_t envelope[SDF_OVERHEAD + SDF_MAX_KEY];
    size_t size;
    if (!sdf_cipher_of(pucKey, envelope, sizeof envelope, &size))
        return SDR_ENCDATAERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_find_private(session, SDF_ENC, uiISKIndex, CKK_SM2, &key);
    if (result == SDR_OK)
        result = import(session, CKM_SM2_ENCRYPT, key, envelope, size, phKeyHandle);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_ExchangeDigitEnvelopeBaseOnECC(void *hSessionHandle, unsigned int uiKeyIndex,
                                                 unsigned int uiAlgID, ECCrefPublicKey *pucPublicKey,
                                                 ECCCipher *pucEncDataIn, ECCCipher *pucEncDataOut)
{
    if (uiAlgID != SGD_SM2 && uiAlgID != SGD_SM2_3)
        return SDR_ALGNOTSUPPORT;
    if (pucPublicKey == NULL || pucEncDataIn == NULL)
        return SDR_INARGERR;
    if (pucEncDataOut == NULL)
        return SDR_OUTARGERR;
    uint8_t from[SDF_OVERHEAD + SDF_MAX_SM2], to[sizeof from];
    size_t size;
    if (!sdf_cipher_of(pucEncDataIn, from, sizeof from, &size))
        return SDR_ENCDATAERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_MECHANISM mechanism = {CKM_SM2_ENCRYPT, NULL, 0};
    CK_OBJECT_HANDLE own, other;
    CK_ULONG made = size; /* as long as it was: that is what the caller has room for */
    int result = sdf_find_private(session, SDF_ENC, uiKeyIndex, CKK_SM2, &own);
    if (result == SDR_OK)
        result = sdf_import_point(session, pucPublicKey, &other);
    if (result == SDR_OK) {
        CK_RV rv = S_ExchangeEnvelope(session->handle, &mechanism, own, &mechanism, other, from, size, to, &made);
        result = sdf_outcome(session, rv, SDR_SKOPERR);
        C_DestroyObject(session->handle, other);
    }
    if (result == SDR_OK && made == size)
        sdf_cipher_to(to, size, pucEncDataOut);
    else if (result == SDR_OK)
        result = SDR_HARDFAIL;
    sdf_leave(session);
    return result;
}

/* --- envelopes of RSA, PKCS#1 v1.5 ------------------------------------------------------------ */

/* Into the caller's room: what does not fit leaves nothing behind, and says how much it would be. */
static int generate_into(struct sdf_session *session, unsigned bits, CK_ULONG mechanism,
                         CK_OBJECT_HANDLE wrapper, unsigned char *to, unsigned *length, void **handle)
{
    CK_ULONG size = to == NULL ? 0 : *length;
    uint8_t nothing[1];
    int result = generate(session, bits, mechanism, wrapper, to == NULL ? nothing : to, &size, handle);
    if (result == SDR_OK || result == SDR_NOBUFFER)
        *length = (unsigned)size;
    return result;
}

SG_EXPORT int SDF_GenerateKeyWithIPK_RSA(void *hSessionHandle, unsigned int uiIPKIndex, unsigned int uiKeyBits,
                                         unsigned char *pucKey, unsigned int *puiKeyLength, void **phKeyHandle)
{
    if (puiKeyLength == NULL || phKeyHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_find(session, SDF_ENC, uiIPKIndex, CKO_PUBLIC_KEY, CKK_RSA, &key);
    if (result == SDR_OK)
        result = generate_into(session, uiKeyBits, CKM_RSA_PKCS, key, pucKey, puiKeyLength, phKeyHandle);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_GenerateKeyWithEPK_RSA(void *hSessionHandle, unsigned int uiKeyBits,
                                         RSArefPublicKey *pucPublicKey, unsigned char *pucKey,
                                         unsigned int *puiKeyLength, void **phKeyHandle)
{
    if (pucPublicKey == NULL)
        return SDR_INARGERR;
    if (puiKeyLength == NULL || phKeyHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_import_rsa(session, pucPublicKey, &key);
    if (result == SDR_OK) {
        result = generate_into(session, uiKeyBits, CKM_RSA_PKCS, key, pucKey, puiKeyLength, phKeyHandle);
        C_DestroyObject(session->handle, key);
    }
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_ImportKeyWithISK_RSA(void *hSessionHandle, unsigned int uiISKIndex, unsigned char *pucKey,
                                       unsigned int uiKeyLength, void **phKeyHandle)
{
    if (pucKey == NULL || uiKeyLength == 0 || uiKeyLength > RSAref_MAX_LEN)
        return SDR_INARGERR;
    if (phKeyHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    int result = sdf_find_private(session, SDF_ENC, uiISKIndex, CKK_RSA, &key);
    if (result == SDR_OK)
        result = import(session, CKM_RSA_PKCS, key, pucKey, uiKeyLength, phKeyHandle);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_ExchangeDigitEnvelopeBaseOnRSA(void *hSessionHandle, unsigned int uiKeyIndex,
                                                 RSArefPublicKey *pucPublicKey, unsigned char *pucDEInput,
                                                 unsigned int uiDELength, unsigned char *pucDEOutput,
                                                 unsigned int *puiDELength)
{
    if (pucPublicKey == NULL || pucDEInput == NULL || uiDELength == 0 || uiDELength > RSAref_MAX_LEN)
        return SDR_INARGERR;
    if (puiDELength == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_MECHANISM mechanism = {CKM_RSA_PKCS, NULL, 0};
    CK_OBJECT_HANDLE own, other;
    uint8_t nothing[1];
    CK_ULONG made = pucDEOutput == NULL ? 0 : *puiDELength;
    int result = sdf_find_private(session, SDF_ENC, uiKeyIndex, CKK_RSA, &own);
    if (result == SDR_OK)
        result = sdf_import_rsa(session, pucPublicKey, &other);
    if (result == SDR_OK) {
        CK_RV rv = S_ExchangeEnvelope(session->handle, &mechanism, own, &mechanism, other, pucDEInput, uiDELength,
                                      pucDEOutput == NULL ? nothing : pucDEOutput, &made);
        result = sdf_outcome(session, rv, SDR_SKOPERR);
        C_DestroyObject(session->handle, other);
        if (result == SDR_OK || result == SDR_NOBUFFER)
            *puiDELength = (unsigned)made;
    }
    sdf_leave(session);
    return result;
}

/* --- key encryption keys --------------------------------------------------------------------- */

SG_EXPORT int SDF_GenerateKeyWithKEK(void *hSessionHandle, unsigned int uiKeyBits, unsigned int uiAlgID,
                                     unsigned int uiKEKIndex, unsigned char *pucKey, unsigned int *puiKeyLength,
                                     void **phKeyHandle)
{
    int result = sdf_cipher_known(uiAlgID, SGD_SM4_ECB);
    if (result != SDR_OK)
        return result;
    if (uiKeyBits % (8 * SDF_BLOCK) != 0)
        return SDR_INARGERR;
    if (puiKeyLength == NULL || phKeyHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    result = sdf_find(session, SDF_KEK, uiKEKIndex, CKO_SECRET_KEY, CKK_SM4, &key);
    if (result == SDR_OK)
        result = generate_into(session, uiKeyBits, CKM_SM4_ECB, key, pucKey, puiKeyLength, phKeyHandle);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_ImportKeyWithKEK(void *hSessionHandle, unsigned int uiAlgID, unsigned int uiKEKIndex,
                                   unsigned char *pucKey, unsigned int uiKeyLength, void **phKeyHandle)
{
    int result = sdf_cipher_known(uiAlgID, SGD_SM4_ECB);
    if (result != SDR_OK)
        return result;
    if (pucKey == NULL || uiKeyLength == 0 || uiKeyLength % SDF_BLOCK != 0 || uiKeyLength > SDF_MAX_KEY)
        return SDR_INARGERR;
    if (phKeyHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key;
    result = sdf_find(session, SDF_KEK, uiKEKIndex, CKO_SECRET_KEY, CKK_SM4, &key);
    if (result == SDR_OK)
        result = import(session, CKM_SM4_ECB, key, pucKey, uiKeyLength, phKeyHandle);
    sdf_leave(session);
    return result;
}

/* --- session keys in clear, and their end ----------------------------------------------------- */

SG_EXPORT int SDF_ImportKey(void *hSessionHandle, unsigned char *pucKey, unsigned int uiKeyLength,
                            void **phKeyHandle)
{
    if (pucKey == NULL || uiKeyLength > SDF_MAX_KEY || sdf_key_size(8 * uiKeyLength) == 0)
        return SDR_INARGERR;
    if (phKeyHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_ULONG size = uiKeyLength;
    CK_ATTRIBUTE template[SDF_KEY_ATTRIBUTES];
    CK_ULONG count = sdf_key_template(template, &size);
    /* The length is what the value has; it is not given when a key is made of its value. */
    CK_ULONG at = template[count - 1].type == CKA_VALUE_LEN ? count - 1 : count++;
    template[at] = (CK_ATTRIBUTE){CKA_VALUE, pucKey, size};
    CK_OBJECT_HANDLE key;
    CK_RV rv = C_CreateObject(session->handle, template, count, &key);
    int result = rv == CKR_OK ? sdf_keep_key(session, key, phKeyHandle) : sdf_error(rv, SDR_KEYERR);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_DestroyKey(void *hSessionHandle, void *hKeyHandle)
{
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    int result = drop_key(session, hKeyHandle);
    sdf_leave(session);
    return result;
}

/* --- key pairs in clear ----------------------------------------------------------------------- */

/* GM/T 0018-2023 has these two for tests of a device only (6.8), and says not to use them. A private
 * key that the module makes does not leave it. */

SG_EXPORT int SDF_GenerateKeyPair_RSA(void *hSessionHandle, unsigned int uiKeyBits,
                                      RSArefPublicKey *pucPublicKey, RSArefPrivateKey *pucPrivateKey)
{
    (void)hSessionHandle, (void)uiKeyBits, (void)pucPublicKey, (void)pucPrivateKey;
    return SDR_NOTSUPPORT;
}

SG_EXPORT int SDF_GenerateKeyPair_ECC(void *hSessionHandle, unsigned int uiAlgID, unsigned int uiKeyBits,
                                      ECCrefPublicKey *pucPublicKey, ECCrefPrivateKey *pucPrivateKey)
{
    (void)hSessionHandle, (void)uiAlgID, (void)uiKeyBits, (void)pucPublicKey, (void)pucPrivateKey;
    return SDR_NOTSUPPORT;
}
