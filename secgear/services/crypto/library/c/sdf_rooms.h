/* GM/T 0018 over the library's own PKCS#11 functions: what its rooms know of each other.
 *
 * As in the rest of the library there is no cryptography here, and no policy that the module does
 * not have too: forms are changed, and calls made.
 */
#ifndef SECGEAR_SDF_ROOMS_H
#define SECGEAR_SDF_ROOMS_H

#include <pthread.h>

#include "library.h"
#include "sdf.h"

#define CKU_USER 1UL
#define CKF_RW_SESSION 0x2UL
#define CKF_SERIAL_SESSION 0x4UL

enum {
    SDF_POINT = 65,         /* bytes of a point, uncompressed */
    SDF_HALF = 32,          /* of a coordinate, and of r and s */
    SDF_OVERHEAD = 97,      /* of a ciphertext of SM2, over its message */
    SDF_BLOCK = 16,         /* of SM4 */
    SDF_DIGEST = 32,        /* of SM3 */
    SDF_TAG = 16,           /* of GCM and CCM */
    SDF_PIECE = 1 << 20,    /* of data that goes in one call */
    SDF_MAX_AEAD = 1 << 20, /* of data that has to be in one call */
    SDF_MAX_FILE = 65536,   /* of a file: what an attribute can hold */
    SDF_MAX_NAME = 128,     /* of a file's name */
    SDF_MAX_ID = 8191,      /* of an identity, whose number of bits has 16 */
    SDF_MAX_KEY = 64,       /* of a session key */
    SDF_MAX_SM2 = 4096,     /* of what is encrypted with SM2; it is meant for keys */
    SDF_MAX_RIGHTS = 256,   /* indices that one session may have rights to */
};

/* sdf_handles.c: what the application holds is a number, never a pointer of ours. */

enum sdf_kind { SDF_DEVICE = 1, SDF_SESSION, SDF_KEY, SDF_AGREEMENT };

/* Begins every object. It lives until its handle is gone and nobody uses it. */
struct sdf_object {
    enum sdf_kind kind;
    unsigned uses;
    _Atomic bool closed;
    const struct sdf_object *owner; /* compared, never followed */
};

/* A handle, which is the object's first use; NULL where there is no room. */
void *sdf_handle_of(struct sdf_object *object, const struct sdf_object *owner);
/* The object behind a handle, with one more use; NULL for what is none of this kind. */
struct sdf_object *sdf_use(void *handle, enum sdf_kind kind);
/* Ends a use, and with the last one the object. */
void sdf_done(struct sdf_object *object);
/* Makes a handle invalid and returns its use; NULL for what is none of this kind. */
struct sdf_object *sdf_take(void *handle, enum sdf_kind kind);
/* The same for anything that belongs to an owner. */
struct sdf_object *sdf_take_of(const struct sdf_object *owner);
void sdf_handles_forget(void); /* in a child of fork */

enum sdf_role { SDF_SIGN, SDF_ENC, SDF_KEK, SDF_ROLES };
enum { SDF_FOUND = 16 };

struct sdf_found { /* a key that was looked up */
    CK_OBJECT_HANDLE key;
    CK_ULONG class, type;
    unsigned index;
    enum sdf_role role;
};

enum sdf_stream {
    SDF_STREAM_HASH = 1,
    SDF_STREAM_ENCRYPT = 2,
    SDF_STREAM_DECRYPT = 4,
    SDF_STREAM_HMAC = 8,
    SDF_STREAM_MAC = 16,
    SDF_STREAM_AUTH_ENC = 32,
    SDF_STREAM_AUTH_DEC = 64,
};

struct sdf_auth { /* authenticated data in pieces: bytes to come, bytes that have come, the tag */
    size_t left, done;
    uint8_t tag[SDF_TAG];
};

struct sdf_session {
    struct sdf_object object;
    CK_SESSION_HANDLE handle;         /* for what is done in one call */
    CK_SESSION_HANDLE pieces;         /* for what is done in pieces; opened when it is needed */
    pthread_mutex_t lock;             /* of all that follows, and of the module's sessions */
    unsigned streams;                 /* operations in pieces that are under way */
    unsigned rights;
    unsigned right[SDF_MAX_RIGHTS];
    unsigned found_next;
    struct sdf_found found[SDF_FOUND];
    struct sdf_auth auth_enc, auth_dec;
    uint64_t mac_size;                /* of SDF_STREAM_MAC: bytes so far */
    uint8_t mac[SDF_BLOCK];           /* and the last block that they made */
};

struct sdf_key {
    struct sdf_object object;
    CK_OBJECT_HANDLE handle;
};

struct sdf_agreement {
    struct sdf_object object;
    CK_OBJECT_HANDLE own, ephemeral;
    unsigned bits, index;
    size_t id_size;
    uint8_t id[];
};

/* sdf_device.c */

/* A session for one function: nobody else's until sdf_leave. NULL for what is none. */
struct sdf_session *sdf_enter(void *handle);
void sdf_leave(struct sdf_session *session);
/* Why there is none: the handle, or the module that has gone away. */
int sdf_no_session(void);
/* The module has gone away, and with it all sessions: their numbers mean nothing any more. */
void sdf_lost(void);
CK_RV sdf_open_session(CK_SESSION_HANDLE *session);
void sdf_stream_begin(struct sdf_session *session, enum sdf_stream stream);
void sdf_stream_end(struct sdf_session *session, unsigned streams);
bool sdf_logged_in(void);
bool sdf_has_right(const struct sdf_session *session, unsigned index);

/* sdf_exports.c */

/* The public point of an internal key, as an OCTET STRING in DER. */
int sdf_export_point(struct sdf_session *session, enum sdf_role role, unsigned index,
                     uint8_t point[SDF_POINT + 2]);
CK_RV sdf_read_point(struct sdf_session *session, CK_OBJECT_HANDLE key, uint8_t point[SDF_POINT + 2]);

/* sdf_agreement.c */

/* Takes an agreement of this session away, and with it the handle of its ephemeral key. */
struct sdf_object *sdf_take_agreement(struct sdf_session *session, void *handle, CK_OBJECT_HANDLE *ephemeral);

/* sdf_once.c: what is done in one call. Sizes of results go in as the room there is. */

CK_RV sdf_sign(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, const CK_BYTE *data,
               CK_ULONG size, CK_BYTE *signature, CK_ULONG *signature_size);
CK_RV sdf_verify(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, const CK_BYTE *data,
                 CK_ULONG size, const CK_BYTE *signature, CK_ULONG signature_size);
CK_RV sdf_encrypt(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, const CK_BYTE *from,
                  CK_ULONG size, CK_BYTE *to, CK_ULONG *made);
CK_RV sdf_decrypt(CK_SESSION_HANDLE session, CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key, const CK_BYTE *from,
                  CK_ULONG size, CK_BYTE *to, CK_ULONG *made);

/* sdf_symmetric.c */

struct sdf_mode {
    CK_MECHANISM mechanism;
    union {
        uint8_t iv[SDF_BLOCK];
        struct CK_AES_CTR_PARAMS ctr;
        struct CK_GCM_PARAMS gcm;
        struct CK_CCM_PARAMS ccm;
    } parameter;
    bool blocks; /* it takes whole blocks only */
};

/* SDR_OK for an algorithm that is `wanted`, or why it is not to be had. */
int sdf_cipher_known(unsigned algorithm, unsigned wanted);
/* The mechanism of an algorithm without authentication. mode: is not to be moved. */
int sdf_mode_of(unsigned algorithm, const unsigned char *iv, struct sdf_mode *mode);
/* More data of a MAC by C_EncryptUpdate, after so many bytes, and its last block where there was one. */
CK_RV sdf_mac_update(CK_SESSION_HANDLE session, const uint8_t *data, size_t size, uint64_t before,
                     uint8_t mac[SDF_BLOCK]);

/* sdf_pieces.c */

/* Makes the module's session for pieces ready to begin: what is of the same kind there ends. */
CK_RV sdf_prepare(struct sdf_session *session, enum sdf_stream stream);
/* Outcome of an Init. */
int sdf_begun(struct sdf_session *session, enum sdf_stream stream, CK_RV rv, int other);
/* A session with this stream under way; *result says what is wrong, also of a session that is returned. */
struct sdf_session *sdf_enter_stream(void *handle, enum sdf_stream stream, int *result);
void sdf_abandon(struct sdf_session *session, enum sdf_stream stream);

/* sdf_settings.c */

struct sdf_settings {
    CK_SLOT_ID slot;
    size_t pin_size; /* 0 where there is none: who has a right to a key logs in */
    uint8_t pin[256];
};

/* False for a file that is not as it has to be. */
bool sdf_settings(struct sdf_settings *settings);

/* sdf_form.c: structures of GM/T 0018, and what the module takes. */

/* What a return value of the module is here; `other` for those that say nothing special. */
int sdf_error(CK_RV rv, int other);
/* Output of `size` bytes: SDR_OK where the caller has room; the length is set in any case. */
int sdf_room(const void *buffer, unsigned *length, size_t size);
bool sdf_point_of(const ECCrefPublicKey *key, uint8_t point[SDF_POINT]);
void sdf_point_to(const uint8_t point[SDF_POINT], ECCrefPublicKey *key);
bool sdf_signature_of(const ECCSignature *signature, uint8_t octets[2 * SDF_HALF]);
void sdf_signature_to(const uint8_t octets[2 * SDF_HALF], ECCSignature *signature);
/* C1 C3 C2; false for what is none. size: SDF_OVERHEAD + L. */
bool sdf_cipher_of(const ECCCipher *cipher, uint8_t *octets, size_t room, size_t *size);
void sdf_cipher_to(const uint8_t *octets, size_t size, ECCCipher *cipher);

/* sdf_objects.c: keys on the token, and keys of a session. */

/* The internal key of an index. Returns SDR_OK, or why there is none. */
int sdf_find(struct sdf_session *session, enum sdf_role role, unsigned index, CK_ULONG class,
             CK_ULONG type, CK_OBJECT_HANDLE *key);
/* The same of a private key, for whoever has the right to it. */
int sdf_find_private(struct sdf_session *session, enum sdf_role role, unsigned index, CK_ULONG type,
                     CK_OBJECT_HANDLE *key);
/* Forgets where internal keys were found. */
void sdf_forget_found(struct sdf_session *session);
/* sdf_error, of a call with an internal key: one that is gone is looked for again next time. */
int sdf_outcome(struct sdf_session *session, CK_RV rv, int other);
/* At most two objects that match. */
CK_RV sdf_search(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count,
                 CK_OBJECT_HANDLE found[2], CK_ULONG *number);
/* A public key from outside, as an object for one use: C_DestroyObject is owed. */
int sdf_import_point(struct sdf_session *session, const ECCrefPublicKey *from, CK_OBJECT_HANDLE *key);
int sdf_import_rsa(struct sdf_session *session, const RSArefPublicKey *from, CK_OBJECT_HANDLE *key);

enum { SDF_KEY_ATTRIBUTES = 10 };
/* Attributes of a session key of `*size` bytes; NULL where its value says that. Returns how many. */
CK_ULONG sdf_key_template(CK_ATTRIBUTE attributes[SDF_KEY_ATTRIBUTES], const CK_ULONG *size);
/* Bytes of a session key of so many bits; 0 for a number that cannot be. */
CK_ULONG sdf_key_size(unsigned bits);
/* A handle for a new session key, which is destroyed where there is no room for one. */
int sdf_keep_key(struct sdf_session *session, CK_OBJECT_HANDLE key, void **handle);
/* A session key of this session; 0 for what is none. */
CK_OBJECT_HANDLE sdf_key_of(const struct sdf_session *session, void *handle);

#endif
