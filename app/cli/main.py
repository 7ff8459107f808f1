"""The command ``roomcast`` and its subcommands.

A command that fails prints one sentence on standard error, with ``LOG_LEVEL=debug`` after a traceback. The status is 2
if the options, the settings or the plugins are wrong, otherwise 1.
"""

from __future__ import annotations

import os
import traceback
from typing import Any

import click

from ..errors import PluginError, RoomcastError, SettingsError
from ..workers.process import VERSION
from .bench import bench
from .dev import dev
from .doctor import doctor
from .listen import listen
from .options import BadInput
from .plugins import plugins
from .publish import publish
from .schema import schema
from .serve import serve
from .tokens import token


class Main(click.Group):
    """The group of all commands. Turns a ``RoomcastError`` into a sentence and a status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except RoomcastError as error:
            is_debugging = os.environ.get("LOG_LEVEL", "").strip().lower() == "debug"
            # The causes of a SettingsError may contain a secret.
            if is_debugging and not isinstance(error, SettingsError):
                click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
            is_bad_input = isinstance(error, SettingsError | PluginError)
            raise (BadInput if is_bad_input else click.ClickException)(str(error)) from error


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="roomcast", message="%(prog)s %(version)s")
def main() -> None:
    """A real-time gateway: clients connect by WebSocket, backends publish events over HTTP.

    To try it, run `roomcast dev` and open the link that it prints. In production, set JWT_SECRET and API_KEY in the
    environment and run `roomcast serve`.
    """


for command in (bench, dev, doctor, listen, plugins, publish, schema, serve, token):
    main.add_command(command)
