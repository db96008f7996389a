/* Operations in pieces: digests, HMAC, MACs, encryption and decryption (the last four of 2023).
 *
 * They have a session of the module of their own, so that what is done in one call goes on beside
 * them. An Init begins anew, whatever was under way.
 */
#include <string.h>

#include "sdf_rooms.h"

void sdf_abandon(struct sdf_session *session, enum sdf_stream stream)
{
    switch (stream) {
    case SDF_STREAM_HASH:
        C_DigestInit(session->pieces, NULL);
        break;
    case SDF_STREAM_HMAC:
        C_SignInit(session->pieces, NULL, CK_INVALID_HANDLE);
        break;
    case SDF_STREAM_DECRYPT:
    case SDF_STREAM_AUTH_DEC:
        C_DecryptInit(session->pieces, NULL, CK_INVALID_HANDLE);
        break;
    default: /* a MAC is made by encrypting */
        C_EncryptInit(session->pieces, NULL, CK_INVALID_HANDLE);
        break;
    }
    sdf_stream_end(session, stream);
}

/* The session for pieces, in which this can begin. */
CK_RV sdf_prepare(struct sdf_session *session, enum sdf_stream stream)
{
    enum { ENCRYPTING = SDF_STREAM_ENCRYPT | SDF_STREAM_MAC | SDF_STREAM_AUTH_ENC };
    enum { DECRYPTING = SDF_STREAM_DECRYPT | SDF_STREAM_AUTH_DEC };
    unsigned excluded = stream & ENCRYPTING ? ENCRYPTING : stream & DECRYPTING ? DECRYPTING : stream;
    if (session->pieces == CK_INVALID_HANDLE) {
        CK_RV rv = sdf_open_session(&session->pieces);
        if (rv != CKR_OK) {
            session->pieces = CK_INVALID_HANDLE;
            return rv;
        }
    }
    for (unsigned each = 1; each <= SDF_STREAM_AUTH_DEC; each <<= 1) {
        if (session->streams & excluded & each)
            sdf_abandon(session, each);
    }
    return CKR_OK;
}

struct sdf_session *sdf_enter_stream(void *handle, enum sdf_stream stream, int *result)
{
    struct sdf_session *session = sdf_enter(handle);
    *result = session == NULL ? sdf_no_session() : session->streams & stream ? SDR_OK : SDR_STEPERR;
    return session;
}

static int leave(struct sdf_session *session, int result)
{
    if (session != NULL)
        sdf_leave(session);
    return result;
}

/* What has failed in the module has ended there; what has failed here would go on. */
static int outcome(struct sdf_session *session, enum sdf_stream stream, CK_RV rv, int other)
{
    if (rv != CKR_OK && rv != CKR_BUFFER_TOO_SMALL)
        sdf_abandon(session, stream);
    return sdf_error(rv, other);
}

int sdf_begun(struct sdf_session *session, enum sdf_stream stream, CK_RV rv, int other)
{
    if (rv == CKR_OK)
        sdf_stream_begin(session, stream);
    return sdf_error(rv, other);
}

typedef CK_RV (*feeding)(CK_ULONG, CK_BYTE_PTR, CK_ULONG);

static CK_RV feed(feeding update, CK_SESSION_HANDLE session, unsigned char *data, size_t size)
{
    CK_RV rv = CKR_OK;
    for (size_t at = 0; at < size && rv == CKR_OK;) {
        size_t part = size - at < SDF_PIECE ? size - at : SDF_PIECE;
        rv = update(session, data + at, part);
        at += part;
    }
    return rv;
}

/* --- digests ------------------------------------------------------------------------------------- */

SG_EXPORT int SDF_HashInit(void *hSessionHandle, unsigned int uiAlgID, ECCrefPublicKey *pucPublicKey,
                           unsigned char *pucID, unsigned int uiIDLength)
{
    CK_MECHANISM mechanism = {CKM_SM3, NULL, 0};
    uint8_t point[SDF_POINT];
    if (uiAlgID == SGD_SHA1)
        mechanism.mechanism = CKM_SHA_1;
    else if (uiAlgID == SGD_SHA256)
        mechanism.mechanism = CKM_SHA256;
    else if (uiAlgID != SGD_SM3)
        return SDR_ALGNOTSUPPORT;
    if (pucPublicKey != NULL &&
        (uiAlgID != SGD_SM3 || uiIDLength > SDF_MAX_ID || (pucID == NULL && uiIDLength != 0)))
        return SDR_INARGERR;
    if (pucPublicKey != NULL && !sdf_point_of(pucPublicKey, point))
        return SDR_KEYERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_RV rv = sdf_prepare(session, SDF_STREAM_HASH);
    if (rv == CKR_OK)
        rv = pucPublicKey == NULL ? C_DigestInit(session->pieces, &mechanism)
                                  : S_DigestInitSM2(session->pieces, point, sizeof point, pucID, uiIDLength);
    if (rv == CKR_DATA_INVALID)
        return leave(session, SDR_KEYERR);
    return leave(session, sdf_begun(session, SDF_STREAM_HASH, rv, SDR_UNKNOWERR));
}

SG_EXPORT int SDF_HashUpdate(void *hSessionHandle, unsigned char *pucData, unsigned int uiDataLength)
{
    if (pucData == NULL && uiDataLength != 0)
        return SDR_INARGERR;
    int result;
    struct sdf_session *session = sdf_enter_stream(hSessionHandle, SDF_STREAM_HASH, &result);
    if (result == SDR_OK)
        result = outcome(session, SDF_STREAM_HASH, feed(C_DigestUpdate, session->pieces, pucData, uiDataLength),
                         SDR_UNKNOWERR);
    return leave(session, result);
}

typedef CK_RV (*ending)(CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR);

/* The last output, into the caller's room; where that is too small nothing has ended. */
static int finish(void *handle, enum sdf_stream stream, ending final, unsigned char *to, unsigned *length,
                  int other)
{
    if (length == NULL)
        return SDR_OUTARGERR;
    int result;
    struct sdf_session *session = sdf_enter_stream(handle, stream, &result);
    if (result == SDR_OK) {
        CK_ULONG size = *length;
        CK_RV rv = final(session->pieces, to, &size);
        if (rv == CKR_OK || rv == CKR_BUFFER_TOO_SMALL)
            *length = (unsigned)size;
        if (rv == CKR_OK && to != NULL)
            sdf_stream_end(session, stream);
        result = rv == CKR_OK && to == NULL ? SDR_NOBUFFER : outcome(session, stream, rv, other);
    }
    return leave(session, result);
}

SG_EXPORT int SDF_HashFinal(void *hSessionHandle, unsigned char *pucHash, unsigned int *puiHashLength)
{
    return finish(hSessionHandle, SDF_STREAM_HASH, C_DigestFinal, pucHash, puiHashLength, SDR_UNKNOWERR);
}

/* --- HMAC ---------------------------------------------------------------------------------------- */

SG_EXPORT int SDF_HMACInit(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID)
{
    CK_MECHANISM mechanism = {CKM_SM3_HMAC, NULL, 0};
    if (uiAlgID != SGD_SM3)
        return SDR_ALGNOTSUPPORT;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key = sdf_key_of(session, hKeyHandle);
    if (key == CK_INVALID_HANDLE)
        return leave(session, SDR_KEYNOTEXIST);
    CK_RV rv = sdf_prepare(session, SDF_STREAM_HMAC);
    if (rv == CKR_OK)
        rv = C_SignInit(session->pieces, &mechanism, key);
    return leave(session, sdf_begun(session, SDF_STREAM_HMAC, rv, SDR_MACERR));
}

SG_EXPORT int SDF_HMACUpdate(void *hSessionHandle, unsigned char *pucData, unsigned int uiDataLength)
{
    if (pucData == NULL && uiDataLength != 0)
        return SDR_INARGERR;
    int result;
    struct sdf_session *session = sdf_enter_stream(hSessionHandle, SDF_STREAM_HMAC, &result);
    if (result == SDR_OK)
        result = outcome(session, SDF_STREAM_HMAC, feed(C_SignUpdate, session->pieces, pucData, uiDataLength),
                         SDR_MACERR);
    return leave(session, result);
}

SG_EXPORT int SDF_HMACFinal(void *hSessionHandle, unsigned char *pucHMac, unsigned int *puiHMacLength)
{
    return finish(hSessionHandle, SDF_STREAM_HMAC, C_SignFinal, pucHMac, puiHMacLength, SDR_MACERR);
}

/* --- encryption and decryption --------------------------------------------------------------------- */

static int begin(void *handle, void *key_handle, unsigned algorithm, unsigned char *iv, unsigned iv_size,
                 enum sdf_stream stream)
{
    struct sdf_mode mode;
    int result = sdf_mode_of(algorithm, iv, &mode);
    if (result != SDR_OK)
        return result;
    if (algorithm != SGD_SM4_ECB && iv_size != SDF_BLOCK)
        return SDR_INARGERR;
    struct sdf_session *session = sdf_enter(handle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key = sdf_key_of(session, key_handle);
    if (key == CK_INVALID_HANDLE)
        return leave(session, SDR_KEYNOTEXIST);
    CK_RV rv = sdf_prepare(session, stream);
    if (rv == CKR_OK)
        rv = stream == SDF_STREAM_DECRYPT ? C_DecryptInit(session->pieces, &mode.mechanism, key)
                                          : C_EncryptInit(session->pieces, &mode.mechanism, key);
    session->mac_size = 0;
    return leave(session, sdf_begun(session, stream, rv, SDR_SYMOPERR));
}

SG_EXPORT int SDF_EncryptInit(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID, unsigned char *pucIV,
                              unsigned int uiIVLength)
{
    if (uiAlgID == SGD_SM4_MAC)
        return SDR_ALGMODNOTSUPPORT;
    return begin(hSessionHandle, hKeyHandle, uiAlgID, pucIV, uiIVLength, SDF_STREAM_ENCRYPT);
}

SG_EXPORT int SDF_DecryptInit(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID, unsigned char *pucIV,
                              unsigned int uiIVLength)
{
    if (uiAlgID == SGD_SM4_MAC)
        return SDR_ALGMODNOTSUPPORT;
    return begin(hSessionHandle, hKeyHandle, uiAlgID, pucIV, uiIVLength, SDF_STREAM_DECRYPT);
}

typedef CK_RV (*updating)(CK_ULONG, CK_BYTE_PTR, CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR);

static int update(void *handle, enum sdf_stream stream, updating call, unsigned char *from, unsigned size,
                  unsigned char *to, unsigned *length)
{
    if (from == NULL || size == 0)
        return SDR_INARGERR;
    if (length == NULL)
        return SDR_OUTARGERR;
    int result;
    struct sdf_session *session = sdf_enter_stream(handle, stream, &result);
    /* With what is left of the pieces before, it may be a block more. */
    size_t most = (size_t)size + SDF_BLOCK - 1;
    if (result == SDR_OK && (to == NULL || *length < size)) {
        result = SDR_NOBUFFER;
        *length = most < UINT32_MAX ? (unsigned)most : UINT32_MAX;
    }
    size_t at = 0, written = 0, room = *length;
    while (result == SDR_OK && at < size) {
        size_t part = size - at < SDF_PIECE ? size - at : SDF_PIECE;
        CK_ULONG made = room - written;
        CK_RV rv = call(session->pieces, from + at, part, to + written, &made);
        if (rv == CKR_BUFFER_TOO_SMALL && at == 0) {
            *length = (unsigned)made; /* nothing has happened: it can be called again */
            result = SDR_NOBUFFER;
        } else if (rv != CKR_OK) {
            sdf_abandon(session, stream);
            result = rv == CKR_BUFFER_TOO_SMALL ? SDR_NOBUFFER : sdf_error(rv, SDR_SYMOPERR);
        }
        at += part;
        written += rv == CKR_OK ? made : 0;
    }
    if (result == SDR_OK)
        *length = (unsigned)written;
    return leave(session, result);
}

SG_EXPORT int SDF_EncryptUpdate(void *hSessionHandle, unsigned char *pucData, unsigned int uiDataLength,
                                unsigned char *pucEncData, unsigned int *puiEncDataLength)
{
    return update(hSessionHandle, SDF_STREAM_ENCRYPT, C_EncryptUpdate, pucData, uiDataLength, pucEncData,
                  puiEncDataLength);
}

SG_EXPORT int SDF_DecryptUpdate(void *hSessionHandle, unsigned char *pucEncData, unsigned int uiEncDataLength,
                                unsigned char *pucData, unsigned int *puiDataLength)
{
    return update(hSessionHandle, SDF_STREAM_DECRYPT, C_DecryptUpdate, pucEncData, uiEncDataLength, pucData,
                  puiDataLength);
}

SG_EXPORT int SDF_EncryptFinal(void *hSessionHandle, unsigned char *pucLastEncData,
                               unsigned int *puiLastEncDataLength)
{
    return finish(hSessionHandle, SDF_STREAM_ENCRYPT, C_EncryptFinal, pucLastEncData, puiLastEncDataLength,
                  SDR_SYMOPERR);
}

SG_EXPORT int SDF_DecryptFinal(void *hSessionHandle, unsigned char *pucLastData, unsigned int *puiLastDataLength)
{
    return finish(hSessionHandle, SDF_STREAM_DECRYPT, C_DecryptFinal, pucLastData, puiLastDataLength,
                  SDR_SYMOPERR);
}

/* --- MACs ------------------------------------------------------------------------------------------ */

SG_EXPORT int SDF_CalculateMACInit(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID,
                                   unsigned char *pucIV, unsigned int uiIVLength)
{
    int result = sdf_cipher_known(uiAlgID, SGD_SM4_MAC);
    if (result != SDR_OK)
        return result;
    return begin(hSessionHandle, hKeyHandle, uiAlgID, pucIV, uiIVLength, SDF_STREAM_MAC);
}

SG_EXPORT int SDF_CalculateMACUpdate(void *hSessionHandle, unsigned char *pucData, unsigned int uiDataLength)
{
    if (pucData == NULL || uiDataLength == 0)
        return SDR_INARGERR;
    int result;
    struct sdf_session *session = sdf_enter_stream(hSessionHandle, SDF_STREAM_MAC, &result);
    if (result == SDR_OK) {
        CK_RV rv =
            sdf_mac_update(session->pieces, pucData, uiDataLength, session->mac_size, session->mac);
        session->mac_size += uiDataLength;
        result = outcome(session, SDF_STREAM_MAC, rv, SDR_MACERR);
    }
    return leave(session, result);
}

SG_EXPORT int SDF_CalculateMACFinal(void *hSessionHandle, unsigned char *pucMAC, unsigned int *puiMACLength)
{
    if (puiMACLength == NULL)
        return SDR_OUTARGERR;
    int result;
    struct sdf_session *session = sdf_enter_stream(hSessionHandle, SDF_STREAM_MAC, &result);
    if (result == SDR_OK)
        result = sdf_room(pucMAC, puiMACLength, SDF_BLOCK);
    if (result == SDR_OK) {
        bool whole = session->mac_size != 0 && session->mac_size % SDF_BLOCK == 0;
        sdf_abandon(session, SDF_STREAM_MAC);
        if (whole)
            memcpy(pucMAC, session->mac, SDF_BLOCK);
        else
            result = SDR_INARGERR; /* of whole blocks only; what is between is nobody's standard */
    }
    return leave(session, result);
}
