"""Events that are not stored: their options, with the checks of a declaration, and one that is to be sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson
from marshmallow import ValidationError

from .errors import PluginError
from .schemas.validator import Validator

#: The longest ``throttle``, in seconds. The state of each user in each room is kept for that long.
MAX_THROTTLE: Final = 60.0
#: The size of an event that is kept, because it has ``throttle`` or ``leave``, as JSON in bytes.
MAX_KEPT_EVENT: Final = 4096


class LiveOptions(NamedTuple):
    """How an event is sent that is not stored. ``Plugin.event`` explains the fields."""

    conflate: bool = False
    throttle: float = 0.0
    leave: Mapping[str, Any] | None = None
    others_only: bool = False

    @property
    def keeps_state(self) -> bool:
        """True if the last event of each user in each room is kept."""
        return self.throttle > 0 or self.leave is not None

    def ends(self, data: Mapping[str, Any]) -> bool:
        """Return True if ``data`` has the values of ``leave``, so that nothing is sent when the user leaves."""
        return self.leave is None or all(data.get(name) == value for name, value in self.leave.items())


class LivePublication(NamedTuple):
    """A validated event that is to be sent.

    ``payload`` is the event as JSON. ``user_id`` is the user who caused it, or None. ``is_member`` is True if that user
    sent it as a member of the room.
    """

    type: str
    options: LiveOptions
    room: str
    sender: str | None
    user_id: int | str | None
    payload: bytes
    is_member: bool = False


def check_options(event: str, validator: Validator, options: LiveOptions, *, stored: bool) -> LiveOptions | None:
    """Return ``options``, or None if the ``event`` is stored; raise ``PluginError`` if they cannot work.

    ``event`` names the event and its plugin.
    """
    if stored is not True and stored is not False:
        raise PluginError(f"{event} has stored={stored!r}; it must be True or False")
    if stored:
        given = [name for name, value in options._asdict().items() if value]
        if given:
            raise PluginError(f"{event} is stored, and {' and '.join(given)} works only with stored=False")
        return None
    throttle = options.throttle
    if isinstance(throttle, bool) or not isinstance(throttle, int | float) or not 0 <= throttle <= MAX_THROTTLE:
        raise PluginError(f"{event} has throttle={throttle!r}; it must be a number of seconds up to {MAX_THROTTLE:g}")
    if options.leave is not None:
        _check_leave(event, validator, options.leave)
    return options


def _check_leave(event: str, validator: Validator, leave: Any) -> None:
    """Raise ``PluginError`` unless each field of ``leave`` is a field of the schema with a valid value."""
    if not isinstance(leave, Mapping) or not leave:
        raise PluginError(f"{event} has leave={leave!r}; it must be a dict with at least one field, like the data")
    known = {field.data_key or name: field for name, field in validator.schema.fields.items()}
    for name, value in leave.items():
        field = known.get(name)
        if field is None:
            fields = ", ".join(map(str, known))
            raise PluginError(f"{event} has leave with {name!r}, but the fields of its schema are: {fields}")
        try:
            orjson.dumps(value)
        except TypeError as error:
            raise PluginError(f"{event} has leave with {name}={value!r}, which is no JSON value") from error
        try:
            field.deserialize(value)
        except ValidationError as error:
            raise PluginError(f"{event} has leave with {name}={value!r}, which its schema refuses: {error}") from error
