/* The calls of PKCS#11 3.0 that work message by message. What belongs to a message is in a structure
 * of the application's, in which the module's part of it comes back. */
#include <string.h>

#include "library.h"

enum { END_OF_MESSAGE = 1, TAG_BITS = 128 };

struct gcm {
    CK_BYTE_PTR pIv;
    CK_ULONG ulIvLen, ulIvFixedBits, ivGenerator;
    CK_BYTE_PTR pTag;
    CK_ULONG ulTagBits;
};

struct ccm {
    CK_ULONG ulDataLen;
    CK_BYTE_PTR pNonce;
    CK_ULONG ulNonceLen, ulNonceFixedBits, nonceGenerator;
    CK_BYTE_PTR pMAC;
    CK_ULONG ulMACLen;
};

struct chacha {
    CK_BYTE_PTR pNonce;
    CK_ULONG ulNonceLen;
    CK_BYTE_PTR pTag;
};

/* CK_GCM_MESSAGE_PARAMS, CK_CCM_MESSAGE_PARAMS, CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS in one. */
struct message {
    CK_BYTE_PTR iv, tag;
    CK_ULONG iv_size, fixed_bits, generator, tag_bits, size;
};

/* The mechanism is known to the module alone, and to who has called C_MessageEncryptInit; but the three
 * structures have three sizes. */
static void message_of(struct sg_call *call, const void *parameter, CK_ULONG size, struct message *message)
{
    memset(message, 0, sizeof *message);
    if (parameter == NULL) {
        sg_fail(call, CKR_MECHANISM_PARAM_INVALID);
    } else if (size == sizeof(struct gcm)) {
        struct gcm given;
        memcpy(&given, parameter, sizeof given);
        *message = (struct message){given.pIv, given.pTag, given.ulIvLen, given.ulIvFixedBits,
                                    given.ivGenerator, given.ulTagBits, 0};
    } else if (size == sizeof(struct ccm)) {
        struct ccm given;
        memcpy(&given, parameter, sizeof given);
        CK_ULONG bits = given.ulMACLen <= TAG_BITS / 8 ? 8 * given.ulMACLen : TAG_BITS + 1;
        *message = (struct message){given.pNonce, given.pMAC, given.ulNonceLen, given.ulNonceFixedBits,
                                    given.nonceGenerator, bits, given.ulDataLen};
    } else if (size == sizeof(struct chacha)) {
        struct chacha given;
        memcpy(&given, parameter, sizeof given);
        *message = (struct message){given.pNonce, given.pTag, given.ulNonceLen, 0, 0, TAG_BITS, 0};
    } else {
        sg_fail(call, CKR_MECHANISM_PARAM_INVALID);
    }
    if ((message->iv == NULL && message->iv_size != 0) || (message->tag == NULL && message->tag_bits != 0) ||
        message->tag_bits > TAG_BITS)
        sg_fail(call, CKR_MECHANISM_PARAM_INVALID);
}

static void put_message(struct sg_call *call, const struct message *message, bool with_tag)
{
    if (call->rv != CKR_OK)
        return;
    sg_encode_array(&call->out, message->iv, message->iv_size);
    sg_write_u64(&call->out, message->fixed_bits);
    sg_write_u64(&call->out, message->generator);
    sg_encode_array(&call->out, message->tag, with_tag ? message->tag_bits / 8 : 0);
    sg_write_u64(&call->out, message->tag_bits);
    sg_write_u64(&call->out, message->size);
}

/* Bytes that come into the structure: exactly as many as it says, or none where nothing was done. */
static void get_part(struct sg_call *call, CK_BYTE_PTR into, CK_ULONG size, bool wanted)
{
    if (!sg_readable(call))
        return;
    size_t length = 0;
    const uint8_t *data = sg_read_u8(&call->in) ? sg_read_array(&call->in, &length) : NULL;
    if (data == NULL || length != (wanted ? size : 0))
        call->in.malformed = true;
    else if (length != 0)
        memcpy(into, data, length);
}

SG_EXPORT CK_RV C_EncryptMessage(CK_SESSION_HANDLE hSession, CK_VOID_PTR pParameter, CK_ULONG ulParameterLen,
                                 CK_BYTE_PTR pAssociatedData, CK_ULONG ulAssociatedDataLen, CK_BYTE_PTR pPlaintext,
                                 CK_ULONG ulPlaintextLen, CK_BYTE_PTR pCiphertext, CK_ULONG_PTR pulCiphertextLen)
{
    struct sg_call call;
    struct message message;
    sg_begin(&call, SG_ID_EncryptMessage, SG_REQUEST_EncryptMessage);
    sg_put_ulong(&call, hSession);
    message_of(&call, pParameter, ulParameterLen, &message);
    put_message(&call, &message, false);
    sg_put_bytes(&call, pAssociatedData, ulAssociatedDataLen);
    sg_put_bytes(&call, pPlaintext, ulPlaintextLen);
    sg_put_room(&call, pCiphertext, pulCiphertextLen);
    sg_exchange(&call, "ayayay");
    sg_get_bytes(&call, pCiphertext, pulCiphertextLen);
    bool done = call.outcome == CKR_OK && pCiphertext != NULL;
    get_part(&call, message.iv, message.iv_size, done);
    get_part(&call, message.tag, message.tag_bits / 8, done);
    return sg_end(&call);
}

SG_EXPORT CK_RV C_EncryptMessageBegin(CK_SESSION_HANDLE hSession, CK_VOID_PTR pParameter, CK_ULONG ulParameterLen,
                                      CK_BYTE_PTR pAssociatedData, CK_ULONG ulAssociatedDataLen)
{
    struct sg_call call;
    struct message message;
    sg_begin(&call, SG_ID_EncryptMessageBegin, SG_REQUEST_EncryptMessageBegin);
    sg_put_ulong(&call, hSession);
    message_of(&call, pParameter, ulParameterLen, &message);
    put_message(&call, &message, false);
    sg_put_bytes(&call, pAssociatedData, ulAssociatedDataLen);
    sg_exchange(&call, "ay");
    get_part(&call, message.iv, message.iv_size, true);
    return sg_end(&call);
}

SG_EXPORT CK_RV C_EncryptMessageNext(CK_SESSION_HANDLE hSession, CK_VOID_PTR pParameter, CK_ULONG ulParameterLen,
                                     CK_BYTE_PTR pPlaintextPart, CK_ULONG ulPlaintextPartLen,
                                     CK_BYTE_PTR pCiphertextPart, CK_ULONG_PTR pulCiphertextPartLen, CK_FLAGS flags)
{
    struct sg_call call;
    struct message message;
    sg_begin(&call, SG_ID_EncryptMessageNext, SG_REQUEST_EncryptMessageNext);
    sg_put_ulong(&call, hSession);
    message_of(&call, pParameter, ulParameterLen, &message);
    sg_put_bytes(&call, pPlaintextPart, ulPlaintextPartLen);
    sg_put_room(&call, pCiphertextPart, pulCiphertextPartLen);
    sg_put_ulong(&call, flags);
    sg_exchange(&call, "ayay");
    sg_get_bytes(&call, pCiphertextPart, pulCiphertextPartLen);
    bool done = call.outcome == CKR_OK && pCiphertextPart != NULL && (flags & END_OF_MESSAGE) != 0;
    get_part(&call, message.tag, message.tag_bits / 8, done);
    return sg_end(&call);
}

SG_EXPORT CK_RV C_DecryptMessage(CK_SESSION_HANDLE hSession, CK_VOID_PTR pParameter, CK_ULONG ulParameterLen,
                                 CK_BYTE_PTR pAssociatedData, CK_ULONG ulAssociatedDataLen, CK_BYTE_PTR pCiphertext,
                                 CK_ULONG ulCiphertextLen, CK_BYTE_PTR pPlaintext, CK_ULONG_PTR pulPlaintextLen)
{
    struct sg_call call;
    struct message message;
    sg_begin(&call, SG_ID_DecryptMessage, SG_REQUEST_DecryptMessage);
    sg_put_ulong(&call, hSession);
    message_of(&call, pParameter, ulParameterLen, &message);
    put_message(&call, &message, true);
    sg_put_bytes(&call, pAssociatedData, ulAssociatedDataLen);
    sg_put_bytes(&call, pCiphertext, ulCiphertextLen);
    sg_put_room(&call, pPlaintext, pulPlaintextLen);
    sg_exchange(&call, "ay");
    sg_get_bytes(&call, pPlaintext, pulPlaintextLen);
    return sg_end(&call);
}

/* The tag has to be there from the beginning. */
SG_EXPORT CK_RV C_DecryptMessageBegin(CK_SESSION_HANDLE hSession, CK_VOID_PTR pParameter, CK_ULONG ulParameterLen,
                                      CK_BYTE_PTR pAssociatedData, CK_ULONG ulAssociatedDataLen)
{
    struct sg_call call;
    struct message message;
    sg_begin(&call, SG_ID_DecryptMessageBegin, SG_REQUEST_DecryptMessageBegin);
    sg_put_ulong(&call, hSession);
    message_of(&call, pParameter, ulParameterLen, &message);
    put_message(&call, &message, true);
    sg_put_bytes(&call, pAssociatedData, ulAssociatedDataLen);
    sg_exchange(&call, "");
    return sg_end(&call);
}

SG_EXPORT CK_RV C_DecryptMessageNext(CK_SESSION_HANDLE hSession, CK_VOID_PTR pParameter, CK_ULONG ulParameterLen,
                                     CK_BYTE_PTR pCiphertextPart, CK_ULONG ulCiphertextPartLen,
                                     CK_BYTE_PTR pPlaintextPart, CK_ULONG_PTR pulPlaintextPartLen, CK_FLAGS flags)
{
    (void)pParameter;
    (void)ulParameterLen;
    struct sg_call call;
    sg_begin(&call, SG_ID_DecryptMessageNext, SG_REQUEST_DecryptMessageNext);
    sg_put_ulong(&call, hSession);
    sg_put_bytes(&call, pCiphertextPart, ulCiphertextPartLen);
    sg_put_room(&call, pPlaintextPart, pulPlaintextPartLen);
    sg_put_ulong(&call, flags);
    sg_exchange(&call, "ay");
    sg_get_bytes(&call, pPlaintextPart, pulPlaintextPartLen);
    return sg_end(&call);
}

/* The last piece is the one with a place for the signature. */
SG_EXPORT CK_RV C_SignMessageNext(CK_SESSION_HANDLE hSession, CK_VOID_PTR pParameter, CK_ULONG ulParameterLen,
                                  CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature,
                                  CK_ULONG_PTR pulSignatureLen)
{
    struct sg_call call;
    CK_ULONG nothing = 0;
    bool last = pulSignatureLen != NULL;
    sg_begin(&call, SG_ID_SignMessageNext, SG_REQUEST_SignMessageNext);
    sg_put_ulong(&call, hSession);
    sg_put_bytes(&call, pParameter, ulParameterLen);
    sg_put_bytes(&call, pData, ulDataLen);
    sg_put_byte(&call, last ? 1 : 0);
    sg_put_room(&call, last ? pSignature : NULL, last ? pulSignatureLen : &nothing);
    sg_exchange(&call, "ay");
    sg_get_bytes(&call, last ? pSignature : NULL, last ? pulSignatureLen : &nothing);
    return sg_end(&call);
}

/* The last piece is the one with a signature. */
SG_EXPORT CK_RV C_VerifyMessageNext(CK_SESSION_HANDLE hSession, CK_VOID_PTR pParameter, CK_ULONG ulParameterLen,
                                    CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature,
                                    CK_ULONG ulSignatureLen)
{
    struct sg_call call;
    sg_begin(&call, SG_ID_VerifyMessageNext, SG_REQUEST_VerifyMessageNext);
    sg_put_ulong(&call, hSession);
    sg_put_bytes(&call, pParameter, ulParameterLen);
    sg_put_bytes(&call, pData, ulDataLen);
    if (pSignature == NULL) {
        sg_write_u8(&call.out, 0);
        sg_write_u32(&call.out, 0);
    } else {
        sg_put_bytes(&call, pSignature, ulSignatureLen);
    }
    sg_exchange(&call, "");
    return sg_end(&call);
}
