"""Tests of ``roomcast``: the API for plugins, whose names are imported when they are used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import roomcast


@pytest.mark.parametrize("name", roomcast.__all__)
def test_each_name_can_be_imported(name: str) -> None:
    """It is the same object each time, and ``dir`` shows it before its first use."""
    assert name in dir(roomcast)
    assert getattr(roomcast, name) is getattr(roomcast, name)
    assert vars(roomcast)[name] is getattr(roomcast, name)


def test_all_names_at_once() -> None:
    """``from roomcast import *`` works in a new process, as the first import of roomcast."""
    program = "from roomcast import *; print(Plugin.__name__, Metric.__name__, __version__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"Plugin BrokerMetric {version('roomcast')}\n"


def test_an_unknown_name() -> None:
    """It is an ordinary error of Python."""
    with pytest.raises(AttributeError, match="module 'roomcast' has no attribute 'Plugni'"):
        _ = roomcast.Plugni  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'Plugni' from 'roomcast'"):
        from roomcast import Plugni  # type: ignore[attr-defined]  # noqa: F401
