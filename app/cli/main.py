"""The command ``roomcast`` and its subcommands.

A command that fails prints one sentence on standard error, with ``LOG_LEVEL=debug`` after a traceback.
``exit_status.py`` has its status.

The module of a subcommand is imported when the subcommand runs. Together they import the server and all of its
libraries, which takes ten times as long as an answer to a shell that completes a word.
"""

from __future__ import annotations

import os
import traceback
from collections import UserDict
from importlib import import_module
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from ..errors import RoomcastError, SettingsError
from .exit_status import status_of

#: The module of each command, and the first sentence of its help.
COMMANDS: Final = {
    "bench": ("bench", "Measure the throughput and the latency of a server."),
    "dev": ("dev", "Run a server for development."),
    "disconnect": ("users", "Close all connections of a user."),
    "doctor": ("doctor", "Check a deployment for problems."),
    "history": ("history", "Print the stored events of a room."),
    "kick": ("rooms", "Remove a user from a room."),
    "listen": ("listen", "Print the events of rooms as they happen."),
    "members": ("rooms", "List the users in a room."),
    "online": ("users", "Show which users are online."),
    "plugin": ("plugin", "Write and check a plugin."),
    "plugins": ("plugins", "List the plugins and what each one adds, or show only one."),
    "publish": ("publish", "Publish events, as a backend does."),
    "relay": ("relay", "Publish the events in the outbox of an application."),
    "revoke": ("users", "Revoke the tokens of a user."),
    "rooms": ("rooms", "List the rooms that have members."),
    "schema": ("schema", "Print the API of a server with the installed plugins."),
    "serve": ("serve", "Run a server for production."),
    "token": ("tokens", "Print a token for a user, signed with JWT_SECRET."),
}


class _Commands(UserDict[str, click.Command]):
    """The commands by name. Each is imported when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.data = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # None until it is read

    def __getitem__(self, name: str) -> click.Command:
        """Return the command ``name``; raise ``KeyError`` if there is none."""
        if (command := self.data[name]) is None:
            command = self.data[name] = getattr(import_module(f"..{COMMANDS[name][0]}", __name__), name)
        return command


class Main(click.Group):
    """The group of all commands. Turns a ``RoomcastError`` into a sentence and a status."""

    def __init__(self, **options: Any) -> None:
        super().__init__(commands=_Commands(), **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except RoomcastError as error:
            is_debugging = os.environ.get("LOG_LEVEL", "").strip().lower() == "debug"
            # The causes of a SettingsError may contain a secret.
            if is_debugging and not isinstance(error, SettingsError):
                click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
            click.echo(f"{click.style('Error:', fg='red')} {error}", err=True)
            raise click.exceptions.Exit(status_of(error)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of the commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin with ``incomplete``, without importing the commands."""
        items = [
            CompletionItem(name, help=sentence)
            for name, (_, sentence) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="roomcast", prog_name="roomcast", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """A real-time gateway: clients connect by WebSocket, backends publish events over HTTP.

    To try it, run `roomcast dev` and open the link that it prints. In production, set JWT_SECRET and API_KEY in the
    environment and run `roomcast serve`.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        ctx.color = False
