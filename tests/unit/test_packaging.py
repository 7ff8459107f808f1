"""The wheel holds what the tree holds, and what is in it passes the checks of style and types."""

from __future__ import annotations

import os
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import pytest
from paths import PACKAGES, ROOT, link_package

import roomcast


def run(*command: str, cwd: Path = ROOT, **variables: str) -> None:
    """Run a tool of this environment; its output is the failure's message."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("folder", "package"), list(PACKAGES.items()))
def test_every_file_of_the_tree_is_installed(folder: str, package: str) -> None:
    """A package or a page that setup.cfg forgets would be there in the tree and gone from the wheel."""
    installed = files(package)
    for path in (ROOT / folder).rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            inside = path.relative_to(ROOT / folder)
            there = installed.joinpath(*inside.parts)
            assert there.is_file(), f"{folder}/{inside} is not in the installed {package}"
            assert there.read_bytes() == path.read_bytes(), f"{folder}/{inside} is not as installed: install again"


def test_the_built_in_plugins_are_entry_points() -> None:
    """chat, task and project load as any other plugin does."""
    points = {point.name: point.value for point in entry_points(group="roomcast.plugins")}
    assert (
        points.items()
        >= {
            "chat": "roomcast.plugins.chat:chat",
            "task": "roomcast.plugins.task:task",
            "project": "roomcast.plugins.project:project",
        }.items()
    )


@pytest.mark.slow
def test_the_package_is_strictly_typed(tmp_path: Path) -> None:
    """mypy --strict finds nothing."""
    folder = link_package(tmp_path)
    run("mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), "-p", "roomcast", cwd=folder)


def test_the_version_is_the_installed_one() -> None:
    """``roomcast.__version__`` is the version in setup.cfg."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert roomcast.__version__ == version("roomcast") == setup["metadata"]["version"]


def test_the_tree_keeps_to_the_style() -> None:
    """ruff has nothing to say, neither of the code nor of its form."""
    run("ruff", "check", "--no-cache", ".")
    run("ruff", "format", "--no-cache", "--check", ".")
