/* The hot path in C: what is done for every frame that comes in and for every connection that one goes out to.
 *
 * Each function has its equal in Python, in frames.py, envelope.py, outlet.py or step.py, which says what it does and serves where this
 * was not compiled; tests/test_hot.py holds the two against each other. Nothing here releases the GIL: a send to a socket
 * takes 5 to 10 us, and giving the GIL away and taking it back again would be a good part of what is saved.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#include "native.h"
#include "ring.h"

static PyObject *str_write, *str_defer;

/* Frames. */

PyObject *
texts_in(const unsigned char *data, Py_ssize_t size, Py_ssize_t limit)
{
    PyObject *payloads = PyList_New(0);
    if (payloads == NULL)
        return NULL;
    for (Py_ssize_t position = 0; position < size;) {
        Py_ssize_t start = position + 6;
        if (start > size || data[position] != 0x81 || data[position + 1] < 0x80)
            goto undecided;
        Py_ssize_t length = data[position + 1] - 0x80;
        if (length == 126 && start + 2 <= size) {
            length = (Py_ssize_t)data[position + 2] << 8 | data[position + 3];
            start += 2;
        } else if (length >= 126)
            goto undecided;
        position = start + length;
        if (position > size || length > limit)
            goto undecided;
        PyObject *payload = PyByteArray_FromStringAndSize(NULL, length);
        if (payload == NULL)
            goto failed;
        char *to = PyByteArray_AS_STRING(payload);
        const unsigned char *from = data + start;
        uint32_t word;
        memcpy(&word, from - 4, 4);
        const uint64_t mask = (uint64_t)word << 32 | word;
        uint64_t seen = 0, block;
        Py_ssize_t i = 0;
        for (; i + 8 <= length; i += 8) {
            memcpy(&block, from + i, 8);
            block ^= mask;
            seen |= block;
            memcpy(to + i, &block, 8);
        }
        for (; i < length; i++) {
            const unsigned char byte = from[i] ^ from[(i & 3) - 4];
            seen |= byte;
            to[i] = (char)byte;
        }
        int wrong = PyList_Append(payloads, payload);
        if (!wrong && seen & UINT64_C(0x8080808080808080)) { /* not ASCII: it must be UTF-8 */
            PyObject *text = PyUnicode_DecodeUTF8(to, length, NULL);
            if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
                PyErr_Clear();
                Py_DECREF(payload);
                goto undecided;
            }
            wrong = text == NULL;
            Py_XDECREF(text);
        }
        Py_DECREF(payload);
        if (wrong)
            goto failed;
    }
    return payloads;
undecided:
    Py_DECREF(payloads);
    Py_RETURN_NONE;
failed:
    Py_DECREF(payloads);
    return NULL;
}

static PyObject *
decode_text_frames(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "decode_text_frames(data: bytes, limit: int)");
        return NULL;
    }
    const Py_ssize_t limit = PyLong_AsSsize_t(args[1]);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    return texts_in((const unsigned char *)PyBytes_AS_STRING(args[0]), PyBytes_GET_SIZE(args[0]), limit);
}

static PyObject *
encode_event_frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0]) || PyBytes_GET_SIZE(args[0]) == 0 || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "encode_event_frame(payload: bytes, id: str)");
        return NULL;
    }
    Py_ssize_t id_size;
    const char *id = PyUnicode_AsUTF8AndSize(args[1], &id_size);
    if (id == NULL)
        return NULL;
    const Py_ssize_t body = PyBytes_GET_SIZE(args[0]) - 1; /* without the brace */
    const Py_ssize_t length = body + 7 + id_size + 2;
    const int extended = length < 126 ? 0 : length < 65536 ? 2 : 8;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, 2 + extended + length);
    if (frame == NULL)
        return NULL;
    unsigned char *to = (unsigned char *)PyBytes_AS_STRING(frame);
    *to++ = 0x81;
    *to++ = extended == 0 ? (unsigned char)length : extended == 2 ? 126 : 127;
    for (int i = extended - 1; i >= 0; i--)
        *to++ = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(to, PyBytes_AS_STRING(args[0]), body);
    to += body;
    memcpy(to, ",\"id\":\"", 7);
    to += 7;
    memcpy(to, id, id_size);
    memcpy(to + id_size, "\"}", 2);
    return frame;
}

/* Envelopes. */

/* The time now to the second, as in 2025-11-13T12:00:00Z. */
static const char *
timestamp(void)
{
    static time_t shown = -1;
    static char text[64];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now); /* time(2) lags behind it, and behind Python's clock, by up to 4 ms */
    if (now.tv_sec != shown) {
        struct tm parts;
        gmtime_r(&now.tv_sec, &parts);
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
        shown = now.tv_sec;
    }
    return text;
}

/* A piece of the text that is built: as it is, or with what JSON wants escaped in a string. */
struct piece {
    const char *text;
    Py_ssize_t size;
    int is_escaped;
};

/* How `byte` is escaped in a JSON string: with so many characters, in `to` if that is not NULL; 1 is not at all. */
static int
escape(unsigned char byte, char *to)
{
    static const char letters[] = "btn\0fr", digits[] = "0123456789abcdef";
    if (byte >= 0x20 && byte != '"' && byte != '\\') {
        if (to != NULL)
            *to = (char)byte;
        return 1;
    }
    const char letter = byte >= 0x20 ? (char)byte : byte >= '\b' && byte <= '\r' ? letters[byte - '\b'] : '\0';
    if (to != NULL) {
        to[0] = '\\';
        to[1] = letter;
        if (!letter) {
            memcpy(to + 1, "u00", 3);
            to[4] = digits[byte >> 4];
            to[5] = digits[byte & 15];
        }
    }
    return letter ? 2 : 6;
}

/* Write `piece`, unless `to` is NULL, and return its length. */
static Py_ssize_t
put_piece(const struct piece *piece, char *to)
{
    if (!piece->is_escaped) {
        if (to != NULL)
            memcpy(to, piece->text, piece->size);
        return piece->size;
    }
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < piece->size; i++)
        size += escape((unsigned char)piece->text[i], to == NULL ? NULL : to + size);
    return size;
}

/* Make `piece` what stands between the quotes of `string`; -1 with an error. */
static int
as_piece(struct piece *piece, PyObject *string)
{
    piece->is_escaped = 1;
    piece->text = PyUnicode_AsUTF8AndSize(string, &piece->size);
    if (piece->text == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            PyErr_SetString(PyExc_TypeError, "str is not valid UTF-8: surrogates not allowed");
        return -1;
    }
    piece->is_escaped = put_piece(piece, NULL) != piece->size;
    return 0;
}

#define LITERAL(literal) ((struct piece){literal, sizeof literal - 1, 0})

static PyObject *
build_envelope(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyUnicode_Check(args[0]) || !(args[1] == Py_None || PyUnicode_Check(args[1])) ||
        !PyBytes_Check(args[2]) || !(args[3] == Py_None || PyUnicode_Check(args[3]))) {
        PyErr_SetString(PyExc_TypeError, "build_envelope(type: str, room: str | None, data: bytes, sender: str | None)");
        return NULL;
    }
    struct piece pieces[12];
    int last = 0;
    pieces[last++] = LITERAL("{\"type\":\"");
    if (as_piece(&pieces[last++], args[0]) < 0)
        return NULL;
    if (args[1] != Py_None) {
        pieces[last++] = LITERAL("\",\"room\":\"");
        if (as_piece(&pieces[last++], args[1]) < 0)
            return NULL;
    }
    pieces[last++] = LITERAL("\",\"data\":");
    pieces[last++] = (struct piece){PyBytes_AS_STRING(args[2]), PyBytes_GET_SIZE(args[2]), 0};
    if (args[3] != Py_None) {
        pieces[last++] = LITERAL(",\"sender\":\"");
        if (as_piece(&pieces[last++], args[3]) < 0)
            return NULL;
        pieces[last++] = LITERAL("\"");
    }
    pieces[last++] = LITERAL(",\"timestamp\":\"");
    const char *now = timestamp();
    pieces[last++] = (struct piece){now, (Py_ssize_t)strlen(now), 0};
    pieces[last++] = LITERAL("\"}");
    Py_ssize_t size = 0;
    for (int i = 0; i < last; i++)
        size += put_piece(&pieces[i], NULL);
    PyObject *built = PyBytes_FromStringAndSize(NULL, size);
    if (built == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(built);
    for (int i = 0; i < last; i++)
        to += put_piece(&pieces[i], to);
    return built;
}

/* Outlets. */

typedef struct {
    PyObject_HEAD
    PyObject *writer;  /* what writes: a transport, or None */
    PyObject *pending; /* what waits for the end of the turn: None, bytes, or a list of bytes */
    int fd;            /* the socket, if it may be written to without the transport; else -1 */
    char paused;       /* the kernel takes no more */
} WriteQueue;

static PyTypeObject *write_queue_type;

static PyObject *
write_queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    WriteQueue *self = (WriteQueue *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->writer = Py_NewRef(Py_None);
        self->pending = Py_NewRef(Py_None);
        self->fd = -1;
    }
    return (PyObject *)self;
}

static int
write_queue_traverse(WriteQueue *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->writer);
    Py_VISIT(self->pending);
    return 0;
}

static int
write_queue_clear(WriteQueue *self)
{
    Py_CLEAR(self->writer);
    Py_CLEAR(self->pending);
    self->fd = -1;
    return 0;
}

static void
write_queue_dealloc(WriteQueue *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    write_queue_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef write_queue_members[] = {
    {"writer", T_OBJECT, offsetof(WriteQueue, writer), 0, NULL},
    {"pending", T_OBJECT, offsetof(WriteQueue, pending), 0, NULL},
    {"fd", T_INT, offsetof(WriteQueue, fd), 0, NULL},
    {"paused", T_BOOL, offsetof(WriteQueue, paused), 0, NULL},
    {NULL},
};

static PyObject *write_queue_enqueue(WriteQueue *self, PyObject *frame);
static PyObject *write_queue_take(WriteQueue *self, PyObject *unused);
static PyObject *write_queue_queued_bytes(WriteQueue *self, void *unused);

static PyMethodDef write_queue_methods[] = {
    {"enqueue", (PyCFunction)write_queue_enqueue, METH_O, "See fastpath/write_queue.py."},
    {"take", (PyCFunction)write_queue_take, METH_NOARGS, "See fastpath/write_queue.py."},
    {NULL},
};

static PyGetSetDef write_queue_properties[] = {
    {"queued_bytes", (getter)write_queue_queued_bytes, NULL, "See fastpath/write_queue.py.", NULL},
    {NULL},
};

static PyType_Slot write_queue_slots[] = {
    {Py_tp_doc, "See fastpath/write_queue.py."},
    {Py_tp_new, write_queue_new},
    {Py_tp_traverse, write_queue_traverse},
    {Py_tp_clear, write_queue_clear},
    {Py_tp_dealloc, write_queue_dealloc},
    {Py_tp_members, write_queue_members},
    {Py_tp_methods, write_queue_methods},
    {Py_tp_getset, write_queue_properties},
    {0, NULL},
};

static PyType_Spec write_queue_spec = {
    .name = "roomcast._native.WriteQueue",
    .basicsize = sizeof(WriteQueue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = write_queue_slots,
};

/* The outlet that `object` is, or NULL with an error. */
static WriteQueue *
as_write_queue(PyObject *object)
{
    if (PyObject_TypeCheck(object, write_queue_type))
        return (WriteQueue *)object;
    PyErr_Format(PyExc_TypeError, "%.100s is not a WriteQueue", Py_TYPE(object)->tp_name);
    return NULL;
}

static int
call_with(PyObject *object, PyObject *method, PyObject *argument)
{
    PyObject *result = PyObject_CallMethodOneArg(object, method, argument);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* What is left of `data`, bytes, of which `fd` took the first `sent`. Without memory for it nothing may follow on `fd`. */
static PyObject *
unsent(int fd, PyObject *data, Py_ssize_t sent)
{
    if (sent == 0)
        return Py_NewRef(data);
    PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + sent, PyBytes_GET_SIZE(data) - sent);
    if (rest == NULL)
        shutdown(fd, SHUT_RDWR);
    return rest;
}

/* Write `data`, bytes, to `self`, for which somebody holds a reference. */
static int
put(WriteQueue *self, PyObject *data)
{
    if (self->writer == Py_None || self->writer == NULL)
        return 0;
    if (self->paused)
        return call_with((PyObject *)self, str_defer, data);
    ssize_t sent = 0;
    const Py_ssize_t size = PyBytes_GET_SIZE(data);
    if (self->fd >= 0) {
        /* Not paused: the transport has nothing left, so nothing is overtaken. */
        do
            sent = send(self->fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (sent < 0 && errno == EINTR);
        if (sent == size)
            return 0;
        if (sent < 0)
            sent = 0; /* the kernel is full, or the peer gone: the transport knows what to do in both cases */
    }
    PyObject *rest = unsent(self->fd, data, sent);
    if (rest == NULL)
        return -1;
    PyObject *writer = Py_NewRef(self->writer); /* it may be taken from us meanwhile */
    const int wrong = call_with(writer, str_write, rest);
    Py_DECREF(writer);
    Py_DECREF(rest);
    return wrong;
}

/* Append `frame`, bytes, to `self`, for which the caller holds a reference. 1: the queue was empty, 0: it was not, -1: an
 * error. */
static int
append(WriteQueue *self, PyObject *frame)
{
    PyObject *pending = self->pending;
    if (pending == Py_None || pending == NULL) {
        self->pending = Py_NewRef(frame);
        Py_XDECREF(pending);
        return 1;
    }
    if (PyList_CheckExact(pending))
        return PyList_Append(pending, frame);
    Py_INCREF(pending); /* creating a list may run the garbage collector, and its finalizers may change self */
    PyObject *both = PyList_New(2);
    if (both == NULL) {
        Py_DECREF(pending);
        return -1;
    }
    PyList_SET_ITEM(both, 0, pending); /* steals the reference */
    PyList_SET_ITEM(both, 1, Py_NewRef(frame));
    PyObject *before = self->pending;
    self->pending = both;
    Py_XDECREF(before);
    return 0;
}

static PyObject *
write_queue_enqueue(WriteQueue *self, PyObject *frame)
{
    if (!PyBytes_CheckExact(frame)) {
        PyErr_SetString(PyExc_TypeError, "enqueue(frame: bytes)");
        return NULL;
    }
    const int was_empty = append(self, frame);
    return was_empty < 0 ? NULL : PyBool_FromLong(was_empty);
}

static PyObject *
enqueue_all(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyDict_Check(args[0]) || !PyBytes_Check(args[1]) || !PyList_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "enqueue_all(queues: dict[WriteQueue, None], frame: bytes, dirty: list[WriteQueue])");
        return NULL;
    }
    Py_ssize_t position = 0;
    PyObject *key, *value;
    while (PyDict_Next(args[0], &position, &key, &value)) {
        WriteQueue *self = as_write_queue(key);
        if (self == NULL)
            return NULL;
        Py_INCREF(self);
        const int was_empty = append(self, args[1]);
        const int wrong = was_empty < 0 || (was_empty && PyList_Append(args[2], (PyObject *)self) < 0);
        Py_DECREF(self);
        if (wrong)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* Whether `pending` is bytes, or a list of nothing but bytes. */
static int
is_in_order(PyObject *pending)
{
    if (!PyList_CheckExact(pending))
        return PyBytes_CheckExact(pending);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pending); i++)
        if (!PyBytes_CheckExact(PyList_GET_ITEM(pending, i)))
            return 0;
    return 1;
}

/* All of the bytes in `pieces`, a list in order, in one. */
static PyObject *
joined(PyObject *pieces)
{
    const Py_ssize_t count = PyList_GET_SIZE(pieces);
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < count; i++)
        size += PyBytes_GET_SIZE(PyList_GET_ITEM(pieces, i));
    PyObject *whole = PyBytes_FromStringAndSize(NULL, size);
    if (whole == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(whole);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *piece = PyList_GET_ITEM(pieces, i);
        memcpy(to, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece));
        to += PyBytes_GET_SIZE(piece);
    }
    return whole;
}

/* Take what is pending for `self`, in one piece: bytes, None if nothing is, or NULL with an error. */
static PyObject *
take_pending(WriteQueue *self)
{
    PyObject *pending = self->pending;
    if (pending == Py_None || pending == NULL)
        return Py_NewRef(Py_None); /* it was closed meanwhile */
    PyObject *data = NULL;
    self->pending = Py_NewRef(Py_None);
    if (!is_in_order(pending))
        PyErr_SetString(PyExc_TypeError, "what is pending must be bytes");
    else if (PyList_CheckExact(pending))
        data = joined(pending);
    else
        data = Py_NewRef(pending);
    Py_DECREF(pending);
    return data;
}

static PyObject *
write_queue_take(WriteQueue *self, PyObject *Py_UNUSED(unused))
{
    return take_pending(self);
}

static PyObject *
write_queue_queued_bytes(WriteQueue *self, void *Py_UNUSED(unused))
{
    PyObject *pending = self->pending;
    Py_ssize_t size = 0;
    if (pending != NULL && PyBytes_CheckExact(pending))
        size = PyBytes_GET_SIZE(pending);
    else if (pending != NULL && PyList_CheckExact(pending))
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pending); i++)
            if (PyBytes_CheckExact(PyList_GET_ITEM(pending, i)))
                size += PyBytes_GET_SIZE(PyList_GET_ITEM(pending, i));
    return PyLong_FromSsize_t(size);
}

/* Send what is pending for those of `due` from `from` to `to` who can be sent to past the transport, and leave pending
 * what the kernel did not take. No Python runs here, which could close one of the sockets before it was written to.
 * Return whether all of them have nothing pending now, or -1 with an error. */
static int
send_pending(PyObject *due, Py_ssize_t from, Py_ssize_t to)
{
    static struct transfer transfers[RING_SIZE];
    static PyObject *data[RING_SIZE];
    static WriteQueue *whose[RING_SIZE];
    int count = 0, wrong = 0;
    for (Py_ssize_t i = from; i < to && !wrong; i++) {
        if (!PyObject_TypeCheck(PyList_GET_ITEM(due, i), write_queue_type))
            continue; /* what is not as it should be is left for write_pending to refuse */
        WriteQueue *self = (WriteQueue *)PyList_GET_ITEM(due, i);
        if (self->fd < 0 || self->paused || self->writer == Py_None || self->pending == NULL || !is_in_order(self->pending))
            continue;
        PyObject *taken = take_pending(self);
        wrong = taken == NULL;
        if (wrong)
            continue;
        whose[count] = self;
        data[count] = taken;
        transfers[count].fd = self->fd;
        transfers[count].data = PyBytes_AS_STRING(taken);
        transfers[count].size = PyBytes_GET_SIZE(taken);
        count++;
    }
    ring_transfer(SEND, transfers, count);
    Py_ssize_t done = 0;
    for (int i = 0; i < count; i++) {
        const struct transfer *one = &transfers[i];
        const Py_ssize_t sent = one->done < 0 ? 0 : one->done;
        if (sent < PyBytes_GET_SIZE(data[i])) {
            PyObject *rest = unsent(one->fd, data[i], sent);
            if (rest == NULL)
                wrong = 1;
            else
                Py_SETREF(whose[i]->pending, rest);
        } else
            done++;
        Py_DECREF(data[i]);
    }
    return wrong ? -1 : done;
}

/* From so many on the ring is worth its while. */
#define MANY 4

static PyObject *
flush_all(PyObject *module, PyObject *due)
{
    if (!PyList_Check(due)) {
        PyErr_SetString(PyExc_TypeError, "flush_all(dirty: list[WriteQueue])");
        return NULL;
    }
    const int by_ring = PyList_GET_SIZE(due) >= MANY && ring_is_ready();
    for (Py_ssize_t from = 0, to; from < PyList_GET_SIZE(due); from = to) {
        to = Py_MIN(from + RING_SIZE, PyList_GET_SIZE(due));
        const Py_ssize_t done = by_ring ? send_pending(due, from, to) : 0;
        if (done < 0)
            return NULL;
        for (Py_ssize_t i = done < to - from ? from : to; i < to && i < PyList_GET_SIZE(due); i++) {
            WriteQueue *self = as_write_queue(PyList_GET_ITEM(due, i));
            if (self == NULL)
                return NULL;
            if (self->pending == Py_None)
                continue;
            Py_INCREF(self);
            PyObject *data = take_pending(self);
            const int wrong = data == NULL || (data != Py_None && put(self, data) < 0);
            Py_DECREF(self);
            Py_XDECREF(data);
            if (wrong)
                return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
uses_io_uring(PyObject *module, PyObject *unused)
{
    return PyBool_FromLong(ring_is_ready());
}

/* Steps. */

static PyObject *
start_coroutine(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyContext_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "start_coroutine(unstarted: Coroutine, context: Context, on_suspend: Callable)");
        return NULL;
    }
    if (PyContext_Enter(args[1]) < 0)
        return NULL;
    PyObject *result;
    const PySendResult end = PyIter_Send(args[0], Py_None, &result);
    if (PyContext_Exit(args[1]) < 0)
        Py_CLEAR(result);
    if (end != PYGEN_NEXT || result == NULL)
        return result;
    PyObject *waits = PyObject_CallOneArg(args[2], result);
    Py_DECREF(result);
    return waits;
}

static PyMethodDef functions[] = {
    {"decode_text_frames", (PyCFunction)(void (*)(void))decode_text_frames, METH_FASTCALL, "See fastpath/text_frames.py."},
    {"encode_event_frame", (PyCFunction)(void (*)(void))encode_event_frame, METH_FASTCALL, "See fastpath/text_frames.py."},
    {"build_envelope", (PyCFunction)(void (*)(void))build_envelope, METH_FASTCALL, "See fastpath/envelope.py."},
    {"enqueue_all", (PyCFunction)(void (*)(void))enqueue_all, METH_FASTCALL, "See fastpath/write_queue.py."},
    {"start_coroutine", (PyCFunction)(void (*)(void))start_coroutine, METH_FASTCALL, "See fastpath/coroutine.py."},
    {"flush_all", flush_all, METH_O, "See fastpath/write_queue.py."},
    {"uses_io_uring", uses_io_uring, METH_NOARGS, "See fastpath/write_queue.py."},
    {NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "roomcast._native",
    .m_doc = "The hot path in C.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    str_write = PyUnicode_InternFromString("write");
    str_defer = PyUnicode_InternFromString("defer");
    write_queue_type = (PyTypeObject *)PyType_FromSpec(&write_queue_spec);
    if (str_write == NULL || str_defer == NULL || write_queue_type == NULL ||
        PyModule_AddObjectRef(module, "WriteQueue", (PyObject *)write_queue_type) < 0 || add_sockets(module) < 0 ||
        add_loader(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
