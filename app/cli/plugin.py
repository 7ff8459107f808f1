"""``roomcast plugin``: the commands for authors of plugins."""

from __future__ import annotations

import click

from .plugin_check import check
from .plugin_new import new


@click.group()
def plugin() -> None:
    """Write and check a plugin.

    \b
    roomcast plugin new polls
    roomcast plugin check
    """


plugin.add_command(new)
plugin.add_command(check)
