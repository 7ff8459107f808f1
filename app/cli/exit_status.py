"""The exit statuses of the commands, and the errors that have one of their own.

Statuses are stable: scripts depend on them. docs/command-line.md lists them.
"""

from __future__ import annotations

from typing import Final

from ..errors import PluginError, RoomcastError, SettingsError

#: The server refused the request or could not start, a check failed, or what was asked for is not so.
REFUSED: Final = 1
#: The options, the settings or the plugins are wrong. Click uses this status for wrong options.
BAD_INPUT: Final = 2
#: The server cannot be reached, or cannot carry out the request now. The same command may succeed later.
UNREACHABLE: Final = 3
#: The server does not accept the key or the token, or the key or the token does not allow the request.
DENIED: Final = 4


class Unreachable(RoomcastError):
    """No connection could be opened, or the server cannot carry out the request now. The message has the reason."""


class Denied(RoomcastError):
    """The key or the token is wrong, or does not allow the request."""


def status_of(error: RoomcastError) -> int:
    """Return the exit status of a command that fails with ``error``."""
    if isinstance(error, SettingsError | PluginError):
        return BAD_INPUT
    if isinstance(error, Unreachable):
        return UNREACHABLE
    return DENIED if isinstance(error, Denied) else REFUSED
