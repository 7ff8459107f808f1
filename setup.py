"""Builds the hot path in C, which setup.cfg cannot say; everything else stands there.

It is optional: without a C compiler, and on Windows, roomcast is installed all the same and does it in Python.
"""

import os

from setuptools import Extension, setup

native = Extension(
    "roomcast._native",
    ["native/native.c", "native/loader.c", "native/ring.c", "native/sockets.c"],
    depends=["native/native.h", "native/ring.h"],
    extra_compile_args=["-O2", "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,
)

setup(ext_modules=[] if os.name == "nt" else [native])
