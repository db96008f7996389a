/* Authenticated encryption with session keys (2023): SM4-GCM and SM4-CCM, in one call and in pieces.
 *
 * What is decrypted in pieces comes out at the end, when the tag has been found to be right.
 */
#include <stdlib.h>
#include <string.h>

#include "sdf_rooms.h"

static int aead_of(unsigned algorithm, const unsigned char *nonce, unsigned nonce_size, const unsigned char *aad,
                   unsigned aad_size, unsigned size, struct sdf_mode *mode)
{
    memset(mode, 0, sizeof *mode);
    if (algorithm != SGD_SM4_GCM && algorithm != SGD_SM4_CCM)
        return sdf_cipher_known(algorithm, SGD_SM4_GCM);
    if (nonce == NULL || nonce_size == 0 || (aad == NULL && aad_size != 0))
        return SDR_INARGERR;
    if (nonce_size > SG_MAX_PARAMETER || aad_size > SG_MAX_PARAMETER)
        return SDR_INARGERR;
    if (algorithm == SGD_SM4_GCM) {
        mode->parameter.gcm = (struct CK_GCM_PARAMS){(CK_BYTE_PTR)nonce, nonce_size, 8UL * nonce_size,
                                                     (CK_BYTE_PTR)aad,   aad_size,   8 * SDF_TAG};
        mode->mechanism = (CK_MECHANISM){CKM_SM4_GCM, &mode->parameter, sizeof mode->parameter.gcm};
    } else {
        mode->parameter.ccm = (struct CK_CCM_PARAMS){size,       (CK_BYTE_PTR)nonce, nonce_size, (CK_BYTE_PTR)aad,
                                                     aad_size, SDF_TAG};
        mode->mechanism = (CK_MECHANISM){CKM_SM4_CCM, &mode->parameter, sizeof mode->parameter.ccm};
    }
    return SDR_OK;
}

SG_EXPORT int SDF_AuthEnc(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID,
                          unsigned char *pucStartVar, unsigned int uiStartVarLength, unsigned char *pucAad,
                          unsigned int uiAadLength, unsigned char *pucData, unsigned int uiDataLength,
                          unsigned char *pucEncData, unsigned int *puiEncDataLength, unsigned char *pucAuthData,
                          unsigned int *puiAuthDataLength)
{
    struct sdf_mode mode;
    int result = aead_of(uiAlgID, pucStartVar, uiStartVarLength, pucAad, uiAadLength, uiDataLength, &mode);
    if (result != SDR_OK)
        return result;
    if (pucData == NULL || uiDataLength == 0 || uiDataLength > SDF_MAX_AEAD)
        return SDR_INARGERR;
    if (puiEncDataLength == NULL || puiAuthDataLength == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key = sdf_key_of(session, hKeyHandle);
    result = key == CK_INVALID_HANDLE ? SDR_KEYNOTEXIST : sdf_room(pucEncData, puiEncDataLength, uiDataLength);
    if (result == SDR_OK || result == SDR_NOBUFFER) {
        int other = sdf_room(pucAuthData, puiAuthDataLength, SDF_TAG);
        result = result == SDR_OK ? other : result;
    }
    if (result == SDR_OK) {
        CK_ULONG made = uiDataLength + SDF_TAG;
        uint8_t *text = malloc(made);
        CK_RV rv = text == NULL ? CKR_HOST_MEMORY
                                : sdf_encrypt(session->handle, &mode.mechanism, key, pucData, uiDataLength, text,
                                              &made);
        result = rv == CKR_MECHANISM_PARAM_INVALID ? SDR_INARGERR : sdf_error(rv, SDR_SYMOPERR);
        if (result == SDR_OK && made != uiDataLength + SDF_TAG)
            result = SDR_HARDFAIL;
        if (result == SDR_OK) {
            memcpy(pucEncData, text, uiDataLength);
            memcpy(pucAuthData, text + uiDataLength, SDF_TAG);
        }
        free(text);
    }
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_AuthDec(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID,
                          unsigned char *pucStartVar, unsigned int uiStartVarLength, unsigned char *pucAad,
                          unsigned int uiAadLength, unsigned char *pucAuthData, unsigned int uiAuthDataLength,
                          unsigned char *pucEncData, unsigned int uiEncDataLength, unsigned char *pucData,
                          unsigned int *puiDataLength)
{
    struct sdf_mode mode;
    int result = aead_of(uiAlgID, pucStartVar, uiStartVarLength, pucAad, uiAadLength, uiEncDataLength, &mode);
    if (result != SDR_OK)
        return result;
    if (pucEncData == NULL || uiEncDataLength == 0 || uiEncDataLength > SDF_MAX_AEAD || pucAuthData == NULL ||
        uiAuthDataLength != SDF_TAG)
        return SDR_INARGERR;
    if (puiDataLength == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key = sdf_key_of(session, hKeyHandle);
    result = key == CK_INVALID_HANDLE ? SDR_KEYNOTEXIST : sdf_room(pucData, puiDataLength, uiEncDataLength);
    if (result == SDR_OK) {
        CK_ULONG size = uiEncDataLength + SDF_TAG, made = uiEncDataLength;
        uint8_t *text = malloc(size);
        CK_RV rv = CKR_HOST_MEMORY;
        if (text != NULL) {
            memcpy(text, pucEncData, uiEncDataLength);
            memcpy(text + uiEncDataLength, pucAuthData, SDF_TAG);
            rv = sdf_decrypt(session->handle, &mode.mechanism, key, text, size, pucData, &made);
        }
        result = rv == CKR_ENCRYPTED_DATA_INVALID     ? SDR_MACERR
                 : rv == CKR_MECHANISM_PARAM_INVALID ? SDR_INARGERR
                                                     : sdf_error(rv, SDR_SYMOPERR);
        if (result == SDR_OK && made != uiEncDataLength)
            result = SDR_HARDFAIL;
        free(text);
    }
    sdf_leave(session);
    return result;
}

/* --- in pieces --------------------------------------------------------------------------------- */

static int begin(void *handle, void *key_handle, struct sdf_mode *mode, unsigned size, enum sdf_stream stream,
                 const unsigned char *tag)
{
    if (size > SDF_MAX_AEAD)
        return SDR_INARGERR;
    struct sdf_session *session = sdf_enter(handle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key = sdf_key_of(session, key_handle);
    int result = SDR_KEYNOTEXIST;
    if (key != CK_INVALID_HANDLE) {
        CK_RV rv = sdf_prepare(session, stream);
        if (rv == CKR_OK)
            rv = stream == SDF_STREAM_AUTH_DEC ? C_DecryptInit(session->pieces, &mode->mechanism, key)
                                               : C_EncryptInit(session->pieces, &mode->mechanism, key);
        result = rv == CKR_MECHANISM_PARAM_INVALID ? SDR_INARGERR : sdf_begun(session, stream, rv, SDR_SYMOPERR);
    }
    if (result == SDR_OK) {
        struct sdf_auth *auth = stream == SDF_STREAM_AUTH_DEC ? &session->auth_dec : &session->auth_enc;
        *auth = (struct sdf_auth){.left = size};
        if (tag != NULL)
            memcpy(auth->tag, tag, SDF_TAG);
    }
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_AuthEncInit(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID,
                              unsigned char *pucStartVar, unsigned int uiStartVarLength, unsigned char *pucAad,
                              unsigned int uiAadLength, unsigned int uiDataLength)
{
    struct sdf_mode mode;
    int result = aead_of(uiAlgID, pucStartVar, uiStartVarLength, pucAad, uiAadLength, uiDataLength, &mode);
    if (result != SDR_OK)
        return result;
    return begin(hSessionHandle, hKeyHandle, &mode, uiDataLength, SDF_STREAM_AUTH_ENC, NULL);
}

SG_EXPORT int SDF_AuthDecInit(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID,
                              unsigned char *pucStartVar, unsigned int uiStartVarLength, unsigned char *pucAad,
                              unsigned int uiAadLength, unsigned char *pucAuthData, unsigned int uiAuthDataLength,
                              unsigned int uiDataLength)
{
    struct sdf_mode mode;
    int result = aead_of(uiAlgID, pucStartVar, uiStartVarLength, pucAad, uiAadLength, uiDataLength, &mode);
    if (result != SDR_OK)
        return result;
    if (pucAuthData == NULL || uiAuthDataLength != SDF_TAG)
        return SDR_INARGERR;
    return begin(hSessionHandle, hKeyHandle, &mode, uiDataLength, SDF_STREAM_AUTH_DEC, pucAuthData);
}

SG_EXPORT int SDF_AuthEncUpdate(void *hSessionHandle, unsigned char *pucData, unsigned int uiDataLength,
                                unsigned char *pucEncData, unsigned int *puiEncDataLength)
{
    if (pucData == NULL || uiDataLength == 0)
        return SDR_INARGERR;
    if (puiEncDataLength == NULL)
        return SDR_OUTARGERR;
    int result;
    struct sdf_session *session = sdf_enter_stream(hSessionHandle, SDF_STREAM_AUTH_ENC, &result);
    if (result == SDR_OK && uiDataLength > session->auth_enc.left)
        result = SDR_INARGERR; /* more than was said */
    if (result == SDR_OK && (pucEncData == NULL || *puiEncDataLength < uiDataLength)) {
        *puiEncDataLength = uiDataLength;
        result = SDR_NOBUFFER;
    }
    if (result == SDR_OK) {
        CK_ULONG made = *puiEncDataLength;
        CK_RV rv = C_EncryptUpdate(session->pieces, pucData, uiDataLength, pucEncData, &made);
        if (rv == CKR_OK) {
            session->auth_enc.left -= uiDataLength;
            *puiEncDataLength = (unsigned)made;
        } else {
            sdf_abandon(session, SDF_STREAM_AUTH_ENC);
        }
        result = sdf_error(rv, SDR_SYMOPERR);
    }
    if (session != NULL)
        sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_AuthEncFinal(void *hSessionHandle, unsigned char *pucLastEncData,
                               unsigned int *puiLastEncDataLength, unsigned char *pucAuthData,
                               unsigned int *puiAuthDataLength)
{
    if (puiLastEncDataLength == NULL || puiAuthDataLength == NULL)
        return SDR_OUTARGERR;
    int result;
    struct sdf_session *session = sdf_enter_stream(hSessionHandle, SDF_STREAM_AUTH_ENC, &result);
    CK_ULONG size = 0;
    if (result == SDR_OK && session->auth_enc.left != 0)
        result = SDR_STEPERR; /* not all of it has come */
    if (result == SDR_OK)
        result = sdf_error(C_EncryptFinal(session->pieces, NULL, &size), SDR_SYMOPERR);
    if (result == SDR_OK && (size < SDF_TAG || size > SDF_MAX_AEAD + SDF_TAG))
        result = SDR_HARDFAIL;
    unsigned last = (unsigned)size - SDF_TAG;
    if (result == SDR_OK) {
        bool enough = *puiLastEncDataLength >= last && (pucLastEncData != NULL || last == 0);
        *puiLastEncDataLength = last;
        result = sdf_room(pucAuthData, puiAuthDataLength, SDF_TAG);
        result = enough ? result : SDR_NOBUFFER;
    }
    if (result == SDR_OK) {
        CK_ULONG made = size;
        uint8_t *text = malloc(size);
        CK_RV rv = text == NULL ? CKR_HOST_MEMORY : C_EncryptFinal(session->pieces, text, &made);
        if (rv == CKR_OK && made != size)
            rv = CKR_DEVICE_ERROR;
        if (rv == CKR_OK) {
            if (last != 0)
                memcpy(pucLastEncData, text, last);
            memcpy(pucAuthData, text + last, SDF_TAG);
            sdf_stream_end(session, SDF_STREAM_AUTH_ENC);
        } else {
            sdf_abandon(session, SDF_STREAM_AUTH_ENC);
        }
        free(text);
        result = sdf_error(rv, SDR_SYMOPERR);
    }
    if (session != NULL)
        sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_AuthDecUpdate(void *hSessionHandle, unsigned char *pucEncData, unsigned int uiEncDataLength,
                                unsigned char *pucData, unsigned int *puiDataLength)
{
    if (pucEncData == NULL || uiEncDataLength == 0)
        return SDR_INARGERR;
    if (puiDataLength == NULL)
        return SDR_OUTARGERR;
    (void)pucData; /* nothing comes out before the tag was looked at */
    int result;
    struct sdf_session *session = sdf_enter_stream(hSessionHandle, SDF_STREAM_AUTH_DEC, &result);
    if (result == SDR_OK && uiEncDataLength > session->auth_dec.left)
        result = SDR_INARGERR;
    if (result == SDR_OK) {
        uint8_t nothing[1];
        CK_ULONG made = 0;
        CK_RV rv = C_DecryptUpdate(session->pieces, pucEncData, uiEncDataLength, nothing, &made);
        if (rv == CKR_OK) {
            session->auth_dec.left -= uiEncDataLength;
            session->auth_dec.done += uiEncDataLength;
            *puiDataLength = 0;
        } else {
            sdf_abandon(session, SDF_STREAM_AUTH_DEC);
        }
        result = sdf_error(rv, SDR_SYMOPERR);
    }
    if (session != NULL)
        sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_AuthDecFinal(void *hSessionHandle, unsigned char *pucLastData, unsigned int *puiLastDataLength)
{
    if (puiLastDataLength == NULL)
        return SDR_OUTARGERR;
    int result;
    struct sdf_session *session = sdf_enter_stream(hSessionHandle, SDF_STREAM_AUTH_DEC, &result);
    if (result == SDR_OK && session->auth_dec.left != 0)
        result = SDR_STEPERR;
    if (result == SDR_OK)
        result = sdf_room(pucLastData, puiLastDataLength, session->auth_dec.done);
    if (result == SDR_OK) {
        uint8_t nothing[1];
        CK_ULONG none = 0, made = session->auth_dec.done;
        CK_RV rv = C_DecryptUpdate(session->pieces, session->auth_dec.tag, SDF_TAG, nothing, &none);
        if (rv == CKR_OK)
            rv = C_DecryptFinal(session->pieces, pucLastData, &made);
        if (rv == CKR_OK && made == session->auth_dec.done)
            sdf_stream_end(session, SDF_STREAM_AUTH_DEC);
        else
            sdf_abandon(session, SDF_STREAM_AUTH_DEC);
        result = rv == CKR_ENCRYPTED_DATA_INVALID ? SDR_MACERR : sdf_error(rv, SDR_SYMOPERR);
        if (result == SDR_OK && made != *puiLastDataLength)
            result = SDR_HARDFAIL;
    }
    if (session != NULL)
        sdf_leave(session);
    return result;
}
