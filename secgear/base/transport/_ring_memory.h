/* The ring's memory: what is shared, what is private, and how one looks at what is shared.
 *
 * _ring_core.h tells the whole story. Nothing here waits or calls the system, but for the clock.
 */
#ifndef SECGEAR_RING_MEMORY_H
#define SECGEAR_RING_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

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

#endif
