/* Attributes on the wire: templates, room for attributes, and what fills it. */
#include <string.h>

#include "library.h"

/* A type that the wire can't carry is one that nobody knows. */
static uint32_t wire_type(CK_ATTRIBUTE_TYPE type)
{
    return type < SG_NULL ? (uint32_t)type : SG_NULL;
}

static uint32_t wire_size(CK_ULONG size)
{
    return size < SG_NULL ? (uint32_t)size : SG_NULL - 1;
}

static void put_template(struct sg_call *call, const CK_ATTRIBUTE *attributes, CK_ULONG count, unsigned depth);

static void put_value(struct sg_call *call, const CK_ATTRIBUTE *attribute, unsigned depth)
{
    const void *value = attribute->pValue;
    CK_ULONG size = attribute->ulValueLen, number;
    struct sg_writer *out = &call->out;
    CK_RV wrong = CKR_OK;
    switch (sg_kind_of(wire_type(attribute->type))) {
    case SG_BOOL:
        if (size == sizeof(CK_BBOOL))
            sg_write_u8(out, *(const CK_BBOOL *)value ? 1 : 0);
        else
            wrong = CKR_ATTRIBUTE_VALUE_INVALID;
        break;
    case SG_ULONG:
        if (size == sizeof number) {
            memcpy(&number, value, sizeof number); /* nobody has promised that it is aligned */
            sg_write_u64(out, number);
        } else {
            wrong = CKR_ATTRIBUTE_VALUE_INVALID;
        }
        break;
    case SG_MECHANISMS:
        if (size % sizeof number != 0 || size / sizeof number > SG_MAX_MECHANISMS) {
            wrong = CKR_ATTRIBUTE_VALUE_INVALID;
            break;
        }
        sg_write_u32(out, (uint32_t)(size / sizeof number));
        for (CK_ULONG at = 0; at < size; at += sizeof number) {
            memcpy(&number, (const CK_BYTE *)value + at, sizeof number);
            sg_write_u64(out, number);
        }
        break;
    case SG_TEMPLATE:
        if (size % sizeof(CK_ATTRIBUTE) != 0 || depth >= SG_MAX_DEPTH)
            wrong = CKR_ATTRIBUTE_VALUE_INVALID;
        else
            put_template(call, value, size / sizeof(CK_ATTRIBUTE), depth + 1);
        break;
    case SG_BYTES:
        sg_write_array(out, value, size);
        break;
    }
    if (wrong != CKR_OK)
        sg_fail(call, wrong);
}

static void put_template(struct sg_call *call, const CK_ATTRIBUTE *attributes, CK_ULONG count, unsigned depth)
{
    if (attributes == NULL && count != 0)
        sg_fail(call, CKR_ARGUMENTS_BAD);
    else if (count > SG_MAX_ATTRIBUTES)
        sg_fail(call, CKR_TEMPLATE_INCONSISTENT);
    else
        sg_write_u32(&call->out, (uint32_t)count);
    for (CK_ULONG i = 0; i < count && call->rv == CKR_OK; i++) {
        const CK_ATTRIBUTE *each = &attributes[i];
        if (each->type >= SG_NULL)
            sg_fail(call, CKR_ATTRIBUTE_TYPE_INVALID);
        else if (each->pValue == NULL && each->ulValueLen != 0)
            sg_fail(call, CKR_ATTRIBUTE_VALUE_INVALID);
        if (call->rv != CKR_OK)
            return;
        sg_write_u32(&call->out, wire_type(each->type));
        sg_write_u8(&call->out, 1);
        sg_write_u32(&call->out, wire_size(each->ulValueLen));
        put_value(call, each, depth);
    }
}

void sg_put_template(struct sg_call *call, const CK_ATTRIBUTE *attributes, CK_ULONG count)
{
    put_template(call, attributes, count, 1);
}

static void put_rooms(struct sg_call *call, const CK_ATTRIBUTE *attributes, CK_ULONG count, unsigned depth)
{
    if (attributes == NULL && count != 0)
        sg_fail(call, CKR_ARGUMENTS_BAD);
    else if (count > SG_MAX_ATTRIBUTES)
        sg_fail(call, CKR_TEMPLATE_INCONSISTENT);
    else
        sg_write_u32(&call->out, (uint32_t)count);
    for (CK_ULONG i = 0; i < count && call->rv == CKR_OK; i++) {
        const CK_ATTRIBUTE *each = &attributes[i];
        uint32_t type = wire_type(each->type);
        uint32_t size = each->pValue == NULL ? 0 : wire_size(each->ulValueLen);
        sg_write_u32(&call->out, type);
        sg_write_u32(&call->out, size);
        if (size == 0 || sg_kind_of(type) != SG_TEMPLATE)
            continue;
        if (size % sizeof(CK_ATTRIBUTE) != 0 || depth >= SG_MAX_DEPTH)
            sg_fail(call, CKR_ATTRIBUTE_VALUE_INVALID);
        else
            put_rooms(call, each->pValue, size / sizeof(CK_ATTRIBUTE), depth + 1);
    }
}

void sg_put_rooms(struct sg_call *call, const CK_ATTRIBUTE *attributes, CK_ULONG count)
{
    put_rooms(call, attributes, count, 1);
}

/* --- what comes back ------------------------------------------------------------------------- */

/* Into the caller's room, or CK_UNAVAILABLE_INFORMATION where that does not do. */
static void fill(struct sg_call *call, CK_ATTRIBUTE *into, const void *value, CK_ULONG size)
{
    if (into->pValue == NULL) {
        into->ulValueLen = size;
    } else if (into->ulValueLen < size) {
        into->ulValueLen = CK_UNAVAILABLE_INFORMATION;
        call->outcome = CKR_BUFFER_TOO_SMALL;
    } else {
        if (size != 0)
            memcpy(into->pValue, value, size);
        into->ulValueLen = size;
    }
}

static void get_template(struct sg_call *call, CK_ATTRIBUTE *into, CK_ULONG size);

/* One value. into: NULL to pass it over. */
static void get_value(struct sg_call *call, uint32_t type, CK_ATTRIBUTE *into, CK_ULONG size, unsigned depth)
{
    struct sg_reader *in = &call->in;
    CK_ULONG numbers[SG_MAX_MECHANISMS];
    CK_BBOOL truth;
    uint32_t count;
    size_t length;
    const void *value = NULL;
    bool sound = false;
    switch (sg_kind_of(type)) {
    case SG_BOOL:
        truth = sg_read_u8(in) ? CK_TRUE : CK_FALSE;
        value = &truth;
        sound = size == sizeof truth;
        break;
    case SG_ULONG:
        numbers[0] = sg_read_u64(in);
        value = numbers;
        sound = size == sizeof *numbers;
        break;
    case SG_MECHANISMS:
        count = sg_read_u32(in);
        sound = count <= SG_MAX_MECHANISMS && size == count * sizeof *numbers;
        for (uint32_t i = 0; sound && i < count; i++)
            numbers[i] = sg_read_u64(in);
        value = numbers;
        break;
    case SG_TEMPLATE:
        if (depth >= SG_MAX_DEPTH)
            in->malformed = true;
        else
            get_template(call, into, size);
        return;
    case SG_BYTES:
        value = sg_read_array(in, &length);
        /* It may be missing only where it would not have fitted. */
        sound = value != NULL ? length == size
                              : into == NULL || into->pValue == NULL || into->ulValueLen < size || size == 0;
        break;
    }
    if (!sound)
        in->malformed = true;
    if (!in->malformed && into != NULL)
        fill(call, into, value, size);
}

/* Attributes in an attribute: the caller has an array of them, or only asks how long that is. */
static void get_template(struct sg_call *call, CK_ATTRIBUTE *into, CK_ULONG size)
{
    struct sg_reader *in = &call->in;
    uint32_t count = sg_read_u32(in);
    if (count > SG_MAX_ATTRIBUTES || size != count * sizeof(CK_ATTRIBUTE))
        in->malformed = true;
    bool fits = into->pValue != NULL && into->ulValueLen >= size;
    for (uint32_t i = 0; i < count && !in->malformed; i++) {
        uint32_t type = sg_read_u32(in);
        if (!sg_read_u8(in))
            in->malformed = true; /* of a template nothing is withheld */
        CK_ULONG length = sg_read_u32(in);
        CK_ATTRIBUTE *inner = fits ? (CK_ATTRIBUTE *)into->pValue + i : NULL;
        get_value(call, type, inner, length, 2);
        if (inner != NULL && !in->malformed)
            inner->type = type;
    }
    if (in->malformed)
        return;
    if (into->pValue != NULL && !fits) {
        into->ulValueLen = CK_UNAVAILABLE_INFORMATION;
        call->outcome = CKR_BUFFER_TOO_SMALL;
    } else {
        into->ulValueLen = size;
    }
}

void sg_get_attributes(struct sg_call *call, CK_ATTRIBUTE *attributes, CK_ULONG count)
{
    struct sg_reader *in = &call->in;
    if (!call->answered || call->rv != CKR_OK || in->malformed)
        return;
    bool withheld = false;
    if (sg_read_u32(in) != count)
        in->malformed = true;
    for (CK_ULONG i = 0; i < count && !in->malformed; i++) {
        uint32_t type = wire_type(attributes[i].type);
        if (sg_read_u32(in) != type)
            in->malformed = true;
        if (sg_read_u8(in)) {
            CK_ULONG size = sg_read_u32(in);
            if (!in->malformed)
                get_value(call, type, &attributes[i], size, 1);
        } else {
            withheld = true;
            if (!in->malformed)
                attributes[i].ulValueLen = CK_UNAVAILABLE_INFORMATION;
        }
    }
    uint64_t rv = sg_read_u64(in);
    if (rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID)
        call->outcome = rv;
    else if ((rv != CKR_OK && rv != CKR_BUFFER_TOO_SMALL) || (withheld && rv == CKR_OK))
        in->malformed = true;
}
