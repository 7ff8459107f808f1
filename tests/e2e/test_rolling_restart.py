"""One of two nodes stops or is killed: what clients of roomcast.js in a room of both notice."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from node_tools import NODE
from paths import TESTS

PROGRAM = TESTS / "bench" / "rolling_restart.py"


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.skipif(NODE is None, reason="needs Node 22")
@pytest.mark.parametrize("row", ["drain", "stop", "kill", "gone"])
def test_clients_notice_nothing(row: str) -> None:
    """No client gets a resync, loses a message, or sees users leave and join, unless they are gone: then once each."""
    command = [sys.executable, str(PROGRAM), "--clients", "100", "--only", row]
    environment = {**os.environ, "NODE": str(NODE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
