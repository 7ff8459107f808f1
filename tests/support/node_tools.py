"""Node and the Node modules that some tests use: ``node`` on the PATH, and the modules in NODE_PATH.

``.ci/run`` installs them. A test that needs one is collected only if it is there.
"""

import os
import shutil
import subprocess
from pathlib import Path

NODE = shutil.which("node")
MODULES = Path(os.environ.get("NODE_PATH", "/nowhere"))
#: The time limit for a tool, in seconds.
TIMEOUT = 300


def has_modules(*names: str) -> bool:
    """Return True if Node and the modules are installed."""
    return NODE is not None and all((MODULES / name).exists() for name in names)


def run(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a tool, with ``variables`` added to the environment. If it fails, the test fails with its output."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
