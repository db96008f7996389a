/* C_Initialize to C_Finalize, and what fork and dlclose do to them; the lists of functions. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "library.h"

/* The process that has called C_Initialize, 0 for none. A child of fork is another one. */
static _Atomic pid_t owner;
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER; /* held while that changes */
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER; /* of `inside` */
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static unsigned inside; /* calls under way */

CK_RV sg_enter(void)
{
    pid_t self = getpid();
    if (atomic_load(&owner) != self)
        return CKR_CRYPTOKI_NOT_INITIALIZED;
    pthread_mutex_lock(&counting);
    bool ours = atomic_load(&owner) == self;
    if (ours)
        inside++;
    pthread_mutex_unlock(&counting);
    return ours ? CKR_OK : CKR_CRYPTOKI_NOT_INITIALIZED;
}

void sg_leave(void)
{
    pthread_mutex_lock(&counting);
    if (--inside == 0)
        pthread_cond_signal(&left);
    pthread_mutex_unlock(&counting);
}

CK_RV sg_unsupported(void)
{
    return atomic_load(&owner) == getpid() ? CKR_FUNCTION_NOT_SUPPORTED : CKR_CRYPTOKI_NOT_INITIALIZED;
}

/* A child has one thread, which may find every lock held by one that it does not have. */
static void forked(void)
{
    atomic_store(&owner, 0);
    pthread_mutex_init(&changing, NULL);
    pthread_mutex_init(&counting, NULL);
    pthread_cond_init(&left, NULL);
    inside = 0;
    sg_connection_forget();
}

__attribute__((constructor)) static void loaded(void)
{
    /* Undone by dlclose. Where there is no memory for it, the process id still tells. */
    pthread_atfork(NULL, NULL, forked);
}

__attribute__((destructor)) static void unloaded(void)
{
    if (atomic_load(&owner) == getpid() && inside == 0)
        sg_connection_close();
}

static CK_RV check_arguments(const CK_C_INITIALIZE_ARGS *arguments)
{
    int given = (arguments->CreateMutex != NULL) + (arguments->DestroyMutex != NULL) +
                (arguments->LockMutex != NULL) + (arguments->UnlockMutex != NULL);
    if (given != 0 && given != 4)
        return CKR_ARGUMENTS_BAD;
    if (given == 4 && !(arguments->flags & CKF_OS_LOCKING_OK))
        return CKR_CANT_LOCK; /* only with the application's own locks */
    return CKR_OK;
}

static CK_RV greet(void)
{
    struct sg_call call;
    sg_begin(&call, SG_ID_Initialize, SG_REQUEST_Initialize);
    sg_put_bytes(&call, (const CK_BYTE *)SG_HANDSHAKE, strlen(SG_HANDSHAKE));
    sg_put_byte(&call, 0);
    sg_put_bytes(&call, (const CK_BYTE *)"", 1);
    sg_exchange(&call, "");
    return sg_end(&call);
}

/* Nobody gets in any more; whoever is inside is sent out before the connection is closed. */
static void retire(void)
{
    pthread_mutex_lock(&counting);
    atomic_store(&owner, 0);
    pthread_mutex_unlock(&counting);
    sg_connection_break(CKR_CRYPTOKI_NOT_INITIALIZED);
    pthread_mutex_lock(&counting);
    while (inside != 0)
        pthread_cond_wait(&left, &counting);
    pthread_mutex_unlock(&counting);
    sg_connection_close();
}

static CK_RV initialise(const CK_C_INITIALIZE_ARGS *arguments)
{
    char address[SG_ADDRESS];
    CK_RV rv = arguments == NULL ? CKR_OK : check_arguments(arguments);
    if (rv == CKR_OK)
        rv = sg_settings(arguments == NULL ? NULL : arguments->pReserved, address);
    if (rv == CKR_OK)
        rv = sg_connection_open(address);
    if (rv != CKR_OK)
        return rv;
    atomic_store(&owner, getpid());
    rv = greet();
    if (rv != CKR_OK)
        retire();
    return rv;
}

/* A thread that is cancelled half-way would keep the lock for good. */
static int begin_change(void)
{
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    pthread_mutex_lock(&changing);
    return before;
}

static void end_change(int before)
{
    pthread_mutex_unlock(&changing);
    pthread_setcancelstate(before, NULL);
}

SG_EXPORT CK_RV C_Initialize(CK_VOID_PTR pInitArgs)
{
    int before = begin_change();
    CK_RV rv = CKR_CRYPTOKI_ALREADY_INITIALIZED;
    if (atomic_load(&owner) != getpid())
        rv = initialise(pInitArgs);
    end_change(before);
    return rv;
}

static void farewell(void)
{
    struct sg_call call;
    sg_connection_hurry(); /* a program that wants to end does not wait for one that hangs */
    sg_begin(&call, SG_ID_Finalize, "");
    sg_exchange(&call, "");
    sg_end(&call); /* a module that is gone has forgotten us already */
}

SG_EXPORT CK_RV C_Finalize(CK_VOID_PTR pReserved)
{
    if (pReserved != NULL)
        return CKR_ARGUMENTS_BAD;
    int before = begin_change();
    CK_RV rv = CKR_CRYPTOKI_NOT_INITIALIZED;
    if (atomic_load(&owner) == getpid()) {
        pthread_mutex_lock(&counting);
        bool alone = inside == 0;
        pthread_mutex_unlock(&counting);
        if (alone) /* behind a call that does not end, it would not be heard */
            farewell();
        retire();
        rv = CKR_OK;
    }
    end_change(before);
    return rv;
}

SG_EXPORT CK_RV C_GetInfo(CK_INFO *info)
{
    static const char description[] = "secGear PKCS#11 library         ";
    _Static_assert(sizeof description == sizeof info->libraryDescription + 1, "padded, no end");
    CK_RV rv = sg_GetInfo(info);
    if (rv == CKR_OK) { /* the interface is the library's, whatever the module speaks besides */
        info->cryptokiVersion = (CK_VERSION){3, 2};
        memcpy(info->libraryDescription, description, sizeof info->libraryDescription);
    }
    return rv;
}

SG_EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST **ppFunctionList)
{
    if (ppFunctionList == NULL)
        return CKR_ARGUMENTS_BAD;
    *ppFunctionList = (CK_FUNCTION_LIST *)&sg_list_2_40;
    return CKR_OK;
}

/* The first one is what an application gets that does not say which. */
static const CK_INTERFACE interfaces[] = {
    {(CK_UTF8CHAR *)"PKCS 11", (CK_VOID_PTR)&sg_list_3_2, 0},
    {(CK_UTF8CHAR *)"PKCS 11", (CK_VOID_PTR)&sg_list_3_0, 0},
    {(CK_UTF8CHAR *)"PKCS 11", (CK_VOID_PTR)&sg_list_2_40, 0},
    {(CK_UTF8CHAR *)SECGEAR_INTERFACE, (CK_VOID_PTR)&sg_list_secgear, 0},
};
enum { INTERFACES = sizeof interfaces / sizeof *interfaces };

SG_EXPORT CK_RV C_GetInterfaceList(CK_INTERFACE_PTR pInterfacesList, CK_ULONG_PTR pulCount)
{
    if (pulCount == NULL)
        return CKR_ARGUMENTS_BAD;
    CK_ULONG room = *pulCount;
    *pulCount = INTERFACES;
    if (pInterfacesList == NULL)
        return CKR_OK;
    if (room < INTERFACES)
        return CKR_BUFFER_TOO_SMALL;
    memcpy(pInterfacesList, interfaces, sizeof interfaces);
    return CKR_OK;
}

SG_EXPORT CK_RV C_GetInterface(CK_UTF8CHAR_PTR pInterfaceName, CK_VERSION *pVersion,
                               CK_INTERFACE_PTR_PTR ppInterface, CK_FLAGS flags)
{
    if (ppInterface == NULL)
        return CKR_ARGUMENTS_BAD;
    for (int i = 0; i < INTERFACES; i++) {
        const CK_INTERFACE *each = &interfaces[i];
        const CK_VERSION *version = each->pFunctionList; /* every list begins with it */
        if (pInterfaceName != NULL &&
            strcmp((const char *)pInterfaceName, (const char *)each->pInterfaceName) != 0)
            continue;
        if (pVersion != NULL && (pVersion->major != version->major || pVersion->minor != version->minor))
            continue;
        if ((flags & each->flags) != flags)
            continue; /* nothing survives fork here */
        *ppInterface = (CK_INTERFACE_PTR)each;
        return CKR_OK;
    }
    return CKR_ARGUMENTS_BAD;
}

/* Of the days when a function could run beside its caller; both answer what 2.40 says. */

SG_EXPORT CK_RV C_GetFunctionStatus(CK_SESSION_HANDLE hSession)
{
    (void)hSession;
    return atomic_load(&owner) == getpid() ? CKR_FUNCTION_NOT_PARALLEL : CKR_CRYPTOKI_NOT_INITIALIZED;
}

SG_EXPORT CK_RV C_CancelFunction(CK_SESSION_HANDLE hSession)
{
    return C_GetFunctionStatus(hSession);
}
