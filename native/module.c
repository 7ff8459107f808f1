/* The extension module roomcast._native. app/fastpath selects it or its Python twins. */

#include "native.h"

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "roomcast._native",
    .m_doc = "The inner loops of message handling in C. Import them from roomcast.fastpath.",
    .m_size = -1,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (add_text_frames(module) < 0 || add_envelope(module) < 0 || add_write_queue(module) < 0 ||
        add_coroutine(module) < 0 || add_fast_loader(module) < 0 || add_socket_poller(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
