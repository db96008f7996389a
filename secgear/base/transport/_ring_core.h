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

#include "_ring_wait.h"

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
