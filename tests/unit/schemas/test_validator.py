"""Tests of ``schemas.validator``: results, refusals, and classes that are not schemas."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from marshmallow import Schema, ValidationError, fields, post_load, validates_schema
from sample_schemas import MESSAGE, Inner, Message, PreDumping, Refusing, SendMessage, Tidying

from roomcast.errors import Refused
from roomcast.schemas.validator import Validator


def test_changing_the_result_does_not_change_the_input() -> None:
    """A handler may change the result, one level into each container, without changing the input."""
    schema = Schema.from_dict({"tags": fields.List(fields.Raw), "metadata": fields.Dict(load_default=dict)})
    validator = Validator(schema)
    for act in (validator.load, validator.event):
        data: dict[str, Any] = {"tags": [1], "metadata": {"a": 1}}
        result = act(data)
        result["tags"].append(2)
        result["metadata"]["b"] = 2
        result["more"] = 3
        assert data == {"tags": [1], "metadata": {"a": 1}}
    validator.load({})["metadata"]["mine"] = 1
    assert validator.load({}) == {"metadata": {}}


@pytest.mark.parametrize("base", [Schema, PreDumping], ids=["fast", "slow"])
def test_a_missing_field_named_like_a_dict_method_is_omitted(base: type[Schema]) -> None:
    """A missing optional field named like a method of dict is omitted; marshmallow alone would dump the method."""
    schema = base.from_dict({"items": fields.List(fields.String()), "copy": fields.String(), "a": fields.Integer()})
    assert Validator(schema).event({"a": 1}) == {"a": 1}


def test_an_event_has_json_values() -> None:
    """Values that load as Python objects are dumped as JSON values."""
    validator = Validator(Schema.from_dict({"at": fields.DateTime(required=True)}))
    assert validator.load({"at": "2025-11-13T12:00:00"}) == {"at": dt.datetime(2025, 11, 13, 12)}
    assert validator.event({"at": "2025-11-13T12:00:00"}) == {"at": "2025-11-13T12:00:00"}


# Refusals.


def refused(schema: type[Schema], data: object) -> Refused:
    """Return the refusal of invalid data."""
    with pytest.raises(Refused) as caught:
        Validator(schema).load(data)
    assert caught.value.code == "invalid_data"
    return caught.value


def test_one_problem() -> None:
    """The sentence is the single problem, with the path of the field starting at `data`."""
    error = refused(SendMessage, {})
    assert error.message == "data.content: Missing data for required field."
    assert error.fields == {"content": ["Missing data for required field."]}


def test_several_problems_are_ordered_and_counted() -> None:
    """Missing fields come first, then problems in the order of the data; the sentence counts the rest."""
    error = refused(Message, {"z": 1, "metadata": [], "a": 1, "username": "a", "user_id": 1})
    assert error.message == "data.content: Missing data for required field. (3 more problems in fields.)"
    assert list(error.fields or ()) == ["content", "z", "metadata", "a"]
    assert refused(Message, {**MESSAGE, "z": 1, "b": 2}).message == "data.z: Unknown field. (1 more problem in fields.)"


def test_nested_problems_have_dotted_paths() -> None:
    """A problem inside a list, a nested schema or a typed dict has a dotted path."""
    schema = Schema.from_dict(
        {
            "items": fields.List(fields.String()),
            "inner": fields.Nested(Inner),
            "many": fields.List(fields.Nested(Inner)),
            "counts": fields.Dict(values=fields.Integer()),
        }
    )
    error = refused(schema, {"items": [1], "inner": [], "many": [{"x": 1}, {}], "counts": {"a": "b"}})
    assert error.fields == {
        "items.0": ["Not a valid string."],
        "inner": ["Invalid input type."],
        "many.1.x": ["Missing data for required field."],
        "counts.a.value": ["Not a valid integer."],
    }


def test_a_problem_of_the_whole_object_has_an_empty_path() -> None:
    """A problem that a validator of the whole schema finds is a problem of `data`."""
    error = refused(type("Crowd", (Refusing,), {"a": fields.Raw(), "b": fields.Raw()}), {"a": 1, "b": 2})
    assert error.message == "data: Two is a crowd."
    assert error.fields == {"": ["Two is a crowd."]}


def test_an_error_without_messages_is_a_refusal() -> None:
    """A validator that raises an empty list of messages refuses the data."""

    class Mute(Schema):
        @validates_schema
        def refuse(self, data: dict[str, Any], **_: Any) -> None:
            raise ValidationError([])

    error = refused(Mute, {})
    assert (error.message, error.fields) == ("data: Invalid data.", {})


@pytest.mark.parametrize("data", [None, [], "x", 1, [{"content": "hi"}]], ids=repr)
@pytest.mark.parametrize("schema", [SendMessage, Tidying])
def test_data_that_is_not_an_object(schema: type[Schema], data: object) -> None:
    """Data other than an object is refused before a hook of the schema runs."""
    error = refused(schema, data)
    assert (error.message, error.fields) == ("data must be a JSON object.", {})


def test_a_failing_hook_is_not_a_refusal() -> None:
    """An unexpected error of a hook is raised unchanged."""

    class Failing(Schema):
        @post_load
        def fail(self, data: dict[str, Any], **_: Any) -> None:
            raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        Validator(Failing).load({})


# Invalid schemas.


@pytest.mark.parametrize("schema", [dict, SendMessage(), None, "SendMessage", fields.String], ids=repr)
def test_an_object_that_is_not_a_schema_class(schema: Any) -> None:
    """An object other than a Schema class raises a TypeError that names it."""
    with pytest.raises(TypeError, match="is not a marshmallow Schema class"):
        Validator(schema)


def test_a_schema_that_cannot_be_instantiated() -> None:
    """A schema whose options contradict its fields raises a ValueError with marshmallow's reason."""

    class Wrong(Schema):
        class Meta:
            exclude = ("nothing",)

    with pytest.raises(ValueError, match="The schema Wrong cannot be instantiated: Invalid fields"):
        Validator(Wrong)


def test_a_schema_of_lists() -> None:
    """A schema that describes a list is refused at start, because data is one object."""

    class Several(Schema):
        class Meta:
            many = True

    with pytest.raises(ValueError, match="The schema Several has Meta"):
        Validator(Several)
