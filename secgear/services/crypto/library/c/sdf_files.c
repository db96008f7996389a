/* Files: private data objects of the token, with CKA_APPLICATION "sdf" and the file's name as
 * CKA_LABEL. Whoever is logged in sees them. */
#include <stdlib.h>
#include <string.h>

#include "sdf_rooms.h"

static int name_in(CK_ATTRIBUTE template[4], unsigned char *name, unsigned size)
{
    static const CK_BBOOL yes = CK_TRUE;
    static const CK_ULONG class = CKO_DATA;
    if (name == NULL || size == 0 || size > SDF_MAX_NAME)
        return SDR_INARGERR;
    template[0] = (CK_ATTRIBUTE){CKA_CLASS, (CK_VOID_PTR)&class, sizeof class};
    template[1] = (CK_ATTRIBUTE){CKA_TOKEN, (CK_VOID_PTR)&yes, sizeof yes};
    template[2] = (CK_ATTRIBUTE){CKA_APPLICATION, (CK_VOID_PTR) "sdf", 3};
    template[3] = (CK_ATTRIBUTE){CKA_LABEL, name, size};
    return SDR_OK;
}

/* The file of this name. Of two, which somebody has made beside us, the older one is meant. */
static int find(struct sdf_session *session, CK_ATTRIBUTE template[4], CK_OBJECT_HANDLE *file)
{
    CK_OBJECT_HANDLE found[2];
    CK_ULONG number = 0;
    if (!sdf_logged_in())
        return SDR_PARDENY;
    CK_RV rv = sdf_search(session->handle, template, 4, found, &number);
    if (rv != CKR_OK)
        return sdf_error(rv, SDR_UNKNOWERR);
    if (number == 0)
        return SDR_FILENOEXIST;
    *file = number == 2 && found[1] < found[0] ? found[1] : found[0];
    return SDR_OK;
}

static struct sdf_session *enter(void *handle, CK_ATTRIBUTE template[4], unsigned char *name, unsigned size,
                                 int *result)
{
    *result = name_in(template, name, size);
    if (*result != SDR_OK)
        return NULL;
    struct sdf_session *session = sdf_enter(handle);
    if (session == NULL)
        *result = sdf_no_session();
    return session;
}

static int outcome(CK_RV rv, int other)
{
    if (rv == CKR_OBJECT_HANDLE_INVALID)
        return SDR_FILENOEXIST;
    return rv == CKR_DATA_LEN_RANGE ? SDR_FILEOFSERR : sdf_error(rv, other);
}

/* Two that create one file at the same time both see both, and the younger one gives way. */
static int create(struct sdf_session *session, CK_ATTRIBUTE template[4], unsigned size)
{
    CK_BBOOL yes = CK_TRUE;
    CK_OBJECT_HANDLE made, first;
    int result = find(session, template, &first);
    if (result != SDR_FILENOEXIST)
        return result == SDR_OK ? SDR_FILEEXISTS : result;
    uint8_t *zeros = calloc(1, size);
    if (zeros == NULL)
        return SDR_NOBUFFER;
    CK_ATTRIBUTE whole[] = {
        template[0], template[1], template[2], template[3], {CKA_PRIVATE, &yes, sizeof yes}, {CKA_VALUE, zeros, size},
    };
    result = sdf_error(C_CreateObject(session->handle, whole, 6, &made), SDR_FILEWERR);
    free(zeros);
    if (result != SDR_OK)
        return result;
    result = find(session, template, &first);
    if (result == SDR_OK && first != made) {
        C_DestroyObject(session->handle, made);
        result = SDR_FILEEXISTS;
    }
    return result;
}

SG_EXPORT int SDF_CreateFile(void *hSessionHandle, unsigned char *pucFileName, unsigned int uiNameLen,
                             unsigned int uiFileSize)
{
    if (uiFileSize == 0 || uiFileSize > SDF_MAX_FILE)
        return SDR_FILESIZEERR;
    CK_ATTRIBUTE template[4];
    int result;
    struct sdf_session *session = enter(hSessionHandle, template, pucFileName, uiNameLen, &result);
    if (session == NULL)
        return result;
    result = create(session, template, uiFileSize);
    sdf_leave(session);
    return result;
}

/* A part of a file: what there is of it, into the room that the caller has. */
static int read(struct sdf_session *session, CK_OBJECT_HANDLE file, unsigned offset, unsigned *length,
                unsigned char *to)
{
    uint8_t *whole = malloc(SDF_MAX_FILE);
    if (whole == NULL)
        return SDR_NOBUFFER;
    CK_ATTRIBUTE value = {CKA_VALUE, whole, SDF_MAX_FILE};
    int result = outcome(C_GetAttributeValue(session->handle, file, &value, 1), SDR_UNKNOWERR);
    if (result == SDR_OK && value.ulValueLen > SDF_MAX_FILE)
        result = SDR_HARDFAIL;
    if (result == SDR_OK && offset >= value.ulValueLen)
        result = SDR_FILEOFSERR;
    if (result == SDR_OK) {
        CK_ULONG left = value.ulValueLen - offset;
        *length = *length < left ? *length : (unsigned)left;
        memcpy(to, whole + offset, *length);
    }
    sg_wipe_free(whole, SDF_MAX_FILE);
    return result;
}

SG_EXPORT int SDF_ReadFile(void *hSessionHandle, unsigned char *pucFileName, unsigned int uiNameLen,
                           unsigned int uiOffset, unsigned int *puiFileLength, unsigned char *pucBuffer)
{
    if (puiFileLength == NULL || pucBuffer == NULL)
        return SDR_OUTARGERR;
    CK_ATTRIBUTE template[4];
    int result;
    struct sdf_session *session = enter(hSessionHandle, template, pucFileName, uiNameLen, &result);
    if (session == NULL)
        return result;
    CK_OBJECT_HANDLE file;
    result = find(session, template, &file);
    if (result == SDR_OK)
        result = read(session, file, uiOffset, puiFileLength, pucBuffer);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_WriteFile(void *hSessionHandle, unsigned char *pucFileName, unsigned int uiNameLen,
                            unsigned int uiOffset, unsigned int uiFileLength, unsigned char *pucBuffer)
{
    if (pucBuffer == NULL || uiFileLength == 0)
        return SDR_INARGERR;
    if (uiFileLength > SDF_MAX_FILE)
        return SDR_FILESIZEERR;
    CK_ATTRIBUTE template[4];
    int result;
    struct sdf_session *session = enter(hSessionHandle, template, pucFileName, uiNameLen, &result);
    if (session == NULL)
        return result;
    CK_OBJECT_HANDLE file;
    result = find(session, template, &file);
    if (result == SDR_OK)
        result = outcome(S_WriteValue(session->handle, file, uiOffset, pucBuffer, uiFileLength), SDR_FILEWERR);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_DeleteFile(void *hSessionHandle, unsigned char *pucFileName, unsigned int uiNameLen)
{
    CK_ATTRIBUTE template[4];
    int result;
    struct sdf_session *session = enter(hSessionHandle, template, pucFileName, uiNameLen, &result);
    if (session == NULL)
        return result;
    CK_OBJECT_HANDLE file;
    result = find(session, template, &file);
    if (result == SDR_OK)
        result = outcome(C_DestroyObject(session->handle, file), SDR_FILEWERR);
    sdf_leave(session);
    return result;
}
