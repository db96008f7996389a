/* Key agreement with SM2 (GB/T 32918.3): the sponsor is the standard's A, the responder its B. */
#include <stdlib.h>
#include <string.h>

#include "sdf_rooms.h"

/* One side of an agreement before the key is there. */
struct side {
    CK_OBJECT_HANDLE own, ephemeral;
    uint8_t point[SDF_POINT + 2], ephemeral_point[SDF_POINT + 2];
};

static CK_RV make_ephemeral(struct sdf_session *session, struct side *side)
{
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_MECHANISM mechanism = {CKM_SM2_KEY_PAIR_GEN, NULL, 0};
    CK_ATTRIBUTE public[] = {{CKA_TOKEN, &no, sizeof no}, {CKA_PRIVATE, &no, sizeof no}};
    CK_ATTRIBUTE private[] = {
        {CKA_TOKEN, &no, sizeof no},
        {CKA_PRIVATE, &no, sizeof no}, /* it outlives a logout, and is no use without the other key */
        {CKA_DERIVE, &yes, sizeof yes},
    };
    CK_OBJECT_HANDLE public_key;
    CK_RV rv = C_GenerateKeyPair(session->handle, &mechanism, public, 2, private, 3, &public_key,
                                 &side->ephemeral);
    if (rv != CKR_OK)
        return rv;
    rv = sdf_read_point(session, public_key, side->ephemeral_point);
    C_DestroyObject(session->handle, public_key);
    if (rv != CKR_OK)
        C_DestroyObject(session->handle, side->ephemeral);
    return rv;
}

static int begin(struct sdf_session *session, unsigned index, struct side *side)
{
    int result = sdf_find_private(session, SDF_ENC, index, CKK_SM2, &side->own);
    if (result == SDR_OK)
        result = sdf_export_point(session, SDF_ENC, index, side->point);
    return result == SDR_OK ? sdf_error(make_ephemeral(session, side), SDR_SKOPERR) : result;
}

struct peer {
    const uint8_t *id;
    size_t id_size;
    uint8_t point[SDF_POINT], ephemeral_point[SDF_POINT];
};

static bool peer_of(struct peer *peer, const unsigned char *id, unsigned id_size, const ECCrefPublicKey *key,
                    const ECCrefPublicKey *ephemeral)
{
    *peer = (struct peer){.id = id, .id_size = id_size};
    return sdf_point_of(key, peer->point) && sdf_point_of(ephemeral, peer->ephemeral_point);
}

/* The key. Whatever comes of it, the module destroys the ephemeral one. */
static int agree(struct sdf_session *session, bool initiator, CK_OBJECT_HANDLE own, CK_OBJECT_HANDLE ephemeral,
                 const uint8_t *id, size_t id_size, struct peer *peer, unsigned bits, void **handle)
{
    CK_ULONG size = sdf_key_size(bits);
    struct CK_SECGEAR_SM2_EXCHANGE_PARAMS parameter = {
        .bInitiator = initiator,
        .hEphemeralKey = ephemeral,
        .pPeerPublic = peer->point,
        .ulPeerPublicLen = SDF_POINT,
        .pPeerEphemeral = peer->ephemeral_point,
        .ulPeerEphemeralLen = SDF_POINT,
        .pIdentity = (CK_BYTE_PTR)id,
        .ulIdentityLen = id_size,
        .pPeerIdentity = (CK_BYTE_PTR)peer->id,
        .ulPeerIdentityLen = peer->id_size,
    };
    CK_MECHANISM mechanism = {CKM_SM2_EXCHANGE, &parameter, sizeof parameter};
    CK_ATTRIBUTE template[SDF_KEY_ATTRIBUTES];
    CK_ULONG count = sdf_key_template(template, &size);
    CK_OBJECT_HANDLE key;
    CK_RV rv = C_DeriveKey(session->handle, &mechanism, own, template, count, &key);
    if (rv == CKR_MECHANISM_PARAM_INVALID)
        return SDR_KEYERR; /* what the peer has sent is no point of the curve */
    return rv == CKR_OK ? sdf_keep_key(session, key, handle) : sdf_outcome(session, rv, SDR_SKOPERR);
}

static bool bad_id(const unsigned char *id, unsigned size)
{
    return size > SDF_MAX_ID || (id == NULL && size != 0);
}

SG_EXPORT int SDF_GenerateAgreementDataWithECC(void *hSessionHandle, unsigned int uiISKIndex,
                                               unsigned int uiKeyBits, unsigned char *pucSponsorID,
                                               unsigned int uiSponsorIDLength,
                                               ECCrefPublicKey *pucSponsorPublicKey,
                                               ECCrefPublicKey *pucSponsorTmpPublicKey,
                                               void **phAgreementHandle)
{
    if (sdf_key_size(uiKeyBits) == 0 || bad_id(pucSponsorID, uiSponsorIDLength))
        return SDR_INARGERR;
    if (pucSponsorPublicKey == NULL || pucSponsorTmpPublicKey == NULL || phAgreementHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_agreement *kept = calloc(1, sizeof *kept + uiSponsorIDLength);
    if (kept == NULL)
        return SDR_NOBUFFER;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    struct side side;
    void *handle = NULL;
    int result = session == NULL ? sdf_no_session() : begin(session, uiISKIndex, &side);
    if (result == SDR_OK) {
        kept->object.kind = SDF_AGREEMENT;
        kept->own = side.own;
        kept->ephemeral = side.ephemeral;
        kept->bits = uiKeyBits;
        kept->index = uiISKIndex;
        kept->id_size = uiSponsorIDLength;
        if (uiSponsorIDLength != 0)
            memcpy(kept->id, pucSponsorID, uiSponsorIDLength);
        handle = sdf_handle_of(&kept->object, &session->object);
        if (handle == NULL) {
            C_DestroyObject(session->handle, side.ephemeral);
            result = SDR_NOBUFFER;
        }
    }
    if (result == SDR_OK) {
        sdf_point_to(side.point + 2, pucSponsorPublicKey);
        sdf_point_to(side.ephemeral_point + 2, pucSponsorTmpPublicKey);
        *phAgreementHandle = handle;
    } else {
        free(kept);
    }
    if (session != NULL)
        sdf_leave(session);
    return result;
}

struct sdf_object *sdf_take_agreement(struct sdf_session *session, void *handle, CK_OBJECT_HANDLE *ephemeral)
{
    struct sdf_object *object = sdf_use(handle, SDF_AGREEMENT);
    if (object == NULL)
        return NULL;
    bool ours = object->owner == &session->object;
    sdf_done(object);
    if (!ours)
        return NULL;
    object = sdf_take(handle, SDF_AGREEMENT);
    if (object != NULL)
        *ephemeral = ((struct sdf_agreement *)object)->ephemeral;
    return object;
}

/* It ends the agreement, whatever comes of it: an ephemeral key is used once. Not before it is clear
 * that the caller has said all that is needed. */
SG_EXPORT int SDF_GenerateKeyWithECC(void *hSessionHandle, unsigned char *pucResponseID,
                                     unsigned int uiResponseIDLength, ECCrefPublicKey *pucResponsePublicKey,
                                     ECCrefPublicKey *pucResponseTmpPublicKey, void *hAgreementHandle,
                                     void **phKeyHandle)
{
    struct peer peer;
    if (bad_id(pucResponseID, uiResponseIDLength) || pucResponsePublicKey == NULL ||
        pucResponseTmpPublicKey == NULL)
        return SDR_INARGERR;
    if (phKeyHandle == NULL)
        return SDR_OUTARGERR;
    if (!peer_of(&peer, pucResponseID, uiResponseIDLength, pucResponsePublicKey, pucResponseTmpPublicKey))
        return SDR_KEYERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_OBJECT_HANDLE ephemeral;
    struct sdf_agreement *kept =
        (struct sdf_agreement *)sdf_take_agreement(session, hAgreementHandle, &ephemeral);
    int result = SDR_KEYNOTEXIST;
    if (kept != NULL) {
        result = SDR_PARDENY;
        if (sdf_has_right(session, kept->index))
            result = agree(session, true, kept->own, ephemeral, kept->id, kept->id_size, &peer, kept->bits,
                           phKeyHandle);
        else
            C_DestroyObject(session->handle, ephemeral);
        sdf_done(&kept->object);
    }
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_GenerateAgreementDataAndKeyWithECC(
    void *hSessionHandle, unsigned int uiISKIndex, unsigned int uiKeyBits, unsigned char *pucResponseID,
    unsigned int uiResponseIDLength, unsigned char *pucSponsorID, unsigned int uiSponsorIDLength,
    ECCrefPublicKey *pucSponsorPublicKey, ECCrefPublicKey *pucSponsorTmpPublicKey,
    ECCrefPublicKey *pucResponsePublicKey, ECCrefPublicKey *pucResponseTmpPublicKey, void **phKeyHandle)
{
    struct peer peer;
    if (sdf_key_size(uiKeyBits) == 0 || bad_id(pucResponseID, uiResponseIDLength) ||
        bad_id(pucSponsorID, uiSponsorIDLength) || pucSponsorPublicKey == NULL || pucSponsorTmpPublicKey == NULL)
        return SDR_INARGERR;
    if (pucResponsePublicKey == NULL || pucResponseTmpPublicKey == NULL || phKeyHandle == NULL)
        return SDR_OUTARGERR;
    if (!peer_of(&peer, pucSponsorID, uiSponsorIDLength, pucSponsorPublicKey, pucSponsorTmpPublicKey))
        return SDR_KEYERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    struct side side;
    int result = begin(session, uiISKIndex, &side);
    if (result == SDR_OK)
        result = agree(session, false, side.own, side.ephemeral, pucResponseID, uiResponseIDLength, &peer,
                       uiKeyBits, phKeyHandle);
    if (result == SDR_OK) {
        sdf_point_to(side.point + 2, pucResponsePublicKey);
        sdf_point_to(side.ephemeral_point + 2, pucResponseTmpPublicKey);
    }
    sdf_leave(session);
    return result;
}
