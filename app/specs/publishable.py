"""Check, before the server starts, that the schemas of all plugins can be described and their events published."""

from __future__ import annotations

from typing import Any, Final

from ..declarations import Command, EventType
from ..errors import PluginError
from ..protocol import messages
from ..registry import Registry
from .examples import example

#: How many levels of optional lists and nested objects an example has. A schema may contain itself.
_DEPTH: Final = 3


def check_schemas(registry: Registry) -> None:
    """Publish an example of each event, without sending it.

    Raises ``PluginError`` for a schema that cannot be described as JSON Schema, and for an event whose schema returns
    something that JSON does not have, such as a ``Decimal``. An example that the schema does not accept shows nothing.
    """
    declared: tuple[tuple[str, Command | EventType], ...] = (
        *(("command", command) for command in registry.commands.values()),
        *(("event", event) for event in registry.events.values()),
    )
    for kind, one in declared:
        try:
            data = example(one.validator.json_schema(), depth=_DEPTH)
            if kind == "event" and (body := _body(one, data)) is not None:
                messages.event(one.type, "example:1", body, None)
        except Exception as error:
            owner = f"{kind} {one.type!r} of plugin {registry.owner(kind, one.type)!r}"
            reason = f"{type(error).__name__}: {error}"
            raise PluginError(f"The schema of {owner} cannot be used: {reason}.") from error


def _body(event: Command | EventType, data: Any) -> Any:
    """Return what the schema of ``event`` makes of an example, or None if it refuses the example or fails."""
    try:
        return event.validator.event(data)
    except Exception:
        return None
