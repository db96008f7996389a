/* Both ends of a lane in one process without Python, for sanitizers: harness MESSAGES SPIN_NS.
 *
 * Two threads send and receive at each end, a last one closes. There is no GIL to order them by
 * chance, so what ThreadSanitizer sees is ordered by the ring alone.
 *
 * Controls, to see that a sanitizer would notice: with SEED_RACE nothing is published with
 * release; with SEED_OVERFLOW memory for messages is a byte too small.
 */
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef SEED_RACE
#define memory_order_release memory_order_relaxed
#endif
#include "_ring_core.h"

enum { SLOTS = 8, ARENA = 1 << 14, LIMIT = 1 << 20 };

static const uint32_t sizes[] = {0, 1, 40, 231, 232, 233, 5000, 4096, 16384, 16385, 70000, 300000};
static uint64_t messages;

struct end { /* hooks come first: they get a pointer to it */
    struct ring_hooks hooks;
    struct ring *ring;
    unsigned char *private;
    const char *name;
};

static void leave(struct ring_hooks *hooks) { (void)hooks; }
static bool interrupted(struct ring_hooks *hooks) { (void)hooks; return false; }

static unsigned char *allot(struct ring_hooks *hooks, uint32_t size) {
    struct end *end = (struct end *)hooks;
    free(end->private);
#ifdef SEED_OVERFLOW
    size -= size > 0;
#endif
    return end->private = malloc(size ? size : 1);
}

static uint32_t size_of(uint64_t id) { return sizes[id % (sizeof sizes / sizeof *sizes)]; }

static void *sender(void *of) {
    struct end *end = of;
    unsigned char *from = malloc(LIMIT);
    for (uint64_t id = 1; id <= messages; id++) {
        struct ring_term term = {.ns = -1};
        bool begun;
        memset(from, (int)(id % 251), size_of(id));
        assert(ring_room(end->ring, size_of(id)) != RING_BROKEN);
        enum ring_outcome outcome =
            ring_put(end->ring, id, (uint32_t)id, from, size_of(id), true, &term, &end->hooks, &begun);
        assert(outcome == RING_OK);
    }
    free(from);
    return NULL;
}

static void *receiver(void *of) {
    struct end *end = of;
    uint64_t id = 0;
    for (;;) {
        struct ring_term term = {.ns = -1};
        enum ring_outcome outcome = ring_get(end->ring, &term, &end->hooks);
        if (outcome == RING_CLOSED)
            break;
        assert(outcome == RING_OK);
        struct ring_message *got = &end->ring->message;
        assert(got->id == ++id && got->tag == (uint32_t)id && got->size == size_of(id));
        for (uint32_t i = 0; i < got->size; i++)
            assert(got->private[i] == id % 251);
    }
    free(end->private);
    end->private = NULL;
    printf("%s received %llu\n", end->name, (unsigned long long)id);
    assert(id == messages);
    return NULL;
}

int main(int count, char **arguments) {
    assert(count == 3);
    messages = strtoull(arguments[1], NULL, 10);
    uint64_t spin = strtoull(arguments[2], NULL, 10), size = ring_lane_size(SLOTS, ARENA);
    unsigned char *memory = aligned_alloc(4096, size);
    memset(memory, 0, size);
    struct ring rings[2];
    struct end ends[4];
    pthread_t threads[4];
    for (int side = 0; side < 2; side++)
        ring_init(&rings[side], memory, side == 0, SLOTS, ARENA, LIMIT, spin);
    for (int i = 0; i < 4; i++) {
        ends[i] = (struct end){.hooks = {leave, interrupted, allot},
                               .ring = &rings[i % 2],
                               .name = i % 2 ? "enclave" : "host"};
        pthread_create(&threads[i], NULL, i < 2 ? sender : receiver, &ends[i]);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    ring_close(&rings[0]); /* while both receivers may still be at it: all that was sent arrives */
    pthread_join(threads[3], NULL);
    pthread_join(threads[2], NULL);
    printf("sent %llu, slept %llu\n", (unsigned long long)atomic_load(&rings[0].sent),
           (unsigned long long)(atomic_load(&rings[0].in.parks) + atomic_load(&rings[1].in.parks)));
    free(memory);
    return 0;
}
