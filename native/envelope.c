/* The C twin of app/fastpath/envelope.py. */

#include "native.h"

#include <string.h>
#include <time.h>

/* Return the current time in UTC as in 2025-11-13T12:00:00Z. The text is cached for the current second. */
static const char *
timestamp(void)
{
    static time_t second = -1;
    static char text[64];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now); /* time(2) can be up to 4 ms behind it, and behind time.time() */
    if (now.tv_sec != second) {
        struct tm parts;
        gmtime_r(&now.tv_sec, &parts);
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
        second = now.tv_sec;
    }
    return text;
}

/* A part of the envelope. `must_escape` is 0 if the text can be copied as it is. */
typedef struct {
    const char *text;
    Py_ssize_t size;
    int must_escape;
} Piece;

/* Return true if a JSON string contains `byte` as it is. */
static int
is_plain(unsigned char byte)
{
    return byte >= 0x20 && byte != '"' && byte != '\\';
}

/* Write `byte` as it appears in a JSON string to `to`, unless `to` is NULL. Return the number of characters. */
static int
escape(unsigned char byte, char *to)
{
    static const char letters[] = "btn\0fr", digits[] = "0123456789abcdef";
    if (is_plain(byte)) {
        if (to != NULL)
            *to = (char)byte;
        return 1;
    }
    const char letter = byte >= 0x20 ? (char)byte : byte >= '\b' && byte <= '\r' ? letters[byte - '\b'] : '\0';
    if (to != NULL) {
        to[0] = '\\';
        to[1] = letter;
        if (!letter) {
            memcpy(to + 1, "u00", 3);
            to[4] = digits[byte >> 4];
            to[5] = digits[byte & 15];
        }
    }
    return letter ? 2 : 6;
}

/* Write `piece` to `to`, unless `to` is NULL, and return its length. */
static Py_ssize_t
write_piece(const Piece *piece, char *to)
{
    if (!piece->must_escape) {
        if (to != NULL)
            memcpy(to, piece->text, piece->size);
        return piece->size;
    }
    Py_ssize_t size = 0;
    for (Py_ssize_t i = 0; i < piece->size; i++)
        size += escape((unsigned char)piece->text[i], to == NULL ? NULL : to + size);
    return size;
}

/* Set `piece` to the contents of a JSON string. Return 0, or -1 with an exception set. */
static int
set_string(Piece *piece, PyObject *string)
{
    piece->must_escape = 1;
    piece->text = PyUnicode_AsUTF8AndSize(string, &piece->size);
    if (piece->text == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) /* orjson's error, which the Python twin raises */
            PyErr_SetString(PyExc_TypeError, "str is not valid UTF-8: surrogates not allowed");
        return -1;
    }
    Py_ssize_t plain = 0;
    while (plain < piece->size && is_plain((unsigned char)piece->text[plain]))
        plain++;
    piece->must_escape = plain != piece->size;
    return 0;
}

#define LITERAL(literal) ((Piece){literal, sizeof literal - 1, 0})

/* The greatest number of pieces of an envelope. */
#define MAX_PIECES 15

/* Fill `pieces`, which must have room for MAX_PIECES. Return their number, or -1 with an exception set. */
static int
split_envelope(Piece *pieces, PyObject *type, PyObject *room, PyObject *data, PyObject *sender, PyObject *key)
{
    int count = 0;
    pieces[count++] = LITERAL("{\"type\":\"");
    if (set_string(&pieces[count++], type) < 0)
        return -1;
    if (room != Py_None) {
        pieces[count++] = LITERAL("\",\"room\":\"");
        if (set_string(&pieces[count++], room) < 0)
            return -1;
    }
    pieces[count++] = LITERAL("\",\"data\":");
    pieces[count++] = (Piece){PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 0};
    if (sender != Py_None) {
        pieces[count++] = LITERAL(",\"sender\":\"");
        if (set_string(&pieces[count++], sender) < 0)
            return -1;
        pieces[count++] = LITERAL("\"");
    }
    if (key != Py_None) {
        pieces[count++] = LITERAL(",\"key\":\"");
        if (set_string(&pieces[count++], key) < 0)
            return -1;
        pieces[count++] = LITERAL("\"");
    }
    pieces[count++] = LITERAL(",\"timestamp\":\"");
    const char *now = timestamp();
    pieces[count++] = (Piece){now, (Py_ssize_t)strlen(now), 0};
    pieces[count++] = LITERAL("\"}");
    return count;
}

static int
is_optional_text(PyObject *object)
{
    return object == Py_None || PyUnicode_Check(object);
}

static PyObject *
build_envelope(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t arg_count)
{
    PyObject *key = arg_count == 5 ? args[4] : Py_None;
    if (arg_count < 4 || arg_count > 5 || !PyUnicode_Check(args[0]) || !is_optional_text(args[1]) ||
        !PyBytes_Check(args[2]) || !is_optional_text(args[3]) || !is_optional_text(key)) {
        PyErr_SetString(PyExc_TypeError, "build_envelope(type: str, room: str | None, data: bytes, sender: str | None, "
                                         "key: str | None = None)");
        return NULL;
    }
    Piece pieces[MAX_PIECES];
    const int count = split_envelope(pieces, args[0], args[1], args[2], args[3], key);
    if (count < 0)
        return NULL;
    Py_ssize_t size = 0;
    for (int i = 0; i < count; i++)
        size += write_piece(&pieces[i], NULL);
    PyObject *envelope = PyBytes_FromStringAndSize(NULL, size);
    if (envelope == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(envelope);
    for (int i = 0; i < count; i++)
        to += write_piece(&pieces[i], to);
    return envelope;
}

static PyMethodDef functions[] = {
    {"build_envelope", FASTCALL(build_envelope), "See fastpath/envelope.py."},
    {NULL, NULL, 0, NULL},
};

int
add_envelope(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
