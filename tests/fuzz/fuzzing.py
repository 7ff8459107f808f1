"""Runs the check of a fuzz program with atheris, which searches for inputs that reach new code."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FunctionType


def run(check: Callable[[bytes], None], seeds: list[bytes]) -> None:
    """Call ``check`` with inputs derived from ``seeds`` until it raises. ``sys.argv`` has libFuzzer's options."""
    import atheris  # type: ignore[import-not-found]  # not a dependency: see CONTRIBUTING.md

    for function in gc.get_objects():
        if isinstance(function, FunctionType) and (function.__module__ or "").startswith("roomcast."):
            atheris.instrument_func(function)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            Path(corpus, f"seed-{number}").write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], check)
        atheris.Fuzz()
