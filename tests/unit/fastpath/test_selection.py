"""Tests of the choice between C and Python in ``roomcast.fastpath``, and runs of other tests without C or io_uring."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from paths import ROOT
from twins import CAN_COMPILE

from roomcast import fastpath


def test_c_is_compiled_if_there_is_a_compiler() -> None:
    """An installed roomcast uses the C code then, unless ROOMCAST_NATIVE=0."""
    assert fastpath.IS_NATIVE is (CAN_COMPILE and os.environ.get("ROOMCAST_NATIVE") != "0")


@pytest.mark.parametrize(("value", "expected"), [("0", False), ("1", CAN_COMPILE), ("", CAN_COMPILE)])
def test_c_can_be_disabled(value: str, expected: bool) -> None:
    """ROOMCAST_NATIVE=0 disables it, and no other value does."""
    code = "from roomcast import fastpath; print(fastpath.IS_NATIVE)"
    environment = {**os.environ, "ROOMCAST_NATIVE": value}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert process.stdout.strip() == str(expected), process.stderr


#: The modules on both sides of ``fastpath``, and those that use it most.
USERS = (
    *("tests/unit/fastpath", "tests/unit/protocol/test_frames.py", "tests/unit/protocol/test_messages.py"),
    *("tests/unit/schemas", "tests/unit/transport", "tests/unit/gateway", "tests/unit/web/upgrade"),
)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["ROOMCAST_NATIVE", "ROOMCAST_URING"])
def test_other_tests_pass_without_c_or_io_uring(variable: str) -> None:
    """A server without the C code, or without io_uring, behaves the same."""
    selection = ["-m", "not redis", "-k", "not without_c_or_io_uring"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *selection, *USERS],
        cwd=ROOT,
        env={**os.environ, variable: "0"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_direct_fd_finds_the_socket(loop: str) -> None:
    """The transports of both loops have one. A transport in memory has none."""
    import uvloop

    async def check() -> None:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", port)
        found = fastpath.direct_fd(transport)
        assert found == (transport.get_extra_info("socket").fileno() if fastpath.IS_NATIVE else -1)
        transport.close()
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(check())
    assert fastpath.direct_fd(SimpleNamespace(get_extra_info={}.get)) == -1  # type: ignore[arg-type]
