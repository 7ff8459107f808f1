"""A pytest plugin: a test module runs on the event loops it names.

It asks for them with ``pytest_plugins = ("loops",)`` and ``LOOPS = ("uvloop", "asyncio")``, or one of the two.
"""

import asyncio

import pytest
import uvloop

FACTORIES = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.hookimpl(tryfirst=True)
def pytest_asyncio_loop_factories(config, item):
    """Return the factories of the loops that the module of ``item`` names; None if it names none."""
    names = getattr(item.module, "LOOPS", None)
    return names and {name: FACTORIES[name] for name in names}
