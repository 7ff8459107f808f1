/* What the files of roomcast._native share.
 *
 * Each file has the name of the Python module that it replaces, which documents its functions and types. Nothing here
 * releases the GIL: no call waits, and releasing and taking it again would cost a good part of what the C code saves.
 */

#ifndef ROOMCAST_NATIVE_H
#define ROOMCAST_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The function and the flags in a PyMethodDef. */
#define FASTCALL(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

/* Add the functions and types of one file to `module`. Return 0, or -1 with an exception set. */
int add_text_frames(PyObject *module);
int add_envelope(PyObject *module);
int add_write_queue(PyObject *module);
int add_coroutine(PyObject *module);
int add_fast_loader(PyObject *module);
int add_socket_poller(PyObject *module); /* adds nothing where the system has no epoll */

/* Decode text frames as `decode_text_frames` does. Return a list, None, or NULL with an exception set. */
PyObject *decode_payloads(const unsigned char *data, Py_ssize_t size, Py_ssize_t limit);

#endif
