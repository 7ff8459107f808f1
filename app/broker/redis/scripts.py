"""Lua scripts: what must be one atomic step on the server. Each is a file beside this module."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final


class Script:
    """A Lua script: its ``text``, and the ``sha`` by which a server that has it can be asked to run it.

    It is made of the files ``names`` (without ``.lua``), one after the other: functions they share come first. A
    ``stamped`` one is given two arguments before its own when it is sent: the server's run_id, and how often this call
    was sent before.
    """

    __slots__ = ("sha", "stamped", "text")

    def __init__(self, *names: str, stamped: bool = False) -> None:
        self.stamped: Final = stamped
        here = files("roomcast.broker.redis.lua")
        self.text: Final = "\n".join((here / f"{name}.lua").read_text(encoding="utf-8") for name in names)
        self.sha: Final = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
