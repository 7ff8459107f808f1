"""Tests of ``specs.examples``."""

from __future__ import annotations

from typing import Any

import pytest

from roomcast.specs.examples import example


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "minLength": 9}, "a b ca b c"[:9]),
        ({"type": "integer", "minimum": 5, "maximum": 7}, 5),
        ({"type": "number", "maximum": -3}, -3),
        ({"enum": [None, "x"]}, "x"),
        ({"type": ["null", "boolean"]}, True),
        ({"type": "array", "minItems": 2, "items": {"const": 1}}, [1, 1]),
        ({"default": "given", "type": "string"}, "given"),
    ],
)
def test_an_example_is_within_the_bounds(schema: dict[str, Any], expected: object) -> None:
    """Examples are within the bounds of the schema."""
    value = example(schema, "a_b_c")
    assert value == expected or (isinstance(expected, str) and len(str(value)) == len(expected))
