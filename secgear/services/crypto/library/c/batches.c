/* What only our own calls have: many operations at once, and results of any length. */
#include <stdlib.h>
#include <string.h>

#include "library.h"

SG_EXPORT void S_Free(CK_BYTE_PTR data)
{
    free(data);
}

void sg_need_document(struct sg_call *call, CK_BYTE_PTR *data, CK_ULONG *size)
{
    sg_need(call, data);
    sg_need(call, size);
    if (data != NULL)
        *data = NULL;
    if (size != NULL)
        *size = 0;
}

void sg_need_results(struct sg_call *call, const CK_SECGEAR_RESULT *results, CK_ULONG count)
{
    if (results == NULL || count != call->inputs)
        sg_fail(call, CKR_ARGUMENTS_BAD);
}

void sg_get_document(struct sg_call *call, CK_BYTE_PTR *data, CK_ULONG *size)
{
    if (!sg_readable(call))
        return;
    size_t length = 0;
    const uint8_t *bytes = sg_read_u8(&call->in) ? sg_read_array(&call->in, &length) : NULL;
    if (bytes == NULL) {
        call->in.malformed = true;
        return;
    }
    *data = malloc(length ? length : 1);
    if (*data == NULL) {
        sg_fail(call, CKR_HOST_MEMORY);
        return;
    }
    memcpy(*data, bytes, length);
    *size = length;
    call->document = data;
    call->document_size = size;
}

void sg_drop_document(struct sg_call *call)
{
    if (call->document == NULL)
        return;
    sg_wipe_free(*call->document, *call->document_size);
    *call->document = NULL;
    *call->document_size = 0;
}

/* One type and the parameters: of each input, or one for all; all of them have one, or none. */
void sg_put_mechanisms(struct sg_call *call, const CK_MECHANISM *mechanisms, CK_ULONG count)
{
    struct sg_writer *out = &call->out;
    if (mechanisms == NULL || count == 0 || count > SG_MAX_BATCH) {
        sg_fail(call, CKR_ARGUMENTS_BAD);
        return;
    }
    CK_MECHANISM_TYPE type = mechanisms[0].mechanism;
    bool present = mechanisms[0].pParameter != NULL;
    if (type >= SG_CANCEL) {
        sg_fail(call, CKR_MECHANISM_INVALID);
        return;
    }
    sg_encoder encode = sg_encoder_of((uint32_t)type);
    sg_write_u32(out, (uint32_t)type);
    sg_write_u8(out, encode != NULL && present ? 1 : 0);
    sg_write_u32(out, (uint32_t)count);
    for (CK_ULONG i = 0; i < count; i++) {
        const CK_MECHANISM *each = &mechanisms[i];
        if (each->mechanism != type || (each->pParameter != NULL) != present)
            sg_fail(call, CKR_ARGUMENTS_BAD);
        else if (!present && each->ulParameterLen != 0)
            sg_fail(call, CKR_MECHANISM_PARAM_INVALID);
        else if (encode != NULL && present)
            encode(out, each->pParameter, each->ulParameterLen);
    }
}

void sg_put_inputs(struct sg_call *call, const CK_SECGEAR_INPUT *inputs, CK_ULONG count)
{
    if (inputs == NULL || count == 0 || count > SG_MAX_BATCH) {
        sg_fail(call, CKR_ARGUMENTS_BAD);
        return;
    }
    call->inputs = count;
    sg_write_u32(&call->out, (uint32_t)count);
    for (CK_ULONG i = 0; i < count; i++) {
        if (inputs[i].pData == NULL && inputs[i].ulDataLen != 0)
            sg_fail(call, CKR_ARGUMENTS_BAD);
        else
            sg_write_array(&call->out, inputs[i].pData, inputs[i].ulDataLen);
    }
}

void sg_get_results(struct sg_call *call, CK_SECGEAR_RESULT *results, CK_ULONG count)
{
    struct sg_reader *in = &call->in;
    if (!sg_readable(call))
        return;
    if (sg_read_u32(in) != count)
        in->malformed = true; /* one for each input, or it is no answer */
    for (CK_ULONG i = 0; i < count && !in->malformed; i++) {
        CK_SECGEAR_RESULT *each = &results[i];
        size_t length;
        const uint8_t *data = sg_read_array(in, &length);
        if (data == NULL) {
            uint64_t rv = sg_read_u64(in);
            if (rv == CKR_OK)
                in->malformed = true;
            each->rv = sg_known_rv(rv) ? rv : CKR_DEVICE_ERROR;
            each->ulDataLen = 0;
        } else if (each->pData == NULL || each->ulDataLen < length) {
            each->rv = each->pData == NULL && length == 0 ? CKR_OK : CKR_BUFFER_TOO_SMALL;
            each->ulDataLen = length;
        } else {
            memcpy(each->pData, data, length);
            each->rv = CKR_OK;
            each->ulDataLen = length;
        }
    }
}
