"""``roomcast plugin new``: the package works and passes its own checks, and nothing is overwritten."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from docs_pages import snippet
from invoking import invoke
from paths import ROOT
from shell import environment

from roomcast.cli.plugin_new import write_package

#: How long a step may take, in seconds. Installing and testing a package takes a few.
PATIENCE = 240


def run(*command: str, cwd: Path, **variables: str) -> str:
    """Run a command that must succeed; return its output."""
    done = subprocess.run(
        command, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The package of a new plugin."""
    root = tmp_path_factory.mktemp("new") / "roomcast-team-polls"
    done = invoke("plugin", "new", "team-polls", "--directory", str(root))
    assert done.exit_code == 0, done.stderr
    assert "roomcast dev --reload --plugin roomcast_team_polls:team_polls" in done.stdout
    return root


def test_the_package_is_installed_and_its_tests_pass(package, tmp_path):
    """In a new virtual environment, pip installs the package, its tests pass, and roomcast lists the plugin."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(venv), cwd=tmp_path)
    (site,) = venv.glob("lib/python*/site-packages")
    # What the package depends on, roomcast among it, comes from the environment of the tests, not from an index.
    (site / "dependencies.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    python = str(venv / "bin" / "python")
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, ".", cwd=package)
    # The configuration of the package leaves no warning of pytest and pytest-asyncio.
    assert "3 passed" in run(python, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package)
    listed = run(python, "-m", "roomcast", "plugins", "team_polls", cwd=tmp_path)
    assert re.search(r"commands +team_polls\.add$", listed, re.MULTILINE)


def test_the_package_has_no_problems(package, monkeypatch):
    """``roomcast plugin check`` finds nothing, and ruff with the rules of roomcast finds nothing."""
    monkeypatch.chdir(package)
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = invoke("plugin", "check")
    assert (done.exit_code, done.stdout) == (0, "roomcast_team_polls:team_polls: no problems.\n"), done.stderr
    files = [str(path) for path in package.rglob("*.py") if "build" not in path.parts]
    config = f"--config={ROOT / 'pyproject.toml'}"
    run("ruff", "check", config, "--ignore=S101,I001", *files, cwd=package, PATH=_path())
    run("ruff", "format", "--check", config, *files, cwd=package, PATH=_path())


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_the_written_files_as_json(tmp_path):
    """The document has the name of the plugin, the directory, and all files in it."""
    root = tmp_path / "roomcast-team-polls"
    done = invoke("plugin", "new", "team-polls", "--directory", str(root), "--json")
    shown = json.loads(done.stdout)
    assert (shown["plugin"], shown["directory"]) == ("team_polls", str(root))
    assert sorted(shown["files"]) == sorted(str(path) for path in root.rglob("*") if path.is_file()) != []


def test_nothing_is_overwritten(tmp_path):
    """If a file exists, nothing is written, and the error names the file."""
    (tmp_path / "README.md").write_text("mine")
    done = invoke("plugin", "new", "polls", "--directory", str(tmp_path))
    assert done.exit_code == 2
    assert "README.md exists already; nothing was written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Polls", "is not a word like polls"),
        ("1polls", "is not a word like polls"),
        ("polls-", "is not a word like polls"),
        ("../polls", "is not a word like polls"),
        ("p" * 41, "is not a word like polls"),
        ("class", "is a keyword of Python"),
        ("chat", "there is a plugin 'chat' already"),
        ("core", "there is a plugin 'core' already"),
        ("channel", "the plugin 'chat' declares rooms of the type 'channel'"),
    ],
)
def test_a_name_that_no_plugin_can_have(tmp_path, name, words):
    """The error states the reason, and nothing is written."""
    done = invoke("plugin", "new", name, "--directory", str(tmp_path / "new"))
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_word_with_an_underscore(tmp_path):
    """The files have the name of the module."""
    write_package("my_polls", tmp_path)
    assert (tmp_path / "roomcast_my_polls.py").exists()
    assert (tmp_path / "tests" / "test_roomcast_my_polls.py").exists()
    assert 'name = "roomcast-my-polls"' in (tmp_path / "pyproject.toml").read_text()


def test_the_page_describes_the_steps(tmp_path):
    """The lines on the page are those that the command prints, and their names are those of the package."""
    done = invoke("plugin", "new", "polls", "--directory", str(tmp_path / "roomcast-polls"))
    printed = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    steps = [*snippet("a new plugin").splitlines()[1:], *snippet("develop a plugin").splitlines()]
    assert [line.replace(f"{tmp_path}/", "") for line in printed] == steps


def test_the_first_change_on_the_page_works(tmp_path):
    """With the hook and the test of the page, the tests pass, and the check finds no problem."""
    root = tmp_path / "roomcast-polls"
    write_package("polls", root)
    for file, addition in (
        ("roomcast_polls.py", snippet("the first change of a plugin")),
        ("tests/test_roomcast_polls.py", snippet("the first test of a plugin")),
    ):
        with (root / file).open("a") as source:
            source.write(f"\n\n{addition}")
    assert "4 passed" in run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=root)
    assert "no problems" in run(sys.executable, "-m", "roomcast", "plugin", "check", cwd=root)
