"""Covers schemas.py: that it agrees with marshmallow in everything, and how seldom it has to ask."""

from __future__ import annotations

import datetime as dt
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from marshmallow import (
    EXCLUDE,
    INCLUDE,
    RAISE,
    Schema,
    ValidationError,
    fields,
    missing,
    post_dump,
    post_load,
    pre_dump,
    pre_load,
    validate,
    validates,
    validates_schema,
)

from roomcast import fastpath
from roomcast.errors import Refused
from roomcast.schemas.validator import Validator


class SendMessage(Schema):
    """Say something in a channel."""

    content = fields.String(required=True, validate=validate.Length(min=1, max=4000))
    metadata = fields.Dict(load_default=dict, validate=validate.Length(max=20))


class Message(Schema):
    content = fields.String(required=True)
    username = fields.String(required=True)
    user_id = fields.Integer(required=True)
    metadata = fields.Dict()


MESSAGE = {"content": "Hello everyone!", "username": "alice", "user_id": 12345, "metadata": {"reply_to": 789}}


def count_loads(validator: Validator, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note in the list that is returned what marshmallow is asked to load from now on."""
    asked: list[object] = []
    load = validator.schema.load
    monkeypatch.setattr(validator.schema, "load", lambda data: asked.append(data) or load(data))
    return asked


# The same as marshmallow


class Text(str):
    pass


class Loud(fields.String):
    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        return super()._deserialize(value, attr, data, **kwargs).upper()


class Inner(Schema):
    x = fields.Integer(required=True)
    when = fields.DateTime()


class Doubling(Schema):
    @post_load
    def double(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**data, **{key: value * 2 for key, value in data.items() if type(value) is str}}


class Tidying(Schema):
    @pre_load
    def tidy(self, data: Any, **_: Any) -> Any:
        return {key: value for key, value in data.items() if key != "extra"}


class Refusing(Schema):
    @validates_schema
    def refuse(self, data: dict[str, Any], **_: Any) -> None:
        if len(data) == 2:
            raise ValidationError("Two is a crowd.")


class Sealing(Schema):
    @post_dump
    def seal(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"sealed": data}


# Names that would break the generated function, or read its variables, if they became part of its text.
NAMES = ["content", "a.b", "class", "two words", 'a"b', "{", "slow", "missing", "data", "c3", "v0", "result", "ünï"]
STRANGE = [None, True, 0, 1, 7, -3, 2**70, 10**400, 1.0, 2.5, math.nan, math.inf, "", "ab", "12", "true", "1.5", b"ab"]
STRANGE += [b"\xff", Text("ab"), [], ["ab"], [1, None], ("ab",), {}, {"x": 1}, {"x": "no"}, OrderedDict(k=1), missing]
STRANGE += ["2025-11-13T12:00:00", "not@home", {1, 2}, [{"x": 1}], [[1]], [1.5, 2], [missing], "a" * 9]

lengths = st.sampled_from([validate.Length(1, 4), validate.Length(max=2), validate.Length(equal=2), validate.Length(0)])
ranges = st.sampled_from(
    [
        validate.Range(0, 7, max_inclusive=False),
        validate.Range(min=1, min_inclusive=False),
        validate.Range(max=2.5),
        validate.OneOf([1, 7]),
    ]
)
words = st.sampled_from([validate.OneOf(["ab", ""]), validate.OneOf({"12", "true"}), validate.OneOf(("a", 1))])
strange_validators = st.sampled_from([validate.Regexp("a"), validate.NoneOf(["ab"]), bool, validate.Range(1, 2)])

PLAIN: list[tuple[Callable[..., fields.Field[Any]], st.SearchStrategy[Any] | None, list[Any]]] = [
    (fields.String, lengths | words, ["ab", "", "true", "2"]),
    (fields.Integer, ranges, [0, 1, 7, 2**70, -3]),
    (lambda **kwargs: fields.Integer(strict=True, **kwargs), ranges, [0, 1, 7, -3]),
    (fields.Float, ranges, [0.0, 1.0, 7.5, 3]),
    (lambda **kwargs: fields.Float(allow_nan=True, **kwargs), ranges, [0.0, 1.0, 7.5, math.nan, math.inf]),
    (fields.Boolean, None, [True, False]),
    (fields.Dict, lengths, [{}, {"a": 1}, {"a": {"b": []}, "c": 2}]),
    (fields.Raw, None, [1, "ab", {"a": []}, [1]]),
    (lambda **kwargs: fields.List(fields.String(validate=validate.Length(max=2)), **kwargs), lengths, [["ab"], [""]]),
    (lambda **kwargs: fields.List(fields.Integer(allow_none=True), **kwargs), lengths, [[1, None], [2, 3]]),
    (lambda **kwargs: fields.List(fields.Float, **kwargs), lengths, [[1, 2.5], []]),
    (lambda **kwargs: fields.List(fields.Raw, **kwargs), lengths, [[1, "ab"], []]),
    (lambda **kwargs: fields.List(fields.Dict, **kwargs), lengths, [[{}, {"a": 1}], []]),
]
EXOTIC: list[Callable[..., fields.Field[Any]]] = [
    fields.Email,
    fields.DateTime,
    Loud,
    lambda **kwargs: fields.Nested(Inner, **kwargs),
    lambda **kwargs: fields.List(fields.Nested(Inner), **kwargs),
    lambda **kwargs: fields.List(fields.List(fields.Integer), **kwargs),
    lambda **kwargs: fields.Dict(keys=fields.String(), values=fields.Integer(), **kwargs),
    lambda **kwargs: fields.Integer(as_string=True, **kwargs),
    lambda **kwargs: fields.Boolean(truthy=["ab"], falsy=[True], **kwargs),
    lambda **kwargs: fields.String(data_key="extra", **kwargs),
    lambda **kwargs: fields.String(attribute="other", **kwargs),
    lambda **kwargs: fields.String(load_only=True, **kwargs),
    lambda **kwargs: fields.Integer(dump_only=True, **kwargs),
    lambda **kwargs: fields.Integer(dump_default=3, **kwargs),
    lambda **kwargs: fields.String(post_load=str.upper, **kwargs),
    lambda **kwargs: fields.Raw(pre_load=repr, **kwargs),
]


@st.composite
def plain_fields(draw: st.DrawFn) -> tuple[fields.Field[Any], list[Any]]:
    """Draw a field of the understood kinds, and values that suit it."""
    make, validators, values = draw(st.sampled_from(PLAIN))
    kwargs: dict[str, Any] = {"allow_none": draw(st.sampled_from([None, None, True, False]))}
    match draw(st.sampled_from(["required", "default", "odd default", "optional"])):
        case "required":
            kwargs["required"] = True
        case "default":
            kwargs["load_default"] = draw(st.sampled_from(values))
        case "odd default":
            kwargs["load_default"] = draw(st.sampled_from([None, 0, 1.5, "ab", True, dict, list, lambda: "ab"]))
    if validators is not None and draw(st.booleans()):
        kwargs["validate"] = draw(st.lists(validators, max_size=2) | validators)
    return make(**kwargs), values


@st.composite
def exotic_fields(draw: st.DrawFn) -> tuple[fields.Field[Any], list[Any]]:
    """Draw a field that only marshmallow understands."""
    kwargs: dict[str, Any] = draw(st.sampled_from([{}, {"required": True}, {"allow_none": True}]))
    if draw(st.booleans()):
        return fields.Raw(validate=draw(strange_validators), **kwargs), ["ab", 1]
    return draw(st.sampled_from(EXOTIC))(**kwargs), ["ab", 1, {"x": 1}, [{"x": 1}]]


@st.composite
def cases(draw: st.DrawFn, exotic: bool) -> tuple[type[Schema], Any]:
    """Draw a schema and data for it: valid, nearly valid, or nonsense."""
    each = plain_fields() | exotic_fields() if exotic else plain_fields()
    drawn = draw(st.dictionaries(st.sampled_from(NAMES), each, max_size=4))
    base = draw(st.sampled_from([Schema, Schema, Doubling, Tidying, Refusing, Sealing])) if exotic else Schema
    schema = base.from_dict({name: field for name, (field, _) in drawn.items()})
    if exotic:
        meta = {"unknown": draw(st.sampled_from([RAISE, RAISE, INCLUDE, EXCLUDE])), "register": False}
        schema = type("Drawn", (schema,), {"Meta": type("Meta", (), meta)})
        for option in ("data_key", "attribute"):  # two fields of one name are no schema
            assume(sum(getattr(field, option) is not None for field, _ in drawn.values()) <= 1)
    data = {}
    for name in draw(st.permutations(sorted(drawn))):
        if draw(st.integers(0, 4)):
            data[name] = draw(st.sampled_from(drawn[name][1]) if draw(st.integers(0, 3)) else st.sampled_from(STRANGE))
    if not draw(st.integers(0, 4)):
        data[draw(st.sampled_from(["extra", "other", 1, *NAMES]))] = draw(st.sampled_from(STRANGE))
    return schema, data


def exactly(value: object) -> object:
    """Make values comparable with their types, the order of their keys, and NaN equal to itself."""
    if isinstance(value, dict):
        return [type(value), [(exactly(key), exactly(item)) for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value), [exactly(item) for item in value]]
    return [type(value), repr(value)]


def paths(messages: Any, path: str = "") -> list[tuple[str, str]]:
    """List marshmallow's messages with their dotted paths."""
    if isinstance(messages, dict):
        steps = [("" if key == "_schema" else str(key), inner) for key, inner in messages.items()]
        return sorted(one for step, inner in steps for one in paths(inner, f"{path}.{step}".strip(".")))
    if isinstance(messages, list):
        return sorted(one for inner in messages for one in paths(inner, path))
    return [(path, messages)]


def outcome(act: Callable[[Any], Any], data: Any) -> object:
    """Say what ``act`` does with ``data``: its result, its refusal, or the type of the error."""
    try:
        return exactly(act(data))
    except ValidationError as error:
        return paths(error.messages)
    except Refused as refused:
        assert refused.code == "invalid_data"
        assert refused.fields is not None
        return sorted((path, text) for path, texts in refused.fields.items() for text in texts)
    except Exception as error:
        return type(error)


def check_agreement(schema: type[Schema], data: Any) -> None:
    """Check that all ways, in C and generated, give what plain marshmallow gives, and leave the data as it was."""
    plain, before = schema(), exactly(data)
    for loader in dict.fromkeys((fastpath.FieldLoader, None)):
        with patch.object(fastpath, "FieldLoader", loader):
            validator = Validator(schema)
        assert outcome(validator.load, data) == outcome(plain.load, data)
        assert outcome(validator.event, data) == outcome(lambda data: plain.dump(plain.load(data)), data)
        assert exactly(data) == before


@settings(max_examples=200, deadline=None)
@given(cases(exotic=False))
def test_plain_schemas_agree_with_marshmallow(case: tuple[type[Schema], Any]) -> None:
    """A schema of understood parts gives marshmallow's results, order and refusals, whatever the data."""
    check_agreement(*case)


@settings(max_examples=200, deadline=None)
@given(cases(exotic=True))
def test_exotic_schemas_agree_with_marshmallow(case: tuple[type[Schema], Any]) -> None:
    """A schema with hooks, other fields or options gives marshmallow's results and refusals."""
    check_agreement(*case)


@pytest.mark.parametrize("value", STRANGE, ids=repr)
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("allow_none", [True, False])
def test_every_kind_agrees_on_strange_values(value: object, required: bool, allow_none: bool) -> None:
    """Each understood field does with a strange value what marshmallow does."""
    for make, _, _ in PLAIN:
        check_agreement(Schema.from_dict({"x": make(required=required, allow_none=allow_none)}), {"x": value})


# Who is asked


def test_plain_data_is_answered_without_marshmallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid data of the chat's kind of schema never reaches schema.load."""
    command, event = Validator(SendMessage), Validator(Message)
    asked = [count_loads(each, monkeypatch) for each in (command, event)]
    assert command.load({"metadata": {"reply_to": 1}, "content": "hi"}) == {
        "content": "hi",
        "metadata": {"reply_to": 1},
    }
    assert command.load({"content": "hi"}) == {"content": "hi", "metadata": {}}
    assert event.event(MESSAGE) == MESSAGE
    assert list(event.event({"user_id": 1, "username": "a", "content": "b"})) == ["content", "username", "user_id"]
    assert asked == [[], []]
    if fastpath.FieldLoader is not None:
        assert {type(each) for each in (command.load, command.event, event.load, event.event)} == {fastpath.FieldLoader}


def test_every_understood_part_is_answered_without_marshmallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid data of a schema with each understood field and validator never reaches schema.load."""

    class Everything(Schema):
        status = fields.Str(required=True, validate=[validate.OneOf(["todo", "done"]), validate.Length(max=9)])
        number = fields.Int(strict=True, validate=validate.Range(min=0, max=9))
        ratio = fields.Float(load_default=0.5, validate=validate.Range(0, 1, max_inclusive=False))
        open = fields.Bool(load_default=True)
        tags = fields.List(
            fields.Str(validate=validate.Length(max=9)), load_default=list, validate=validate.Length(max=3)
        )
        extra = fields.Raw(load_default=None)
        assignee = fields.Str(allow_none=True)

    validator = Validator(Everything)
    asked = count_loads(validator, monkeypatch)
    least = {"status": "todo", "ratio": 0.5, "open": True, "tags": [], "extra": None}
    assert validator.load({"status": "todo"}) == validator.event({"status": "todo"}) == least
    full = {
        "status": "done",
        "number": 9,
        "ratio": 0,
        "open": False,
        "tags": ["a", "b"],
        "extra": [1],
        "assignee": None,
    }
    assert exactly(validator.event(full)) == exactly({**full, "ratio": 0.0})
    assert asked == []


def test_what_is_not_plain_goes_to_marshmallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that needs a conversion or a complaint reaches schema.load once."""
    validator = Validator(Message)
    asked = count_loads(validator, monkeypatch)
    assert validator.load({**MESSAGE, "user_id": "12"})["user_id"] == 12
    with pytest.raises(Refused):
        validator.load({**MESSAGE, "unknown": 1})
    assert len(asked) == 2


class PreDumping(Schema):
    @pre_dump
    def nothing(self, data: Any, **_: Any) -> Any:
        return data


class Validating(Schema):
    @validates("content")
    def nothing(self, value: str, **_: Any) -> None:
        pass


class Overriding(Schema):
    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        return super().get_attribute(obj, attr, default)


class Excluding(Schema):
    class Meta:
        unknown = EXCLUDE


class Partial(Schema):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(partial=True, **kwargs)


class OwnDict(Schema):
    dict_class = OrderedDict


@pytest.mark.parametrize(
    "base",
    [Doubling, Tidying, Refusing, Sealing, PreDumping, Validating, Overriding, Excluding, Partial, OwnDict],
)
def test_a_schema_with_a_will_of_its_own_goes_to_marshmallow(
    base: type[Schema], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook, an overridden method or an option takes even valid data to schema.load."""
    validator = Validator(type("Own", (base,), {"content": fields.String()}))
    asked = count_loads(validator, monkeypatch)
    validator.load({"content": "hi"})
    validator.event({"content": "hi"})
    assert len(asked) == 2


def altered(name: str) -> fields.Field[Any]:
    """Return a string field with a method of its own, given after it was made."""
    field = fields.String()
    setattr(field, name, lambda *args, **kwargs: "other")
    return field


class NoShouting(validate.OneOf):
    def __call__(self, value: Any) -> Any:
        if str(value).isupper():
            raise ValidationError("Do not shout.")
        return value


@pytest.mark.parametrize(
    "field",
    [
        Loud(),
        fields.Email(),
        altered("_deserialize"),
        altered("_serialize"),
        fields.String(data_key="content"),
        fields.String(attribute="content"),
        fields.String(dump_default="hi"),
        fields.String(load_only=True),
        fields.String(pre_load=str.strip),
        fields.String(post_load=str.strip),
        fields.String(validate=lambda value: True),
        fields.String(validate=NoShouting(["a@b.cd"])),
        fields.String(validate=validate.OneOf({"a@b.cd": 1}.keys())),
        fields.Raw(validate=validate.Length(max=10)),
        fields.Integer(as_string=True),
        fields.Float(as_string=True),
        fields.Dict(keys=fields.String()),
        fields.Dict(values=fields.Integer()),
        fields.List(fields.List(fields.Integer)),
        fields.List(fields.Integer(as_string=True)),
        fields.Boolean(truthy=["yes"]),
    ],
    ids=repr,
)
def test_a_field_with_a_will_of_its_own_goes_to_marshmallow(
    field: fields.Field[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field that converts, calls, renames or checks in a way of its own takes any data to schema.load."""
    schema = Schema.from_dict({"content": field})
    for value in ("a@b.cd", 1, 1.5, True, {"a": 1}, [1], [[1]]):
        validator = Validator(schema)
        asked = count_loads(validator, monkeypatch)
        assert outcome(validator.load, {"content": value}) == outcome(schema().load, {"content": value})
        assert len(asked) == 1


def test_a_default_that_is_called_is_called_once() -> None:
    """A load_default of the plugin's own is called once for each load that needs it, and never otherwise."""
    calls: list[int] = []
    schema = Schema.from_dict({"n": fields.Integer(load_default=lambda: calls.append(1) or len(calls))})
    validator = Validator(schema)
    assert [validator.load({}), validator.event({}), validator.load({"n": 9})] == [{"n": 1}, {"n": 2}, {"n": 9}]


def test_choices_that_grow_are_seen() -> None:
    """A list of choices that the plugin extends after start is looked at as it is now."""
    choices = ["todo"]
    validator = Validator(Schema.from_dict({"status": fields.String(validate=validate.OneOf(choices))}))
    with pytest.raises(Refused):
        validator.load({"status": "done"})
    choices.append("done")
    assert validator.load({"status": "done"}) == {"status": "done"}


# What comes out


def test_the_result_is_not_the_input() -> None:
    """A handler may change what it gets, one level into each container, and the input stays as it was."""
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
def test_a_missing_field_is_not_a_method_of_dict(base: type[Schema]) -> None:
    """An optional field named like a method of dict is left out of an event, where marshmallow dumps the method."""
    schema = base.from_dict({"items": fields.List(fields.String()), "copy": fields.String(), "a": fields.Integer()})
    assert Validator(schema).event({"a": 1}) == {"a": 1}


def test_an_event_is_json_values() -> None:
    """Values that load as Python objects are dumped as JSON has them."""
    validator = Validator(Schema.from_dict({"at": fields.DateTime(required=True)}))
    assert validator.load({"at": "2025-11-13T12:00:00"}) == {"at": dt.datetime(2025, 11, 13, 12)}
    assert validator.event({"at": "2025-11-13T12:00:00"}) == {"at": "2025-11-13T12:00:00"}


# Refusals


def refused(schema: type[Schema], data: object) -> Refused:
    """Return the refusal of data that does not fit."""
    with pytest.raises(Refused) as caught:
        Validator(schema).load(data)
    assert caught.value.code == "invalid_data"
    return caught.value


def test_one_problem_is_named() -> None:
    """A single problem is the whole sentence, with the path of the field from `data` on."""
    error = refused(SendMessage, {})
    assert error.message == "data.content: Missing data for required field."
    assert error.fields == {"content": ["Missing data for required field."]}


def test_more_problems_are_counted_in_the_order_of_the_data() -> None:
    """What is missing comes first, then problems in the client's own order, and the sentence counts the rest."""
    error = refused(Message, {"z": 1, "metadata": [], "a": 1, "username": "a", "user_id": 1})
    assert error.message == "data.content: Missing data for required field. (3 more problems in fields.)"
    assert list(error.fields or ()) == ["content", "z", "metadata", "a"]
    assert refused(Message, {**MESSAGE, "z": 1, "b": 2}).message == "data.z: Unknown field. (1 more problem in fields.)"


def test_nested_problems_have_dotted_paths() -> None:
    """A problem inside a list, a nested schema or a typed dict is found by its dotted path."""
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


def test_a_problem_of_the_whole_has_an_empty_path() -> None:
    """What a validator of the whole schema finds is said of data itself."""
    error = refused(type("Crowd", (Refusing,), {"a": fields.Raw(), "b": fields.Raw()}), {"a": 1, "b": 2})
    assert error.message == "data: Two is a crowd."
    assert error.fields == {"": ["Two is a crowd."]}


def test_a_problem_without_words_is_still_refused() -> None:
    """A validator that raises an empty list of messages refuses the data all the same."""

    class Mute(Schema):
        @validates_schema
        def refuse(self, data: dict[str, Any], **_: Any) -> None:
            raise ValidationError([])

    error = refused(Mute, {})
    assert (error.message, error.fields) == ("data: Invalid data.", {})


@pytest.mark.parametrize("data", [None, [], "x", 1, [{"content": "hi"}]], ids=repr)
@pytest.mark.parametrize("schema", [SendMessage, Tidying])
def test_data_that_is_no_object(schema: type[Schema], data: object) -> None:
    """Anything but an object is refused before a hook of the schema sees it."""
    error = refused(schema, data)
    assert (error.message, error.fields) == ("data must be a JSON object.", {})


def test_a_failure_of_the_plugin_is_no_refusal() -> None:
    """An error that a hook raises by mistake is not turned into the client's fault."""

    class Failing(Schema):
        @post_load
        def fail(self, data: dict[str, Any], **_: Any) -> None:
            raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        Validator(Failing).load({})


# Schemas that are none


@pytest.mark.parametrize("schema", [dict, SendMessage(), None, "SendMessage", fields.String], ids=repr)
def test_what_is_no_schema_class(schema: Any) -> None:
    """Something else than a Schema class is named in a TypeError."""
    with pytest.raises(TypeError, match="is not a marshmallow Schema class"):
        Validator(schema)


def test_a_schema_that_cannot_be_instantiated() -> None:
    """A schema whose options contradict its fields is named with marshmallow's reason."""

    class Wrong(Schema):
        class Meta:
            exclude = ("nothing",)

    with pytest.raises(ValueError, match="The schema Wrong cannot be instantiated: Invalid fields"):
        Validator(Wrong)


def test_a_schema_of_lists() -> None:
    """A schema that takes a list is refused at start, since data is one object."""

    class Several(Schema):
        class Meta:
            many = True

    with pytest.raises(ValueError, match="The schema Several has Meta"):
        Validator(Several)


# JSON Schema


def test_json_schema_of_a_command() -> None:
    """The JSON Schema says what is required, how long it may be, and that there is nothing else."""
    assert Validator(SendMessage).json_schema() == {
        "type": "object",
        "description": "Say something in a channel.",
        "properties": {
            "content": {"type": "string", "minLength": 1, "maxLength": 4000},
            "metadata": {"type": "object", "maxProperties": 20, "additionalProperties": {}},
        },
        "required": ["content"],
        "additionalProperties": False,
    }


def test_json_schema_has_what_a_form_needs() -> None:
    """Titles, descriptions, choices, bounds, defaults and formats are in the JSON Schema of each field."""
    status = fields.String(
        load_default="todo",
        validate=validate.OneOf(["todo", "done"]),
        metadata={"title": "Status", "description": "Now"},
    )
    schema = Schema.from_dict(
        {
            "status": status,
            "points": fields.Integer(allow_none=True, validate=validate.Range(0, 10, max_inclusive=False)),
            "ratio": fields.Float(validate=[validate.Range(min=0, min_inclusive=False), validate.Range(min=1)]),
            "tags": fields.List(fields.String(), validate=validate.Length(max=3)),
            "due": fields.DateTime(),
            "day": fields.DateTime(format="%d.%m.%Y"),
            "link": fields.URL(),
            "seen": fields.Boolean(dump_only=True, required=True),
        }
    )
    result = Validator(schema).json_schema()
    assert result["properties"] == {
        "status": {
            "type": "string",
            "title": "Status",
            "description": "Now",
            "default": "todo",
            "enum": ["todo", "done"],
        },
        "points": {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 10},
        "ratio": {"type": "number", "minimum": 1.0},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "due": {"type": "string", "format": "date-time"},
        "day": {"type": "string"},
        "link": {"type": "string", "format": "uri"},
        "seen": {"type": "boolean", "readOnly": True},
    }
    assert result.get("required", []) == []
    orjson.dumps(result)


class Comment(Schema):
    class Meta:
        title = "A comment"
        description = "With its replies"

    text = fields.String(required=True)
    replies = fields.List(fields.Nested(lambda: Comment()))
    first = fields.Nested(lambda: Comment(only=["text"]))


def test_json_schema_of_nested_schemas() -> None:
    """Nested schemas, even of themselves, are under $defs, and no two share a name."""
    result = Validator(Comment).json_schema()
    assert result["title"] == "A comment"
    assert result["additionalProperties"] is False
    assert result["properties"]["replies"]["items"] == {"$ref": "#/$defs/Comment"}
    assert result["properties"]["first"] == {"$ref": "#/$defs/Comment2"}
    assert result["$defs"]["Comment"]["properties"] == result["properties"]
    assert list(result["$defs"]["Comment2"]["properties"]) == ["text"]
    orjson.dumps(result)


@pytest.mark.parametrize(("unknown", "said"), [(RAISE, False), (INCLUDE, True), (EXCLUDE, None)])
def test_json_schema_says_what_happens_to_unknown_fields(unknown: Any, said: bool | None) -> None:
    """Unknown fields are forbidden, allowed, or not spoken of, as the schema treats them."""
    schema = type("Open", (Schema,), {"Meta": type("Meta", (), {"unknown": unknown, "description": "Open"})})
    assert Validator(schema).json_schema().get("additionalProperties") is said
