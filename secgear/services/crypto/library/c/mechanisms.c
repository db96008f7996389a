/* Mechanisms on the wire. The structures' fields are written one by one: pointers stay here. */
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

bool sg_encodable(struct sg_writer *writer, size_t size, size_t expected)
{
    if (size != expected)
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
