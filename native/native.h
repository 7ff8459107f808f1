/* What the files of roomcast._native share.
 *
 * Each file has the name of the Python module that it replaces, and adds its functions and types to the extension module.
 * The Python module documents them. Nothing here releases the GIL: giving it up and taking it back costs a good part of
 * what the C code saves, and no call waits.
 */

#ifndef ROOMCAST_NATIVE_H
#define ROOMCAST_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Add the functions and types of one file to `module`. Return 0, or -1 with an exception set. */
int add_text_frames(PyObject *module);
int add_envelope(PyObject *module);
int add_write_queue(PyObject *module);
int add_coroutine(PyObject *module);
int add_fast_loader(PyObject *module);
int add_socket_poller(PyObject *module); /* adds nothing where the system has no epoll */

/* Return the payloads as a list, None for data that needs a FrameReader, or NULL with an exception set. */
PyObject *decode_payloads(const unsigned char *data, Py_ssize_t size, Py_ssize_t limit);

#endif
