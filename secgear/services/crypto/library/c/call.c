/* One call: its arguments into a request, its results out of an answer. */
#include <string.h>

#include "library.h"

void sg_fail(struct sg_call *call, CK_RV rv)
{
    if (call->rv == CKR_OK)
        call->rv = rv;
}

static void spoilt(struct sg_call *call)
{
    call->in.malformed = true;
}

void sg_begin(struct sg_call *call, uint32_t id, const char *request)
{
    static const uint8_t header[SG_HEADER];
    memset(&call->in, 0, sizeof call->in);
    call->answer = (struct sg_answer){NULL, 0};
    call->id = id;
    call->limit = SG_MAX_BODY;
    call->inputs = 0;
    call->document = NULL;
    call->outcome = CKR_OK;
    call->answered = false;
    sg_writer_open(&call->out);
    call->rv = sg_enter();
    call->entered = call->rv == CKR_OK;
    sg_write_raw(&call->out, header, sizeof header);
    sg_write_u32(&call->out, id);
    sg_write_array(&call->out, request, strlen(request));
}

static bool is_text(const uint8_t *data, size_t size, const char *text)
{
    return data != NULL && size == strlen(text) && memcmp(data, text, size) == 0;
}

void sg_exchange(struct sg_call *call, const char *response)
{
    sg_fail(call, call->out.rv);
    if (call->rv != CKR_OK)
        return;
    call->rv = sg_connection_exchange(&call->out, call->limit, &call->answer);
    if (call->rv != CKR_OK)
        return;
    call->answered = true;
    call->in.data = call->answer.data;
    call->in.size = call->answer.size;
    size_t size;
    uint32_t id = sg_read_u32(&call->in);
    const uint8_t *signature = sg_read_array(&call->in, &size);
    if (id == SG_ERROR && is_text(signature, size, "u")) {
        uint64_t rv = sg_read_u64(&call->in);
        if (call->in.malformed || call->in.at != call->in.size || rv == CKR_OK)
            spoilt(call);
        else
            call->rv = sg_known_rv(rv) ? rv : CKR_DEVICE_ERROR;
    } else if (id != call->id || !is_text(signature, size, response)) {
        spoilt(call);
    }
}

CK_RV sg_end(struct sg_call *call)
{
    if (call->answered && call->rv == CKR_OK) {
        call->rv = call->outcome;
        if (call->in.malformed || call->in.at != call->in.size)
            spoilt(call);
    }
    if (call->in.malformed) {
        call->rv = CKR_DEVICE_ERROR;
        sg_connection_break(CKR_DEVICE_ERROR);
    }
    if (call->rv != CKR_OK)
        sg_drop_document(call);
    sg_wipe_free(call->answer.data, call->answer.size);
    sg_writer_close(&call->out);
    if (call->entered)
        sg_leave();
    return call->rv;
}

void sg_need(struct sg_call *call, const void *pointer)
{
    if (pointer == NULL)
        sg_fail(call, CKR_ARGUMENTS_BAD);
}

/* --- arguments ------------------------------------------------------------------------------- */

void sg_put_ulong(struct sg_call *call, CK_ULONG number)
{
    sg_write_u64(&call->out, number);
}

void sg_put_byte(struct sg_call *call, CK_BYTE byte)
{
    sg_write_u8(&call->out, byte);
}

void sg_put_bytes(struct sg_call *call, const CK_BYTE *data, CK_ULONG size)
{
    if (data == NULL && size != 0) {
        sg_fail(call, CKR_ARGUMENTS_BAD);
    } else {
        sg_write_u8(&call->out, 1);
        sg_write_array(&call->out, data, size);
    }
}

void sg_put_text(struct sg_call *call, const CK_UTF8CHAR *text, CK_ULONG size)
{
    sg_need(call, text);
    if (text != NULL)
        sg_write_array(&call->out, text, size);
}

/* The room also says how long an answer may be: longer than a request, if there is room for it.
 * 0 asks for the size, and room of no bytes has a number of its own. */
void sg_put_room(struct sg_call *call, const void *buffer, const CK_ULONG *size)
{
    sg_need(call, size);
    if (size == NULL)
        return;
    uint32_t room = *size < SG_EMPTY_BUFFER ? (uint32_t)*size : SG_EMPTY_BUFFER - 1;
    if (buffer == NULL)
        room = 0;
    else if (room == 0)
        room = SG_EMPTY_BUFFER;
    else if (room > call->limit - SG_OVERHEAD)
        call->limit = (size_t)room + SG_OVERHEAD;
    sg_write_u32(&call->out, room);
}

void sg_put_count(struct sg_call *call, CK_ULONG count)
{
    sg_write_u32(&call->out, count < SG_MAX_ITEMS ? (uint32_t)count : SG_MAX_ITEMS);
}

/* --- results --------------------------------------------------------------------------------- */

bool sg_readable(const struct sg_call *call)
{
    return call->answered && call->rv == CKR_OK && !call->in.malformed;
}

void sg_get_ulong(struct sg_call *call, CK_ULONG *number)
{
    if (!sg_readable(call))
        return;
    uint64_t value = sg_read_u64(&call->in);
    if (!call->in.malformed && call->outcome == CKR_OK)
        *number = value;
}

void sg_get_version(struct sg_call *call, CK_VERSION *version)
{
    if (!sg_readable(call))
        return;
    version->major = sg_read_u8(&call->in);
    version->minor = sg_read_u8(&call->in);
}

void sg_get_text(struct sg_call *call, CK_UTF8CHAR *text, size_t size)
{
    if (!sg_readable(call))
        return;
    size_t length;
    const uint8_t *data = sg_read_array(&call->in, &length);
    if (data == NULL || length != size)
        spoilt(call);
    else
        memcpy(text, data, size);
}

/* How much there is, in place of it: to who has asked, and to who has not enough room. */
static void too_small(struct sg_call *call, const void *buffer, CK_ULONG *size)
{
    CK_ULONG needed = sg_read_u32(&call->in);
    if (call->in.malformed)
        return;
    if (buffer != NULL && needed != 0 && needed <= *size) {
        spoilt(call); /* it would have fitted */
        return;
    }
    *size = needed;
    if (needed != 0)
        call->outcome = buffer == NULL ? CKR_OK : CKR_BUFFER_TOO_SMALL;
}

void sg_get_bytes(struct sg_call *call, CK_BYTE *buffer, CK_ULONG *size)
{
    if (!sg_readable(call))
        return;
    if (!sg_read_u8(&call->in)) {
        too_small(call, buffer, size);
        return;
    }
    size_t length;
    const uint8_t *data = sg_read_array(&call->in, &length);
    if (call->in.malformed || length > (buffer == NULL ? 0 : *size)) {
        spoilt(call);
        return;
    }
    if (length != 0)
        memcpy(buffer, data, length);
    *size = length;
}

void sg_get_exactly(struct sg_call *call, CK_BYTE *buffer, CK_ULONG size)
{
    CK_ULONG length = size;
    sg_get_bytes(call, buffer, &length);
    if (sg_readable(call) && length != size)
        spoilt(call);
}

void sg_get_ulongs(struct sg_call *call, CK_ULONG *numbers, CK_ULONG *count)
{
    if (!sg_readable(call))
        return;
    if (!sg_read_u8(&call->in)) {
        too_small(call, numbers, count);
        return;
    }
    uint32_t items = sg_read_u32(&call->in);
    if (call->in.malformed || items > (numbers == NULL ? 0 : *count)) {
        spoilt(call);
        return;
    }
    for (uint32_t i = 0; i < items && !call->in.malformed; i++)
        numbers[i] = sg_read_u64(&call->in);
    if (!call->in.malformed)
        *count = items;
}

void sg_get_found(struct sg_call *call, CK_ULONG *numbers, CK_ULONG most, CK_ULONG *count)
{
    if (!sg_readable(call))
        return;
    CK_ULONG items = most;
    sg_get_ulongs(call, numbers, &items);
    if (call->outcome != CKR_OK)
        spoilt(call);
    if (sg_readable(call))
        *count = items;
}
