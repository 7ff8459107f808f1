/* SocketPoller, read past their transports: see intake.py. */

#include "native.h"
#include "ring.h"

#ifndef __linux__

int
add_sockets(PyObject *module)
{
    return 0;
}

#else

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* So many sockets are read before what they sent is dealt with. */
#define BATCH 128
/* So many times in one turn of the loop. */
#define ROUNDS 8
/* What is read from each in the first go, in bytes; most send less. An odd number of cache lines, lest the beginnings of
 * all of them compete for the same places in the cache. */
#define FIRST (65 * 64)
static PyObject *str_take, *str_read, *str_hang_up, *str_failed;

typedef struct {
    PyObject *reader;
    char is_within; /* a message, of which it has read the beginning */
} Entry;

/* What is under way in one `read`, whose callbacks let other threads run, with SocketPoller of their own. */
typedef struct {
    struct transfer transfers[BATCH];
    PyObject *readers[BATCH];
    char buffers[BATCH][FIRST];
} Batch;

typedef struct {
    PyObject_HEAD
    int epoll;
    int is_reading;
    Py_ssize_t limit;   /* of a message, in bytes */
    Py_ssize_t count;   /* of those that are read */
    Py_ssize_t room;    /* of `entries` */
    Entry *entries;     /* by socket */
    Batch *batch;
} SocketPoller;

static PyObject *
sockets_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    Py_ssize_t limit;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n", names, &limit))
        return NULL;
    SocketPoller *self = (SocketPoller *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->limit = limit;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_CLEAR(self);
    } else {
        self->batch = PyMem_Malloc(sizeof(Batch)); /* 0.5 MiB, of which the system gives what is touched */
        if (self->batch == NULL) {
            PyErr_NoMemory();
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

static int
sockets_traverse(SocketPoller *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < self->room; i++)
        Py_VISIT(self->entries[i].reader);
    return 0;
}

static int
sockets_clear(SocketPoller *self)
{
    for (Py_ssize_t i = 0; i < self->room; i++)
        Py_CLEAR(self->entries[i].reader);
    return 0;
}

static void
sockets_dealloc(SocketPoller *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    sockets_clear(self);
    PyMem_Free(self->entries);
    PyMem_Free(self->batch);
    if (self->epoll >= 0)
        close(self->epoll);
    type->tp_free(self);
    Py_DECREF(type);
}

static Py_ssize_t
sockets_length(SocketPoller *self)
{
    return self->count;
}

static PyObject *
sockets_fileno(SocketPoller *self, PyObject *unused)
{
    return PyLong_FromLong(self->epoll);
}

static PyObject *
sockets_add(SocketPoller *self, PyObject *args)
{
    int fd, is_within;
    PyObject *reader;
    if (!PyArg_ParseTuple(args, "iOp", &fd, &reader, &is_within))
        return NULL;
    if (fd < 0) {
        PyErr_SetString(PyExc_ValueError, "a socket's number is not negative");
        return NULL;
    }
    if (fd >= self->room) {
        const Py_ssize_t room = (Py_ssize_t)fd + fd / 2 + 64;
        Entry *entries = PyMem_Resize(self->entries, Entry, room);
        if (entries == NULL)
            return PyErr_NoMemory();
        memset(entries + self->room, 0, (room - self->room) * sizeof(Entry));
        self->entries = entries;
        self->room = room;
    }
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &wanted) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Entry *entry = &self->entries[fd];
    PyObject *before = entry->reader; /* of a socket that was closed without a word */
    entry->reader = Py_NewRef(reader);
    entry->is_within = (char)is_within;
    if (before == NULL)
        self->count++;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *
sockets_remove(SocketPoller *self, PyObject *number)
{
    const long fd = PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    if (fd >= 0 && fd < self->room && self->entries[fd].reader != NULL) {
        epoll_ctl(self->epoll, EPOLL_CTL_DEL, (int)fd, NULL);
        self->count--;
        Py_CLEAR(self->entries[fd].reader);
    }
    Py_RETURN_NONE;
}

/* All of `first` and what else `fd` has sent, as bytes; what is more than a large read is left for the next turn. */
static PyObject *
whole(int fd, const char *first)
{
    static char more[256 * 1024];
    ssize_t size = recv(fd, more, sizeof more, MSG_DONTWAIT);
    if (size < 0)
        size = 0; /* an end or an error comes again */
    PyObject *data = PyBytes_FromStringAndSize(NULL, FIRST + size);
    if (data != NULL) {
        memcpy(PyBytes_AS_STRING(data), first, FIRST);
        memcpy(PyBytes_AS_STRING(data) + FIRST, more, size);
    }
    return data;
}

/* Give `reader` what `fd` has sent. Return what its method did, or NULL with an error. */
static PyObject *
hand_over(SocketPoller *self, int fd, PyObject *reader, const char *first, Py_ssize_t size)
{
    PyObject *data = NULL;
    const char *all = first;
    if (size == FIRST) {
        data = whole(fd, first);
        if (data == NULL)
            return NULL;
        all = PyBytes_AS_STRING(data);
        size = PyBytes_GET_SIZE(data);
    }
    PyObject *result = NULL;
    if (!self->entries[fd].is_within) {
        PyObject *payloads = texts_in((const unsigned char *)all, size, self->limit);
        if (payloads == NULL || payloads != Py_None) {
            if (payloads != NULL)
                result = PyObject_CallMethodOneArg(reader, str_take, payloads);
            Py_XDECREF(payloads);
            Py_XDECREF(data);
            return result;
        }
        Py_DECREF(payloads);
    }
    if (data == NULL)
        data = PyBytes_FromStringAndSize(all, size);
    if (data != NULL) {
        result = PyObject_CallMethodOneArg(reader, str_read, data);
        Py_DECREF(data);
    }
    if (result != NULL && fd < self->room && self->entries[fd].reader == reader)
        self->entries[fd].is_within = PyObject_IsTrue(result) == 1;
    return result;
}

/* Tell `reader` the error that one of its methods has raised, unless it is to end the process. Return what that did, or NULL
 * with an error. */
static PyObject *
tell_failure(PyObject *reader)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return NULL;
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace != NULL)
        PyException_SetTraceback(error, trace);
    PyObject *result = PyObject_CallMethodOneArg(reader, str_failed, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return result;
}

/* Read from `count` sockets; 0, or -1 with an error that is nobody's fault here. */
static int
read_batch(SocketPoller *self, const struct epoll_event *events, int count)
{
    struct transfer *transfers = self->batch->transfers;
    PyObject **readers = self->batch->readers;
    for (int i = 0; i < count; i++) {
        const int fd = events[i].data.fd;
        transfers[i].fd = fd;
        transfers[i].data = self->batch->buffers[i];
        transfers[i].size = FIRST;
        readers[i] = fd < self->room ? Py_XNewRef(self->entries[fd].reader) : NULL;
    }
    ring_transfer(RECEIVE, transfers, count);
    PyObject *type = NULL, *error = NULL, *trace = NULL;
    for (int i = 0; i < count; i++) {
        PyObject *reader = readers[i];
        const ssize_t size = transfers[i].done;
        if (reader == NULL)
            continue;
        if (size != -EAGAIN && size != -EINTR) {
            PyObject *result = size > 0 ? hand_over(self, transfers[i].fd, reader, transfers[i].data, size)
                                        : PyObject_CallMethodNoArgs(reader, str_hang_up); /* the end, or an error */
            if (result == NULL)
                result = tell_failure(reader);
            if (result == NULL && type == NULL)
                PyErr_Fetch(&type, &error, &trace); /* the others are to be heard first */
            PyErr_Clear();
            Py_XDECREF(result);
        }
        Py_DECREF(reader);
    }
    PyErr_Restore(type, error, trace);
    return type == NULL ? 0 : -1;
}

static PyObject *
sockets_read(SocketPoller *self, PyObject *unused)
{
    struct epoll_event events[BATCH];
    if (self->is_reading) /* a callback runs the loop within the loop, as some do against all advice */
        Py_RETURN_NONE;
    self->is_reading = 1;
    int count = BATCH, wrong = 0;
    for (int round = 0; round < ROUNDS && count == BATCH && !wrong; round++) {
        count = epoll_wait(self->epoll, events, BATCH, 0);
        wrong = count > 0 && read_batch(self, events, count) < 0;
    }
    self->is_reading = 0;
    if (wrong)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"fileno", (PyCFunction)sockets_fileno, METH_NOARGS, NULL},
    {"add", (PyCFunction)sockets_add, METH_VARARGS, NULL},
    {"remove", (PyCFunction)sockets_remove, METH_O, NULL},
    {"read", (PyCFunction)sockets_read, METH_NOARGS, NULL},
    {NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "See intake.py."},
    {Py_tp_new, sockets_new},
    {Py_tp_traverse, sockets_traverse},
    {Py_tp_clear, sockets_clear},
    {Py_tp_dealloc, sockets_dealloc},
    {Py_tp_methods, methods},
    {Py_sq_length, sockets_length},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "roomcast._native.SocketPoller",
    .basicsize = sizeof(SocketPoller),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
add_sockets(PyObject *module)
{
    str_take = PyUnicode_InternFromString("messages_received");
    str_read = PyUnicode_InternFromString("bytes_received");
    str_hang_up = PyUnicode_InternFromString("read_failed");
    str_failed = PyUnicode_InternFromString("reader_raised");
    if (str_take == NULL || str_read == NULL || str_hang_up == NULL || str_failed == NULL)
        return -1;
    PyObject *type = PyType_FromSpec(&spec);
    const int wrong = type == NULL || PyModule_AddObjectRef(module, "SocketPoller", type) < 0;
    Py_XDECREF(type);
    return wrong ? -1 : 0;
}

#endif
