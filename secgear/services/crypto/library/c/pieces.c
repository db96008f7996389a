/* Calls for which the module has limits that PKCS#11 does not: they are made in pieces. */
#include "library.h"

SG_EXPORT CK_RV C_GenerateRandom(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pRandomData, CK_ULONG ulRandomLen)
{
    CK_RV rv;
    do {
        struct sg_call call;
        CK_ULONG part = ulRandomLen < SG_MAX_RANDOM ? ulRandomLen : SG_MAX_RANDOM;
        sg_begin(&call, SG_ID_GenerateRandom, SG_REQUEST_GenerateRandom);
        sg_need(&call, pRandomData);
        sg_put_ulong(&call, hSession);
        sg_put_room(&call, pRandomData, &part);
        sg_exchange(&call, "ay");
        sg_get_exactly(&call, pRandomData, part);
        rv = sg_end(&call);
        if (rv != CKR_OK)
            break;
        pRandomData += part;
        ulRandomLen -= part;
    } while (ulRandomLen != 0);
    return rv;
}

/* Many applications take fewer objects than they had room for as the end of the search. */
SG_EXPORT CK_RV C_FindObjects(CK_SESSION_HANDLE hSession, CK_ULONG_PTR phObject, CK_ULONG ulMaxObjectCount,
                              CK_ULONG_PTR pulObjectCount)
{
    CK_ULONG found = 0, part = 0;
    CK_RV rv;
    do {
        struct sg_call call;
        CK_ULONG room = ulMaxObjectCount - found; /* of this part */
        room = room < SG_MAX_FOUND ? room : SG_MAX_FOUND;
        sg_begin(&call, SG_ID_FindObjects, SG_REQUEST_FindObjects);
        sg_need(&call, phObject);
        sg_need(&call, pulObjectCount);
        sg_put_ulong(&call, hSession);
        sg_put_count(&call, room);
        sg_exchange(&call, "au");
        sg_get_found(&call, phObject + found, room, &part);
        rv = sg_end(&call);
        if (rv != CKR_OK)
            break;
        found += part;
    } while (part == SG_MAX_FOUND && found < ulMaxObjectCount);
    if (rv == CKR_OK)
        *pulObjectCount = found;
    return rv;
}

/* --- more data than fits a message ----------------------------------------------------------- */

typedef CK_RV (*whole)(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR);
typedef CK_RV (*feed)(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG);
typedef CK_RV (*final)(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG_PTR);

/* A multiple of every cipher's block, so that what a piece adds to the output is its own size. */
enum { PIECE = 1 << 20 };

static CK_ULONG rest_of(CK_ULONG size)
{
    return size % PIECE != 0 ? size % PIECE : PIECE;
}

/* What is asked, or has not enough room, is answered before anything is begun: CKR_OK to go on. */
static CK_RV bound(whole one, CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG size, CK_ULONG grows,
                   CK_BYTE_PTR out, CK_ULONG_PTR out_size, bool *asked)
{
    CK_ULONG needed = 0;
    *asked = false;
    if (out_size == NULL || data == NULL)
        return CKR_ARGUMENTS_BAD;
    CK_RV rv = one(session, data, rest_of(size), NULL, &needed);
    needed += grows;
    if (rv == CKR_OK && (out == NULL || *out_size < needed)) {
        *out_size = needed;
        *asked = true;
        return out == NULL ? CKR_OK : CKR_BUFFER_TOO_SMALL;
    }
    return rv;
}

/* The same function for every piece, the smallest one first. */
static CK_RV feed_all(feed one, CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG size)
{
    if (data == NULL)
        return CKR_ARGUMENTS_BAD;
    for (CK_ULONG part = rest_of(size); size != 0; part = PIECE) {
        CK_RV rv = one(session, data, part);
        if (rv != CKR_OK)
            return rv;
        data += part;
        size -= part;
    }
    return CKR_OK;
}

static CK_RV update_all(whole one, CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG size, CK_BYTE_PTR out,
                        CK_ULONG_PTR out_size)
{
    CK_ULONG made = 0;
    for (CK_ULONG part = rest_of(size); size != 0; part = PIECE) {
        CK_ULONG room = *out_size - made;
        CK_RV rv = one(session, data, part, out + made, &room);
        if (rv != CKR_OK)
            return rv == CKR_BUFFER_TOO_SMALL ? CKR_DEVICE_ERROR : rv; /* it has said how much */
        data += part;
        size -= part;
        made += room;
    }
    *out_size = made;
    return CKR_OK;
}

/* An update that makes output, of any size. */
static CK_RV update(whole one, CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG size, CK_BYTE_PTR out,
                    CK_ULONG_PTR out_size)
{
    if (size <= SG_MAX_DATA)
        return one(session, data, size, out, out_size);
    bool asked;
    CK_RV rv = bound(one, session, data, size, size - rest_of(size), out, out_size, &asked);
    return rv != CKR_OK || asked ? rv : update_all(one, session, data, size, out, out_size);
}

/* An operation in one call: what is too much for one is done in several. */
static CK_RV transform(whole one, whole some, final last, CK_SESSION_HANDLE session, CK_BYTE_PTR data,
                       CK_ULONG size, CK_BYTE_PTR out, CK_ULONG_PTR out_size)
{
    if (size <= SG_MAX_DATA)
        return one(session, data, size, out, out_size);
    bool asked;
    CK_RV rv = bound(one, session, data, size, size - rest_of(size), out, out_size, &asked);
    if (rv != CKR_OK || asked)
        return rv;
    CK_ULONG made = *out_size;
    rv = update_all(some, session, data, size, out, &made);
    if (rv != CKR_OK)
        return rv;
    CK_ULONG more = *out_size - made;
    rv = last(session, out + made, &more);
    *out_size = made + more;
    return rv;
}

/* The same where all output comes at the end. */
static CK_RV digest(whole one, feed some, final last, CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG size,
                    CK_BYTE_PTR out, CK_ULONG_PTR out_size)
{
    if (size <= SG_MAX_DATA)
        return one(session, data, size, out, out_size);
    bool asked;
    CK_RV rv = bound(one, session, data, size, 0, out, out_size, &asked);
    if (rv != CKR_OK || asked)
        return rv;
    rv = feed_all(some, session, data, size);
    return rv == CKR_OK ? last(session, out, out_size) : rv;
}

static CK_RV fed(feed one, CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG size)
{
    return size <= SG_MAX_DATA ? one(session, data, size) : feed_all(one, session, data, size);
}

SG_EXPORT CK_RV C_Encrypt(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen,
                          CK_BYTE_PTR pEncryptedData, CK_ULONG_PTR pulEncryptedDataLen)
{
    return transform(sg_Encrypt, sg_EncryptUpdate, C_EncryptFinal, hSession, pData, ulDataLen, pEncryptedData,
                     pulEncryptedDataLen);
}

SG_EXPORT CK_RV C_EncryptUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen,
                                CK_BYTE_PTR pEncryptedPart, CK_ULONG_PTR pulEncryptedPartLen)
{
    return update(sg_EncryptUpdate, hSession, pPart, ulPartLen, pEncryptedPart, pulEncryptedPartLen);
}

SG_EXPORT CK_RV C_Decrypt(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedData, CK_ULONG ulEncryptedDataLen,
                          CK_BYTE_PTR pData, CK_ULONG_PTR pulDataLen)
{
    return transform(sg_Decrypt, sg_DecryptUpdate, C_DecryptFinal, hSession, pEncryptedData, ulEncryptedDataLen,
                     pData, pulDataLen);
}

SG_EXPORT CK_RV C_DecryptUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pEncryptedPart, CK_ULONG ulEncryptedPartLen,
                                CK_BYTE_PTR pPart, CK_ULONG_PTR pulPartLen)
{
    return update(sg_DecryptUpdate, hSession, pEncryptedPart, ulEncryptedPartLen, pPart, pulPartLen);
}

SG_EXPORT CK_RV C_Digest(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pDigest,
                         CK_ULONG_PTR pulDigestLen)
{
    return digest(sg_Digest, sg_DigestUpdate, C_DigestFinal, hSession, pData, ulDataLen, pDigest, pulDigestLen);
}

SG_EXPORT CK_RV C_DigestUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen)
{
    return fed(sg_DigestUpdate, hSession, pPart, ulPartLen);
}

SG_EXPORT CK_RV C_Sign(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature,
                       CK_ULONG_PTR pulSignatureLen)
{
    return digest(sg_Sign, sg_SignUpdate, C_SignFinal, hSession, pData, ulDataLen, pSignature, pulSignatureLen);
}

SG_EXPORT CK_RV C_SignUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen)
{
    return fed(sg_SignUpdate, hSession, pPart, ulPartLen);
}

SG_EXPORT CK_RV C_Verify(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature,
                         CK_ULONG ulSignatureLen)
{
    if (ulDataLen <= SG_MAX_DATA)
        return sg_Verify(hSession, pData, ulDataLen, pSignature, ulSignatureLen);
    CK_RV rv = feed_all(sg_VerifyUpdate, hSession, pData, ulDataLen);
    return rv == CKR_OK ? C_VerifyFinal(hSession, pSignature, ulSignatureLen) : rv;
}

SG_EXPORT CK_RV C_VerifyUpdate(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pPart, CK_ULONG ulPartLen)
{
    return fed(sg_VerifyUpdate, hSession, pPart, ulPartLen);
}
