/* Calls for which the module has limits that PKCS#11 does not: they are made in pieces. */
#include "library.h"

SG_EXPORT CK_RV C_GenerateRandom(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pRandomData, CK_ULONG ulRandomLen)
{
    CK_RV rv;
    do {
        struct sg_call call;
        CK_ULONG part = ulRandomLen < SG_MAX_RANDOM ? ulRandomLen : SG_MAX_RANDOM;
        sg_begin(&call, SG_GENERATE_RANDOM, SG_GENERATE_RANDOM_REQUEST);
        sg_need(&call, pRandomData);
        sg_put_ulong(&call, hSession);
        sg_put_room(&call, pRandomData, &part);
        sg_exchange(&call, "ay");
        sg_get_exactly(&call, pRandomData, part);
        rv = sg_end(&call);
        if (rv != CKR_OK)
            break;
        pRandomData += part;
        ulRandomLen -= part;
    } while (ulRandomLen != 0);
    return rv;
}

/* Many applications take fewer objects than they had room for as the end of the search. */
SG_EXPORT CK_RV C_FindObjects(CK_SESSION_HANDLE hSession, CK_ULONG_PTR phObject, CK_ULONG ulMaxObjectCount,
                              CK_ULONG_PTR pulObjectCount)
{
    CK_ULONG found = 0, part = 0;
    CK_RV rv;
    do {
        struct sg_call call;
        CK_ULONG room = ulMaxObjectCount - found; /* of this part */
        room = room < SG_MAX_FOUND ? room : SG_MAX_FOUND;
        sg_begin(&call, SG_FIND_OBJECTS, SG_FIND_OBJECTS_REQUEST);
        sg_need(&call, phObject);
        sg_need(&call, pulObjectCount);
        sg_put_ulong(&call, hSession);
        sg_put_count(&call, room);
        sg_exchange(&call, "au");
        sg_get_found(&call, phObject + found, room, &part);
        rv = sg_end(&call);
        if (rv != CKR_OK)
            break;
        found += part;
    } while (part == SG_MAX_FOUND && found < ulMaxObjectCount);
    if (rv == CKR_OK)
        *pulObjectCount = found;
    return rv;
}
