/* Keys on the token, found by what administrators call them; public keys from outside; session keys.
 *
 * CKA_LABEL is sdf:sign:N and sdf:enc:N for both halves of the key pairs of index N, sdf:kek:N for
 * the key encryption key. Keys of RSA and of SM2 may have one index.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdf_rooms.h"

CK_RV sdf_search(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count,
                 CK_OBJECT_HANDLE found[2], CK_ULONG *number)
{
    CK_RV rv = C_FindObjectsInit(session, template, count);
    if (rv != CKR_OK)
        return rv;
    rv = C_FindObjects(session, found, 2, number);
    CK_RV last = C_FindObjectsFinal(session);
    return rv == CKR_OK ? last : rv;
}

static int look_up(struct sdf_session *session, struct sdf_found *wanted)
{
    static const char *const ROLES[SDF_ROLES] = {"sign", "enc", "kek"};
    char label[32];
    int size = snprintf(label, sizeof label, "sdf:%s:%u", ROLES[wanted->role], wanted->index);
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE template[] = {
        {CKA_LABEL, label, (CK_ULONG)size},
        {CKA_TOKEN, &yes, sizeof yes},
        {CKA_CLASS, &wanted->class, sizeof wanted->class},
        {CKA_KEY_TYPE, &wanted->type, sizeof wanted->type},
    };
    CK_OBJECT_HANDLE found[2];
    CK_ULONG number = 0;
    CK_RV rv = sdf_search(session->handle, template, 4, found, &number);
    if (rv != CKR_OK)
        return sdf_error(rv, SDR_UNKNOWERR);
    if (number == 0) /* private ones are not even there for who is not logged in */
        return wanted->class == CKO_PUBLIC_KEY || sdf_logged_in() ? SDR_KEYNOTEXIST : SDR_PARDENY;
    if (number > 1)
        return SDR_KEYERR; /* nobody can say which */
    wanted->key = found[0];
    return SDR_OK;
}

int sdf_find(struct sdf_session *session, enum sdf_role role, unsigned index, CK_ULONG class,
             CK_ULONG type, CK_OBJECT_HANDLE *key)
{
    struct sdf_found wanted = {.class = class, .type = type, .index = index, .role = role};
    for (unsigned at = 0; at < SDF_FOUND; at++) {
        const struct sdf_found *each = &session->found[at];
        if (each->key != CK_INVALID_HANDLE && each->role == role && each->index == index &&
            each->class == class && each->type == type) {
            *key = each->key;
            return SDR_OK;
        }
    }
    int result = look_up(session, &wanted);
    if (result != SDR_OK)
        return result;
    session->found[session->found_next++ % SDF_FOUND] = wanted;
    *key = wanted.key;
    return SDR_OK;
}

void sdf_forget_found(struct sdf_session *session)
{
    memset(session->found, 0, sizeof session->found);
}

int sdf_outcome(struct sdf_session *session, CK_RV rv, int other)
{
    if (rv == CKR_KEY_HANDLE_INVALID || rv == CKR_WRAPPING_KEY_HANDLE_INVALID)
        sdf_forget_found(session);
    return sdf_error(rv, other);
}

int sdf_find_private(struct sdf_session *session, enum sdf_role role, unsigned index, CK_ULONG type,
                     CK_OBJECT_HANDLE *key)
{
    if (!sdf_has_right(session, index))
        return SDR_PARDENY;
    return sdf_find(session, role, index, CKO_PRIVATE_KEY, type, key);
}

int sdf_import_point(struct sdf_session *session, const ECCrefPublicKey *from, CK_OBJECT_HANDLE *key)
{
    static const CK_BYTE curve[] = {6, 8, 0x2a, 0x81, 0x1c, 0xcf, 0x55, 1, 0x82, 0x2d};
    uint8_t point[SDF_POINT];
    if (!sdf_point_of(from, point))
        return SDR_KEYERR;
    CK_ULONG class = CKO_PUBLIC_KEY, type = CKK_SM2;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_EC_PARAMS, (CK_VOID_PTR)curve, sizeof curve},
        {CKA_EC_POINT, point, sizeof point},
        {CKA_TOKEN, &no, sizeof no},
        {CKA_PRIVATE, &no, sizeof no},
        {CKA_VERIFY, &yes, sizeof yes},
        {CKA_ENCRYPT, &yes, sizeof yes},
        {CKA_WRAP, &yes, sizeof yes},
    };
    CK_RV rv = C_CreateObject(session->handle, template, sizeof template / sizeof *template, key);
    return sdf_error(rv, SDR_KEYERR);
}

/* A number without the zeros before it. */
static CK_ATTRIBUTE number_in(CK_ATTRIBUTE_TYPE type, const unsigned char *field)
{
    size_t at = 0;
    while (at < RSAref_MAX_LEN - 1 && field[at] == 0)
        at++;
    return (CK_ATTRIBUTE){type, (CK_VOID_PTR)(field + at), RSAref_MAX_LEN - at};
}

int sdf_import_rsa(struct sdf_session *session, const RSArefPublicKey *from, CK_OBJECT_HANDLE *key)
{
    CK_ULONG class = CKO_PUBLIC_KEY, type = CKK_RSA;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class},
        {CKA_KEY_TYPE, &type, sizeof type},
        number_in(CKA_MODULUS, from->m),
        number_in(CKA_PUBLIC_EXPONENT, from->e),
        {CKA_TOKEN, &no, sizeof no},
        {CKA_PRIVATE, &no, sizeof no},
        {CKA_VERIFY, &yes, sizeof yes},
        {CKA_ENCRYPT, &yes, sizeof yes},
        {CKA_WRAP, &yes, sizeof yes},
    };
    if (from->bits > RSAref_MAX_BITS || template[2].ulValueLen != (from->bits + 7) / 8)
        return SDR_KEYERR;
    CK_RV rv = C_CreateObject(session->handle, template, sizeof template / sizeof *template, key);
    return sdf_error(rv, SDR_KEYERR);
}

CK_ULONG sdf_key_size(unsigned bits)
{
    return bits % 8 == 0 && bits >= 64 && bits <= 8 * SDF_MAX_KEY ? bits / 8 : 0;
}

/* Not private: it belongs to a session, which others do not see, and outlives a logout. */
CK_ULONG sdf_key_template(CK_ATTRIBUTE attributes[SDF_KEY_ATTRIBUTES], const CK_ULONG *size)
{
    static const CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    static const CK_ULONG class = CKO_SECRET_KEY, sm4 = CKK_SM4, generic = CKK_GENERIC_SECRET;
    const CK_ULONG *type = size != NULL && *size == SDF_BLOCK ? &sm4 : &generic;
    const struct {
        CK_ATTRIBUTE_TYPE type;
        const CK_BBOOL *value;
    } flags[] = {
        {CKA_TOKEN, &no}, {CKA_PRIVATE, &no}, {CKA_EXTRACTABLE, &no}, {CKA_ENCRYPT, &yes},
        {CKA_DECRYPT, &yes}, {CKA_SIGN, &yes}, {CKA_VERIFY, &yes},
    };
    CK_ULONG count = 0;
    attributes[count++] = (CK_ATTRIBUTE){CKA_CLASS, (CK_VOID_PTR)&class, sizeof class};
    if (size != NULL)
        attributes[count++] = (CK_ATTRIBUTE){CKA_KEY_TYPE, (CK_VOID_PTR)type, sizeof *type};
    for (size_t at = 0; at < sizeof flags / sizeof *flags; at++)
        attributes[count++] = (CK_ATTRIBUTE){flags[at].type, (CK_VOID_PTR)flags[at].value, sizeof(CK_BBOOL)};
    if (size != NULL && type == &generic)
        attributes[count++] = (CK_ATTRIBUTE){CKA_VALUE_LEN, (CK_VOID_PTR)size, sizeof *size};
    return count;
}

int sdf_keep_key(struct sdf_session *session, CK_OBJECT_HANDLE key, void **handle)
{
    struct sdf_key *kept = calloc(1, sizeof *kept);
    void *made = NULL;
    if (kept != NULL) {
        kept->object.kind = SDF_KEY;
        kept->handle = key;
        made = sdf_handle_of(&kept->object, &session->object);
    }
    if (made == NULL) {
        free(kept);
        C_DestroyObject(session->handle, key);
        return SDR_NOBUFFER;
    }
    *handle = made;
    return SDR_OK;
}

CK_OBJECT_HANDLE sdf_key_of(const struct sdf_session *session, void *handle)
{
    CK_OBJECT_HANDLE key = CK_INVALID_HANDLE;
    struct sdf_object *object = sdf_use(handle, SDF_KEY);
    if (object == NULL)
        return key;
    if (object->owner == &session->object)
        key = ((const struct sdf_key *)object)->handle;
    sdf_done(object);
    return key;
}
