/* The C twin of app/fastpath/write_queue.py. It writes to sockets directly, and passes the rest to their transports. */

#include "native.h"

#include <string.h>
#include <structmember.h>
#include <sys/socket.h>

#include "io_uring.h"

/* The attributes are those of the Python twin. The struct is zeroed when it is created. */
typedef struct {
    PyObject_HEAD
    PyObject *writer;
    PyObject *pending;
    int fd;
    char paused;
} WriteQueue;

static PyTypeObject *write_queue_type;
static PyObject *str_write, *str_defer;

static PyObject *
write_queue_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
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

/* Return `object` as a WriteQueue, or NULL with an exception set. The reference is borrowed. */
static WriteQueue *
as_write_queue(PyObject *object)
{
    if (PyObject_TypeCheck(object, write_queue_type))
        return (WriteQueue *)object;
    PyErr_Format(PyExc_TypeError, "%.100s is not a WriteQueue", Py_TYPE(object)->tp_name);
    return NULL;
}

/* True for None, and for NULL: the garbage collector can clear a queue that is still in use. */
static int
is_unset(PyObject *attribute)
{
    return attribute == Py_None || attribute == NULL;
}

/* Append `frame`, bytes. The caller holds a reference to `self`.
 * Return 1 if the queue was empty, 0 if not, or -1 with an exception set. */
static int
append(WriteQueue *self, PyObject *frame)
{
    PyObject *pending = self->pending;
    if (is_unset(pending)) {
        Py_XSETREF(self->pending, Py_NewRef(frame));
        return 1;
    }
    if (PyList_CheckExact(pending))
        return PyList_Append(pending, frame);
    Py_INCREF(pending); /* a new list can start a garbage collection, and a finalizer can change self */
    PyObject *both = PyList_New(2);
    if (both == NULL) {
        Py_DECREF(pending);
        return -1;
    }
    PyList_SET_ITEM(both, 0, pending); /* takes over the reference */
    PyList_SET_ITEM(both, 1, Py_NewRef(frame));
    Py_XSETREF(self->pending, both);
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
enqueue_all(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyDict_Check(args[0]) || !PyBytes_Check(args[1]) || !PyList_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "enqueue_all(queues: dict[WriteQueue, None], frame: bytes, dirty: list[WriteQueue])");
        return NULL;
    }
    PyObject *queues = args[0], *frame = args[1], *dirty = args[2];
    Py_ssize_t position = 0;
    PyObject *key, *value;
    while (PyDict_Next(queues, &position, &key, &value)) {
        WriteQueue *queue = as_write_queue(key);
        if (queue == NULL)
            return NULL;
        Py_INCREF(queue); /* a finalizer can remove it from `queues` (see append) */
        const int was_empty = append(queue, frame);
        const int failed = was_empty < 0 || (was_empty && PyList_Append(dirty, (PyObject *)queue) < 0);
        Py_DECREF(queue);
        if (failed)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* Return the size of `pending` in bytes, or -1 if it is neither bytes nor a list of bytes. */
static Py_ssize_t
size_of(PyObject *pending)
{
    if (!PyList_CheckExact(pending))
        return PyBytes_CheckExact(pending) ? PyBytes_GET_SIZE(pending) : -1;
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pending); i++) {
        if (!PyBytes_CheckExact(PyList_GET_ITEM(pending, i)))
            return -1;
        size += PyBytes_GET_SIZE(PyList_GET_ITEM(pending, i));
    }
    return size;
}

/* Return `frames`, a list of `size` bytes, joined as bytes, or NULL with an exception set. */
static PyObject *
join(PyObject *frames, Py_ssize_t size)
{
    PyObject *joined = PyBytes_FromStringAndSize(NULL, size);
    if (joined == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(joined);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(frames); i++) {
        PyObject *frame = PyList_GET_ITEM(frames, i);
        memcpy(to, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame));
        to += PyBytes_GET_SIZE(frame);
    }
    return joined;
}

static PyObject *
write_queue_take(WriteQueue *self, PyObject *Py_UNUSED(unused))
{
    if (is_unset(self->pending))
        Py_RETURN_NONE;
    PyObject *pending = self->pending, *data = NULL;
    self->pending = Py_NewRef(Py_None);
    const Py_ssize_t size = size_of(pending);
    if (size < 0)
        PyErr_SetString(PyExc_TypeError, "pending must be bytes or a list of bytes");
    else
        data = PyList_CheckExact(pending) ? join(pending, size) : Py_NewRef(pending);
    Py_DECREF(pending);
    return data;
}

static PyObject *
write_queue_queued_bytes(WriteQueue *self, void *Py_UNUSED(closure))
{
    const Py_ssize_t size = is_unset(self->pending) ? 0 : size_of(self->pending);
    return PyLong_FromSsize_t(Py_MAX(size, 0));
}

/* Call a method with one argument. Return 0, or -1 with an exception set. */
static int
call_method(PyObject *object, PyObject *name, PyObject *argument)
{
    PyObject *result = PyObject_CallMethodOneArg(object, name, argument);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static struct transfer
transfer_of(const WriteQueue *self, PyObject *data)
{
    return (struct transfer){.fd = self->fd, .data = PyBytes_AS_STRING(data), .size = PyBytes_GET_SIZE(data)};
}

/* Return the part of `data`, bytes, after the `sent` bytes that `fd` has accepted, or NULL with an exception set.
 * Without memory the rest is lost. The socket is then shut down, because no frame may follow an incomplete one. */
static PyObject *
after_sent(int fd, PyObject *data, Py_ssize_t sent)
{
    if (sent == 0)
        return Py_NewRef(data);
    PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + sent, PyBytes_GET_SIZE(data) - sent);
    if (rest == NULL)
        shutdown(fd, SHUT_RDWR);
    return rest;
}

/* Write `data`, bytes. The caller holds a reference to `self`. Return 0, or -1 with an exception set. */
static int
write_one(WriteQueue *self, PyObject *data)
{
    if (is_unset(self->writer))
        return 0;
    if (self->paused)
        return call_method((PyObject *)self, str_defer, data);
    Py_ssize_t sent = 0;
    if (self->fd >= 0) {
        /* The queue is not paused, so the transport's buffer is empty and the data cannot overtake anything. */
        struct transfer transfer = transfer_of(self, data);
        transfer_one(SEND, &transfer);
        if (transfer.result == PyBytes_GET_SIZE(data))
            return 0;
        sent = Py_MAX(transfer.result, 0); /* after an error the transport tries again, and handles a lost peer */
    }
    PyObject *rest = after_sent(self->fd, data, sent);
    if (rest == NULL)
        return -1;
    PyObject *writer = Py_NewRef(self->writer); /* write() can close the connection, which sets self->writer to None */
    const int result = call_method(writer, str_write, rest);
    Py_DECREF(writer);
    Py_DECREF(rest);
    return result;
}

/* Return 1 if the frames of `self` can be sent without running any Python code. */
static int
can_send_directly(const WriteQueue *self)
{
    return self->fd >= 0 && !self->paused && !is_unset(self->writer) && !is_unset(self->pending) &&
           size_of(self->pending) >= 0;
}

/* Send the frames of dirty[begin:end] with io_uring, where that is possible without the transport.
 *
 * Frames that the kernel did not accept stay in their queue. No Python code runs here, because it could close a socket
 * before the data for it is sent. Return the number of queues that are empty now, or -1 with an exception set. */
static Py_ssize_t
send_batch(PyObject *dirty, Py_ssize_t begin, Py_ssize_t end)
{
    static struct transfer transfers[MAX_TRANSFERS];
    static PyObject *data[MAX_TRANSFERS];
    static WriteQueue *queues[MAX_TRANSFERS]; /* borrowed from `dirty` */
    int count = 0, failed = 0;
    for (Py_ssize_t i = begin; i < end; i++) {
        WriteQueue *queue = (WriteQueue *)PyList_GET_ITEM(dirty, i);
        if (!PyObject_TypeCheck(queue, write_queue_type) || !can_send_directly(queue))
            continue; /* flush_all handles it, or raises TypeError */
        data[count] = write_queue_take(queue, NULL);
        failed = data[count] == NULL;
        if (failed)
            break;
        queues[count] = queue;
        transfers[count] = transfer_of(queue, data[count]);
        count++;
    }
    transfer_all(SEND, transfers, count);
    Py_ssize_t emptied = 0;
    for (int i = 0; i < count; i++) {
        const Py_ssize_t sent = Py_MAX(transfers[i].result, 0);
        if (sent == PyBytes_GET_SIZE(data[i])) {
            emptied++;
        } else {
            PyObject *rest = after_sent(transfers[i].fd, data[i], sent);
            if (rest == NULL)
                failed = 1;
            else
                Py_SETREF(queues[i]->pending, rest);
        }
        Py_DECREF(data[i]);
    }
    return failed ? -1 : emptied;
}

/* Write the frames of `self`. Return 0, or -1 with an exception set. */
static int
flush(WriteQueue *self)
{
    if (is_unset(self->pending))
        return 0;
    Py_INCREF(self);
    PyObject *data = write_queue_take(self, NULL);
    const int result = data == NULL ? -1 : write_one(self, data);
    Py_DECREF(self);
    Py_XDECREF(data);
    return result;
}

static PyObject *
flush_all(PyObject *Py_UNUSED(module), PyObject *dirty)
{
    if (!PyList_Check(dirty)) {
        PyErr_SetString(PyExc_TypeError, "flush_all(dirty: list[WriteQueue])");
        return NULL;
    }
    const int uses_batches = PyList_GET_SIZE(dirty) >= MIN_TRANSFERS && io_uring_is_ready();
    /* write_one runs Python code, which can change `dirty`, so its size is read again each time. */
    for (Py_ssize_t begin = 0, end; begin < PyList_GET_SIZE(dirty); begin = end) {
        end = Py_MIN(begin + MAX_TRANSFERS, PyList_GET_SIZE(dirty));
        const Py_ssize_t emptied = uses_batches ? send_batch(dirty, begin, end) : 0;
        if (emptied < 0)
            return NULL;
        if (emptied == end - begin)
            continue;
        for (Py_ssize_t i = begin; i < end && i < PyList_GET_SIZE(dirty); i++) {
            WriteQueue *queue = as_write_queue(PyList_GET_ITEM(dirty, i));
            if (queue == NULL || flush(queue) < 0)
                return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
uses_io_uring(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(io_uring_is_ready());
}

static PyMemberDef members[] = {
    {"writer", T_OBJECT, offsetof(WriteQueue, writer), 0, NULL},
    {"pending", T_OBJECT, offsetof(WriteQueue, pending), 0, NULL},
    {"fd", T_INT, offsetof(WriteQueue, fd), 0, NULL},
    {"paused", T_BOOL, offsetof(WriteQueue, paused), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef methods[] = {
    {"enqueue", (PyCFunction)write_queue_enqueue, METH_O, "See fastpath/write_queue.py."},
    {"take", (PyCFunction)write_queue_take, METH_NOARGS, "See fastpath/write_queue.py."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"queued_bytes", (getter)write_queue_queued_bytes, NULL, "See fastpath/write_queue.py.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "See fastpath/write_queue.py."},
    {Py_tp_new, write_queue_new},
    {Py_tp_traverse, write_queue_traverse},
    {Py_tp_clear, write_queue_clear},
    {Py_tp_dealloc, write_queue_dealloc},
    {Py_tp_members, members},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "roomcast._native.WriteQueue",
    .basicsize = sizeof(WriteQueue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

static PyMethodDef functions[] = {
    {"enqueue_all", FASTCALL(enqueue_all), "See fastpath/write_queue.py."},
    {"flush_all", flush_all, METH_O, "See fastpath/write_queue.py."},
    {"uses_io_uring", uses_io_uring, METH_NOARGS, "See fastpath/write_queue.py."},
    {NULL, NULL, 0, NULL},
};

int
add_write_queue(PyObject *module)
{
    str_write = PyUnicode_InternFromString("write");
    str_defer = PyUnicode_InternFromString("defer");
    write_queue_type = (PyTypeObject *)PyType_FromSpec(&spec);
    if (str_write == NULL || str_defer == NULL || write_queue_type == NULL ||
        PyModule_AddObjectRef(module, "WriteQueue", (PyObject *)write_queue_type) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
