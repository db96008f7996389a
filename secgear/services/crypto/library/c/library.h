/* The library's rooms, and what they know of each other.
 *
 * It only marshals: no cryptography, no policy. Whoever answers is as hostile as it likes: each
 * length, count and type in an answer is checked before it is used, nothing is written beyond what
 * the caller has room for, and the first answer that is none ends the connection.
 */
#ifndef SECGEAR_LIBRARY_H
#define SECGEAR_LIBRARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In this order. */
#include "pkcs11.h"
#include "functions.h"
#include "secgear.h"
#include "generated.h"

#define SG_EXPORT __attribute__((visibility("default")))

/* buffer.c: what is being written, and what is being read. */

struct sg_writer {
    uint8_t *data;
    size_t size, room;
    CK_RV rv; /* why it goes no further: what follows is not written */
    uint8_t small[512]; /* enough for most calls, so that they allocate nothing */
};

struct sg_reader {
    const uint8_t *data;
    size_t size, at;
    bool malformed; /* once it is, everything else reads as 0 */
};

void sg_writer_open(struct sg_writer *writer);
void sg_writer_close(struct sg_writer *writer); /* wipes: PINs and plaintexts go through here */
void sg_write_u8(struct sg_writer *writer, uint8_t number);
void sg_write_u32(struct sg_writer *writer, uint32_t number);
void sg_write_u64(struct sg_writer *writer, uint64_t number);
void sg_write_raw(struct sg_writer *writer, const void *data, size_t size);
void sg_write_array(struct sg_writer *writer, const void *data, size_t size);

uint8_t sg_read_u8(struct sg_reader *reader);
uint32_t sg_read_u32(struct sg_reader *reader);
uint64_t sg_read_u64(struct sg_reader *reader);
/* Bytes with their length; NULL for those that are not there. */
const uint8_t *sg_read_array(struct sg_reader *reader, size_t *size);
void sg_wipe_free(void *data, size_t size);

/* settings.c: where the module is. */

#define SG_ADDRESS 4096 /* bytes of an address, with its end */

/* Finds the module's address. given: C_Initialize's reserved string, or NULL. */
CK_RV sg_settings(const char *given, char address[SG_ADDRESS]);

/* dial.c: how to get there. */

#include <sys/types.h>

/* Connects. Returns the descriptor, and what was started for it, or 0; -1 where nobody is there. */
int sg_dial(const char *address, pid_t *child);
/* Ends what was started: it has seen the end of its input by then. */
void sg_reap(pid_t child);

/* transport.c: one connection, many threads. */

struct sg_answer {
    uint8_t *data;
    size_t size;
};

CK_RV sg_connection_open(const char *address);
/* Sends a request that has room for a frame's header before it, and waits for its answer, which has
 * at most `limit` bytes. */
CK_RV sg_connection_exchange(struct sg_writer *request, size_t limit, struct sg_answer *answer);
/* What came was no answer: nothing that follows is believed. */
void sg_connection_break(CK_RV rv);
/* From now on a peer that is silent for two seconds is gone. */
void sg_connection_hurry(void);
void sg_connection_close(void);
/* In a child of fork, where nothing else runs: forget the parent's. */
void sg_connection_forget(void);

/* module.c: whether C_Initialize was called, by this very process. */

CK_RV sg_enter(void); /* CKR_CRYPTOKI_NOT_INITIALIZED, or CKR_OK and then sg_leave is owed */
void sg_leave(void);
/* What a function answers that the module does not have. */
CK_RV sg_unsupported(void);

/* call.c: one call. Errors stick: what follows the first does nothing, and sg_end returns it. */

struct sg_call {
    struct sg_writer out;
    struct sg_reader in;
    struct sg_answer answer;
    uint32_t id;
    size_t limit;    /* bytes that the answer may have */
    CK_ULONG inputs; /* of a batch */
    CK_BYTE_PTR *document; /* where what was allocated went, and its size */
    CK_ULONG *document_size;
    CK_RV rv;      /* why the call went no further */
    CK_RV outcome; /* of a call that was answered: CKR_OK or CKR_BUFFER_TOO_SMALL, mostly */
    bool entered, answered;
};

void sg_begin(struct sg_call *call, uint32_t id, const char *request);
void sg_exchange(struct sg_call *call, const char *response);
CK_RV sg_end(struct sg_call *call);
void sg_fail(struct sg_call *call, CK_RV rv);
void sg_need(struct sg_call *call, const void *pointer); /* CKR_ARGUMENTS_BAD for NULL */

void sg_put_ulong(struct sg_call *call, CK_ULONG number);
void sg_put_byte(struct sg_call *call, CK_BYTE byte);
void sg_put_bytes(struct sg_call *call, const CK_BYTE *data, CK_ULONG size);
void sg_put_text(struct sg_call *call, const CK_UTF8CHAR *text, CK_ULONG size);
void sg_put_room(struct sg_call *call, const void *buffer, const CK_ULONG *size);
void sg_put_count(struct sg_call *call, CK_ULONG count);
void sg_put_template(struct sg_call *call, const CK_ATTRIBUTE *attributes, CK_ULONG count);
void sg_put_rooms(struct sg_call *call, const CK_ATTRIBUTE *attributes, CK_ULONG count);
void sg_put_mechanism(struct sg_call *call, const CK_MECHANISM *mechanism);
/* Whether results are there to be read. */
bool sg_readable(const struct sg_call *call);

void sg_get_ulong(struct sg_call *call, CK_ULONG *number);
void sg_get_version(struct sg_call *call, CK_VERSION *version);
void sg_get_text(struct sg_call *call, CK_UTF8CHAR *text, size_t size);
/* Into a caller's buffer; without one only the size is wanted. */
void sg_get_bytes(struct sg_call *call, CK_BYTE *buffer, CK_ULONG *size);
void sg_get_ulongs(struct sg_call *call, CK_ULONG *numbers, CK_ULONG *count);
/* Exactly this many bytes, and at most this many numbers. */
void sg_get_exactly(struct sg_call *call, CK_BYTE *buffer, CK_ULONG size);
void sg_get_found(struct sg_call *call, CK_ULONG *numbers, CK_ULONG most, CK_ULONG *count);
void sg_get_attributes(struct sg_call *call, CK_ATTRIBUTE *attributes, CK_ULONG count);

/* batches.c: of our own calls. */

void sg_need_document(struct sg_call *call, CK_BYTE_PTR *data, CK_ULONG *size);
/* As many results as inputs: of the batch whose inputs were put last. */
void sg_need_results(struct sg_call *call, const CK_SECGEAR_RESULT *results, CK_ULONG count);
void sg_put_mechanisms(struct sg_call *call, const CK_MECHANISM *mechanisms, CK_ULONG count);
void sg_put_inputs(struct sg_call *call, const CK_SECGEAR_INPUT *inputs, CK_ULONG count);
void sg_get_document(struct sg_call *call, CK_BYTE_PTR *data, CK_ULONG *size);
void sg_get_results(struct sg_call *call, CK_SECGEAR_RESULT *results, CK_ULONG count);
/* Of a call that fails after all nothing is left to be freed. */
void sg_drop_document(struct sg_call *call);

/* mechanisms.c: the parameter of a mechanism; how each is laid out is generated. */

/* Writes the parameter's fields, or leaves the reason in the writer. */
typedef void (*sg_encoder)(struct sg_writer *writer, const void *parameter, size_t size);

/* How its parameter is written; NULL for a mechanism that is not known. */
sg_encoder sg_encoder_of(uint32_t mechanism);
void sg_encode_octets(struct sg_writer *writer, const void *parameter, size_t size);
void sg_encode_kdf(struct sg_writer *writer, const void *parameter, size_t size);
/* An array in a structure. */
void sg_encode_array(struct sg_writer *writer, const void *data, CK_ULONG size);
/* Whether there is a structure of this size. */
bool sg_encodable(struct sg_writer *writer, const void *parameter, size_t size, size_t expected);

/* Of the generated numbers: what an attribute's value is, and which return values there are. */
enum sg_kind { SG_BYTES, SG_BOOL, SG_ULONG, SG_MECHANISMS, SG_TEMPLATE };
enum sg_kind sg_kind_of(uint32_t attribute);
bool sg_known_rv(uint64_t rv);

#endif
