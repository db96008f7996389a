/* An operation in one call of the module: a batch of one. */
#include "sdf_rooms.h"

/* What does not fit is no answer: the room is what there can be. */
static CK_RV outcome(CK_RV rv, const CK_SECGEAR_RESULT *result, CK_ULONG *size)
{
    if (rv != CKR_OK)
        return rv;
    if (result->rv == CKR_OK)
        *size = result->ulDataLen;
    return result->rv == CKR_BUFFER_TOO_SMALL ? CKR_DEVICE_ERROR : result->rv;
}

CK_RV sdf_sign(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, const CK_BYTE *data,
               CK_ULONG size, CK_BYTE *signature, CK_ULONG *signature_size)
{
    CK_SECGEAR_INPUT input = {data, size};
    CK_SECGEAR_RESULT result = {signature, *signature_size, CKR_DEVICE_ERROR};
    CK_RV rv = S_SignBatch(session, mechanism, 1, key, &input, 1, &result, 1);
    return outcome(rv, &result, signature_size);
}

CK_RV sdf_verify(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, const CK_BYTE *data,
                 CK_ULONG size, const CK_BYTE *signature, CK_ULONG signature_size)
{
    CK_SECGEAR_INPUT input = {data, size}, signed_with = {signature, signature_size};
    CK_SECGEAR_RESULT result = {NULL, 0, CKR_DEVICE_ERROR};
    CK_ULONG nothing = 0;
    CK_RV rv = S_VerifyBatch(session, mechanism, 1, key, &input, 1, &signed_with, 1, &result, 1);
    return outcome(rv, &result, &nothing);
}

CK_RV sdf_encrypt(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, const CK_BYTE *from,
                  CK_ULONG size, CK_BYTE *to, CK_ULONG *made)
{
    CK_SECGEAR_INPUT input = {from, size};
    CK_SECGEAR_RESULT result = {to, *made, CKR_DEVICE_ERROR};
    CK_RV rv = S_EncryptBatch(session, mechanism, 1, key, &input, 1, &result, 1);
    return outcome(rv, &result, made);
}

CK_RV sdf_decrypt(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, const CK_BYTE *from,
                  CK_ULONG size, CK_BYTE *to, CK_ULONG *made)
{
    CK_SECGEAR_INPUT input = {from, size};
    CK_SECGEAR_RESULT result = {to, *made, CKR_DEVICE_ERROR};
    CK_RV rv = S_DecryptBatch(session, mechanism, 1, key, &input, 1, &result, 1);
    return outcome(rv, &result, made);
}
