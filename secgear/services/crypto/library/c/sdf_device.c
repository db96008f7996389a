/* Devices and sessions; who may use private keys.
 *
 * The device is the module with one of its tokens. Logged in is the process, as with PKCS#11: by
 * the PIN in the settings, until the device is closed; or by the first right to a private key that
 * is asked for, until the last one is given back. Which session has which right is kept here, for
 * the application's own order: the module trusts a process as a whole.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "sdf_rooms.h"

enum login { NOBODY, BY_RIGHT, FOR_GOOD, NOT_BY_US };

static struct {
    pthread_mutex_t lock;  /* of opening and closing */
    pthread_mutex_t logging; /* of logging in and out */
    pthread_rwlock_t use;  /* read: a function is at work; write: none is */
    unsigned devices;
    bool initialised; /* by us, not by the application itself */
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE session; /* the first one, which keeps the login */
    _Atomic bool lost;
    _Atomic enum login login;
    _Atomic unsigned rights, streams; /* of all sessions */
} device = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .logging = PTHREAD_MUTEX_INITIALIZER,
    .use = PTHREAD_RWLOCK_INITIALIZER,
};

static void forked(void)
{
    pthread_mutex_init(&device.lock, NULL);
    pthread_mutex_init(&device.logging, NULL);
    pthread_rwlock_init(&device.use, NULL);
    device.devices = 0;
    device.initialised = false;
    device.lost = false;
    device.login = NOBODY;
    device.rights = device.streams = 0;
    sdf_handles_forget();
}

__attribute__((constructor)) static void loaded(void)
{
    pthread_atfork(NULL, NULL, forked);
}

void sdf_lost(void)
{
    atomic_store(&device.lost, true);
}

int sdf_no_session(void)
{
    return atomic_load(&device.lost) ? SDR_COMMFAIL : SDR_INARGERR;
}

bool sdf_logged_in(void)
{
    return atomic_load(&device.login) != NOBODY;
}

/* --- the device ------------------------------------------------------------------------------ */

static CK_RV log_in(CK_SESSION_HANDLE session, CK_BYTE *pin, CK_ULONG size, enum login as)
{
    CK_RV rv = C_Login(session, CKU_USER, pin, size);
    if (rv == CKR_USER_ALREADY_LOGGED_IN) { /* by the application's own PKCS#11 */
        rv = S_CheckPIN(session, pin, size);
        as = NOT_BY_US;
    }
    if (rv == CKR_OK)
        atomic_store(&device.login, as);
    return rv;
}

static CK_RV start(struct sdf_settings *settings)
{
    CK_C_INITIALIZE_ARGS arguments = {.flags = CKF_OS_LOCKING_OK};
    CK_RV rv = C_Initialize(&arguments);
    device.initialised = rv == CKR_OK;
    if (rv != CKR_OK && rv != CKR_CRYPTOKI_ALREADY_INITIALIZED)
        return rv;
    device.slot = settings->slot;
    rv = C_OpenSession(device.slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &device.session);
    if (rv == CKR_OK && settings->pin_size != 0) {
        rv = log_in(device.session, settings->pin, settings->pin_size, FOR_GOOD);
        if (rv != CKR_OK)
            C_CloseSession(device.session);
    }
    if (rv != CKR_OK && device.initialised) {
        C_Finalize(NULL);
        device.initialised = false;
    }
    return rv;
}

/* With the lock held, and nobody at work. */
static void stop(void)
{
    enum login login = atomic_exchange(&device.login, NOBODY);
    if (login == BY_RIGHT || login == FOR_GOOD) /* the application's own sessions would keep it */
        C_Logout(device.session);
    C_CloseSession(device.session);
    atomic_store(&device.lost, false);
    if (device.initialised)
        C_Finalize(NULL);
    device.initialised = false;
}

SG_EXPORT int SDF_OpenDevice(void **phDeviceHandle)
{
    if (phDeviceHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_object *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return SDR_NOBUFFER;
    opened->kind = SDF_DEVICE;
    struct sdf_settings settings;
    int result = SDR_OK, before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before); /* files are read under the lock */
    pthread_mutex_lock(&device.lock);
    if (device.devices == 0) {
        result = sdf_settings(&settings) && start(&settings) == CKR_OK ? SDR_OK : SDR_OPENDEVICE;
        explicit_bzero(&settings, sizeof settings);
    }
    void *handle = result == SDR_OK ? sdf_handle_of(opened, NULL) : NULL;
    if (handle != NULL) {
        device.devices++;
        *phDeviceHandle = handle;
    } else if (result == SDR_OK) {
        result = SDR_NOBUFFER;
        if (device.devices == 0)
            stop();
    }
    pthread_mutex_unlock(&device.lock);
    pthread_setcancelstate(before, NULL);
    if (result != SDR_OK)
        free(opened);
    return result;
}

static void close_session(struct sdf_session *session);
static void settle(void);

SG_EXPORT int SDF_CloseDevice(void *hDeviceHandle)
{
    struct sdf_object *closed = sdf_take(hDeviceHandle, SDF_DEVICE), *session;
    if (closed == NULL)
        return SDR_INARGERR;
    while ((session = sdf_take_of(closed)) != NULL)
        close_session((struct sdf_session *)session);
    settle();
    pthread_mutex_lock(&device.lock);
    if (--device.devices == 0) {
        pthread_rwlock_wrlock(&device.use);
        stop();
        pthread_rwlock_unlock(&device.use);
    }
    pthread_mutex_unlock(&device.lock);
    sdf_done(closed);
    return SDR_OK;
}

/* --- sessions -------------------------------------------------------------------------------- */

struct sdf_session *sdf_enter(void *handle)
{
    struct sdf_session *session = (struct sdf_session *)sdf_use(handle, SDF_SESSION);
    if (session == NULL)
        return NULL;
    pthread_rwlock_rdlock(&device.use);
    pthread_mutex_lock(&session->lock);
    if (!atomic_load(&session->object.closed) && !atomic_load(&device.lost))
        return session;
    pthread_mutex_unlock(&session->lock);
    pthread_rwlock_unlock(&device.use);
    sdf_done(&session->object);
    return NULL;
}

/* Logs out, if the login was for rights that nobody has any more, and nothing is under way that
 * would end with it. Where somebody is at work it is tried again when he has done. */
static void settle(void)
{
    if (atomic_load(&device.login) != BY_RIGHT || atomic_load(&device.rights) != 0 ||
        atomic_load(&device.streams) != 0)
        return;
    if (pthread_rwlock_trywrlock(&device.use) != 0)
        return;
    if (atomic_load(&device.login) == BY_RIGHT && atomic_load(&device.rights) == 0 &&
        atomic_load(&device.streams) == 0) {
        C_Logout(device.session);
        atomic_store(&device.login, NOBODY);
    }
    pthread_rwlock_unlock(&device.use);
}

void sdf_leave(struct sdf_session *session)
{
    pthread_mutex_unlock(&session->lock);
    pthread_rwlock_unlock(&device.use);
    sdf_done(&session->object);
    settle();
}

/* The module counts sessions up. Where one has a number that is not beyond our first one's, there is
 * another module behind the same connection, and it gives our other numbers again. */
CK_RV sdf_open_session(CK_SESSION_HANDLE *session)
{
    CK_RV rv = C_OpenSession(device.slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, session);
    if (rv == CKR_OK && *session <= device.session) {
        C_CloseSession(*session);
        rv = CKR_DEVICE_REMOVED;
    }
    if (rv == CKR_DEVICE_REMOVED)
        sdf_lost();
    return rv;
}

SG_EXPORT int SDF_OpenSession(void *hDeviceHandle, void **phSessionHandle)
{
    if (phSessionHandle == NULL)
        return SDR_OUTARGERR;
    struct sdf_object *on = sdf_use(hDeviceHandle, SDF_DEVICE);
    if (on == NULL)
        return SDR_INARGERR;
    struct sdf_session *session = calloc(1, sizeof *session);
    int result = session == NULL ? SDR_NOBUFFER : SDR_OK;
    if (result == SDR_OK) {
        session->object.kind = SDF_SESSION;
        pthread_mutex_init(&session->lock, NULL);
        pthread_rwlock_rdlock(&device.use);
        CK_RV rv = atomic_load(&on->closed) || atomic_load(&device.lost) ? CKR_DEVICE_REMOVED
                                                                         : sdf_open_session(&session->handle);
        void *handle = NULL;
        if (rv != CKR_OK)
            result = SDR_OPENSESSION;
        else if ((handle = sdf_handle_of(&session->object, on)) == NULL)
            result = SDR_NOBUFFER;
        if (rv == CKR_OK && result != SDR_OK)
            C_CloseSession(session->handle);
        pthread_rwlock_unlock(&device.use);
        if (result != SDR_OK)
            free(session);
        else if (!atomic_load(&on->closed))
            *phSessionHandle = handle;
        else { /* since then: whoever did it has seen the session, or we see it now */
            struct sdf_object *late = sdf_take(handle, SDF_SESSION);
            if (late != NULL)
                close_session((struct sdf_session *)late);
            result = SDR_OPENSESSION;
        }
    }
    sdf_done(on);
    return result;
}

/* Its handle is gone already. */
static void close_session(struct sdf_session *session)
{
    struct sdf_object *object;
    pthread_rwlock_rdlock(&device.use);
    pthread_mutex_lock(&session->lock);
    while ((object = sdf_take_of(&session->object)) != NULL)
        sdf_done(object); /* what they stand for ends with the module's session */
    C_CloseSession(session->handle);
    if (session->pieces != CK_INVALID_HANDLE)
        C_CloseSession(session->pieces);
    atomic_fetch_sub(&device.rights, session->rights);
    session->rights = 0;
    sdf_stream_end(session, session->streams);
    pthread_mutex_unlock(&session->lock);
    pthread_rwlock_unlock(&device.use);
    sdf_done(&session->object);
}

SG_EXPORT int SDF_CloseSession(void *hSessionHandle)
{
    struct sdf_object *session = sdf_take(hSessionHandle, SDF_SESSION);
    if (session == NULL)
        return sdf_no_session();
    close_session((struct sdf_session *)session);
    settle();
    return SDR_OK;
}

void sdf_stream_begin(struct sdf_session *session, enum sdf_stream stream)
{
    if (!(session->streams & stream))
        atomic_fetch_add(&device.streams, 1);
    session->streams |= stream;
}

void sdf_stream_end(struct sdf_session *session, unsigned streams)
{
    for (unsigned bits = session->streams & streams; bits != 0; bits &= bits - 1)
        atomic_fetch_sub(&device.streams, 1);
    session->streams &= ~streams;
}

/* --- rights to private keys ------------------------------------------------------------------ */

static unsigned *right_to(struct sdf_session *session, unsigned index)
{
    for (unsigned at = 0; at < session->rights; at++) {
        if (session->right[at] == index)
            return &session->right[at];
    }
    return NULL;
}

bool sdf_has_right(const struct sdf_session *session, unsigned index)
{
    return right_to((struct sdf_session *)session, index) != NULL;
}

/* Whether there is a key pair of this index, of any kind. */
static int check_index(struct sdf_session *session, unsigned index)
{
    static const CK_ULONG types[] = {CKK_SM2, CKK_RSA};
    int result = SDR_KEYNOTEXIST;
    for (int at = 0; at < 4 && result == SDR_KEYNOTEXIST; at++) {
        CK_OBJECT_HANDLE key;
        result = sdf_find(session, at & 1 ? SDF_ENC : SDF_SIGN, index, CKO_PUBLIC_KEY, types[at >> 1], &key);
    }
    return result;
}

static int get_right(struct sdf_session *session, unsigned index, CK_BYTE *pin, CK_ULONG size)
{
    bool known = sdf_has_right(session, index);
    if (!known && session->rights == SDF_MAX_RIGHTS)
        return SDR_NOBUFFER;
    sdf_forget_found(session);
    int result = check_index(session, index);
    if (result != SDR_OK)
        return result;
    pthread_mutex_lock(&device.logging);
    CK_RV rv = sdf_logged_in() ? S_CheckPIN(session->handle, pin, size)
                               : log_in(session->handle, pin, size, BY_RIGHT);
    pthread_mutex_unlock(&device.logging);
    if (rv == CKR_OK && !known) {
        session->right[session->rights++] = index;
        atomic_fetch_add(&device.rights, 1);
    }
    return sdf_error(rv, SDR_PRKRERR);
}

SG_EXPORT int SDF_GetPrivateKeyAccessRight(void *hSessionHandle, unsigned int uiKeyIndex,
                                           unsigned char *pucPassword, unsigned int uiPwdLength)
{
    if (pucPassword == NULL || uiPwdLength == 0)
        return SDR_INARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    int result = get_right(session, uiKeyIndex, pucPassword, uiPwdLength);
    sdf_leave(session);
    return result;
}

SG_EXPORT int SDF_ReleasePrivateKeyAccessRight(void *hSessionHandle, unsigned int uiKeyIndex)
{
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    unsigned *right = right_to(session, uiKeyIndex);
    int result = right == NULL ? SDR_PRKRERR : SDR_OK;
    if (right != NULL) {
        *right = session->right[--session->rights];
        atomic_fetch_sub(&device.rights, 1);
    }
    sdf_leave(session);
    return result;
}

/* --- about the device ------------------------------------------------------------------------ */

static bool has(CK_MECHANISM_TYPE mechanism)
{
    CK_MECHANISM_INFO info;
    return C_GetMechanismInfo(device.slot, mechanism, &info) == CKR_OK;
}

SG_EXPORT int SDF_GetDeviceInfo(void *hSessionHandle, DEVICEINFO *pstDeviceInfo)
{
    if (pstDeviceInfo == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_TOKEN_INFO token;
    DEVICEINFO info = {.StandardVersion = 1, .BufferSize = SDF_MAX_FILE};
    CK_RV rv = C_GetTokenInfo(device.slot, &token);
    if (rv == CKR_OK) {
        memset(info.IssuerName, ' ', sizeof info.IssuerName);
        memcpy(info.IssuerName, token.manufacturerID, sizeof token.manufacturerID);
        memcpy(info.DeviceName, token.model, sizeof info.DeviceName);
        memcpy(info.DeviceSerial, token.serialNumber, sizeof info.DeviceSerial);
        info.DeviceVersion = (unsigned)token.firmwareVersion.major << 8 | token.firmwareVersion.minor;
        info.AsymAlgAbility[0] = SGD_RSA;
        info.AsymAlgAbility[1] = 2048;
        if (has(CKM_SM2)) {
            info.AsymAlgAbility[0] |= SGD_SM2_1 | SGD_SM2_2 | SGD_SM2_3;
            info.AsymAlgAbility[1] |= 256;
        }
        info.SymAlgAbility = SGD_SM4_ECB | SGD_SM4_CBC | SGD_SM4_MAC | SGD_SM4_CTR | SGD_SM4_GCM | SGD_SM4_CCM;
        info.HashAlgAbility = SGD_SM3 | SGD_SHA1 | SGD_SHA256;
        *pstDeviceInfo = info;
    }
    sdf_leave(session);
    return sdf_error(rv, SDR_UNKNOWERR);
}

SG_EXPORT int SDF_GenerateRandom(void *hSessionHandle, unsigned int uiLength, unsigned char *pucRandom)
{
    if (uiLength == 0)
        return SDR_INARGERR;
    if (pucRandom == NULL)
        return SDR_OUTARGERR;
    struct sdf_session *session = sdf_enter(hSessionHandle);
    if (session == NULL)
        return sdf_no_session();
    CK_RV rv = C_GenerateRandom(session->handle, pucRandom, uiLength);
    sdf_leave(session);
    return sdf_error(rv, SDR_RANDERR);
}
