"""The plugins of ``roomcast dev --plugin``: loads them, and loads them again when their files have changed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from .. import registry
from ..errors import PluginError
from ..registry import Registry
from ..specs.publishable import check_schemas

#: The folders that hold installed packages. Their modules are never loaded again.
_INSTALLED: Final = frozenset({"site-packages", "dist-packages", ".venv", "venv"})


class PluginSource:
    """The plugins at ``module:attribute``, which are loaded besides the installed ones.

    ``names`` is the setting PLUGINS, which selects installed plugins. ``paths`` are the folders and files to watch.
    Raises ``PluginError`` if a module cannot be found.
    """

    def __init__(self, plugins: Sequence[str], names: Sequence[str] = ()) -> None:
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        # Python recognizes a stale .pyc by the second and the size of its source, which two quick changes can share.
        sys.dont_write_bytecode = True
        self._names: Final = names
        self._points: Final = [_entry_point(text) for text in plugins]
        self.paths: Final = sorted({_watched_path(point.module) for point in self._points})

    def load(self) -> Registry:
        """Return the registry of all plugins, with new modules of these. Raises ``PluginError``.

        If they cannot be loaded, the modules that were loaded before are in use again.
        """
        old = self._own_modules()
        for name in old:
            del sys.modules[name]
        importlib.invalidate_caches()
        try:
            loaded = registry.load([*self._installed(), *self._points])
            check_schemas(loaded)
        except BaseException:
            for name in self._own_modules():
                del sys.modules[name]
            sys.modules.update(old)
            raise
        return loaded

    def load_without(self) -> Registry:
        """Return the registry of the installed plugins only."""
        return registry.load(self._installed())

    def _installed(self) -> list[EntryPoint]:
        """Return the entry points of the installed plugins that PLUGINS selects, without those of the same plugins."""
        own = {point.value for point in self._points}
        found = [point for point in entry_points(group=registry.GROUP) if point.value not in own]
        return [point for point in found if not self._names or point.name in self._names]

    def _own_modules(self) -> dict[str, ModuleType]:
        """Return the loaded modules in the watched folders, by name."""
        kept = ("__main__", "roomcast")
        modules = [*sys.modules.items()]
        return {name: one for name, one in modules if name.partition(".")[0] not in kept and self._is_own(one)}

    def _is_own(self, module: ModuleType) -> bool:
        """Return True if the file of ``module`` is watched."""
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            return False
        path = Path(file).resolve()
        return any(
            path == watched or (path.is_relative_to(watched) and not _INSTALLED & {*path.relative_to(watched).parts})
            for watched in self.paths
        )


def _entry_point(text: str) -> EntryPoint:
    module, separator, attribute = text.partition(":")
    if not separator or not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise PluginError(f"{text!r} is not of the form MODULE:ATTRIBUTE, such as roomcast_polls:polls.")
    return EntryPoint(attribute, text, registry.GROUP)


def _watched_path(module: str) -> Path:
    """Return the folder of the package of ``module``; for a module in no package, the folder that it is in.

    Of an installed module, only its file is watched.
    """
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise PluginError(f"There is no module {top!r} in the current directory or among the installed packages.")
    path = Path(spec.origin).resolve()
    if path.name != "__init__.py" and _INSTALLED & {*path.parts}:
        return path
    return path.parent
