"""docs/command-line.md: the tables name all commands, and the snippets do what the text says."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from connected_users import member
from docs_pages import code, rows, snippet
from invoking import invoke, invoke_on
from shell import API_KEY, PATIENCE, SECRET, Process, Running, environment, listening

from roomcast.cli import exit_status, main

PAGE = "docs/command-line.md"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def shell(script: str, server: Running, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run lines of bash with ``roomcast`` on the PATH, for ``server``."""
    ours = {"PATH": PATH, "ROOMCAST_URL": server.url, "API_KEY": API_KEY, "JWT_SECRET": SECRET, **variables}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment(**ours),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,  # a script starts several processes
    )


def listed_commands() -> dict[str, tuple[str, ...]]:
    """Return the other cells of the row of each command."""
    return {code(row[0]): row[1:] for row in rows(PAGE, "## Commands") if row[0].startswith("`roomcast ")}


def test_every_command_is_listed():
    """Each command has a row, and no other."""
    nested = {f"{name} {inner}" for name, group in main.commands.items() for inner in getattr(group, "commands", ())}
    names = {name for name, command in main.commands.items() if not hasattr(command, "commands")} | nested
    assert set(listed_commands()) == {f"roomcast {name}" for name in names}


@pytest.mark.parametrize("command", [name for name, cells in listed_commands().items() if "`" in (*cells, "")[1]])
def test_the_scope_of_a_command_is_listed(command):
    """The help of ``--api-key`` names the scope in the table."""
    scope = code(listed_commands()[command][1])
    assert f"with the scope {scope};" in " ".join(invoke(*command.split()[1:], "--help").stdout.split())


def test_every_exit_status_is_listed():
    """Each status that ``exit_status`` defines has a row."""
    listed = {row[0] for row in rows(PAGE, "## Exit status")}
    known = [value for name, value in vars(exit_status).items() if name.isupper()]
    assert len(known) == 4 and {str(value) for value in known} < listed


def test_publishing(server):
    """The lines publish an event, and show it in the history."""
    done = shell(snippet("publish from a shell").replace("project:1", "project:77"), server)
    assert done.returncode == 0, done.stderr
    assert 'project:77 task.created - {"task_id":790,"title":"Try it"}' in done.stdout


def test_moderation(server):
    """The lines list rooms and members, remove the user and revoke the tokens."""
    with member(server, 12345, "eve", "channel:456"):
        done = shell(snippet("moderate from a shell"), server)
    assert done.returncode == 0, done.stderr
    assert "Removed user 12345 from channel:456; connections: 1." in done.stdout
    assert "Revoked the tokens of user 12345" in done.stdout


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_json_for_programs(server):
    """jq reads the document and the stream."""
    invoke_on(server, "publish", "task.created", "project:1", '{"task_id": 1, "title": "For jq"}')
    with member(server, 12345, "eve", "channel:456", iat=int(time.time()) + 3):
        done = shell(snippet("json from a shell"), server)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "eve\nFor jq\n"


def test_the_exit_status_in_a_condition(server):
    """The line prints its text only for a user who is online."""
    assert shell(snippet("exit status"), server).stdout == ""
    with member(server, 12345, "eve", iat=int(time.time()) + 3):
        assert shell(snippet("exit status"), server).stdout == "12345 is online\n"


def test_waiting_for_an_event(server):
    """The command prints the event and ends."""
    command = ("bash", "-c", snippet("wait for an event"))
    with Process(command=command, PATH=PATH, ROOMCAST_URL=server.url, JWT_SECRET=SECRET) as waiting:
        waiting.wait_for("Listening in project:1", waiting.err)
        invoke_on(server, "publish", "task.created", "project:1", '{"task_id": 1, "title": "Now"}')
        assert waiting.ended() == 0
    assert json.loads(waiting.out[0])["data"]["title"] == "Now"


def test_forwarding(server):
    """An event of the first server arrives at the other one."""
    with Running() as other:
        variables = {"PATH": PATH, "ROOMCAST_URL": server.url, "JWT_SECRET": SECRET}
        variables |= {"OTHER_URL": other.url, "OTHER_KEY": API_KEY}
        # With a count, both programs of the pipeline end; a signal would end only the shell.
        script = snippet("forward events").replace("--json", "--json --type task.created --count 1")
        command = ("bash", "-c", script)
        with listening(other, "project:1") as end, Process(command=command, **variables) as forwarding:
            forwarding.wait_for("Listening in project:1", forwarding.err)
            invoke_on(server, "publish", "task.created", "project:1", '{"task_id": 1, "title": "Over there"}')
            end.wait_for("Over there", end.out)
            assert forwarding.ended() == 0


LINES = {
    "bash": snippet("completion in bash"),
    "zsh": snippet("completion in zsh"),
    "fish": snippet("completion in fish"),
}


@pytest.mark.parametrize("name", LINES)
def test_completion(name, tmp_path):
    """The line makes the shell complete a command, if the shell is installed; its script exists in any case."""
    line = LINES[name].strip()
    variable = f"_ROOMCAST_COMPLETE={name}_source"
    assert f"{variable} roomcast" in line
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    ask = {
        "bash": 'COMP_WORDS=(roomcast disc); COMP_CWORD=1; _roomcast_completion roomcast; echo "${COMPREPLY[@]}"',
        "zsh": "COMP_WORDS='roomcast disc' COMP_CWORD=1 _ROOMCAST_COMPLETE=zsh_complete ${_comps[roomcast]:+roomcast}",
        "fish": "complete --do-complete 'roomcast disc'",
    }[name]
    before = "autoload -U compinit; compinit -u -d $HOME/dump; " if name == "zsh" else ""
    done = subprocess.run(
        [name, "-c", f"{before}{line}\n{ask}"],
        env=environment(PATH=PATH, HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "disconnect" in done.stdout, done.stderr
