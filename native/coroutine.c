/* The C twin of app/fastpath/coroutine.py. */

#include "native.h"

static PyObject *
start_coroutine(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyContext_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError,
                        "start_coroutine(unstarted: Coroutine, context: Context, on_suspend: Callable)");
        return NULL;
    }
    PyObject *context = args[1], *on_suspend = args[2];
    if (PyContext_Enter(context) < 0)
        return NULL;
    PyObject *value; /* what the coroutine returned or yielded; NULL with an exception set */
    const PySendResult outcome = PyIter_Send(args[0], Py_None, &value);
    if (PyContext_Exit(context) < 0)
        Py_CLEAR(value);
    if (outcome != PYGEN_NEXT || value == NULL)
        return value;
    PyObject *result = PyObject_CallOneArg(on_suspend, value);
    Py_DECREF(value);
    return result;
}

static PyMethodDef functions[] = {
    {"start_coroutine", FASTCALL(start_coroutine), "See fastpath/coroutine.py."},
    {NULL, NULL, 0, NULL},
};

int
add_coroutine(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
