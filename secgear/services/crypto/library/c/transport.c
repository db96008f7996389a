/* One connection for all threads of the process: sessions and logins live on it.
 *
 * Each frame has a number of its own and answers come in any order. There is no thread of ours:
 * of the threads that wait for answers one reads, and hands each answer to whose it is; when it has
 * its own, the next one reads. A thread by itself does one send and one receive.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "library.h"

struct waiter {
    uint32_t number;
    size_t limit;
    bool done, asleep;
    CK_RV rv;
    struct sg_answer answer;
    pthread_cond_t wake;
    struct waiter *next;
};

static struct {
    pthread_mutex_t lock;    /* of everything but `input` */
    pthread_mutex_t sending; /* held while a frame is written */
    int descriptor;          /* -1 for none */
    dev_t device;            /* of the socket, which the number may outlive */
    ino_t inode;
    pid_t child;
    bool broken;
    bool reading; /* a thread reads: `input` is its own */
    uint32_t last;
    struct waiter *waiters;
    size_t start, end;
    uint8_t input[16384];
} connection = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .sending = PTHREAD_MUTEX_INITIALIZER,
    .descriptor = -1,
};

static uint32_t number_at(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void number_to(uint8_t *at, uint32_t number)
{
    for (int i = 4; i-- > 0; number >>= 8)
        at[i] = (uint8_t)number;
}

/* Daemons close descriptors that they don't know, and the next file or connection of theirs has the
 * number. It gets no PINs, and is not closed either. */
static bool still_ours(void)
{
    struct stat status;
    return fstat(connection.descriptor, &status) == 0 && status.st_dev == connection.device &&
           status.st_ino == connection.inode;
}

static bool send_all(const uint8_t *data, size_t size)
{
    while (size != 0) {
        ssize_t sent = send(connection.descriptor, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        data += sent;
        size -= (size_t)sent;
    }
    return true;
}

static bool receive_some(uint8_t *into, size_t room, size_t *got)
{
    ssize_t size;
    do
        size = still_ours() ? recv(connection.descriptor, into, room, 0) : 0;
    while (size < 0 && errno == EINTR);
    *got = size > 0 ? (size_t)size : 0;
    return size > 0;
}

/* Exactly this many bytes, through the buffer; it is wiped as it is emptied. */
static bool receive(uint8_t *into, size_t size)
{
    while (size != 0) {
        size_t held = connection.end - connection.start;
        if (held == 0 && size >= sizeof connection.input) {
            size_t got;
            if (!receive_some(into, size, &got))
                return false;
            into += got;
            size -= got;
            continue;
        }
        if (held == 0) {
            connection.start = connection.end = 0;
            if (!receive_some(connection.input, sizeof connection.input, &held))
                return false;
            connection.end = held;
        }
        size_t part = held < size ? held : size;
        memcpy(into, connection.input + connection.start, part);
        explicit_bzero(connection.input + connection.start, part);
        connection.start += part;
        into += part;
        size -= part;
    }
    return true;
}

/* With the lock held. The first reason counts; those who come later hear that the device is gone. */
static void break_off(CK_RV rv)
{
    if (connection.broken)
        return;
    connection.broken = true;
    if (still_ours())
        shutdown(connection.descriptor, SHUT_RDWR); /* wakes who reads */
    for (struct waiter *each = connection.waiters; each != NULL; each = each->next) {
        if (!each->done) {
            each->done = true;
            each->rv = rv;
            pthread_cond_signal(&each->wake);
        }
    }
}

void sg_connection_break(CK_RV rv)
{
    pthread_mutex_lock(&connection.lock);
    break_off(rv);
    pthread_mutex_unlock(&connection.lock);
}

static struct waiter *find(uint32_t number)
{
    struct waiter *each = connection.waiters;
    while (each != NULL && (each->number != number || each->done))
        each = each->next;
    return each;
}

/* One frame, to whose it is. Called without the lock by the thread that reads. */
static CK_RV read_frame(void)
{
    uint8_t header[SG_HEADER], options[256];
    if (!receive(header, sizeof header))
        return CKR_DEVICE_REMOVED;
    uint32_t number = number_at(header);
    size_t skip = number_at(header + 4), size = number_at(header + 8);
    /* Nothing is kept for an answer that nobody waits for, or not for that much. */
    pthread_mutex_lock(&connection.lock);
    const struct waiter *wanted = find(number);
    bool sound = wanted != NULL && size <= wanted->limit && skip <= SG_MAX_OPTIONS;
    pthread_mutex_unlock(&connection.lock);
    if (!sound)
        return CKR_DEVICE_ERROR;
    while (skip != 0) {
        size_t part = skip < sizeof options ? skip : sizeof options;
        if (!receive(options, part))
            return CKR_DEVICE_REMOVED;
        skip -= part;
    }
    uint8_t *data = malloc(size ? size : 1);
    if (data == NULL)
        return CKR_HOST_MEMORY;
    if (!receive(data, size)) {
        sg_wipe_free(data, size);
        return CKR_DEVICE_REMOVED;
    }
    pthread_mutex_lock(&connection.lock);
    struct waiter *waiter = find(number); /* is still there, unless somebody has broken off */
    if (waiter != NULL) {
        waiter->answer = (struct sg_answer){data, size};
        waiter->rv = CKR_OK;
        waiter->done = true;
        pthread_cond_signal(&waiter->wake);
    }
    pthread_mutex_unlock(&connection.lock);
    if (waiter == NULL)
        sg_wipe_free(data, size);
    return CKR_OK;
}

/* With the lock held, until this waiter is done. */
static void wait_for(struct waiter *waiter)
{
    while (!waiter->done) {
        if (connection.reading) {
            waiter->asleep = true;
            pthread_cond_wait(&waiter->wake, &connection.lock);
            waiter->asleep = false;
            continue;
        }
        connection.reading = true;
        pthread_mutex_unlock(&connection.lock);
        CK_RV rv = read_frame();
        pthread_mutex_lock(&connection.lock);
        connection.reading = false;
        if (rv != CKR_OK)
            break_off(rv);
    }
    /* Somebody else has to read now: one who sleeps, as who is still sending may be kept from it by
     * answers that nobody takes. */
    struct waiter *next = connection.waiters;
    while (next != NULL && (next->done || !next->asleep))
        next = next->next;
    if (next != NULL && !connection.reading)
        pthread_cond_signal(&next->wake);
}

static void leave(const struct waiter *waiter)
{
    struct waiter **link = &connection.waiters;
    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
}

static CK_RV exchange(struct sg_writer *request, size_t limit, struct sg_answer *answer)
{
    struct waiter waiter = {.limit = limit, .wake = PTHREAD_COND_INITIALIZER};
    pthread_mutex_lock(&connection.sending);
    pthread_mutex_lock(&connection.lock);
    if (connection.broken) {
        pthread_mutex_unlock(&connection.lock);
        pthread_mutex_unlock(&connection.sending);
        return CKR_DEVICE_REMOVED;
    }
    waiter.number = ++connection.last;
    waiter.next = connection.waiters;
    connection.waiters = &waiter;
    pthread_mutex_unlock(&connection.lock);
    number_to(request->data, waiter.number);
    number_to(request->data + 4, 0);
    number_to(request->data + 8, (uint32_t)(request->size - SG_HEADER));
    bool sent = still_ours() && send_all(request->data, request->size);
    pthread_mutex_unlock(&connection.sending);
    pthread_mutex_lock(&connection.lock);
    if (!sent)
        break_off(CKR_DEVICE_REMOVED);
    wait_for(&waiter);
    leave(&waiter);
    pthread_mutex_unlock(&connection.lock);
    pthread_cond_destroy(&waiter.wake);
    *answer = waiter.answer;
    return waiter.rv;
}

CK_RV sg_connection_exchange(struct sg_writer *request, size_t limit, struct sg_answer *answer)
{
    /* A thread that is cancelled half-way would take the others' connection along. */
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    CK_RV rv = exchange(request, limit, answer);
    pthread_setcancelstate(before, NULL);
    return rv;
}

void sg_connection_hurry(void)
{
    struct timeval patience = {.tv_sec = 2};
    pthread_mutex_lock(&connection.lock);
    if (still_ours()) {
        setsockopt(connection.descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        setsockopt(connection.descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    }
    pthread_mutex_unlock(&connection.lock);
}

CK_RV sg_connection_open(const char *address)
{
    uint8_t version = SG_VERSION;
    connection.descriptor = sg_dial(address, &connection.child);
    if (connection.descriptor < 0) {
        sg_connection_close();
        return CKR_FUNCTION_FAILED;
    }
    struct stat status = {0};
    bool known = fstat(connection.descriptor, &status) == 0;
    connection.device = status.st_dev;
    connection.inode = status.st_ino;
    connection.broken = connection.reading = false;
    connection.start = connection.end = 0;
    connection.last = 0;
    connection.waiters = NULL;
    if (known && send_all(&version, 1) && receive(&version, 1) && version == SG_VERSION)
        return CKR_OK;
    sg_connection_close();
    return CKR_FUNCTION_FAILED;
}

void sg_connection_close(void)
{
    if (still_ours())
        close(connection.descriptor);
    connection.descriptor = -1;
    if (connection.child > 0)
        sg_reap(connection.child);
    connection.child = 0;
    explicit_bzero(connection.input, sizeof connection.input);
}

void sg_connection_forget(void)
{
    pthread_mutex_init(&connection.lock, NULL);
    pthread_mutex_init(&connection.sending, NULL);
    if (still_ours())
        close(connection.descriptor); /* the parent's stays open */
    connection.descriptor = -1;
    connection.child = 0;
    connection.waiters = NULL;
    connection.broken = connection.reading = false;
    explicit_bzero(connection.input, sizeof connection.input);
}
