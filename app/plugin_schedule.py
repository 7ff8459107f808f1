"""The functions of a plugin that run periodically: ``@deploy.every(30, once_per_cluster=True)``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from .errors import PluginError
from .plugin_functions import FunctionChecks

if TYPE_CHECKING:
    from .service import Service

#: The bounds of an interval, in seconds: a tenth of a second, and a year.
MIN_INTERVAL: Final = 0.1
MAX_INTERVAL: Final = 366 * 86400.0

_F = TypeVar("_F", bound=Callable[["Service[Any]"], Any])


class PeriodicFunction(NamedTuple):
    """A function that runs every ``seconds``. ``name`` is unique in its plugin."""

    name: str
    seconds: float
    function: Callable[[Service[Any]], Awaitable[Any]]
    once_per_cluster: bool


class ScheduleDeclarations(FunctionChecks):
    """The method of ``Plugin`` that declares periodic functions."""

    periodic: list[PeriodicFunction]

    def every(self, seconds: float, *, once_per_cluster: bool = False) -> Callable[[_F], _F]:
        """Declare a function that runs periodically; decorates ``async def f(service: Service)``.

        A plain ``def`` function runs in a thread.

        The first run is when the server has started. A run begins ``seconds`` after the previous one has begun, or when
        it has ended if that is later: there are never two runs at once. An exception is logged, and the next run
        follows. At shutdown, a run is cancelled.

        Args:
            seconds: The interval, from 0.1 s to a year.
            once_per_cluster: If True, one of all nodes runs the function in each interval, by the clock of Redis, and
                another one if that node is killed. A run that takes longer than the interval holds the others back. If
                Redis fails over or its node is cut off from it, two nodes may run it at the same time. If False, each
                node runs it, and each worker.
        """
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
        if not is_number or not MIN_INTERVAL <= seconds <= MAX_INTERVAL:
            raise PluginError(
                f"plugin {self.name!r} runs a function every {seconds!r}; give a number of seconds from "
                f"{MIN_INTERVAL:g} to {MAX_INTERVAL:.0f}"
            )
        if once_per_cluster not in (True, False):
            raise PluginError(f"once_per_cluster of plugin {self.name!r} is {once_per_cluster!r}, not True or False")

        def declare(function: _F) -> _F:
            called = self._async_function("the function of every", function, "service")
            name = getattr(inspect.unwrap(function), "__name__", "")
            if not name:
                raise PluginError(f"a function that plugin {self.name!r} runs every {seconds:g} s has no name")
            if any(one.name == name for one in self.periodic):
                raise PluginError(f"plugin {self.name!r} declares two periodic functions {name!r}; rename one")
            self.periodic.append(PeriodicFunction(name, float(seconds), called, once_per_cluster))
            return function

        return declare
