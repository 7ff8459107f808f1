"""Tests of ``specs.typescript``."""

from __future__ import annotations

import re
from importlib.resources import files

from roomcast.registry import Registry
from roomcast.specs.typescript import DECLARED_BY_CLIENT, typescript


def test_events_and_commands_are_declared(zoo_registry: Registry) -> None:
    """Events and commands of all plugins are declared with their fields, except those that the client declares."""
    text = typescript(zoo_registry, "roomcast")
    assert 'declare module "roomcast" {' in text
    assert '"animal.fed": StoredEvent<"animal.fed", {' in text
    assert re.search(r"kilos: number;", text)
    assert re.search(r'treats\?: \("nut" \| "apple"\)\[\];', text)
    assert re.search(r"notes\?: Record<string, number>;", text)
    assert re.search(r'"animal.feed": \{\n      data: \{\n        animal: string;', text)
    assert '/** Feed an animal. Only for members of the room. */\n    "animal.feed"' in text
    assert '/** Watch an animal from outside its cage. */\n    "animal.watch"' in text
    assert '"send_message"' not in text
    assert '"user_joined"' not in text


def test_what_the_client_declares_is_not_declared_again() -> None:
    """Each type that the generated file leaves out is in the declarations of roomcast.js."""
    declared = files("roomcast.static").joinpath("roomcast.d.ts").read_text()
    names = re.findall(r'^  "?([\w.]+)"?: (?:\{|\w+<)', declared, re.MULTILINE)
    assert DECLARED_BY_CLIENT - {"refresh_token"} <= set(names)
