/* Handles: a place in a table and a number that no other handle ever had, so that an old one fits
 * nothing new, in a child of fork neither. */
#include <stdatomic.h>
#include <stdlib.h>

#include "sdf_rooms.h"

struct place {
    struct sdf_object *object; /* NULL for a free one */
    uint64_t number;
};

enum { MOST = 1 << 16, FIRST = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct place *places;
static size_t count, next_free;
static uint64_t newest; /* of 44 bits: enough for a million handles a second in half a year */

/* Bits from below: 1, 3 of the kind, 16 of the place, the number. Odd, so no address of anything. */
static void *handle_at(size_t at)
{
    uintptr_t number = (uintptr_t)places[at].number << 20 | at << 4 | places[at].object->kind << 1 | 1;
    return (void *)number; /* NOLINT: a number is what it is */
}

static bool grow(void)
{
    size_t more = count == 0 ? FIRST : 2 * count;
    if (more > MOST)
        return false;
    struct place *grown = realloc(places, more * sizeof *places);
    if (grown == NULL)
        return false;
    for (size_t at = count; at < more; at++)
        grown[at] = (struct place){NULL, 0};
    places = grown;
    count = more;
    return true;
}

void *sdf_handle_of(struct sdf_object *object, const struct sdf_object *owner)
{
    void *handle = NULL;
    object->uses = 1;
    object->owner = owner;
    atomic_store(&object->closed, false);
    pthread_mutex_lock(&lock);
    size_t at = next_free;
    while (at < count && places[at].object != NULL)
        at++;
    if (at < count || grow()) {
        places[at].object = object;
        places[at].number = ++newest;
        next_free = at + 1;
        handle = handle_at(at);
    }
    pthread_mutex_unlock(&lock);
    return handle;
}

/* With the lock held. */
static struct place *place_of(void *handle, enum sdf_kind kind)
{
    uintptr_t number = (uintptr_t)handle;
    size_t at = number >> 4 & (MOST - 1);
    if (at >= count || places[at].object == NULL || places[at].object->kind != kind)
        return NULL;
    return handle_at(at) == handle ? &places[at] : NULL;
}

struct sdf_object *sdf_use(void *handle, enum sdf_kind kind)
{
    pthread_mutex_lock(&lock);
    struct place *place = place_of(handle, kind);
    struct sdf_object *object = place == NULL ? NULL : place->object;
    if (object != NULL)
        object->uses++;
    pthread_mutex_unlock(&lock);
    return object;
}

void sdf_done(struct sdf_object *object)
{
    pthread_mutex_lock(&lock);
    bool last = --object->uses == 0;
    pthread_mutex_unlock(&lock);
    if (!last)
        return;
    if (object->kind == SDF_SESSION)
        pthread_mutex_destroy(&((struct sdf_session *)object)->lock);
    free(object);
}

/* With the lock held: whoever has this returned owes an sdf_done. */
static struct sdf_object *vacate(struct place *place)
{
    struct sdf_object *object = place->object;
    place->object = NULL;
    atomic_store(&object->closed, true);
    if ((size_t)(place - places) < next_free)
        next_free = (size_t)(place - places);
    return object;
}

struct sdf_object *sdf_take(void *handle, enum sdf_kind kind)
{
    pthread_mutex_lock(&lock);
    struct place *place = place_of(handle, kind);
    struct sdf_object *object = place == NULL ? NULL : vacate(place);
    pthread_mutex_unlock(&lock);
    return object;
}

struct sdf_object *sdf_take_of(const struct sdf_object *owner)
{
    struct sdf_object *object = NULL;
    pthread_mutex_lock(&lock);
    for (size_t at = 0; at < count && object == NULL; at++) {
        if (places[at].object != NULL && places[at].object->owner == owner)
            object = vacate(&places[at]);
    }
    pthread_mutex_unlock(&lock);
    return object;
}

/* What they stand for is the parent's. Another thread of his may have been changing the table, so
 * nobody looks at it any more. */
void sdf_handles_forget(void)
{
    pthread_mutex_init(&lock, NULL);
    places = NULL;
    count = next_free = 0;
}
