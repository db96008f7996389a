/* Bytes of messages, big endian, written and read with their limits. */
#include <stdlib.h>
#include <string.h>

#include "library.h"

void sg_writer_open(struct sg_writer *writer)
{
    writer->data = writer->small;
    writer->size = 0;
    writer->room = sizeof writer->small;
    writer->rv = CKR_OK;
}

void sg_writer_close(struct sg_writer *writer)
{
    explicit_bzero(writer->data, writer->size);
    if (writer->data != writer->small)
        free(writer->data);
    writer->data = writer->small;
    writer->size = 0;
}

/* Whether there is room for this many bytes more. Never realloc, which would leave a copy behind. */
static bool grow(struct sg_writer *writer, size_t more)
{
    if (writer->rv == CKR_OK && more > SG_MAX_MESSAGE - writer->size)
        writer->rv = CKR_DATA_LEN_RANGE;
    if (writer->rv != CKR_OK)
        return false;
    size_t size = writer->size, needed = size + more;
    if (needed <= writer->room)
        return true;
    size_t room = needed < 2 * writer->room ? 2 * writer->room : needed;
    uint8_t *data = malloc(room);
    if (data == NULL) {
        writer->rv = CKR_HOST_MEMORY;
        return false;
    }
    memcpy(data, writer->data, size);
    sg_writer_close(writer);
    writer->data = data;
    writer->size = size;
    writer->room = room;
    return true;
}

void sg_write_raw(struct sg_writer *writer, const void *data, size_t size)
{
    if (size == 0 || !grow(writer, size))
        return;
    memcpy(writer->data + writer->size, data, size);
    writer->size += size;
}

static void write_number(struct sg_writer *writer, uint64_t number, unsigned bytes)
{
    uint8_t octets[8];
    for (unsigned i = bytes; i-- > 0; number >>= 8)
        octets[i] = (uint8_t)number;
    sg_write_raw(writer, octets, bytes);
}

void sg_write_u8(struct sg_writer *writer, uint8_t number)
{
    write_number(writer, number, 1);
}

void sg_write_u32(struct sg_writer *writer, uint32_t number)
{
    write_number(writer, number, 4);
}

void sg_write_u64(struct sg_writer *writer, uint64_t number)
{
    write_number(writer, number, 8);
}

void sg_write_array(struct sg_writer *writer, const void *data, size_t size)
{
    /* One that is too long becomes no message, whatever its length says. */
    sg_write_u32(writer, (uint32_t)size);
    sg_write_raw(writer, data, size);
}

/* The next bytes; NULL, and malformed from now on, where there are not that many. */
static const uint8_t *take(struct sg_reader *reader, size_t size)
{
    if (reader->malformed || size > reader->size - reader->at) {
        reader->malformed = true;
        return NULL;
    }
    const uint8_t *data = reader->data + reader->at;
    reader->at += size;
    return data;
}

static uint64_t read_number(struct sg_reader *reader, unsigned bytes)
{
    const uint8_t *data = take(reader, bytes);
    uint64_t number = 0;
    for (unsigned i = 0; data != NULL && i < bytes; i++)
        number = number << 8 | data[i];
    return number;
}

uint8_t sg_read_u8(struct sg_reader *reader)
{
    return (uint8_t)read_number(reader, 1);
}

uint32_t sg_read_u32(struct sg_reader *reader)
{
    return (uint32_t)read_number(reader, 4);
}

uint64_t sg_read_u64(struct sg_reader *reader)
{
    return read_number(reader, 8);
}

const uint8_t *sg_read_array(struct sg_reader *reader, size_t *size)
{
    uint32_t length = sg_read_u32(reader);
    *size = 0;
    if (reader->malformed || length == SG_NULL)
        return NULL;
    const uint8_t *data = take(reader, length);
    if (data != NULL)
        *size = length;
    return data;
}

void sg_wipe_free(void *data, size_t size)
{
    if (data != NULL)
        explicit_bzero(data, size);
    free(data);
}
