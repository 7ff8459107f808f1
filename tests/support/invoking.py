"""Run a command of roomcast in this process, which starts faster than a process of its own; see ``shell``."""

import os

from click.testing import CliRunner, Result
from shell import API_KEY, Running, environment

from roomcast.cli import main


def invoke(*args: str, stdin: str | bytes = "", color: bool = False, **variables: str) -> Result:
    """Run a command with the settings in ``variables`` only. ``color`` is True on a terminal."""
    env: dict[str, str | None] = dict.fromkeys(_roomcast_variables())
    return CliRunner().invoke(main, args, input=stdin, env=env | variables, color=color, prog_name="roomcast")


def invoke_on(server: Running, *args: str, stdin: str | bytes = "", **variables: str) -> Result:
    """Run a command that talks to ``server`` with its API key."""
    return invoke(*args, stdin=stdin, **{"ROOMCAST_URL": server.url, "API_KEY": API_KEY, **variables})


def _roomcast_variables() -> set[str]:
    return set(os.environ) - set(environment())
