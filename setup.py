"""Build the optional C extension, which setup.cfg cannot describe. All other settings are in setup.cfg.

Without a C compiler, and on Windows, roomcast is installed without the extension and uses the Python twins. With
``ROOMCAST_STRICT_BUILD=1`` every compiler warning is an error, and an extension that cannot be built fails the
installation.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

STRICT = os.environ.get("ROOMCAST_STRICT_BUILD") == "1"

native = Extension(
    "roomcast._native",
    sorted(str(path) for path in Path("native").glob("*.c")),
    depends=sorted(str(path) for path in Path("native").glob("*.h")),
    # Hidden: the functions that the C files share are not exported to other libraries of the process.
    extra_compile_args=["-O2", "-pthread", "-fvisibility=hidden", *(["-Wall", "-Wextra", "-Werror"] if STRICT else [])],
    extra_link_args=["-pthread"],
    optional=not STRICT,
)

setup(ext_modules=[] if os.name == "nt" else [native])
