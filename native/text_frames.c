/* The C twin of app/fastpath/text_frames.py. */

#include "native.h"

#include <stdint.h>
#include <string.h>

/* RFC 6455 section 5.2, as in the Python twin. */
#define FINAL_TEXT 0x81
#define MASKED 0x80
#define LENGTH_IN_2_BYTES 126
#define LENGTH_IN_8_BYTES 127
#define MASK_SIZE 4
/* As in the Python twin. */
#define MAX_FRAMES 4096

#define NOT_ASCII UINT64_C(0x8080808080808080)

/* Write the `length` bytes after `mask` to `to`, unmasked. Return 0 if all of them are ASCII. */
static uint64_t
unmask(char *to, const unsigned char *mask, Py_ssize_t length)
{
    const unsigned char *from = mask + MASK_SIZE;
    uint32_t word;
    memcpy(&word, mask, MASK_SIZE);
    const uint64_t twice = (uint64_t)word << 32 | word;
    uint64_t seen = 0, block;
    Py_ssize_t i = 0;
    for (; i + 8 <= length; i += 8) {
        memcpy(&block, from + i, 8);
        block ^= twice;
        seen |= block;
        memcpy(to + i, &block, 8);
    }
    for (; i < length; i++) {
        const unsigned char byte = from[i] ^ mask[i % MASK_SIZE];
        seen |= byte;
        to[i] = (char)byte;
    }
    return seen & NOT_ASCII;
}

/* Return 1 if `text` is valid UTF-8, 0 if not, or -1 with an exception set. */
static int
is_utf8(const char *text, Py_ssize_t size)
{
    PyObject *decoded = PyUnicode_DecodeUTF8(text, size, NULL);
    if (decoded != NULL) {
        Py_DECREF(decoded);
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        return -1;
    PyErr_Clear();
    return 0;
}

/* Append the payload after `mask` to `payloads`. Return 1, 0 if it is not UTF-8, or -1 with an exception set. */
static int
append_payload(PyObject *payloads, const unsigned char *mask, Py_ssize_t length)
{
    PyObject *payload = PyByteArray_FromStringAndSize(NULL, length);
    if (payload == NULL)
        return -1;
    char *text = PyByteArray_AS_STRING(payload);
    int result = unmask(text, mask, length) ? is_utf8(text, length) : 1;
    if (result > 0 && PyList_Append(payloads, payload) < 0)
        result = -1;
    Py_DECREF(payload);
    return result;
}

PyObject *
decode_payloads(const unsigned char *data, Py_ssize_t size, Py_ssize_t limit)
{
    PyObject *payloads = PyList_New(0);
    if (payloads == NULL)
        return NULL;
    int result = 1;
    for (Py_ssize_t position = 0; position < size && result > 0;) {
        Py_ssize_t start = position + 2 + MASK_SIZE;
        result = 0;
        if (start > size || data[position] != FINAL_TEXT || data[position + 1] < MASKED ||
            PyList_GET_SIZE(payloads) == MAX_FRAMES)
            break;
        Py_ssize_t length = data[position + 1] - MASKED;
        if (length == LENGTH_IN_2_BYTES && start + 2 <= size) {
            length = (Py_ssize_t)data[position + 2] << 8 | data[position + 3];
            start += 2;
        } else if (length >= LENGTH_IN_2_BYTES)
            break;
        position = start + length;
        if (position > size || length > limit)
            break;
        result = append_payload(payloads, data + start - MASK_SIZE, length);
    }
    if (result > 0)
        return payloads;
    Py_DECREF(payloads);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
decode_text_frames(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "decode_text_frames(data: bytes, limit: int)");
        return NULL;
    }
    const Py_ssize_t limit = PyLong_AsSsize_t(args[1]);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    return decode_payloads((const unsigned char *)PyBytes_AS_STRING(args[0]), PyBytes_GET_SIZE(args[0]), limit);
}

static PyObject *
encode_event_frame(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0]) || PyBytes_GET_SIZE(args[0]) == 0 || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "encode_event_frame(payload: bytes, id: str)");
        return NULL;
    }
    static const char key[] = ",\"id\":\"", end[] = "\"}";
    const Py_ssize_t key_size = sizeof key - 1, end_size = sizeof end - 1;
    Py_ssize_t id_size;
    const char *id = PyUnicode_AsUTF8AndSize(args[1], &id_size);
    if (id == NULL)
        return NULL;
    const Py_ssize_t body_size = PyBytes_GET_SIZE(args[0]) - 1; /* without the closing brace */
    const Py_ssize_t length = body_size + key_size + id_size + end_size;
    const int length_size = length < LENGTH_IN_2_BYTES ? 0 : length < 65536 ? 2 : 8;
    PyObject *frame = PyBytes_FromStringAndSize(NULL, 2 + length_size + length);
    if (frame == NULL)
        return NULL;
    unsigned char *to = (unsigned char *)PyBytes_AS_STRING(frame);
    *to++ = FINAL_TEXT;
    *to++ = length_size == 0 ? (unsigned char)length : length_size == 2 ? LENGTH_IN_2_BYTES : LENGTH_IN_8_BYTES;
    for (int i = length_size - 1; i >= 0; i--)
        *to++ = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(to, PyBytes_AS_STRING(args[0]), body_size);
    to += body_size;
    memcpy(to, key, key_size);
    to += key_size;
    memcpy(to, id, id_size);
    memcpy(to + id_size, end, end_size);
    return frame;
}

static PyMethodDef functions[] = {
    {"decode_text_frames", FASTCALL(decode_text_frames), "See fastpath/text_frames.py."},
    {"encode_event_frame", FASTCALL(encode_event_frame), "See fastpath/text_frames.py."},
    {NULL, NULL, 0, NULL},
};

int
add_text_frames(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
