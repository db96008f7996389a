/* The protocol of the ring, without Python: bytes move between two processes through shared memory.
 *
 * A lane is two ways, one for each direction. A way is a single-producer single-consumer ring of
 * slots and an arena of bytes. The other side is hostile: it may write anything anywhere in the
 * lane at any time. So positions and geometry live in private memory (struct way), whatever is
 * read from the lane is loaded once into a local and checked before use, and what can be derived
 * (lengths of pieces, offsets) does not travel at all.
 *
 * Publishing. The producer fills slot `position % count`, then stores position + 1 into its `seq`
 * with release; the consumer's acquire load of exactly that value is its right to read the slot. A
 * small message therefore moves one cache line. The consumer publishes how far it has come
 * (`taken`, `freed`), now and then, with release; the producer's acquire load is its right to
 * write over what lies before.
 *
 * Sleeping. Who sleeps says so in `asleep`, who has published looks there: store, fence, load on
 * both sides (Dekker). Both fences must be sequentially consistent: with less, each side's load
 * may pass its own store, the sleeper misses the message and the publisher misses the sleeper.
 * tests/base/transport/model.py is this protocol in Python, checked over all interleavings.
 */
#ifndef SECGEAR_RING_CORE_H
#define SECGEAR_RING_CORE_H

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <emmintrin.h>
#define relax() _mm_pause()
#elif defined(__aarch64__)
#define relax() __asm__ volatile("isb" ::: "memory") /* `yield` returns at once on most cores */
#else
#define relax() __asm__ volatile("" ::: "memory")
#endif

#define RING_LINE 128u          /* two cache lines: hardware fetches neighbours in pairs */
#define RING_SLOT 256u
#define RING_INLINE (RING_SLOT - 24u) /* payload in the slot itself; 40 bytes of it in the first line */
#define RING_PIECE 65536u       /* at most so much in one piece: copies on both sides overlap */
#define RING_STREAMED (256u << 10) /* from this size on, stores that go past the cache */
#define RING_RECHECK_NS 250000000ll /* a sleeper looks again without being woken */
#define RING_HOLD_NS 2000u      /* spinning before the caller's lock (the GIL) is dropped */

/* --- shared memory: what the other side can write ------------------------------------------- */

struct ring_bell { /* written by its sleeper; the other side clears `asleep` */
    _Alignas(RING_LINE) _Atomic uint32_t asleep; /* the futex word */
    _Atomic uint32_t closed;
};

struct ring_progress { /* written by the consumer */
    _Alignas(RING_LINE) _Atomic uint64_t taken; /* slots */
    _Atomic uint64_t freed;                     /* bytes of the arena */
};

struct ring_control {
    struct ring_progress progress;
    struct ring_bell consumer, producer;
};

struct ring_slot { /* written by the producer */
    _Atomic uint64_t seq;
    _Atomic uint64_t id;
    _Atomic uint64_t what; /* tag << 32 | size of the whole message */
    unsigned char bytes[RING_INLINE];
};

_Static_assert(sizeof(struct ring_control) == 3 * RING_LINE, "control lines are part of the layout");
_Static_assert(sizeof(struct ring_slot) == RING_SLOT, "slots are part of the layout");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "atomics must work between processes");

/* --- private memory ------------------------------------------------------------------------- */

enum ring_outcome { RING_OK, RING_AGAIN, RING_TIMEOUT, RING_CLOSED, RING_BROKEN, RING_INTERRUPTED };
enum ring_need { RING_MESSAGE, RING_SLOT_ROOM, RING_ARENA_ROOM };

struct ring_patience { /* how long it is worth spinning before sleeping */
    uint64_t budget;   /* pauses */
    uint32_t misses;   /* waits in a row that spinning did not end */
    uint32_t near;     /* sleeps so short that spinning might have done */
    uint32_t probe;    /* after so many of them, spin once more to see */
    bool probing;
};

struct ring_way {
    struct ring_control *shared;
    struct ring_slot *slots;
    unsigned char *arena;
    uint64_t count, size;         /* slots; bytes of arena: both powers of two */
    uint32_t piece;
    uint64_t position, offset;    /* next slot, next byte of the arena, counted without wrapping */
    uint64_t taken, freed;        /* producer: checked progress of the peer; consumer: published */
    struct ring_bell *mine, *theirs;
    struct ring_patience patience;
    _Atomic uint64_t spins, pauses, parks;
};

struct ring_descriptors { /* doorbell by descriptors instead of futex; wait < 0: futex */
    int wait, ring, nudge; /* nudge: an eventfd of our own that wakes our own sleepers, for good */
    bool wait_is_socket, ring_is_socket;
    _Atomic uint32_t led, turn; /* one thread polls, another waits for its turn */
};

struct ring_message { /* what has arrived of it so far */
    bool begun;
    uint64_t id;
    uint32_t tag, size, done;
    unsigned char *private;
};

struct ring {
    struct ring_way out, in;
    struct ring_descriptors descriptors;
    struct ring_message message;
    uint32_t limit;     /* bytes of one message */
    uint64_t patience;  /* pauses, at most */
    uint64_t hold;      /* pauses before the caller's lock is dropped */
    double pauses_per_ns;
    _Atomic bool closing;
    _Atomic uint64_t sent, received, wakes, rejected;
};

struct ring_term { /* time a whole operation may wait */
    int64_t ns;        /* negative: for ever */
    uint64_t deadline; /* of CLOCK_MONOTONIC; 0 until the first sleep */
};

struct ring_hooks { /* what the core asks of its caller */
    void (*leave)(struct ring_hooks *);       /* about to wait or to copy much: drop your lock */
    bool (*interrupted)(struct ring_hooks *); /* a signal came, or some time has passed */
    unsigned char *(*allot)(struct ring_hooks *, uint32_t size); /* private memory; NULL: interrupted */
};

/* Counted by the one thread that has the direction, read by any. */
#define RING_COUNT(counter, n)                                                                     \
    atomic_store_explicit(&(counter),                                                              \
                          atomic_load_explicit(&(counter), memory_order_relaxed) + (n),            \
                          memory_order_relaxed)

static inline uint64_t ring_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A pause takes 10 to 140 cycles, by CPU; times must not depend on that. */
static inline double ring_pauses_per_ns(void) {
    enum { ROUNDS = 256 };
    double best = 0;
    for (int round = 0; round < 3; round++) { /* the best: we may be preempted meanwhile */
        uint64_t start = ring_now();
        for (int i = 0; i < ROUNDS; i++)
            relax();
        double rate = (double)ROUNDS / (double)(ring_now() - start + 1);
        if (rate > best)
            best = rate;
    }
    return best;
}

static inline uint64_t ring_way_size(uint64_t slots, uint64_t arena) {
    return sizeof(struct ring_control) + slots * RING_SLOT + arena;
}

static inline uint64_t ring_lane_size(uint64_t slots, uint64_t arena) {
    return (2 * ring_way_size(slots, arena) + 4095) & ~4095ull;
}

static inline void ring_way_init(struct ring_way *way, unsigned char *base, uint64_t slots,
                                 uint64_t arena, bool producer) {
    *way = (struct ring_way){
        .shared = (struct ring_control *)base,
        .slots = (struct ring_slot *)(base + sizeof(struct ring_control)),
        .arena = base + sizeof(struct ring_control) + slots * RING_SLOT,
        .count = slots,
        .size = arena,
        .piece = arena / 4 < RING_PIECE ? (uint32_t)(arena / 4) : RING_PIECE,
    };
    way->mine = producer ? &way->shared->producer : &way->shared->consumer;
    way->theirs = producer ? &way->shared->consumer : &way->shared->producer;
}

/* memory: ring_lane_size bytes, aligned to RING_LINE, zero when both sides begin.
 * slots, arena: powers of two, arena at least 4096. spin_ns: busy waiting at most. */
static inline void ring_init(struct ring *ring, unsigned char *memory, bool host, uint64_t slots,
                             uint64_t arena, uint32_t limit, uint64_t spin_ns) {
    memset(ring, 0, sizeof *ring);
    unsigned char *second = memory + ring_way_size(slots, arena);
    ring_way_init(&ring->out, host ? memory : second, slots, arena, true);
    ring_way_init(&ring->in, host ? second : memory, slots, arena, false);
    ring->descriptors.wait = ring->descriptors.ring = ring->descriptors.nudge = -1;
    ring->limit = limit;
    ring->pauses_per_ns = ring_pauses_per_ns();
    ring->patience = (uint64_t)((double)spin_ns * ring->pauses_per_ns);
    ring->hold = (uint64_t)(RING_HOLD_NS * ring->pauses_per_ns);
    ring->out.patience = ring->in.patience =
        (struct ring_patience){.budget = ring->patience, .probe = 64};
}

/* --- looking at shared memory --------------------------------------------------------------- */

static inline bool ring_ready(const struct ring_way *in) {
    return atomic_load_explicit(&in->slots[in->position & (in->count - 1)].seq,
                                memory_order_acquire) == in->position + 1;
}

/* A word that moves only between what we knew and what we have produced. */
static inline bool ring_advance(_Atomic uint64_t *shared, uint64_t *known, uint64_t produced) {
    uint64_t value = atomic_load_explicit(shared, memory_order_acquire);
    if (value - *known > produced - *known)
        return false;
    *known = value;
    return true;
}

static enum ring_outcome ring_look(struct ring_way *way, enum ring_need need, uint64_t bytes) {
    switch (need) {
    case RING_MESSAGE: {
        uint64_t seq = atomic_load_explicit(&way->slots[way->position & (way->count - 1)].seq,
                                            memory_order_acquire);
        if (seq == way->position + 1)
            return RING_OK;
        /* An honest slot still has what it had a lap ago. */
        return seq == (way->position < way->count ? 0 : way->position + 1 - way->count)
                   ? RING_AGAIN
                   : RING_BROKEN;
    }
    case RING_SLOT_ROOM:
        if (way->position - way->taken < way->count)
            return RING_OK;
        if (!ring_advance(&way->shared->progress.taken, &way->taken, way->position))
            return RING_BROKEN;
        return way->position - way->taken < way->count ? RING_OK : RING_AGAIN;
    case RING_ARENA_ROOM:
        if (way->size - (way->offset - way->freed) >= bytes)
            return RING_OK;
        if (!ring_advance(&way->shared->progress.freed, &way->freed, way->offset))
            return RING_BROKEN;
        return way->size - (way->offset - way->freed) >= bytes ? RING_OK : RING_AGAIN;
    }
    return RING_BROKEN;
}

static inline bool ring_gone(struct ring *ring, struct ring_way *way) {
    return atomic_load_explicit(&ring->closing, memory_order_acquire) ||
           atomic_load_explicit(&way->theirs->closed, memory_order_acquire);
}

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
    uint64_t budget = way->patience.budget, i;
    if (term->ns >= 0 && (double)term->ns * ring->pauses_per_ns < (double)budget)
        budget = (uint64_t)((double)term->ns * ring->pauses_per_ns);
    for (i = 0; i < budget; i++) {
        enum ring_outcome found = ring_look(way, need, bytes);
        if (found != RING_AGAIN) {
            RING_COUNT(way->spins, 1);
            RING_COUNT(way->pauses, i);
            ring_hit(ring, &way->patience);
            return found;
        }
        if (i == ring->hold)
            hooks->leave(hooks);
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

/* --- copying -------------------------------------------------------------------------------- */

/* Into shared memory past the cache: as fast between distant cores as between near ones. */
static inline void ring_stream(unsigned char *to, const unsigned char *from, size_t size) {
#if defined(__x86_64__)
    for (; size >= 64; size -= 64, to += 64, from += 64) { /* `to` is aligned: pieces are */
        __m128i a = _mm_loadu_si128((const __m128i *)from);
        __m128i b = _mm_loadu_si128((const __m128i *)(from + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(from + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(from + 48));
        _mm_stream_si128((__m128i *)to, a);
        _mm_stream_si128((__m128i *)(to + 16), b);
        _mm_stream_si128((__m128i *)(to + 32), c);
        _mm_stream_si128((__m128i *)(to + 48), d);
    }
    memcpy(to, from, size);
    _mm_sfence(); /* release stores do not wait for streamed ones */
#else
    memcpy(to, from, size);
#endif
}

static void ring_copy_in(struct ring_way *out, const unsigned char *from, uint32_t size, bool stream) {
    uint64_t start = out->offset & (out->size - 1);
    size_t first = out->size - start < size ? (size_t)(out->size - start) : size;
    if (stream) {
        ring_stream(out->arena + start, from, first);
        ring_stream(out->arena, from + first, size - first);
    } else {
        memcpy(out->arena + start, from, first);
        memcpy(out->arena, from + first, size - first);
    }
}

static void ring_copy_out(const struct ring_way *in, unsigned char *private, uint32_t size) {
    uint64_t start = in->offset & (in->size - 1);
    size_t first = in->size - start < size ? (size_t)(in->size - start) : size;
    memcpy(private, in->arena + start, first);
    memcpy(private + first, in->arena, size - first);
}

static inline uint64_t ring_rounded(uint32_t size) { return ((uint64_t)size + 63) & ~63ull; }

/* Length of the piece at `done` of a message: both sides derive it, so nobody can lie about it. */
static inline uint32_t ring_piece(const struct ring_way *way, uint32_t size, uint32_t done) {
    if (size <= RING_INLINE)
        return size;
    return size - done < way->piece ? size - done : way->piece;
}

/* --- sending -------------------------------------------------------------------------------- */

/* Whether a whole message could go out without waiting for the peer. */
static enum ring_outcome ring_room(struct ring *ring, uint32_t size) {
    struct ring_way *out = &ring->out;
    if (size <= RING_INLINE)
        return ring_look(out, RING_SLOT_ROOM, 0);
    uint64_t pieces = ((uint64_t)size + out->piece - 1) / out->piece;
    if (out->position - out->taken + pieces > out->count) {
        if (!ring_advance(&out->shared->progress.taken, &out->taken, out->position))
            return RING_BROKEN;
        if (out->position - out->taken + pieces > out->count)
            return RING_AGAIN;
    }
    return ring_look(out, RING_ARENA_ROOM, ring_rounded(size));
}

/* Send one message. On anything but RING_OK, *begun tells whether a part has gone out: then the
 * way is of no more use. wake: false if the caller rings once for several messages. */
static enum ring_outcome ring_put(struct ring *ring, uint64_t id, uint32_t tag,
                                  const unsigned char *from, uint32_t size, bool wake,
                                  struct ring_term *term, struct ring_hooks *hooks, bool *begun) {
    struct ring_way *out = &ring->out;
    uint32_t done = 0;
    *begun = false;
    if (size > RING_PIECE)
        hooks->leave(hooks);
    do {
        uint32_t piece = ring_piece(out, size, done);
        enum ring_outcome found = ring_look(out, RING_SLOT_ROOM, 0);
        if (found == RING_AGAIN) {
            ring_wake(ring, out->theirs);
            found = ring_wait(ring, out, RING_SLOT_ROOM, 0, term, hooks);
        }
        struct ring_slot *slot = &out->slots[out->position & (out->count - 1)];
        if (found == RING_OK && size > RING_INLINE) {
            uint64_t rounded = ring_rounded(piece);
            found = ring_look(out, RING_ARENA_ROOM, rounded);
            if (found == RING_AGAIN) {
                ring_wake(ring, out->theirs);
                found = ring_wait(ring, out, RING_ARENA_ROOM, rounded, term, hooks);
            }
            if (found == RING_OK) {
                ring_copy_in(out, from + done, piece, size >= RING_STREAMED);
                out->offset += rounded;
            }
        } else if (found == RING_OK) {
            memcpy(slot->bytes, from, piece);
        }
        if (found != RING_OK)
            return found;
        atomic_store_explicit(&slot->what, (uint64_t)tag << 32 | size, memory_order_relaxed);
        atomic_store_explicit(&slot->id, id, memory_order_relaxed);
        atomic_store_explicit(&slot->seq, out->position + 1, memory_order_release);
        out->position++;
        done += piece;
        *begun = true;
        if (wake)
            ring_wake(ring, out->theirs);
    } while (done < size);
    RING_COUNT(ring->sent, 1);
    return RING_OK;
}

/* --- receiving ------------------------------------------------------------------------------ */

/* Seldom, so that small calls move no line but the slot's; often enough never to hold up a
 * producer: at most a quarter of the slots and an eighth of the arena are withheld. */
static void ring_publish(struct ring *ring, struct ring_way *in) {
    if (in->position - in->taken < in->count / 4 && in->offset - in->freed < in->size / 8)
        return;
    in->taken = in->position;
    in->freed = in->offset;
    atomic_store_explicit(&in->shared->progress.freed, in->freed, memory_order_release);
    atomic_store_explicit(&in->shared->progress.taken, in->taken, memory_order_release);
    ring_wake(ring, in->theirs);
}

/* Receive one message into ring->message, whose memory `allot` gives. RING_TIMEOUT and
 * RING_INTERRUPTED leave a message that has begun as it is; the next call goes on with it. */
static enum ring_outcome ring_get(struct ring *ring, struct ring_term *term,
                                  struct ring_hooks *hooks) {
    struct ring_way *in = &ring->in;
    struct ring_message *message = &ring->message;
    do {
        if (!ring_ready(in)) {
            enum ring_outcome found = ring_wait(ring, in, RING_MESSAGE, 0, term, hooks);
            if (found != RING_OK)
                return found;
        }
        struct ring_slot *shared = &in->slots[in->position & (in->count - 1)];
        uint64_t id = atomic_load_explicit(&shared->id, memory_order_relaxed);
        uint64_t what = atomic_load_explicit(&shared->what, memory_order_relaxed);
        uint32_t size = (uint32_t)what, tag = (uint32_t)(what >> 32);
        if (!message->begun) {
            if (size > ring->limit)
                return RING_BROKEN;
            unsigned char *private = hooks->allot(hooks, size);
            if (!private)
                return RING_INTERRUPTED;
            *message = (struct ring_message){
                .begun = true, .id = id, .tag = tag, .size = size, .private = private};
        } else if (id != message->id || size != message->size || tag != message->tag) {
            return RING_BROKEN;
        }
        uint32_t piece = ring_piece(in, size, message->done);
        if (size <= RING_INLINE) {
            memcpy(message->private, shared->bytes, piece);
        } else {
            if (size > RING_PIECE)
                hooks->leave(hooks);
            ring_copy_out(in, message->private + message->done, piece);
            in->offset += ring_rounded(piece);
        }
        in->position++;
        message->done += piece;
        ring_publish(ring, in);
    } while (message->done < message->size);
    message->begun = false;
    RING_COUNT(ring->received, 1);
    return RING_OK;
}

/* --- the end -------------------------------------------------------------------------------- */

/* From any thread; wakes all four possible sleepers. `closed` is what the peer sees. */
static void ring_close(struct ring *ring) {
    atomic_store_explicit(&ring->closing, true, memory_order_release);
    struct ring_way *ways[2] = {&ring->out, &ring->in};
    for (int i = 0; i < 2; i++)
        atomic_store_explicit(&ways[i]->mine->closed, 1, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    for (int i = 0; i < 2; i++) {
        /* Whatever the peer made of the words, everybody is woken. */
        atomic_store_explicit(&ways[i]->theirs->asleep, 0, memory_order_relaxed);
        ring_ring(ring, ways[i]->theirs);
        atomic_store_explicit(&ways[i]->mine->asleep, 0, memory_order_relaxed);
        ring_futex(&ways[i]->mine->asleep, FUTEX_WAKE, INT32_MAX, -1);
    }
    if (ring->descriptors.wait >= 0) {
        uint64_t one = 1;
        ssize_t ignored = write(ring->descriptors.nudge, &one, sizeof one);
        (void)ignored;
        ring_turn(&ring->descriptors);
    }
}

#endif
