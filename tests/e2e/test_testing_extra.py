"""Tests of the extra ``roomcast[testing]``: in an environment with nothing else, the tests of a plugin pass."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from paths import TESTS, link_package
from shell import environment


def requirements(dist: Distribution, extras: Iterable[str]) -> list[Requirement]:
    """Return what ``dist`` needs on this platform with these extras."""
    found = [Requirement(line) for line in dist.requires or ()]
    chosen = ["", *extras]
    return [one for one in found if one.marker is None or any(one.marker.evaluate({"extra": name}) for name in chosen)]


def closure(name: str, extras: Iterable[str]) -> dict[str, Distribution]:
    """Return the distributions that ``pip install name[extras]`` installs, by their names."""
    found: dict[str, Distribution] = {}
    waiting = [(name, tuple(extras))]
    while waiting:
        name, wanted = waiting.pop()
        dist = distribution(name)
        found[dist.name.lower()] = dist
        for one in requirements(dist, wanted):
            if one.name.lower() not in found or one.extras:
                waiting.append((one.name, tuple(one.extras)))
    return found


def link(dist: Distribution, site: Path) -> None:
    """Add the files of an installed distribution to another environment."""
    for name in {file.parts[0] for file in dist.files or () if file.parts[0] != ".."}:
        source = Path(str(dist.locate_file(name)))
        if name != "__pycache__" and source.exists() and not (site / name).exists():
            (site / name).symlink_to(source)


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program; the test fails with its output if the program fails."""
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_extra_has_pytest_and_pytest_asyncio_only() -> None:
    """Plugin authors install nothing that they do not need."""
    dist = distribution("roomcast")
    runtime = {one.name for one in requirements(dist, [])}
    assert {one.name for one in requirements(dist, ["testing"])} - runtime == {"pytest", "pytest-asyncio"}


def test_a_plugin_is_tested_with_the_extra_only(tmp_path: Path) -> None:
    """A fresh environment has the requirements of the extra, the plugin, and nothing else."""
    home = tmp_path / "venv"
    venv.create(home)
    (site,) = home.glob("lib/python*/site-packages")
    found = closure("roomcast", ["testing"])
    own = found.pop("roomcast")
    for dist in found.values():
        link(dist, site)
    link_package(site)
    info = next(file.parts[0] for file in own.files or () if file.parts[0].endswith(".dist-info"))
    shutil.copytree(str(own.locate_file(info)), site / info)
    source = shutil.copytree(TESTS / "foreign", tmp_path / "foreign", ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run(sys.executable, "-m", "pip", "install", *options, "--target", site, source, cwd=source)
    python = home / "bin" / "python"
    missing = run(python, "-c", "import sys, importlib.util as u; print(u.find_spec('hypothesis'))", cwd=source)
    assert missing.strip() == "None"
    assert "passed" in run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=source)
