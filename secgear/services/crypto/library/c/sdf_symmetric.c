/* Session keys in one call: encryption and MACs. */
#include <stdlib.h>
#include <string.h>

#include "sdf_rooms.h"

int sdf_cipher_known(unsigned algorithm, unsigned wanted)
{
    if (algorithm == wanted)
        return SDR_OK;
    unsigned family = algorithm & 0x00ffff00;
    return family == (SGD_SM4_ECB & 0xff00) ? SDR_ALGMODNOTSUPPORT : SDR_ALGNOTSUPPORT;
}

int sdf_mode_of(unsigned algorithm, const unsigned char *iv, struct sdf_mode *mode)
{
    memset(mode, 0, sizeof *mode);
    mode->mechanism.pParameter = mode->parameter.iv;
    mode->mechanism.ulParameterLen = SDF_BLOCK;
    switch (algorithm) {
    case SGD_SM4_ECB:
        mode->mechanism = (CK_MECHANISM){CKM_SM4_ECB, NULL, 0};
        mode->blocks = true;
        return SDR_OK;
    case SGD_SM4_CBC:
    case SGD_SM4_MAC:
        mode->mechanism.mechanism = CKM_SM4_CBC;
        mode->blocks = true;
        break;
    case SGD_SM4_CTR:
        mode->mechanism.mechanism = CKM_SM4_CTR;
        mode->mechanism.ulParameterLen = sizeof mode->parameter.ctr;
        break;
    default:
        return sdf_cipher_known(algorithm, SGD_SM4_ECB);
    }
    if (iv == NULL)
        return SDR_INARGERR;
    if (algorithm == SGD_SM4_CTR) {
        mode->parameter.ctr.ulCounterBits = 8 * SDF_BLOCK;
        memcpy(mode->parameter.ctr.cb, iv, SDF_BLOCK);
    } else {
        memcpy(mode->parameter.iv, iv, SDF_BLOCK);
    }
    return SDR_OK;
}

/* --- encryption -------------------------------------------------------------------------------- */

struct direction {
    CK_RV (*once)(CK_ULONG, CK_MECHANISM_PTR, CK_ULONG, const CK_BYTE *, CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR);
    CK_RV (*init)(CK_ULONG, CK_MECHANISM_PTR, CK_ULONG);
    CK_RV (*update)(CK_ULONG, CK_BYTE_PTR, CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR);
    CK_RV (*final)(CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR);
};

static const struct direction ENCRYPTION = {sdf_encrypt, C_EncryptInit, C_EncryptUpdate, C_EncryptFinal};
static const struct direction DECRYPTION = {sdf_decrypt, C_DecryptInit, C_DecryptUpdate, C_DecryptFinal};

/* As much output as input, which may be in one place. What does not fit in one call is in several. */
static CK_RV run(const struct direction *to, CK_SESSION_HANDLE session, struct sdf_mode *mode,
                 CK_OBJECT_HANDLE key, const uint8_t *from, uint8_t *into, size_t size)
{
    CK_ULONG made = size;
    if (size <= SDF_PIECE) {
        CK_RV done = to->once(session, &mode->mechanism, key, from, size, into, &made);
        return done == CKR_OK && made != size ? CKR_DEVICE_ERROR : done;
    }
    CK_RV rv = to->init(session, &mode->mechanism, key);
    if (rv != CKR_OK)
        return rv;
    for (size_t at = 0; at < size && rv == CKR_OK; at += made) {
        size_t part = size - at < SDF_PIECE ? size - at : SDF_PIECE;
        made = part;
        rv = to->update(session, (CK_BYTE_PTR)from + at, part, into + at, &made);
        if (rv == CKR_OK && made != part)
            rv = CKR_DEVICE_ERROR;
    }
    made = 0;
    uint8_t nothing[1];
    CK_RV last = to->final(session, nothing, &made);
    return rv == CKR_OK ? last : rv;
}

/* The counter after so many bytes. */
static void count_on(uint8_t counter[SDF_BLOCK], size_t size)
{
    uint64_t carry = (size + SDF_BLOCK - 1) / SDF_BLOCK;
    for (int at = SDF_BLOCK; at-- > 0 && carry != 0; carry >>= 8) {
        carry += counter[at];
        counter[at] = (uint8_t)carry;
    }
}

static int crypt(void *handle, void *key_handle, unsigned algorithm, unsigned char *iv, unsigned char *from,
                 unsigned size, unsigned char *to, unsigned *length, bool encrypt)
{
    struct sdf_mode mode;
    int result = algorithm == SGD_SM4_MAC ? SDR_ALGMODNOTSUPPORT : sdf_mode_of(algorithm, iv, &mode);
    if (result != SDR_OK)
        return result;
    if (from == NULL || size == 0 || (mode.blocks && size % SDF_BLOCK != 0))
        return SDR_INARGERR;
    if (length == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(handle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key = sdf_key_of(session, key_handle);
    result = key == CK_INVALID_HANDLE ? SDR_KEYNOTEXIST : sdf_room(to, length, size);
    if (result == SDR_OK) {
        uint8_t next[SDF_BLOCK]; /* what is decrypted may be overwritten by what it is */
        if (algorithm == SGD_SM4_CBC && !encrypt)
            memcpy(next, from + size - SDF_BLOCK, SDF_BLOCK);
        CK_RV rv = run(encrypt ? &ENCRYPTION : &DECRYPTION, session->handle, &mode, key, from, to, size);
        result = sdf_error(rv, SDR_SYMOPERR);
        if (result == SDR_OK && algorithm == SGD_SM4_CBC)
            memcpy(iv, encrypt ? to + size - SDF_BLOCK : next, SDF_BLOCK);
        if (result == SDR_OK && algorithm == SGD_SM4_CTR)
            count_on(iv, size);
    }
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_Encrypt(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID, unsigned char *pucIV,
                          unsigned char *pucData, unsigned int uiDataLength, unsigned char *pucEncData,
                          unsigned int *puiEncDataLength)
{
    return crypt(hSessionHandle, hKeyHandle, uiAlgID, pucIV, pucData, uiDataLength, pucEncData, puiEncDataLength,
                 true);
}

SG_EXPORT int SDF_Decrypt(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID, unsigned char *pucIV,
                          unsigned char *pucEncData, unsigned int uiEncDataLength, unsigned char *pucData,
                          unsigned int *puiDataLength)
{
    return crypt(hSessionHandle, hKeyHandle, uiAlgID, pucIV, pucEncData, uiEncDataLength, pucData, puiDataLength,
                 false);
}

/* --- MACs -------------------------------------------------------------------------------------- */

/* CBC-MAC: the last block of what CBC makes. The other blocks are thrown away: each is the MAC of
 * what is before it. */
CK_RV sdf_mac_update(CK_SESSION_HANDLE session, const uint8_t *data, size_t size, uint64_t before,
                     uint8_t mac[SDF_BLOCK])
{
    size_t room = (size < SDF_PIECE ? size : SDF_PIECE) + SDF_BLOCK;
    uint8_t *made = malloc(room);
    CK_RV rv = made == NULL ? CKR_HOST_MEMORY : CKR_OK;
    for (size_t at = 0; at < size && rv == CKR_OK;) {
        size_t part = size - at < SDF_PIECE ? size - at : SDF_PIECE;
        CK_ULONG blocks = part + SDF_BLOCK, whole = before % SDF_BLOCK + part;
        whole -= whole % SDF_BLOCK;
        rv = C_EncryptUpdate(session, (CK_BYTE_PTR)data + at, part, made, &blocks);
        if (rv == CKR_OK && blocks != whole)
            rv = CKR_DEVICE_ERROR;
        if (rv == CKR_OK && whole != 0)
            memcpy(mac, made + whole - SDF_BLOCK, SDF_BLOCK);
        at += part;
        before += part;
    }
    sg_wipe_free(made, room);
    return rv;
}

SG_EXPORT int SDF_CalculateMAC(void *hSessionHandle, void *hKeyHandle, unsigned int uiAlgID,
                               unsigned char *pucIV, unsigned char *pucData, unsigned int uiDataLength,
                               unsigned char *pucMAC, unsigned int *puiMACLength)
{
    struct sdf_mode mode;
    int result = sdf_cipher_known(uiAlgID, SGD_SM4_MAC);
    if (result == SDR_OK)
        result = sdf_mode_of(uiAlgID, pucIV, &mode);
    if (result != SDR_OK)
        return result;
    if (pucData == NULL || uiDataLength == 0 || uiDataLength % SDF_BLOCK != 0)
        return SDR_INARGERR;
    if (puiMACLength == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE key = sdf_key_of(session, hKeyHandle);
    result = key == CK_INVALID_HANDLE ? SDR_KEYNOTEXIST : sdf_room(pucMAC, puiMACLength, SDF_BLOCK);
    if (result == SDR_OK) {
        uint8_t mac[SDF_BLOCK], nothing[1];
        CK_ULONG none = 0;
        CK_RV rv = C_EncryptInit(session->handle, &mode.mechanism, key);
        if (rv == CKR_OK) {
            rv = sdf_mac_update(session->handle, pucData, uiDataLength, 0, mac);
            CK_RV last = C_EncryptFinal(session->handle, nothing, &none);
            rv = rv == CKR_OK ? last : rv;
        }
        result = sdf_error(rv, SDR_MACERR);
        if (result == SDR_OK) {
            memcpy(pucMAC, mac, SDF_BLOCK);
            memcpy(pucIV, mac, SDF_BLOCK); /* to go on with */
        }
    }
    sdf_leave(session);
    return result;
}
