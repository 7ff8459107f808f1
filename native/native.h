/* What the parts of roomcast._native have of one another. */

#ifndef ROOMCAST_NATIVE_H
#define ROOMCAST_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The payloads of the frames in `data`, if it is whole text messages; None if not, or NULL with an error. See frames.py. */
PyObject *texts_in(const unsigned char *data, Py_ssize_t size, Py_ssize_t limit);

/* Add the type Sockets to `module`, where the system has epoll; -1 with an error. */
int add_sockets(PyObject *module);

/* Add the type Loader to `module`; -1 with an error. */
int add_loader(PyObject *module);

#endif
