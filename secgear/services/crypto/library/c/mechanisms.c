/* Mechanisms on the wire. The structures' fields are written one by one: pointers stay here. */
#include <string.h>

#include "library.h"

void sg_encode_array(struct sg_writer *writer, const void *data, CK_ULONG size)
{
    if ((data == NULL && size != 0) || size > SG_MAX_PARAMETER)
        writer->rv = CKR_MECHANISM_PARAM_INVALID;
    else
        sg_write_array(writer, data, size);
}

void sg_encode_octets(struct sg_writer *writer, const void *parameter, size_t size)
{
    sg_encode_array(writer, parameter, size);
}

bool sg_encodable(struct sg_writer *writer, const void *parameter, size_t size, size_t expected)
{
    if (parameter == NULL || size != expected)
        writer->rv = CKR_MECHANISM_PARAM_INVALID;
    return writer->rv == CKR_OK;
}

void sg_put_mechanism(struct sg_call *call, const CK_MECHANISM *mechanism)
{
    struct sg_writer *out = &call->out;
    if (mechanism == NULL) { /* ends an operation (PKCS#11 3.0, 5.1) */
        sg_write_u32(out, SG_CANCEL);
        return;
    }
    if (mechanism->mechanism >= SG_CANCEL) {
        sg_fail(call, CKR_MECHANISM_INVALID);
        return;
    }
    uint32_t number = (uint32_t)mechanism->mechanism;
    sg_encoder encode = sg_encoder_of(number);
    sg_write_u32(out, number);
    /* Of a mechanism that is not known here the parameter stays: it may hold anything, pointers too. */
    bool present = encode != NULL && mechanism->pParameter != NULL;
    if (encode != NULL && mechanism->pParameter == NULL && mechanism->ulParameterLen != 0)
        sg_fail(call, CKR_MECHANISM_PARAM_INVALID);
    sg_write_u8(out, present ? 1 : 0);
    if (present)
        encode(out, mechanism->pParameter, mechanism->ulParameterLen);
}

/* --- the key derivation of SP 800-108, in counter mode --------------------------------------- */

enum { ITERATION_VARIABLE = 1, BYTE_ARRAY = 4, DATA_PARAMS = 64 };

struct kdf { /* CK_SP800_108_KDF_PARAMS */
    CK_ULONG prfType, ulNumberOfDataParams;
    const struct data_param *pDataParams;
    CK_ULONG ulAdditionalDerivedKeys;
    CK_VOID_PTR pAdditionalDerivedKeys;
};

struct data_param { /* CK_PRF_DATA_PARAM */
    CK_ULONG type;
    CK_VOID_PTR pValue;
    CK_ULONG ulValueLen;
};

struct counter { /* CK_SP800_108_COUNTER_FORMAT */
    CK_BBOOL bLittleEndian;
    CK_ULONG ulWidthInBits;
};

/* The byte arrays before the counter, or those behind it, put together to one. */
static void encode_arrays(struct sg_writer *writer, const struct data_param *params, CK_ULONG count)
{
    CK_ULONG size = 0;
    for (CK_ULONG i = 0; i < count; i++) {
        if (params[i].type != BYTE_ARRAY || (params[i].pValue == NULL && params[i].ulValueLen != 0) ||
            params[i].ulValueLen > SG_MAX_PARAMETER - size) {
            writer->rv = CKR_MECHANISM_PARAM_INVALID;
            return;
        }
        size += params[i].ulValueLen;
    }
    sg_write_u32(writer, (uint32_t)size);
    for (CK_ULONG i = 0; i < count; i++)
        sg_write_raw(writer, params[i].pValue, params[i].ulValueLen);
}

/* Big-endian counter and byte arrays, one key. The length of the key can be one of the arrays. */
void sg_encode_kdf(struct sg_writer *writer, const void *parameter, size_t size)
{
    struct kdf given;
    struct counter counter;
    if (!sg_encodable(writer, parameter, size, sizeof given))
        return;
    memcpy(&given, parameter, sizeof given);
    CK_ULONG count = given.ulNumberOfDataParams, at = 0;
    if (given.pDataParams == NULL || count > DATA_PARAMS || given.ulAdditionalDerivedKeys != 0) {
        writer->rv = CKR_MECHANISM_PARAM_INVALID;
        return;
    }
    while (at < count && given.pDataParams[at].type != ITERATION_VARIABLE)
        at++;
    const struct data_param *variable = &given.pDataParams[at];
    if (at == count || variable->pValue == NULL || variable->ulValueLen != sizeof counter) {
        writer->rv = CKR_MECHANISM_PARAM_INVALID;
        return;
    }
    memcpy(&counter, variable->pValue, sizeof counter);
    if (counter.bLittleEndian)
        writer->rv = CKR_MECHANISM_PARAM_INVALID;
    sg_write_u64(writer, given.prfType);
    sg_write_u64(writer, counter.ulWidthInBits);
    encode_arrays(writer, given.pDataParams, at);
    encode_arrays(writer, variable + 1, count - at - 1);
}
