"""Shell completion: the scripts that shells load, and the answers to what they ask."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shell import environment

ROOMCAST = str(Path(sys.executable).parent / "roomcast")
PATH = f"{Path(ROOMCAST).parent}{os.pathsep}{os.environ['PATH']}"


def complete(shell: str, line: str) -> list[str]:
    """Return the answer of roomcast to ``shell``, for the last word of ``line``."""
    words = line.split(" ")
    variables = {"_ROOMCAST_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    if shell == "fish":
        variables["COMP_CWORD"] = words[-1]
    done = subprocess.run([ROOMCAST], env=environment(**variables), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("shell", "command", "option"),
    [
        ("bash", "plain,members", "plain,--json"),
        ("zsh", "members", "--json"),
        ("fish", "plain,members\tList the users in a room.", "plain,--json\tPrint JSON."),
    ],
)
def test_commands_and_options_are_completed(shell, command, option):
    """A shell gets the names that begin with the word, zsh and fish with their help."""
    assert command in complete(shell, "roomcast mem")
    assert option in complete(shell, "roomcast members --js")
    assert "openapi" in "\n".join(complete(shell, "roomcast schema --format o"))


def test_bash_completes_a_command():
    """bash loads the script as the documentation states, and completes the word."""
    script = (
        'eval "$(_ROOMCAST_COMPLETE=bash_source roomcast)"; COMP_WORDS=(roomcast disc); COMP_CWORD=1; '
        '_roomcast_completion roomcast; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], env=environment(PATH=PATH), capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "disconnect\n", done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_valid(shell):
    """The shell accepts the script, if the shell is installed; otherwise the script names the command."""
    variables = {"_ROOMCAST_COMPLETE": f"{shell}_source"}
    script = subprocess.run([ROOMCAST], env=environment(**variables), capture_output=True, text=True, timeout=30).stdout
    assert f"_ROOMCAST_COMPLETE={shell}_complete" in script
    if shutil.which(shell) is not None:
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
