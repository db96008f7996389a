/* The ring's waiting: spin while that pays, then sleep until the other side rings.
 *
 * _ring_core.h tells the whole story.
 */
#ifndef SECGEAR_RING_WAIT_H
#define SECGEAR_RING_WAIT_H

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "_ring_memory.h"

/* --- doorbells ------------------------------------------------------------------------------ */

static inline long ring_futex(_Atomic uint32_t *word, int what, uint32_t value, int64_t ns) {
    struct timespec time = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    return syscall(SYS_futex, word, what, value, ns < 0 ? NULL : &time, NULL, 0);
}

/* Eight bytes: an eventfd adds them, a stream carries them. A full stream has rung already. */
static void ring_ring(struct ring *ring, struct ring_bell *theirs) {
    atomic_fetch_add_explicit(&ring->wakes, 1, memory_order_relaxed);
    if (ring->descriptors.wait < 0) {
        ring_futex(&theirs->asleep, FUTEX_WAKE, 1, -1);
        return;
    }
    uint64_t one = 1;
    ssize_t ignored =
        ring->descriptors.ring_is_socket
            ? send(ring->descriptors.ring, &one, sizeof one, MSG_NOSIGNAL | MSG_DONTWAIT)
            : write(ring->descriptors.ring, &one, sizeof one);
    (void)ignored;
}

/* Publisher's half of the handshake; the publishing store comes before. */
static inline void ring_wake(struct ring *ring, struct ring_bell *theirs) {
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&theirs->asleep, memory_order_relaxed) &&
        atomic_exchange_explicit(&theirs->asleep, 0, memory_order_relaxed))
        ring_ring(ring, theirs);
}

static inline void ring_turn(struct ring_descriptors *with) {
    atomic_fetch_add_explicit(&with->turn, 1, memory_order_seq_cst);
    ring_futex(&with->turn, FUTEX_WAKE, INT32_MAX, -1);
}

/* Returns RING_AGAIN, RING_INTERRUPTED for a signal, RING_CLOSED if the bell's peer hung up. */
static enum ring_outcome ring_park_descriptors(struct ring_descriptors *with, uint32_t turn,
                                               int64_t ns) {
    uint32_t free = 0;
    if (!atomic_compare_exchange_strong(&with->led, &free, 1)) {
        /* The other direction's thread polls; it might take our ringing for its own. */
        long result = ring_futex(&with->turn, FUTEX_WAIT, turn, ns);
        return result < 0 && errno == EINTR ? RING_INTERRUPTED : RING_AGAIN;
    }
    struct pollfd both[2] = {{.fd = with->wait, .events = POLLIN},
                             {.fd = with->nudge, .events = POLLIN}};
    struct timespec time = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    int found = ppoll(both, 2, &time, NULL);
    enum ring_outcome outcome = found < 0 && errno == EINTR ? RING_INTERRUPTED : RING_AGAIN;
    if (found > 0 && both[0].revents) {
        unsigned char drained[512];
        ssize_t got = with->wait_is_socket ? recv(with->wait, drained, sizeof drained, MSG_DONTWAIT)
                                           : read(with->wait, drained, sizeof drained);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            outcome = RING_CLOSED;
    }
    atomic_store(&with->led, 0);
    ring_turn(with);
    return outcome;
}

/* --- waiting -------------------------------------------------------------------------------- */

static inline void ring_hit(struct ring *ring, struct ring_patience *patience) {
    patience->misses = 0;
    patience->probing = false;
    patience->probe = 64;
    patience->budget = patience->budget * 2 + 16;
    if (patience->budget > ring->patience)
        patience->budget = ring->patience;
}

/* Spinning has failed; the sleep ended after `slept` ns. Where it does not help (one CPU, a busy
 * machine) the budget falls to nothing, and is tried again ever more rarely while waits are so
 * short that it might help; waits longer than the budget say nothing about it. */
static void ring_miss(struct ring *ring, struct ring_patience *patience, uint64_t slept) {
    if (patience->probing)
        patience->budget = 0;
    else if (++patience->misses >= 4)
        patience->budget /= 2;
    patience->probing = false;
    if ((double)slept * ring->pauses_per_ns > (double)ring->patience)
        return;
    if (patience->budget < 16 && ++patience->near >= patience->probe) {
        patience->near = 0;
        patience->probing = true;
        patience->budget = ring->patience;
        if (patience->probe < 4096)
            patience->probe *= 2;
    }
}

/* Whether so many pauses since then took so long that somebody else had the processor: then it may
 * be that, and not the spinning, that let the peer answer. */
static inline bool ring_preempted(const struct ring *ring, uint64_t since, uint64_t pauses) {
    return (double)(ring_now() - since) > 2 * (double)pauses / ring->pauses_per_ns + 20000;
}

static enum ring_outcome ring_sleep(struct ring *ring, struct ring_way *way, enum ring_need need,
                                    uint64_t bytes, struct ring_term *term,
                                    struct ring_hooks *hooks) {
    struct ring_bell *bell = way->mine;
    struct ring_descriptors *with = &ring->descriptors;
    uint64_t now = ring_now();
    if (term->ns >= 0 && !term->deadline)
        term->deadline = now + (uint64_t)term->ns;
    for (;;) {
        uint32_t turn = atomic_load(&with->turn);
        atomic_store_explicit(&bell->asleep, 1, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        enum ring_outcome found = ring_look(way, need, bytes);
        if (found == RING_AGAIN && ring_gone(ring, way)) {
            found = ring_look(way, need, bytes); /* what came before the end still counts */
            if (found == RING_AGAIN)
                found = RING_CLOSED;
        }
        int64_t left = RING_RECHECK_NS;
        if (found == RING_AGAIN && term->ns >= 0) {
            if (now >= term->deadline)
                found = RING_TIMEOUT;
            else if (term->deadline - now < (uint64_t)left)
                left = (int64_t)(term->deadline - now);
        }
        if (found == RING_AGAIN) {
            hooks->leave(hooks);
            RING_COUNT(way->parks, 1);
            if (with->wait >= 0)
                found = ring_park_descriptors(with, turn, left);
            else if (ring_futex(&bell->asleep, FUTEX_WAIT, 1, left) < 0 && errno != EAGAIN)
                found = RING_INTERRUPTED; /* a signal, or time to look for one */
            now = ring_now();
            if (found == RING_INTERRUPTED && !hooks->interrupted(hooks))
                found = RING_AGAIN;
        }
        if (found != RING_AGAIN) {
            atomic_store_explicit(&bell->asleep, 0, memory_order_relaxed);
            return found;
        }
    }
}

/* Wait until what is needed is there. The caller has looked once already. */
static enum ring_outcome ring_wait(struct ring *ring, struct ring_way *way, enum ring_need need,
                                   uint64_t bytes, struct ring_term *term,
                                   struct ring_hooks *hooks) {
    uint64_t budget = way->patience.budget, since = 0, i;
    if (term->ns >= 0 && (double)term->ns * ring->pauses_per_ns < (double)budget)
        budget = (uint64_t)((double)term->ns * ring->pauses_per_ns);
    for (i = 0; i < budget; i++) {
        enum ring_outcome found = ring_look(way, need, bytes);
        if (found != RING_AGAIN) {
            RING_COUNT(way->spins, 1);
            RING_COUNT(way->pauses, i);
            if (since && ring_preempted(ring, since, i - ring->hold))
                ring_miss(ring, &way->patience, 0);
            else
                ring_hit(ring, &way->patience);
            return found;
        }
        if (i == ring->hold) {
            hooks->leave(hooks);
            since = ring_now();
        }
        if ((i & 63) == 63 && ring_gone(ring, way))
            break;
        relax();
    }
    RING_COUNT(way->pauses, i);
    uint64_t start = ring_now();
    enum ring_outcome found = ring_sleep(ring, way, need, bytes, term, hooks);
    ring_miss(ring, &way->patience, ring_now() - start);
    return found;
}

#endif
