"""The command ``roomcast``: the installed script, and its help."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from invoking import invoke, invoke_on
from shell import environment, roomcast

from roomcast.cli import main
from roomcast.cli.main import COMMANDS


def test_the_installed_script_prints_its_version():
    """The console script that pip installs is roomcast."""
    script = Path(sys.executable).parent / "roomcast"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=30)
    assert done.stdout == f"roomcast {version('roomcast')}\n"


def test_help_describes_every_command():
    """Each command has a complete sentence, which the width of the terminal does not cut off."""
    text = roomcast("--help").stdout
    commands = dict(re.findall(r"^  ([a-z]+)  +(.+)$", text.partition("Commands:")[2], re.MULTILINE))
    assert set(commands) == set(main.commands)
    assert all(words.endswith(".") and "..." not in words for words in commands.values())


def test_the_list_of_commands_is_that_of_the_modules():
    """The help lists each command with the first sentence of its own help."""
    assert {name: sentence for name, (_, sentence) in COMMANDS.items()} == {
        name: command.get_short_help_str(limit=200) for name, command in main.commands.items()
    }
    assert all(command.name == name for name, command in main.commands.items())
    modules = {f"roomcast.cli.{module}" for module, _ in COMMANDS.values()}
    assert modules == {command.callback.__module__ for command in main.commands.values()}


@pytest.mark.parametrize(
    "variables", [{"_ROOMCAST_COMPLETE": "bash_complete", "COMP_WORDS": "roomcast ", "COMP_CWORD": "1"}, {}]
)
def test_the_commands_are_listed_without_the_server(variables):
    """A completion and the help import no command, and nothing of the server."""
    program = """if True:
        import atexit, sys
        from roomcast.cli import main
        heavy = ("aiohttp", "redis", "jwt", "roomcast.gateway", "roomcast.cli.serve")
        atexit.register(lambda: print("imported:", [name for name in heavy if name in sys.modules]))
        sys.argv = ["roomcast", "--help"]
        main(prog_name="roomcast")
    """
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(**variables), capture_output=True, text=True, timeout=60
    )
    assert "members" in done.stdout
    assert "imported: []" in done.stdout, done.stderr


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_help_of_a_command_has_an_example(name):
    """The example is a line that begins with the command, at the end of the text before the options."""
    text = invoke(name, "--help").stdout.partition("Options:")[0]
    assert f"roomcast {name}" in text.rstrip().split("\n\n")[-1], text


@pytest.mark.parametrize("name", [*sorted(set(main.commands) - {"plugin", "serve"}), "plugin new", "plugin check"])
def test_every_command_but_serve_has_json(name):
    """``--json`` is an option of each command that ends or prints something for programs."""
    assert re.search(r"^  --json\b", invoke(*name.split(), "--help").stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("room",), "No such command 'room'. Did you mean 'rooms'?"),
        (("rooms", "--jsn"), "Did you mean '--json'?"),
        (
            ("plugins", "chatt"),
            "There is no plugin 'chatt'; there are: core, chat, project, task, webhook. Did you mean 'chat'?",
        ),
    ],
)
def test_a_name_with_a_typing_error(args, words):
    """The error contains the name that is similar."""
    done = invoke(*args)
    assert done.exit_code == 2
    assert words in done.stderr


def test_the_statuses_of_failures(server):
    """A refusal, wrong input, an unreachable server and a wrong key or token have statuses of their own."""
    assert invoke_on(server, "online", "no-such-user").exit_code == 1
    assert invoke("rooms").exit_code == 2  # no key
    assert invoke_on(server, "rooms", ROOMCAST_URL="nonsense").exit_code == 2
    assert invoke_on(server, "rooms", ROOMCAST_URL="http://127.0.0.1:1").exit_code == 3
    assert invoke_on(server, "rooms", API_KEY="wrong").exit_code == 4
    assert invoke_on(server, "listen", "task:1", "--token", "wrong").exit_code == 4


def test_colors_are_for_terminals(server):
    """A terminal gets colors unless NO_COLOR is set; pipes get none, and JSON has none anywhere."""
    publish = ("publish", "task.deleted", "task:colors", '{"task_id": 1}')
    assert invoke_on(server, *publish).exit_code == 0
    history = ("history", "task:colors")
    plain = invoke_on(server, *history).stdout
    assert "\x1b[" not in plain
    colored = invoke_on(server, *history, color=True).stdout
    assert "\x1b[" in colored and click.unstyle(colored) == plain
    assert invoke_on(server, *history, color=True, NO_COLOR="1").stdout == plain
    assert "\x1b[" not in invoke_on(server, *history, "--json", color=True).stdout
