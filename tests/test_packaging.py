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

import roomcast

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "app": "roomcast",
    "plugins": "roomcast.plugins",
    "templates": "roomcast.templates",
    "static": "roomcast.static",
}


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


@pytest.mark.parametrize(("folder", "package"), list(FOLDERS.items()))
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


def as_one_package(folder: Path) -> None:
    """Link the installed packages into ``folder/roomcast``, because mypy cannot follow an editable install's hook."""
    for package in FOLDERS.values():
        inside = folder.joinpath(*package.split("."))
        inside.mkdir()
        for path in Path(str(files(package))).iterdir():
            if not (inside / path.name).exists() and path.name not in FOLDERS:
                (inside / path.name).symlink_to(path)


def test_the_installed_package_is_strictly_typed(tmp_path: Path) -> None:
    """mypy --strict finds nothing in the installed package."""
    as_one_package(tmp_path)
    cache = ROOT / ".mypy_cache"
    run("mypy", "--strict", "--cache-dir", str(cache), "-p", "roomcast", cwd=tmp_path, MYPYPATH=str(tmp_path))


def test_the_version_is_the_installed_one() -> None:
    """``roomcast.__version__`` is the version in setup.cfg."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert roomcast.__version__ == version("roomcast") == setup["metadata"]["version"]


def test_the_tree_keeps_to_the_style() -> None:
    """ruff has nothing to say, neither of the code nor of its form."""
    run("ruff", "check", "--no-cache", ".")
    run("ruff", "format", "--no-cache", "--check", ".")
