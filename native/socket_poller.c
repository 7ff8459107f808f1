/* SocketPoller, which app/transport/socket_poller.py uses to read many sockets at once. It has no Python twin. */

#include "native.h"

#include "io_uring.h"

#ifndef __linux__

int
add_socket_poller(PyObject *Py_UNUSED(module))
{
    return 0;
}

#else

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Batches of MAX_TRANSFERS that are read in one iteration of the event loop. More would delay its other work. */
#define MAX_BATCHES 8
/* The size of the first read of each socket, in bytes. Most reads are smaller. It is an odd number of cache lines, so
 * that not all buffers begin in the same cache sets. */
#define FIRST_READ (65 * 64)
/* The limit of the second read, after a full first one. The rest waits for the next iteration of the loop, so that the
 * messages of one client delay the others by a few milliseconds at most. */
#define SECOND_READ (16 * 1024)

static PyObject *str_messages_received, *str_bytes_received, *str_read_failed, *str_reader_raised;

typedef struct {
    PyObject *reader;       /* a SocketReader, or NULL */
    char is_within_message; /* the reader has the beginning of a message */
} Entry;

/* The state of one `read`. Each poller has its own, because a callback can let another thread run. */
typedef struct {
    struct transfer transfers[MAX_TRANSFERS];
    PyObject *readers[MAX_TRANSFERS];
    char buffers[MAX_TRANSFERS][FIRST_READ];
} Batch;

typedef struct {
    PyObject_HEAD
    int epoll;
    int is_reading;
    Py_ssize_t limit; /* of a message, in bytes */
    Py_ssize_t count; /* of the sockets */
    Py_ssize_t size;  /* of `entries` */
    Entry *entries;   /* by the number of the socket */
    Batch *batch;
} SocketPoller;

static PyObject *
socket_poller_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
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
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    self->batch = PyMem_Malloc(sizeof(Batch)); /* 0.5 MiB; the system allocates only the pages that are used */
    if (self->batch == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int
socket_poller_traverse(SocketPoller *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < self->size; i++)
        Py_VISIT(self->entries[i].reader);
    return 0;
}

static int
socket_poller_clear(SocketPoller *self)
{
    for (Py_ssize_t i = 0; i < self->size; i++)
        Py_CLEAR(self->entries[i].reader);
    return 0;
}

static void
socket_poller_dealloc(SocketPoller *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    socket_poller_clear(self);
    PyMem_Free(self->entries);
    PyMem_Free(self->batch);
    if (self->epoll >= 0)
        close(self->epoll);
    type->tp_free(self);
    Py_DECREF(type);
}

static Py_ssize_t
socket_poller_length(SocketPoller *self)
{
    return self->count;
}

static PyObject *
socket_poller_fileno(SocketPoller *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLong(self->epoll);
}

/* Return the reader of the socket `fd`, or NULL without an exception. The reference is borrowed. */
static PyObject *
reader_of(const SocketPoller *self, long fd)
{
    return fd >= 0 && fd < self->size ? self->entries[fd].reader : NULL;
}

static PyObject *
socket_poller_add(SocketPoller *self, PyObject *args)
{
    int fd, is_within_message;
    PyObject *reader;
    if (!PyArg_ParseTuple(args, "iOp", &fd, &reader, &is_within_message))
        return NULL;
    if (fd < 0) {
        PyErr_SetString(PyExc_ValueError, "the number of a socket must not be negative");
        return NULL;
    }
    if (fd >= self->size) {
        const Py_ssize_t size = (Py_ssize_t)fd + fd / 2 + 64;
        Entry *entries = PyMem_Resize(self->entries, Entry, size);
        if (entries == NULL)
            return PyErr_NoMemory();
        memset(entries + self->size, 0, (size - self->size) * sizeof(Entry));
        self->entries = entries;
        self->size = size;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Entry *entry = &self->entries[fd];
    PyObject *previous = entry->reader; /* of a socket that was closed without `remove` */
    entry->reader = Py_NewRef(reader);
    entry->is_within_message = (char)is_within_message;
    if (previous == NULL)
        self->count++;
    Py_XDECREF(previous);
    Py_RETURN_NONE;
}

static PyObject *
socket_poller_remove(SocketPoller *self, PyObject *number)
{
    const long fd = PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    if (reader_of(self, fd) != NULL) {
        epoll_ctl(self->epoll, EPOLL_CTL_DEL, (int)fd, NULL);
        self->count--;
        Py_CLEAR(self->entries[fd].reader);
    }
    Py_RETURN_NONE;
}

/* Read more from `fd`. Return it after the FIRST_READ bytes of `first`, as bytes, or NULL with an exception set. */
static PyObject *
read_more(int fd, const char *first)
{
    static char more[SECOND_READ];
    ssize_t size = recv(fd, more, sizeof more, MSG_DONTWAIT);
    if (size < 0)
        size = 0; /* an error or the end of the stream: the next read returns it again */
    PyObject *data = PyBytes_FromStringAndSize(NULL, FIRST_READ + size);
    if (data != NULL) {
        memcpy(PyBytes_AS_STRING(data), first, FIRST_READ);
        memcpy(PyBytes_AS_STRING(data) + FIRST_READ, more, size);
    }
    return data;
}

/* Call `messages_received` if `data` is whole text messages. Return its result, None if it is not, or NULL with an
 * exception set. `is_handled` is set accordingly. */
static PyObject *
handle_messages(SocketPoller *self, PyObject *reader, const char *data, Py_ssize_t size, int *is_handled)
{
    PyObject *payloads = decode_payloads((const unsigned char *)data, size, self->limit);
    *is_handled = payloads != Py_None;
    if (payloads == NULL || payloads == Py_None)
        return payloads;
    PyObject *result = PyObject_CallMethodOneArg(reader, str_messages_received, payloads);
    Py_DECREF(payloads);
    return result;
}

/* Call `bytes_received`. Return its result, or NULL with an exception set. */
static PyObject *
handle_bytes(SocketPoller *self, int fd, PyObject *reader, PyObject *data)
{
    PyObject *result = PyObject_CallMethodOneArg(reader, str_bytes_received, data);
    if (result != NULL && reader_of(self, fd) == reader) /* the call can remove the reader */
        self->entries[fd].is_within_message = PyObject_IsTrue(result) == 1;
    return result;
}

/* Pass `size` bytes from `fd` to `reader`. Return the result of its method, or NULL with an exception set. */
static PyObject *
handle_data(SocketPoller *self, int fd, PyObject *reader, const char *buffer, Py_ssize_t size)
{
    PyObject *data = NULL; /* created when it is needed: whole messages are decoded from the buffer */
    if (size == FIRST_READ) {
        data = read_more(fd, buffer);
        if (data == NULL)
            return NULL;
        buffer = PyBytes_AS_STRING(data);
        size = PyBytes_GET_SIZE(data);
    }
    PyObject *result = NULL;
    int is_handled = 0;
    if (!self->entries[fd].is_within_message)
        result = handle_messages(self, reader, buffer, size, &is_handled);
    if (!is_handled) {
        Py_XDECREF(result);
        if (data == NULL)
            data = PyBytes_FromStringAndSize(buffer, size);
        result = data == NULL ? NULL : handle_bytes(self, fd, reader, data);
    }
    Py_XDECREF(data);
    return result;
}

#if PY_VERSION_HEX < 0x030C0000 /* Remove when Python 3.11 is dropped. */

static PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return error;
}

static void
PyErr_SetRaisedException(PyObject *error)
{
    PyErr_Restore(Py_NewRef(Py_TYPE(error)), error, PyException_GetTraceback(error));
}

#endif

/* Pass the current exception to `reader_raised`, unless it must end the process. Return 0, or -1 with one set. */
static int
report_exception(PyObject *reader)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return -1;
    PyObject *error = PyErr_GetRaisedException();
    PyObject *result = PyObject_CallMethodOneArg(reader, str_reader_raised, error);
    Py_DECREF(error);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Read `count` sockets. Return 0, or -1 with the first exception that could not be reported to its reader. */
static int
read_batch(SocketPoller *self, const struct epoll_event *events, int count)
{
    struct transfer *transfers = self->batch->transfers;
    PyObject **readers = self->batch->readers;
    for (int i = 0; i < count; i++) {
        const int fd = events[i].data.fd;
        transfers[i].fd = fd;
        transfers[i].data = self->batch->buffers[i];
        transfers[i].size = FIRST_READ;
        readers[i] = Py_XNewRef(reader_of(self, fd));
    }
    transfer_all(RECEIVE, transfers, count);
    PyObject *error = NULL;
    for (int i = 0; i < count; i++) {
        PyObject *reader = readers[i];
        const ssize_t size = transfers[i].result;
        if (reader == NULL)
            continue;
        if (size != -EAGAIN && size != -EINTR) {
            PyObject *result = size > 0 ? handle_data(self, transfers[i].fd, reader, transfers[i].data, size)
                                        : PyObject_CallMethodNoArgs(reader, str_read_failed);
            if (result == NULL && report_exception(reader) < 0) {
                if (error == NULL)
                    error = PyErr_GetRaisedException(); /* raised after the other sockets, whose data is read already */
                else
                    PyErr_Clear();
            }
            Py_XDECREF(result);
        }
        Py_DECREF(reader);
    }
    if (error == NULL)
        return 0;
    PyErr_SetRaisedException(error);
    return -1;
}

static PyObject *
socket_poller_read(SocketPoller *self, PyObject *Py_UNUSED(unused))
{
    struct epoll_event events[MAX_TRANSFERS];
    if (self->is_reading) /* a callback runs the event loop inside the event loop */
        Py_RETURN_NONE;
    self->is_reading = 1;
    int count = MAX_TRANSFERS, failed = 0;
    for (int i = 0; i < MAX_BATCHES && count == MAX_TRANSFERS && !failed; i++) {
        count = epoll_wait(self->epoll, events, MAX_TRANSFERS, 0);
        failed = count > 0 && read_batch(self, events, count) < 0;
    }
    self->is_reading = 0;
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"fileno", (PyCFunction)socket_poller_fileno, METH_NOARGS, "Return the epoll descriptor."},
    {"add", (PyCFunction)socket_poller_add, METH_VARARGS, "add(fd, reader, is_within_message): read a socket."},
    {"remove", (PyCFunction)socket_poller_remove, METH_O, "Stop reading a socket, if it is read."},
    {"read", (PyCFunction)socket_poller_read, METH_NOARGS, "Read all sockets that are ready, and call their readers."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "See transport/socket_poller.py."},
    {Py_tp_new, socket_poller_new},
    {Py_tp_traverse, socket_poller_traverse},
    {Py_tp_clear, socket_poller_clear},
    {Py_tp_dealloc, socket_poller_dealloc},
    {Py_tp_methods, methods},
    {Py_sq_length, socket_poller_length},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "roomcast._native.SocketPoller",
    .basicsize = sizeof(SocketPoller),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
add_socket_poller(PyObject *module)
{
    str_messages_received = PyUnicode_InternFromString("messages_received");
    str_bytes_received = PyUnicode_InternFromString("bytes_received");
    str_read_failed = PyUnicode_InternFromString("read_failed");
    str_reader_raised = PyUnicode_InternFromString("reader_raised");
    if (str_messages_received == NULL || str_bytes_received == NULL || str_read_failed == NULL ||
        str_reader_raised == NULL)
        return -1;
    PyObject *type = PyType_FromSpec(&spec);
    const int result = type == NULL ? -1 : PyModule_AddObjectRef(module, "SocketPoller", type);
    Py_XDECREF(type);
    return result;
}

#endif
