/* The quick check of an object against a schema of plain fields. schemas.py tells which are, and has the equal in Python. */

#include "native.h"

#include <structmember.h>

/* What becomes of a field that is not there; the numbers are those of schemas.py. */
enum absence { REFUSED, LEFT_OUT, FILLED, NEW_DICT, NEW_LIST };

typedef struct {
    PyObject *key;          /* its name, a str */
    PyObject *kind;         /* the type that its value must have, or None for any */
    PyObject *filler;       /* what it is if it is not there and to be FILLED, a constant */
    Py_ssize_t least, most; /* of the length of a str or a dict */
    int absence;
    int may_be_none;
} Field;

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *slow; /* called with what is not plainly valid: it knows more, and what to say */
    PyObject *missing; /* marshmallow's word for what is not there, which nobody should put into data */
    Field *fields;
    Py_ssize_t count;
} FieldLoader;

static int
loader_traverse(FieldLoader *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->slow);
    Py_VISIT(self->missing);
    return 0;
}

static int
loader_clear(FieldLoader *self)
{
    Py_CLEAR(self->slow);
    Py_CLEAR(self->missing);
    return 0;
}

static void
loader_dealloc(FieldLoader *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    loader_clear(self);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_DECREF(self->fields[i].key);
        Py_DECREF(self->fields[i].kind);
        Py_DECREF(self->fields[i].filler);
    }
    PyMem_Free(self->fields);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Put into `result` what `data` has for a field. 1: done, 0: it is not plainly valid, -1: an error. */
static int
load_field(const FieldLoader *self, const Field *field, PyObject *data, PyObject *result, Py_ssize_t *absent)
{
    PyObject *value = PyDict_GetItemWithError(data, field->key);
    if (value == NULL) {
        if (PyErr_Occurred())
            return -1;
        if (field->absence == REFUSED)
            return 0;
        ++*absent;
        if (field->absence == LEFT_OUT)
            return 1;
        value = field->absence == NEW_DICT ? PyDict_New()
                : field->absence == NEW_LIST ? PyList_New(0)
                                             : Py_NewRef(field->filler);
    } else if (value == Py_None) {
        if (!field->may_be_none)
            return 0;
        Py_INCREF(value);
    } else if (field->kind == Py_None) {
        if (value == self->missing)
            return 0;
        Py_INCREF(value);
    } else if ((PyObject *)Py_TYPE(value) != field->kind) {
        return 0;
    } else {
        const int is_dict = PyDict_CheckExact(value);
        if (is_dict || PyUnicode_CheckExact(value)) {
            const Py_ssize_t length = is_dict ? PyDict_GET_SIZE(value) : PyUnicode_GET_LENGTH(value);
            if (length < field->least || length > field->most)
                return 0;
        }
        Py_INCREF(value); /* a copy may have garbage collected, whose finalizers may do anything, also to data */
        if (is_dict)
            Py_SETREF(value, PyDict_Copy(value));
    }
    if (value == NULL)
        return -1;
    const int wrong = PyDict_SetItem(result, field->key, value);
    Py_DECREF(value);
    return wrong ? -1 : 1;
}

static PyObject *
loader_call(PyObject *object, PyObject *const *args, size_t count, PyObject *names)
{
    FieldLoader *self = (FieldLoader *)object;
    if (PyVectorcall_NARGS(count) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "a loader takes one argument, the data");
        return NULL;
    }
    PyObject *data = args[0];
    int plain = PyDict_CheckExact(data);
    if (plain) {
        PyObject *result = PyDict_New();
        if (result == NULL)
            return NULL;
        Py_ssize_t absent = 0;
        for (Py_ssize_t i = 0; i < self->count && plain > 0; i++)
            plain = load_field(self, &self->fields[i], data, result, &absent);
        /* Every field is there or was counted as absent, so a larger dict has a field that is unknown. */
        if (plain > 0 && PyDict_GET_SIZE(data) + absent == self->count)
            return result;
        Py_DECREF(result);
        if (plain < 0)
            return NULL;
    }
    return PyObject_CallOneArg(self->slow, data);
}

static PyObject *
loader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *fields, *slow, *missing;
    if (!PyArg_ParseTuple(args, "O!OO", &PyTuple_Type, &fields, &slow, &missing))
        return NULL;
    FieldLoader *self = (FieldLoader *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = loader_call;
    self->slow = Py_NewRef(slow);
    self->missing = Py_NewRef(missing);
    self->fields = PyMem_New(Field, PyTuple_GET_SIZE(fields));
    if (self->fields == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; self->fields != NULL && i < PyTuple_GET_SIZE(fields); i++) {
        Field *one = &self->fields[i];
        PyObject *given = PyTuple_GET_ITEM(fields, i);
        if (!PyTuple_Check(given))
            PyErr_SetString(PyExc_TypeError, "a field is (key, kind, may_be_none, least, most, absence, filler)");
        else if (PyArg_ParseTuple(given, "UOpnniO", &one->key, &one->kind, &one->may_be_none, &one->least, &one->most,
                                  &one->absence, &one->filler)) {
            Py_INCREF(one->key);
            Py_INCREF(one->kind);
            Py_INCREF(one->filler);
            self->count++;
            continue;
        }
        break;
    }
    if (PyErr_Occurred())
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyMemberDef members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(FieldLoader, call), READONLY, NULL},
    {NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "See schemas.py."},
    {Py_tp_new, loader_new},
    {Py_tp_traverse, loader_traverse},
    {Py_tp_clear, loader_clear},
    {Py_tp_dealloc, loader_dealloc},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "roomcast._native.FieldLoader",
    .basicsize = sizeof(FieldLoader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = slots,
};

int
add_loader(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    const int wrong = type == NULL || PyModule_AddObjectRef(module, "FieldLoader", type) < 0;
    Py_XDECREF(type);
    return wrong ? -1 : 0;
}
