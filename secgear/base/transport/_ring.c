/* secgear.base.transport._ring: the ring for Python, on the limited API of 3.11.
 *
 * Native because Python has neither release stores nor fences: without them a ring is wrong on
 * aarch64 and loses wake-ups everywhere. docs/adr/0013-native-ring.md has the reasons.
 * What crosses the trust boundary is in _ring_core.h; here are objects, the GIL and errors.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "_ring_core.h"

static PyObject *ring_broken; /* RingBroken, made once for the process */
static _Atomic uint32_t forks; /* a child must not use its parent's rings */

static void in_child(void) { atomic_fetch_add(&forks, 1); }

typedef struct {
    PyObject_HEAD
    struct ring ring;
    Py_buffer memory;
    PyObject *arriving; /* bytes that ring.message.private points into */
    uint32_t forks;
    bool mapped, sending, receiving;
} RingObject;

/* --- the GIL and signals -------------------------------------------------------------------- */

struct gil { /* lives as long as one operation */
    struct ring_hooks hooks;
    RingObject *self;
    PyThreadState *state; /* not NULL: the GIL is dropped */
};

static void gil_leave(struct ring_hooks *hooks) {
    struct gil *gil = (struct gil *)hooks;
    if (!gil->state)
        gil->state = PyEval_SaveThread();
}

static void gil_enter(struct gil *gil) {
    if (gil->state) {
        PyEval_RestoreThread(gil->state);
        gil->state = NULL;
    }
}

static bool gil_interrupted(struct ring_hooks *hooks) {
    gil_enter((struct gil *)hooks);
    return PyErr_CheckSignals() != 0;
}

static unsigned char *gil_allot(struct ring_hooks *hooks, uint32_t size) {
    struct gil *gil = (struct gil *)hooks;
    gil_enter(gil);
    gil->self->arriving = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    return gil->self->arriving ? (unsigned char *)PyBytes_AsString(gil->self->arriving) : NULL;
}

static inline struct gil gil_of(RingObject *self) {
    return (struct gil){.hooks = {gil_leave, gil_interrupted, gil_allot}, .self = self};
}

/* --- errors --------------------------------------------------------------------------------- */

static void unmap(RingObject *self) {
    if (self->mapped && !self->sending && !self->receiving) {
        self->mapped = false;
        PyBuffer_Release(&self->memory);
    }
}

static void shut(RingObject *self) {
    if (!atomic_load(&self->ring.closing) && self->mapped)
        ring_close(&self->ring);
    unmap(self);
}

/* Set the exception for RING_BROKEN and RING_CLOSED; the others have theirs, or need none. */
static void refuse(RingObject *self, enum ring_outcome outcome) {
    if (outcome == RING_BROKEN) {
        RING_COUNT(self->ring.rejected, 1);
        shut(self);
        PyErr_SetString(ring_broken, "the peer broke the protocol of the ring; it is closed now");
    } else if (outcome == RING_CLOSED) {
        PyErr_SetString(PyExc_ConnectionError, "the ring is closed");
    } /* RING_INTERRUPTED: the exception is set */
}

/* --- arguments ------------------------------------------------------------------------------ */

static bool to_term(PyObject *timeout, struct ring_term *term) {
    *term = (struct ring_term){.ns = -1};
    if (!timeout || timeout == Py_None)
        return true;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return false;
    if (!(seconds >= 0)) {
        PyErr_SetString(PyExc_ValueError, "timeout must not be negative");
        return false;
    }
    term->ns = seconds > 1e9 ? -1 : (int64_t)(seconds * 1e9);
    return true;
}

static bool to_id(PyObject *value, uint64_t *id) {
    *id = PyLong_AsUnsignedLongLong(value);
    return *id != (uint64_t)-1 || !PyErr_Occurred();
}

static bool to_tag(PyObject *value, uint32_t *tag) {
    unsigned long wide = PyLong_AsUnsignedLong(value);
    if (wide == (unsigned long)-1 && PyErr_Occurred())
        return false;
    if (wide > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "tag must fit 32 bits");
        return false;
    }
    *tag = (uint32_t)wide;
    return true;
}

static bool enough(const char *name, Py_ssize_t given, Py_ssize_t least, Py_ssize_t most) {
    if (given >= least && given <= most)
        return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd arguments, not %zd", name, least, most,
                 given);
    return false;
}

/* --- one direction at a time ---------------------------------------------------------------- */

/* Under the GIL. `busy` is self->sending or self->receiving. */
static enum ring_outcome enter(RingObject *self, bool *busy) {
    if (!self->mapped || atomic_load_explicit(&self->ring.closing, memory_order_acquire))
        return RING_CLOSED;
    if (self->forks != atomic_load_explicit(&forks, memory_order_relaxed)) {
        PyErr_SetString(PyExc_ConnectionError, "the ring belongs to the process before the fork");
        return RING_INTERRUPTED;
    }
    if (*busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread uses this direction of the ring");
        return RING_INTERRUPTED;
    }
    *busy = true;
    return RING_OK;
}

static inline void leave(RingObject *self, bool *busy) {
    *busy = false;
    if (atomic_load_explicit(&self->ring.closing, memory_order_relaxed))
        unmap(self);
}

enum sending { ALONE, IF_ROOM };

/* Send a message. how: IF_ROOM leaves ringing to the caller, and returns RING_AGAIN instead of
 * waiting. RING_TIMEOUT and RING_AGAIN set no exception. */
static enum ring_outcome put(RingObject *self, uint64_t id, uint32_t tag, PyObject *payload,
                             enum sending how, struct ring_term *term) {
    Py_buffer data;
    if (PyObject_GetBuffer(payload, &data, PyBUF_SIMPLE))
        return RING_INTERRUPTED;
    enum ring_outcome outcome = RING_INTERRUPTED;
    if ((uint64_t)data.len > self->ring.limit)
        PyErr_Format(PyExc_ValueError, "%zd bytes are more than the ring takes in one message (%lu)",
                     data.len, (unsigned long)self->ring.limit);
    else
        outcome = enter(self, &self->sending);
    if (outcome == RING_OK) {
        struct gil gil = gil_of(self);
        bool begun = false;
        if (how == IF_ROOM)
            outcome = ring_room(&self->ring, (uint32_t)data.len);
        if (outcome == RING_OK)
            outcome = ring_put(&self->ring, id, tag, data.buf, (uint32_t)data.len, how == ALONE,
                               term, &gil.hooks, &begun);
        gil_enter(&gil);
        if (outcome != RING_OK && begun)
            shut(self); /* the peer waits for the rest of a message that will never come */
        leave(self, &self->sending);
    }
    PyBuffer_Release(&data);
    refuse(self, outcome);
    return outcome;
}

/* Receive a message; the caller owns *payload. RING_TIMEOUT as with put. */
static enum ring_outcome get(RingObject *self, uint64_t *id, uint32_t *tag, PyObject **payload,
                             struct ring_term *term) {
    enum ring_outcome outcome = enter(self, &self->receiving);
    if (outcome == RING_OK) {
        struct gil gil = gil_of(self);
        outcome = ring_get(&self->ring, term, &gil.hooks);
        gil_enter(&gil);
        if (outcome == RING_OK) {
            *id = self->ring.message.id;
            *tag = self->ring.message.tag;
            *payload = self->arriving;
            self->arriving = NULL;
        }
        leave(self, &self->receiving);
    }
    refuse(self, outcome);
    return outcome;
}

static PyObject *triple(PyObject *id, PyObject *tag, PyObject *payload) {
    PyObject *result = id && tag ? PyTuple_New(3) : NULL;
    if (!result) {
        Py_XDECREF(id);
        Py_XDECREF(tag);
        Py_DECREF(payload);
        return NULL;
    }
    PyTuple_SetItem(result, 0, id);
    PyTuple_SetItem(result, 1, tag);
    PyTuple_SetItem(result, 2, payload);
    return result;
}

static PyObject *timed_out(void) {
    PyErr_SetString(PyExc_TimeoutError, "no room in the ring before the timeout");
    return NULL;
}

/* --- methods -------------------------------------------------------------------------------- */

static PyObject *ring_send(RingObject *self, PyObject *const *args, Py_ssize_t count) {
    uint64_t id;
    uint32_t tag;
    struct ring_term term;
    if (!enough("send", count, 3, 4) || !to_id(args[0], &id) || !to_tag(args[1], &tag) ||
        !to_term(count > 3 ? args[3] : NULL, &term))
        return NULL;
    enum ring_outcome outcome = put(self, id, tag, args[2], ALONE, &term);
    if (outcome == RING_TIMEOUT)
        return timed_out();
    if (outcome != RING_OK)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *ring_recv(RingObject *self, PyObject *const *args, Py_ssize_t count) {
    uint64_t id;
    uint32_t tag;
    PyObject *payload;
    struct ring_term term;
    if (!enough("recv", count, 0, 1) || !to_term(count ? args[0] : NULL, &term))
        return NULL;
    enum ring_outcome outcome = get(self, &id, &tag, &payload, &term);
    if (outcome == RING_TIMEOUT)
        Py_RETURN_NONE;
    if (outcome != RING_OK)
        return NULL;
    return triple(PyLong_FromUnsignedLongLong(id), PyLong_FromUnsignedLong(tag), payload);
}

static PyObject *ring_call(RingObject *self, PyObject *const *args, Py_ssize_t count) {
    uint64_t id, answered;
    uint32_t tag, kind;
    PyObject *payload;
    struct ring_term term;
    if (!enough("call", count, 3, 4) || !to_id(args[0], &id) || !to_tag(args[1], &tag) ||
        !to_term(count > 3 ? args[3] : NULL, &term))
        return NULL;
    enum ring_outcome outcome = put(self, id, tag, args[2], ALONE, &term);
    if (outcome == RING_TIMEOUT)
        return timed_out();
    if (outcome != RING_OK)
        return NULL;
    outcome = get(self, &answered, &kind, &payload, &term);
    if (outcome == RING_TIMEOUT)
        Py_RETURN_NONE;
    if (outcome != RING_OK)
        return NULL;
    /* Most answers carry the numbers of their question, which are objects already. */
    return triple(answered == id ? Py_NewRef(args[0]) : PyLong_FromUnsignedLongLong(answered),
                  kind == tag ? Py_NewRef(args[1]) : PyLong_FromUnsignedLong(kind), payload);
}

/* Ask `handler` about one message and send what it answers: None is nothing, a buffer has the tag
 * of the question, a tuple is (tag, buffer). Takes over payload. */
static enum ring_outcome answer(RingObject *self, PyObject *handler, uint64_t id, uint32_t tag,
                                PyObject *payload) {
    PyObject *first = PyLong_FromUnsignedLongLong(id);
    PyObject *second = PyLong_FromUnsignedLong(tag);
    PyObject *result = NULL;
    if (first && second)
        result = PyObject_CallFunctionObjArgs(handler, first, second, payload, NULL);
    Py_XDECREF(first);
    Py_XDECREF(second);
    Py_DECREF(payload);
    if (!result)
        return RING_INTERRUPTED;
    PyObject *reply = result;
    enum ring_outcome outcome = RING_OK;
    if (PyTuple_Check(result)) {
        if (PyTuple_Size(result) != 2) {
            PyErr_SetString(PyExc_TypeError, "a handler answers with a buffer or (tag, buffer)");
            outcome = RING_INTERRUPTED;
        } else {
            reply = PyTuple_GetItem(result, 1);
            if (!to_tag(PyTuple_GetItem(result, 0), &tag))
                outcome = RING_INTERRUPTED;
        }
    }
    if (outcome == RING_OK && reply != Py_None) {
        struct ring_term term = {.ns = -1};
        outcome = put(self, id, tag, reply, ALONE, &term);
    }
    Py_DECREF(result);
    return outcome;
}

static PyObject *ring_serve(RingObject *self, PyObject *handler) {
    for (;;) {
        uint64_t id;
        uint32_t tag;
        PyObject *payload;
        struct ring_term term = {.ns = -1};
        enum ring_outcome outcome = get(self, &id, &tag, &payload, &term);
        if (outcome == RING_OK)
            outcome = answer(self, handler, id, tag, payload);
        if (outcome == RING_CLOSED) { /* by whichever side: the end of serving */
            PyErr_Clear();
            Py_RETURN_NONE;
        }
        if (outcome != RING_OK || PyErr_CheckSignals()) /* the loop may never sleep */
            return NULL;
    }
}

/* --- many calls in flight ------------------------------------------------------------------- */

struct batch {
    PyObject *payloads; /* a list */
    PyObject *results;  /* a list, None where the answer has not come */
    PyObject *other;    /* handler of messages that answer none of ours, or None */
    uint64_t first;
    Py_ssize_t size, window, sent, answered;
    uint32_t tag;
    struct ring_term term;
};

/* Send as many as the window and the ring have room for. Never waits for room while answers are
 * due: the peer may be waiting for us to take them. */
static bool batch_send(RingObject *self, struct batch *batch) {
    bool ring = false;
    enum ring_outcome outcome = RING_OK;
    while (outcome == RING_OK && batch->sent < batch->size &&
           batch->sent - batch->answered < batch->window) {
        /* The first rings, so that the peer begins at once; one more ringing does for the rest. */
        enum sending how = batch->sent == batch->answered ? ALONE : IF_ROOM;
        PyObject *payload = Py_NewRef(PyList_GetItem(batch->payloads, batch->sent));
        outcome = put(self, batch->first + (uint64_t)batch->sent, batch->tag, payload, how,
                      &batch->term);
        Py_DECREF(payload);
        if (outcome == RING_OK) {
            batch->sent++;
            ring = how == IF_ROOM;
        }
    }
    if (ring && self->mapped)
        ring_wake(&self->ring, self->ring.out.theirs);
    if (outcome == RING_TIMEOUT)
        timed_out();
    return outcome == RING_OK || outcome == RING_AGAIN;
}

static bool batch_receive(RingObject *self, struct batch *batch) {
    uint64_t id;
    uint32_t tag;
    PyObject *payload;
    enum ring_outcome outcome = get(self, &id, &tag, &payload, &batch->term);
    if (outcome == RING_TIMEOUT)
        PyErr_SetString(PyExc_TimeoutError, "not all answers came before the timeout");
    if (outcome != RING_OK)
        return false;
    uint64_t index = id - batch->first;
    if (index >= (uint64_t)batch->size && batch->other != Py_None)
        return answer(self, batch->other, id, tag, payload) == RING_OK;
    if (index >= (uint64_t)batch->sent ||
        PyList_GetItem(batch->results, (Py_ssize_t)index) != Py_None) {
        Py_DECREF(payload);
        refuse(self, RING_BROKEN); /* an answer to no question, or a second one */
        return false;
    }
    PyObject *kind = PyLong_FromUnsignedLong(tag), *pair = kind ? PyTuple_New(2) : NULL;
    if (!pair) {
        Py_XDECREF(kind);
        Py_DECREF(payload);
        return false;
    }
    PyTuple_SetItem(pair, 0, kind);
    PyTuple_SetItem(pair, 1, payload);
    PyList_SetItem(batch->results, (Py_ssize_t)index, pair);
    batch->answered++;
    return true;
}

static PyObject *ring_call_many(RingObject *self, PyObject *const *args, Py_ssize_t count) {
    struct batch batch = {.other = count > 5 ? args[5] : Py_None};
    if (!enough("call_many", count, 4, 6) || !to_tag(args[0], &batch.tag) ||
        !to_id(args[2], &batch.first) || !to_term(count > 4 ? args[4] : NULL, &batch.term))
        return NULL;
    batch.window = PyLong_AsSsize_t(args[3]);
    if (batch.window == -1 && PyErr_Occurred())
        return NULL;
    if (batch.window < 1 || (uint64_t)batch.window > self->ring.in.count) {
        PyErr_SetString(PyExc_ValueError, "window must be 1 to the number of slots");
        return NULL;
    }
    batch.payloads = PySequence_List(args[1]);
    batch.size = batch.payloads ? PyList_Size(batch.payloads) : 0;
    batch.results = batch.payloads ? PyList_New(batch.size) : NULL;
    bool good = batch.results;
    for (Py_ssize_t i = 0; good && i < batch.size; i++)
        PyList_SetItem(batch.results, i, Py_NewRef(Py_None));
    while (good && batch.answered < batch.size) {
        good = batch_send(self, &batch) && batch_receive(self, &batch);
        while (good && batch.answered < batch.sent && self->mapped && ring_ready(&self->ring.in))
            good = batch_receive(self, &batch); /* ring once for many */
    }
    Py_XDECREF(batch.payloads);
    if (!good)
        Py_CLEAR(batch.results);
    return batch.results;
}

/* --- life ----------------------------------------------------------------------------------- */

static PyObject *ring_close_method(RingObject *self, PyObject *ignored) {
    (void)ignored;
    if (self->forks == atomic_load(&forks))
        shut(self);
    Py_RETURN_NONE;
}

static PyObject *ring_stats(RingObject *self, PyObject *ignored) {
    (void)ignored;
    struct ring *ring = &self->ring;
#define BOTH(counter)                                                                              \
    (unsigned long long)(atomic_load(&ring->out.counter) + atomic_load(&ring->in.counter))
#define ONE(counter) (unsigned long long)atomic_load(&ring->counter)
    return Py_BuildValue("{sKsKsKsKsKsKsK}", "spins", BOTH(spins), "pauses", BOTH(pauses), "parks",
                         BOTH(parks), "wakes", ONE(wakes), "rejected", ONE(rejected), "sent",
                         ONE(sent), "received", ONE(received));
#undef BOTH
#undef ONE
}

/* A write to or read from it must never block: the peer decides how full it is. */
static bool bell_descriptor(int fd, bool *is_socket) {
    struct stat status;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &status) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return false;
    }
    *is_socket = S_ISSOCK(status.st_mode);
    if (!*is_socket && !(flags & O_NONBLOCK)) {
        PyErr_SetString(PyExc_ValueError, "descriptors of a doorbell must be non-blocking");
        return false;
    }
    return true;
}

static bool hang_bell(struct ring_descriptors *descriptors, PyObject *bell) {
    int wait, ring;
    if (bell == Py_None)
        return true;
    if (!PyTuple_Check(bell)) {
        PyErr_SetString(PyExc_TypeError, "bell must be a tuple of two descriptors");
        return false;
    }
    if (!PyArg_ParseTuple(bell, "ii", &wait, &ring) ||
        !bell_descriptor(wait, &descriptors->wait_is_socket) ||
        !bell_descriptor(ring, &descriptors->ring_is_socket))
        return false;
    descriptors->nudge = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (descriptors->nudge < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return false;
    }
    descriptors->wait = wait;
    descriptors->ring = ring;
    return true;
}

static bool power_of_two(unsigned long long value, unsigned long long least,
                         unsigned long long most) {
    return value >= least && value <= most && !(value & (value - 1));
}

static bool good_geometry(unsigned long long slots, unsigned long long arena) {
    if (power_of_two(slots, 2, 1 << 16) && power_of_two(arena, 1 << 12, 1ull << 32))
        return true;
    PyErr_SetString(PyExc_ValueError,
                    "slots and arena must be powers of two: 2 to 65536, 4096 to 2**32 bytes");
    return false;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    static char *names[] = {"memory", "host", "slots", "arena", "limit", "spin", "bell", NULL};
    PyObject *memory, *bell = Py_None;
    int host = -1;
    unsigned long long slots = 0, arena = 0, limit = 0, spin = 200;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O|$pKKKKO", names, &memory, &host, &slots,
                                     &arena, &limit, &spin, &bell) ||
        !good_geometry(slots, arena))
        return NULL;
    if (host < 0) {
        PyErr_SetString(PyExc_TypeError, "host must be given: which side this is");
        return NULL;
    }
    if (limit < 1 || limit > INT32_MAX || spin > 1000000) {
        PyErr_SetString(PyExc_ValueError, "limit must be 1 to 2**31-1, spin at most 10**6 us");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    RingObject *self = (RingObject *)allocate(type, 0);
    if (!self)
        return NULL;
    self->ring.descriptors.nudge = -1;
    self->forks = atomic_load(&forks);
    if (PyObject_GetBuffer(memory, &self->memory, PyBUF_WRITABLE))
        goto failed;
    self->mapped = true;
    if ((uint64_t)self->memory.len != ring_lane_size(slots, arena) ||
        (uintptr_t)self->memory.buf % RING_LINE) {
        PyErr_Format(PyExc_ValueError, "memory must be %llu bytes, aligned to %u",
                     (unsigned long long)ring_lane_size(slots, arena), RING_LINE);
        goto failed;
    }
    ring_init(&self->ring, self->memory.buf, host, slots, arena, (uint32_t)limit,
              spin * 1000);
    if (hang_bell(&self->ring.descriptors, bell))
        return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static void ring_free(RingObject *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (self->mapped && self->ring.out.shared && self->forks == atomic_load(&forks))
        shut(self);
    unmap(self);
    Py_XDECREF(self->arriving);
    if (self->ring.descriptors.nudge >= 0)
        close(self->ring.descriptors.nudge);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* --- module --------------------------------------------------------------------------------- */

static PyObject *lane_size(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long slots, arena;
    if (!PyArg_ParseTuple(args, "KK", &slots, &arena) || !good_geometry(slots, arena))
        return NULL;
    return PyLong_FromUnsignedLongLong(ring_lane_size(slots, arena));
}

#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL
static PyMethodDef ring_methods[] = {
    {"send", FAST(ring_send), NULL},
    {"recv", FAST(ring_recv), NULL},
    {"call", FAST(ring_call), NULL},
    {"serve", (PyCFunction)(void (*)(void))ring_serve, METH_O, NULL},
    {"call_many", FAST(ring_call_many), NULL},
    {"close", (PyCFunction)(void (*)(void))ring_close_method, METH_NOARGS, NULL},
    {"stats", (PyCFunction)(void (*)(void))ring_stats, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_free},
    {Py_tp_methods, ring_methods},
    {Py_tp_doc, "One side of one lane of shared memory. See secgear.base.transport.ring."},
    {0, NULL},
};

static PyType_Spec ring_spec = {
    .name = "secgear.base.transport._ring.Ring",
    .basicsize = sizeof(RingObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ring_slots,
};

static int module_exec(PyObject *module) {
    if (!ring_broken) {
        ring_broken = PyErr_NewExceptionWithDoc(
            "secgear.base.transport._ring.RingBroken",
            "The peer wrote what the protocol of the ring does not allow. The ring is closed.",
            PyExc_ConnectionError, NULL);
        if (!ring_broken || pthread_atfork(NULL, NULL, in_child))
            return -1;
    }
    PyObject *type = PyType_FromModuleAndSpec(module, &ring_spec, NULL);
    int failed = !type || PyModule_AddObjectRef(module, "Ring", type) ||
                 PyModule_AddObjectRef(module, "RingBroken", ring_broken) ||
                 PyModule_AddIntConstant(module, "INLINE", RING_INLINE) ||
                 PyModule_AddIntConstant(module, "SLOT", RING_SLOT);
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyMethodDef functions[] = {
    {"lane_size", lane_size, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "secgear.base.transport._ring",
    .m_doc = "The ring of switchless calls, native. Import secgear.base.transport.ring instead.",
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__ring(void) { return PyModuleDef_Init(&definition); }
