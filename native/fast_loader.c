/* The C twin of the functions that app/schemas/fast_loader.py generates. It follows a table of fields instead. */

#include "native.h"

#include <structmember.h>

/* What happens if a field is missing. */
enum absence { FALL_BACK, OMIT, USE_DEFAULT, NEW_DICT, NEW_LIST };

typedef struct {
    PyObject *key;                     /* a str */
    PyObject *type;                    /* of the value, or None for any */
    PyObject *default_value;           /* for USE_DEFAULT: a scalar, which can be shared */
    Py_ssize_t min_length, max_length; /* of a str or dict */
    enum absence absence;
    int may_be_none;
} Field;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *fallback; /* called with data that needs marshmallow: to convert it, or to refuse it with a sentence */
    PyObject *missing;  /* marshmallow's sentinel, which is not valid as a value */
    Field *fields;
    Py_ssize_t count;
} FieldLoader;

static int
field_loader_traverse(FieldLoader *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->fallback);
    Py_VISIT(self->missing);
    return 0;
}

static int
field_loader_clear(FieldLoader *self)
{
    Py_CLEAR(self->fallback);
    Py_CLEAR(self->missing);
    return 0;
}

static void
field_loader_dealloc(FieldLoader *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    field_loader_clear(self);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_DECREF(self->fields[i].key);
        Py_DECREF(self->fields[i].type);
        Py_DECREF(self->fields[i].default_value);
    }
    PyMem_Free(self->fields);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Return a new reference to the value of a field that is missing, or NULL with an exception set. */
static PyObject *
value_of_missing(const Field *field)
{
    switch (field->absence) {
    case NEW_DICT:
        return PyDict_New();
    case NEW_LIST:
        return PyList_New(0);
    default:
        return Py_NewRef(field->default_value);
    }
}

/* Return 1 if `value`, which is not None, is valid for `field` without conversion. */
static int
is_plain(const FieldLoader *self, const Field *field, PyObject *value)
{
    if (field->type == Py_None)
        return value != self->missing;
    if ((PyObject *)Py_TYPE(value) != field->type)
        return 0;
    Py_ssize_t length;
    if (PyUnicode_CheckExact(value))
        length = PyUnicode_GET_LENGTH(value);
    else if (PyDict_CheckExact(value))
        length = PyDict_GET_SIZE(value);
    else
        return 1;
    return field->min_length <= length && length <= field->max_length;
}

/* Copy one field from `data` to `result`; count it in `absent` if it is missing.
 * Return 1, 0 if the data needs marshmallow, or -1 with an exception set. */
static int
load_field(const FieldLoader *self, const Field *field, PyObject *data, PyObject *result, Py_ssize_t *absent)
{
    PyObject *value = PyDict_GetItemWithError(data, field->key);
    if (value == NULL) {
        if (PyErr_Occurred())
            return -1;
        if (field->absence == FALL_BACK)
            return 0;
        ++*absent;
        if (field->absence == OMIT)
            return 1;
        value = value_of_missing(field);
    } else {
        if (value == Py_None ? !field->may_be_none : !is_plain(self, field, value))
            return 0;
        Py_INCREF(value); /* a copy can start a garbage collection, and a finalizer can remove the value from `data` */
        if (field->type == (PyObject *)&PyDict_Type && value != Py_None)
            Py_SETREF(value, PyDict_Copy(value));
    }
    if (value == NULL)
        return -1;
    const int failed = PyDict_SetItem(result, field->key, value);
    Py_DECREF(value);
    return failed ? -1 : 1;
}

static PyObject *
field_loader_call(PyObject *object, PyObject *const *args, size_t count, PyObject *names)
{
    FieldLoader *self = (FieldLoader *)object;
    if (PyVectorcall_NARGS(count) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "a FieldLoader takes one argument, the data");
        return NULL;
    }
    PyObject *data = args[0];
    if (PyDict_CheckExact(data)) {
        PyObject *result = PyDict_New();
        if (result == NULL)
            return NULL;
        Py_ssize_t absent = 0;
        int loaded = 1;
        for (Py_ssize_t i = 0; i < self->count && loaded > 0; i++)
            loaded = load_field(self, &self->fields[i], data, result, &absent);
        /* Each field is in the data or counted as absent, so a larger dict contains an unknown field. */
        if (loaded > 0 && PyDict_GET_SIZE(data) + absent == self->count)
            return result;
        Py_DECREF(result);
        if (loaded < 0)
            return NULL;
    }
    return PyObject_CallOneArg(self->fallback, data);
}

/* Fill `field` from `spec`, a FieldSpec of app/_native.pyi. Return 0, or -1 with an exception set. */
static int
set_field(Field *field, PyObject *spec, PyObject *missing)
{
    if (!PyTuple_Check(spec)) {
        PyErr_SetString(PyExc_TypeError, "a field must be a tuple");
        return -1;
    }
    int must_be_present;
    if (!PyArg_ParseTuple(spec, "UOpnnpO", &field->key, &field->type, &field->may_be_none, &field->min_length,
                          &field->max_length, &must_be_present, &field->default_value))
        return -1;
    if (must_be_present)
        field->absence = FALL_BACK;
    else if (field->default_value == missing)
        field->absence = OMIT;
    else if (field->default_value == (PyObject *)&PyDict_Type)
        field->absence = NEW_DICT;
    else
        field->absence = field->default_value == (PyObject *)&PyList_Type ? NEW_LIST : USE_DEFAULT;
    Py_INCREF(field->key);
    Py_INCREF(field->type);
    Py_INCREF(field->default_value);
    return 0;
}

static PyObject *
field_loader_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *specs, *fallback, *missing;
    if (!PyArg_ParseTuple(args, "O!OO", &PyTuple_Type, &specs, &fallback, &missing))
        return NULL;
    FieldLoader *self = (FieldLoader *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->vectorcall = field_loader_call;
    self->fallback = Py_NewRef(fallback);
    self->missing = Py_NewRef(missing);
    const Py_ssize_t count = PyTuple_GET_SIZE(specs);
    self->fields = PyMem_New(Field, count);
    if (self->fields == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (; self->count < count; self->count++)
        if (set_field(&self->fields[self->count], PyTuple_GET_ITEM(specs, self->count), missing) < 0) {
            Py_DECREF(self);
            return NULL;
        }
    return (PyObject *)self;
}

static PyMemberDef members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(FieldLoader, vectorcall), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "See schemas/fast_loader.py."},
    {Py_tp_new, field_loader_new},
    {Py_tp_traverse, field_loader_traverse},
    {Py_tp_clear, field_loader_clear},
    {Py_tp_dealloc, field_loader_dealloc},
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
add_fast_loader(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    const int result = type == NULL ? -1 : PyModule_AddObjectRef(module, "FieldLoader", type);
    Py_XDECREF(type);
    return result;
}
