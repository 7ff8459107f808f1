"""Tests of ``plugin_schedule``: the declarations of periodic functions."""

from __future__ import annotations

from typing import Any

import pytest

from roomcast import Plugin, Service
from roomcast.errors import PluginError


async def tick(service: Service) -> None:
    """Do nothing."""


def test_a_declaration() -> None:
    """The plugin has the function with its name, its interval and its scope, and the decorator returns it."""
    plugin = Plugin("polls")
    assert plugin.every(30, once_per_cluster=True)(tick) is tick
    assert plugin.periodic == [("tick", 30.0, tick, True)]


@pytest.mark.parametrize("seconds", [0, -1, 0.01, float("inf"), float("nan"), 400 * 86400, True, "30", None, tick])
def test_a_wrong_interval(seconds: Any) -> None:
    """An interval out of range, and the decorator without arguments, are refused."""
    with pytest.raises(PluginError, match=r"plugin 'polls' runs a function every .*give a number of seconds from 0\.1"):
        Plugin("polls").every(seconds)


def test_a_wrong_scope() -> None:
    """once_per_cluster is True or False."""
    with pytest.raises(PluginError, match="once_per_cluster of plugin 'polls' is 'yes'"):
        Plugin("polls").every(1, once_per_cluster="yes")  # type: ignore[arg-type]


def test_a_function_that_cannot_be_called() -> None:
    """It is called with the service only, and has no yield."""
    plugin = Plugin("polls")
    with pytest.raises(PluginError, match=r"is called as more\(service\), but is more\(service: "):

        @plugin.every(1)
        async def more(service: Any, other: Any) -> None: ...

    with pytest.raises(PluginError, match="without yield"):

        @plugin.every(1)
        async def generator(service: Any) -> Any:
            yield

    assert plugin.periodic == []


def test_two_functions_of_one_name() -> None:
    """The nodes agree on a function by its name, so it must be unique."""
    plugin = Plugin("polls")
    plugin.every(1)(tick)
    with pytest.raises(PluginError, match="declares two periodic functions 'tick'; rename one"):
        plugin.every(2)(tick)
