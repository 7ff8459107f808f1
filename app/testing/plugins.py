"""The plugins of a test."""

from __future__ import annotations

from collections.abc import Iterable

from .. import registry
from ..errors import PluginError
from ..plugin import Plugin
from ..registry import LoadedPlugin, Registry


def registry_with(plugins: Iterable[Plugin]) -> Registry:
    """Return a registry of the installed plugins and ``plugins``, which may be installed too.

    Raises ``PluginError``, also if ``plugins`` is something else, such as a plugin without a list.
    """
    if isinstance(plugins, Plugin) or not isinstance(plugins, Iterable):
        raise PluginError(f"the plugins of a test must be a list, such as [polls], not {plugins!r}.")
    plugins = list(plugins)
    for plugin in plugins:
        if not isinstance(plugin, Plugin):
            raise PluginError(
                f"{plugin!r} in the plugins of a test is a {type(plugin).__name__}, not a roomcast.Plugin; give the "
                "object itself, such as roomcast_polls.polls."
            )
    installed = registry.installed()
    installed_plugins = {loaded.plugin for loaded in installed}
    added = [plugin for plugin in plugins if plugin not in installed_plugins]
    return Registry([*installed, *(LoadedPlugin(plugin, "given by a test", "") for plugin in added)])
