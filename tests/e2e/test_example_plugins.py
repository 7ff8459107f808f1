"""Tests of ``examples/plugins``: each one is a small package whose own tests pass on all brokers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from paths import ROOT
from shell import run_module as run

from roomcast.testing import BROKERS

EXAMPLES = sorted(path.parent for path in (ROOT / "examples" / "plugins").glob("*/pyproject.toml"))
NAMES = ["archive", "away", "moderation", "polls", "presence_webhooks", "typists"]


def test_all_examples_are_found() -> None:
    """No example is left out of these tests."""
    assert [path.name for path in EXAMPLES] == NAMES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_passes_its_own_tests(example: Path, tmp_path: Path) -> None:
    """pip installs the package, and each of its tests passes on all brokers, or on the embedded one with a clock."""
    source = shutil.copytree(example, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    site = tmp_path / "site"
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run("pip", "install", *options, "--target", site, source, cwd=source)
    (source / f"roomcast_{example.name}.py").unlink()  # the installed module is tested
    said = run("pytest", "-v", "-p", "no:cacheprovider", cwd=source, PYTHONPATH=str(site))
    assert re.search(r"\d+ passed", said) and "skipped" not in said
    passed: dict[str, set[str]] = {}
    for name, broker in re.findall(r"::(\w+)(?:\[(\w+))?.* PASSED", said):
        passed.setdefault(name, set()).add(broker)
    tests = re.findall(r"def (test_\w+)\((.*)\)", (source / f"test_{example.name}.py").read_text())
    assert passed == {name: {""} if "clock" in fixtures.split(", ") else {*BROKERS} for name, fixtures in tests}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_uses_only_the_public_api(example: Path) -> None:
    """A module has less than 60 lines, its test less than 40, and neither uses a private attribute or module."""
    for path, most in ((example / f"roomcast_{example.name}.py", 60), (example / f"test_{example.name}.py", 40)):
        text = path.read_text()
        assert len(text.splitlines()) < most
        assert re.findall(r"\._[a-z]\w*", text) == []
        assert set(re.findall(r"\broomcast\.\w+", text)) <= {"roomcast.testing"}
