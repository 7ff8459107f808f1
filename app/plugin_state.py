"""The namespace in which a plugin keeps its objects on one node."""

from __future__ import annotations

from typing import Any, Final


class State:
    """Any attributes that the plugin sets, such as the pool of connections to its database."""

    def __init__(self, plugin: str) -> None:
        self._plugin: Final = plugin

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"The state of plugin {self._plugin!r} has no {name!r}; set service.state.{name} in a lifespan.", name=name
        )

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"State({', '.join(name for name in vars(self) if not name.startswith('_'))})"
