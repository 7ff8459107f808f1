"""The distribution ``roomcast-client``: its wheel needs only httpx, and passes the checks of types."""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from docs_pages import PAGES
from packaging.requirements import Requirement
from python_client import CLIENT
from serving import KEY, Serve, url

PROGRAM = """
import sys
from importlib import import_module
from importlib.util import find_spec
from roomcast_client import Roomcast, mint_token
with Roomcast(*sys.argv[1:]) as roomcast:
    print(roomcast.publish("task.deleted", "task:1", {"task_id": 1}))
assert not any(map(find_spec, ("roomcast", "websockets", "jsonschema", "jwt", "orjson")))
for module, extra in (("listener", "listen"), ("testing", "testing")):
    try:
        import_module(f"roomcast_client.{module}")
    except ImportError as error:
        assert f"pip install 'roomcast-client[{extra}]'" in str(error)
    else:
        raise AssertionError(module)
"""


def run(*command: str, cwd: Path) -> str:
    """Run a program; return what it prints."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*args: str, cwd: Path) -> None:
    """Run pip without an index."""
    run(sys.executable, "-m", "pip", *args, "--no-index", "--no-deps", "--disable-pip-version-check", "-q", cwd=cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources."""
    folder = tmp_path_factory.mktemp("client")
    shutil.copytree(CLIENT, folder / "source", ignore=shutil.ignore_patterns("build", "dist", "*.egg-info"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", "wheels", "./source", cwd=folder)
    (found,) = (folder / "wheels").iterdir()
    return found


def needed_by(name: str) -> set[str]:
    """Return the names of ``name`` and of all installed distributions that it needs without extras."""
    names = {name}
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names |= needed_by(requirement.name)
    return names


def test_the_wheel_has_all_modules_and_needs_only_httpx(wheel: Path) -> None:
    """The metadata name httpx, and other packages only for extras."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    modules = {f"roomcast_client/{path.name}" for path in (CLIENT / "roomcast_client").glob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == {*modules, "roomcast_client/py.typed"}
    required = re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)
    assert [line for line in required if "extra ==" not in line] == ["httpx<1,>=0.27"]
    assert "License-Expression: MIT" in metadata


async def test_the_wheel_works_with_httpx_alone(wheel: Path, tmp_path: Path, serve: Serve) -> None:
    """In a new environment that has only httpx and what httpx needs, a program publishes an event."""
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=tmp_path)
    python = str(environment / "bin" / "python")
    pip("--python", python, "install", str(wheel), cwd=tmp_path)
    (site,) = environment.glob("lib/python*/site-packages")
    for name in needed_by("httpx"):
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    server = await serve()
    printed = await asyncio.to_thread(run, python, "-c", PROGRAM, url(server, ""), KEY, cwd=tmp_path)
    assert re.fullmatch(r"\w+-1\n", printed)


#: The packages that single modules may import besides httpx. Each belongs to an extra.
OF_EXTRAS = {"listener": {"websockets"}, "event_schemas": {"jsonschema"}, "tokens": {"jwt"}}


@pytest.mark.parametrize("path", sorted((CLIENT / "roomcast_client").glob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_only_what_its_extra_has(path: Path) -> None:
    """Besides the standard library and httpx. Nothing of the server is imported."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names <= {"httpx"} | OF_EXTRAS.get(path.stem, set())


def test_the_client_is_strictly_typed() -> None:
    """mypy --strict finds nothing."""
    run(sys.executable, "-m", "mypy", "--strict", "roomcast_client", cwd=CLIENT)


def test_the_changelog_has_this_version() -> None:
    """The version has a section in the changelog of the client, after the unreleased changes."""
    version = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]["version"]
    sections = re.findall(r"^## \[(.+?)\]", PAGES["clients/python/CHANGELOG.md"], re.MULTILINE)
    assert sections[:2] == ["Unreleased", version]
