"""The limit of problems: it bounds the work of a refusal, and changes nothing else."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from typing import Any

import pytest
from marshmallow import EXCLUDE, INCLUDE, Schema, ValidationError, fields, pre_load, validate, validates_schema

from roomcast.errors import Refused
from roomcast.schemas.error_limit import MAX_PROBLEMS
from roomcast.schemas.validator import MAX_LENGTH, Validator

#: How many items or fields the data of these tests has.
MANY = 5000


class Counting(fields.Integer):
    """An integer that counts how often it is loaded."""

    calls = 0

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        Counting.calls += 1
        return super()._deserialize(value, attr, data, **kwargs)


class Point(Schema):
    """An object with required fields."""

    x = Counting(required=True)
    y = Counting(required=True)


class Tree(Schema):
    """A schema that contains itself."""

    value = Counting()
    children = fields.List(fields.Nested(lambda: Tree()))


class Everything(Schema):
    """All kinds of containers."""

    numbers = fields.List(Counting())
    texts = fields.List(fields.String())
    points = fields.List(fields.Nested(Point))
    many = fields.Nested(Point, many=True)
    point = fields.Nested(Point)
    grid = fields.List(fields.List(Counting()))
    values = fields.Dict(values=Counting())
    keys = fields.Dict(keys=Counting())
    tree = fields.Nested(Tree)
    pair = fields.Tuple((fields.List(Counting()), fields.String()))


#: A grid whose rows are all wrong.
WRONG_GRID = [["x"] * 100] * (MANY // 100)
WRONG = {
    "unknown fields": {f"a{n}": 1 for n in range(MANY)},
    "a list": {"numbers": ["x"] * MANY},
    "a list that has a fast loader": {"texts": [1] * MANY},
    "a list of objects with missing fields": {"points": [{}] * MANY},
    "a list of objects with unknown fields": {"points": [{f"a{n}": 1 for n in range(100)}] * (MANY // 100)},
    "a list of what is no object": {"points": [1] * MANY},
    "many objects": {"many": [{"x": "x"}] * MANY},
    "unknown fields of a nested object": {"point": {f"a{n}": 1 for n in range(MANY)}},
    "a list of lists": {"grid": WRONG_GRID},
    "values": {"values": {f"a{n}": "x" for n in range(MANY)}},
    "keys": {"keys": {f"a{n}": 1 for n in range(MANY)}},
    "a tree": {"tree": {"children": [{"children": [{"value": "x"}] * 70}] * 70}},
    "a tuple": {"pair": [["x"] * MANY, "y"]},
    "everything": {
        "numbers": ["x"] * MANY,
        "grid": WRONG_GRID,
        "many": [{}] * MANY,
        "values": dict.fromkeys("abc", "x"),
    },
}


def refused(validator: Validator, data: Any) -> Refused:
    """Return the refusal of ``data``."""
    with pytest.raises(Refused) as caught:
        validator.load(data)
    return caught.value


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_a_refusal_names_few_fields_and_loads_few_items(data: dict[str, Any]) -> None:
    """The number of problems that are named and of items that are loaded does not grow with the data."""
    validator = Validator(Everything)
    for _ in range(2):  # the limit is that of one call
        Counting.calls = 0
        error = refused(validator, data)
        assert error.fields is not None
        assert len(error.fields) == MAX_PROBLEMS
        assert Counting.calls < 5 * MAX_PROBLEMS


def test_the_first_problems_are_named() -> None:
    """The paths of a long list, a long dict and of unknown fields are those that marshmallow reports first."""
    validator = Validator(Everything)
    numbers: list[Any] = [1] * MANY
    for wrong in (70, 71, 4999):
        numbers[wrong] = "x"
    assert list(refused(validator, {"numbers": numbers}).fields or ()) == ["numbers.70", "numbers.71", "numbers.4999"]
    texts: list[Any] = ["a"] * MANY
    texts[4998] = 1
    assert list(refused(validator, {"texts": texts}).fields or ()) == ["texts.4998"]
    points: list[Any] = [{"x": 1, "y": 2}] * MANY
    points[77] = {"x": 1, "y": 2, "z": 3}
    for name in ("points", "many"):
        assert list(refused(validator, {name: points}).fields or ()) == [f"{name}.77.z"]
    values = {f"a{n}": 1 for n in range(MANY)} | {"a4000": "x"}
    assert list(refused(validator, {"values": values}).fields or ()) == ["values.a4000.value"]
    unknown = {f"a{n}": 1 for n in range(MANY)}
    assert list(refused(validator, unknown).fields or ()) == [f"a{n}" for n in range(MAX_PROBLEMS)]
    named = set(refused(validator, {"point": unknown}).fields or ())
    assert named < {"point.x", "point.y", *(f"point.a{n}" for n in range(MAX_PROBLEMS))}


def test_large_data_without_problems_loads_as_before() -> None:
    """marshmallow alone returns the same."""
    data = {
        "numbers": ["1"] * MANY,
        "texts": ["a"] * MANY,
        "points": [{"x": n, "y": "2"} for n in range(MANY)],
        "many": [{"x": n, "y": "2"} for n in range(MANY)],
        "grid": [["1"] * 100] * 50,
        "values": {f"a{n}": str(n) for n in range(MANY)},
        "keys": {str(n): n for n in range(MANY)},
        "tree": {"children": [{"value": "1", "children": [{"value": n} for n in range(70)]}] * 70},
        "pair": [["1"] * MANY, "y"],
    }
    assert Validator(Everything).load(data) == Everything().load(data)


@pytest.mark.parametrize("policy", [INCLUDE, EXCLUDE])
def test_unknown_fields_that_are_allowed_are_kept(policy: Any) -> None:
    """A schema that takes unknown fields takes any number of them."""
    schema = type("Open", (Schema,), {"Meta": type("Meta", (), {"unknown": policy, "register": False})})
    data = {f"a{n}": n for n in range(MANY)}
    assert Validator(schema).load(data) == (data if policy == INCLUDE else {})


def test_a_hook_receives_all_fields() -> None:
    """A hook that runs before the data is loaded may use fields that the schema does not have."""

    class Summing(Schema):
        total = fields.Integer()

        @pre_load
        def add_up(self, data: dict[str, int], **_: Any) -> dict[str, int]:
            return {"total": sum(data.values())}

    data = {f"a{n}": 1 for n in range(MANY)}
    assert Validator(Summing).load(data) == {"total": MANY}
    nested = Schema.from_dict({"inner": fields.Nested(Summing), "many": fields.Nested(Summing, many=True)})
    assert Validator(nested).load({"inner": data, "many": [data]}) == {
        "inner": {"total": MANY},
        "many": [{"total": MANY}],
    }


def test_a_hook_receives_the_whole_list() -> None:
    """A validator of a collection compares items that are far apart."""

    class Unique(Schema):
        name = fields.String()

        @validates_schema(pass_collection=True)
        def compare(self, data: list[dict[str, str]], **_: Any) -> None:
            if len({item["name"] for item in data}) < len(data):
                raise ValidationError("twice")

    validator = Validator(Schema.from_dict({"many": fields.Nested(Unique, many=True)}))
    names = [{"name": str(n)} for n in range(100)]
    assert validator.load({"many": names}) == {"many": names}
    assert "twice" in refused(validator, {"many": [*names, names[0]]}).message


def test_a_container_of_a_plugin_receives_the_whole_value() -> None:
    """A class that overrides how it loads is not given a part of its value."""

    class Sorted(fields.List):
        def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
            return sorted(super()._deserialize(value, attr, data, **kwargs))

    numbers = list(range(MANY, 0, -1))
    assert Validator(Schema.from_dict({"n": Sorted(fields.Integer())})).load({"n": numbers}) == {"n": numbers[::-1]}


def test_the_length_of_long_values_is_checked_first() -> None:
    """A long text or list that exceeds its maximum is refused without being loaded."""
    schema = Schema.from_dict(
        {
            "url": fields.Url(validate=validate.Length(max=100)),
            "numbers": fields.List(Counting(), validate=validate.Length(max=2000)),
            "values": fields.Dict(values=Counting(), validate=validate.Length(max=2000)),
        }
    )
    validator = Validator(schema)
    Counting.calls = 0
    error = refused(
        validator,
        {"url": "x" * MANY, "numbers": [1] * MANY, "values": {f"a{n}": "x" for n in range(MANY)}},
    )
    assert error.fields == {
        "url": ["Longer than maximum length 100."],
        "numbers": ["Longer than maximum length 2000."],
        "values": ["Longer than maximum length 2000."],
    }
    assert Counting.calls == 0
    assert refused(validator, {"url": "x" * 101}).fields == {
        "url": ["Not a valid URL.", "Longer than maximum length 100."]
    }


def test_names_and_messages_are_cut() -> None:
    """An answer does not repeat long names of fields and long values."""

    def refuse(value: str) -> None:
        raise ValidationError(f"{value} is wrong")

    schema = Schema.from_dict({"a": fields.String(validate=refuse)})
    error = refused(Validator(schema), {"a": "v" * 60_000, "n" * 60_000: 1})
    assert error.fields == {"a": ["v" * MAX_LENGTH], "n" * MAX_LENGTH: ["Unknown field."]}
    assert len(error.message) < 2 * MAX_LENGTH


def test_refused_data_is_freed_at_once() -> None:
    """A refusal leaves no cycle that keeps the data until a garbage collection."""

    class Data(dict[str, Any]):
        pass

    validator = Validator(Everything)
    gc.collect()
    gc.disable()
    try:
        data = Data(a=1)
        freed = weakref.ref(data)
        with suppress(Refused):
            validator.load(data)
        del data
        assert freed() is None
    finally:
        gc.enable()
