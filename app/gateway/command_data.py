"""Checks of the data of roomcast's own commands. ``messages.refuse_other_fields`` checks the names of the fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import Refused


def parse_count(data: Mapping[str, Any], field: str, default: int, maximum: int, what: str = "a number") -> int:
    """Return the whole number in ``field``, from 1 to ``maximum``, or ``default`` if the field is missing.

    ``what`` describes the number in the error. Raises ``Refused``.
    """
    if field not in data:
        return default
    count = data[field]
    if count.__class__ is int and 1 <= count <= maximum:  # True is an int, too
        return int(count)
    raise invalid_field(field, "Not a whole number in this range", f"give {what} from 1 to {maximum}")


def invalid_field(field: str, problem: str, advice: str) -> Refused:
    """Return the refusal of a ``field`` of the data, with its ``problem`` and the ``advice`` to the developer."""
    return Refused("invalid_data", f"data.{field}: {advice}.", {field: [f"{problem}; {advice}."]})
