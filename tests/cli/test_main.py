"""The command ``roomcast``: the installed script, and its help."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from shell import roomcast


def test_the_installed_script_prints_its_version():
    """The console script that pip installs is roomcast."""
    script = Path(sys.executable).parent / "roomcast"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30)
    assert done.stdout == f"roomcast {version('roomcast')}\n"


def test_help_describes_every_command():
    """Each command has a complete sentence, which the width of the terminal does not cut off."""
    text = roomcast("--help").stdout
    commands = dict(re.findall(r"^  ([a-z]+)  +(.+)$", text.partition("Commands:")[2], re.MULTILINE))
    assert set(commands) == {"bench", "dev", "doctor", "listen", "plugins", "publish", "schema", "serve", "token"}
    assert all(words.endswith(".") and "..." not in words for words in commands.values())
