"""A pytest plugin that runs the tests of a module on the event loops that the module names.

The module names them with ``pytest_plugins = ("loops",)`` and ``LOOPS = ("uvloop", "asyncio")``, or one of the two.
"""

import asyncio

import pytest
import uvloop

FACTORIES = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.hookimpl(tryfirst=True)
def pytest_asyncio_loop_factories(config, item):
    """Return the factories of the loops in ``LOOPS`` of the test module, or None without ``LOOPS``."""
    names = getattr(item.module, "LOOPS", None)
    return names and {name: FACTORIES[name] for name in names}
