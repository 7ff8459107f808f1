"""Tests of ``schemas.fast_loader``: it agrees with marshmallow, and rarely calls it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from marshmallow import EXCLUDE, INCLUDE, RAISE, Schema, ValidationError, fields, missing, validate, validates
from sample_schemas import MESSAGE, Doubling, Inner, Message, PreDumping, Refusing, Sealing, SendMessage, Tidying

from roomcast import fastpath
from roomcast.errors import Refused
from roomcast.schemas.validator import Validator


def count_loads(validator: Validator, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list to which all data that marshmallow loads from now on is appended."""
    loaded: list[object] = []
    load = validator.schema.load
    monkeypatch.setattr(validator.schema, "load", lambda data: loaded.append(data) or load(data))
    return loaded


class Text(str):
    pass


class Loud(fields.String):
    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        return super()._deserialize(value, attr, data, **kwargs).upper()


# Names that would break the generated function, or read its variables, if they became part of its source.
NAMES = ["content", "a.b", "class", "two words", 'a"b', "{", "fallback", "missing", "data", "c3", "v0", "result", "ünï"]
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

SIMPLE: list[tuple[Callable[..., fields.Field[Any]], st.SearchStrategy[Any] | None, list[Any]]] = [
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
COMPLEX: list[Callable[..., fields.Field[Any]]] = [
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
def simple_fields(draw: st.DrawFn) -> tuple[fields.Field[Any], list[Any]]:
    """Draw a simple field, and values that it accepts."""
    make, validators, values = draw(st.sampled_from(SIMPLE))
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
def complex_fields(draw: st.DrawFn) -> tuple[fields.Field[Any], list[Any]]:
    """Draw a field that only marshmallow can load."""
    kwargs: dict[str, Any] = draw(st.sampled_from([{}, {"required": True}, {"allow_none": True}]))
    if draw(st.booleans()):
        return fields.Raw(validate=draw(strange_validators), **kwargs), ["ab", 1]
    return draw(st.sampled_from(COMPLEX))(**kwargs), ["ab", 1, {"x": 1}, [{"x": 1}]]


@st.composite
def cases(draw: st.DrawFn, with_complex: bool) -> tuple[type[Schema], Any]:
    """Draw a schema and data for it: valid, nearly valid, or arbitrary."""
    each = simple_fields() | complex_fields() if with_complex else simple_fields()
    drawn = draw(st.dictionaries(st.sampled_from(NAMES), each, max_size=4))
    base = draw(st.sampled_from([Schema, Schema, Doubling, Tidying, Refusing, Sealing])) if with_complex else Schema
    schema = base.from_dict({name: field for name, (field, _) in drawn.items()})
    if with_complex:
        meta = {"unknown": draw(st.sampled_from([RAISE, RAISE, INCLUDE, EXCLUDE])), "register": False}
        schema = type("Drawn", (schema,), {"Meta": type("Meta", (), meta)})
        for option in ("data_key", "attribute"):  # a schema may not have two fields of one name
            assume(sum(getattr(field, option) is not None for field, _ in drawn.values()) <= 1)
    data = {}
    for name in draw(st.permutations(sorted(drawn))):
        if draw(st.integers(0, 4)):
            data[name] = draw(st.sampled_from(drawn[name][1]) if draw(st.integers(0, 3)) else st.sampled_from(STRANGE))
    if not draw(st.integers(0, 4)):
        data[draw(st.sampled_from(["extra", "other", 1, *NAMES]))] = draw(st.sampled_from(STRANGE))
    return schema, data


def exactly(value: object) -> object:
    """Return a form of ``value`` that compares types and the order of keys, and in which NaN equals itself."""
    if isinstance(value, dict):
        return [type(value), [(exactly(key), exactly(item)) for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value), [exactly(item) for item in value]]
    return [type(value), repr(value)]


def paths(messages: Any, path: str = "") -> list[tuple[str, str]]:
    """Return marshmallow's messages with their dotted paths."""
    if isinstance(messages, dict):
        keys = [("" if key == "_schema" else str(key), inner) for key, inner in messages.items()]
        return sorted(one for key, inner in keys for one in paths(inner, f"{path}.{key}".strip(".")))
    if isinstance(messages, list):
        return sorted(one for inner in messages for one in paths(inner, path))
    return [(path, messages)]


def outcome(act: Callable[[Any], Any], data: Any) -> object:
    """Return what ``act`` does with ``data``: its result, its refusal, or the type of the error."""
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
    """Check that C and the generated function return what marshmallow returns, and do not change the data."""
    reference, before = schema(), exactly(data)
    for loader in dict.fromkeys((fastpath.FieldLoader, None)):
        with patch.object(fastpath, "FieldLoader", loader):
            validator = Validator(schema)
        assert outcome(validator.load, data) == outcome(reference.load, data)
        assert outcome(validator.event, data) == outcome(lambda data: reference.dump(reference.load(data)), data)
        assert exactly(data) == before


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(cases(with_complex=False))
def test_simple_schemas_agree_with_marshmallow(case: tuple[type[Schema], Any]) -> None:
    """A simple schema gives marshmallow's results, order of keys and refusals for any data."""
    check_agreement(*case)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(cases(with_complex=True))
def test_complex_schemas_agree_with_marshmallow(case: tuple[type[Schema], Any]) -> None:
    """A schema with hooks, other fields or options gives marshmallow's results and refusals."""
    check_agreement(*case)


@pytest.mark.parametrize("value", STRANGE, ids=repr)
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("allow_none", [True, False])
def test_every_simple_field_agrees_on_strange_values(value: object, required: bool, allow_none: bool) -> None:
    """Each simple field treats a strange value as marshmallow does."""
    for make, _, _ in SIMPLE:
        check_agreement(Schema.from_dict({"x": make(required=required, allow_none=allow_none)}), {"x": value})


def test_schemas_like_those_of_chat_do_not_call_marshmallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid data of schemas like those of chat never reaches schema.load."""
    command, event = Validator(SendMessage), Validator(Message)
    loaded = [count_loads(each, monkeypatch) for each in (command, event)]
    assert command.load({"metadata": {"reply_to": 1}, "content": "hi"}) == {
        "content": "hi",
        "metadata": {"reply_to": 1},
    }
    assert command.load({"content": "hi"}) == {"content": "hi", "metadata": {}}
    assert event.event(MESSAGE) == MESSAGE
    assert list(event.event({"user_id": 1, "username": "a", "content": "b"})) == ["content", "username", "user_id"]
    assert loaded == [[], []]
    if fastpath.FieldLoader is not None:
        assert {type(each) for each in (command.load, command.event, event.load, event.event)} == {fastpath.FieldLoader}


def test_every_simple_field_and_validator_does_not_call_marshmallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid data of a schema with each simple field and validator never reaches schema.load."""

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
    loaded = count_loads(validator, monkeypatch)
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
    assert loaded == []


def test_data_that_needs_a_conversion_or_refusal_calls_marshmallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that must be converted or refused reaches schema.load once."""
    validator = Validator(Message)
    loaded = count_loads(validator, monkeypatch)
    assert validator.load({**MESSAGE, "user_id": "12"})["user_id"] == 12
    with pytest.raises(Refused):
        validator.load({**MESSAGE, "unknown": 1})
    assert len(loaded) == 2


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
def test_a_schema_with_a_hook_or_option_calls_marshmallow(base: type[Schema], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hook, an overridden method or an option, valid data reaches schema.load too."""
    validator = Validator(type("Own", (base,), {"content": fields.String()}))
    loaded = count_loads(validator, monkeypatch)
    validator.load({"content": "hi"})
    validator.event({"content": "hi"})
    assert len(loaded) == 2


def altered(name: str) -> fields.Field[Any]:
    """Return a string field whose method ``name`` was replaced."""
    field = fields.String()
    setattr(field, name, lambda *args, **kwargs: "other")
    return field


class NoShouting(validate.OneOf):
    def __call__(self, value: Any) -> Any:
        if str(value).isupper():
            raise ValidationError("Do not shout.")
        return value


NOT_SIMPLE: dict[str, fields.Field[Any]] = {
    "subclass": Loud(),
    "unsupported class": fields.Email(),
    "replaced _deserialize": altered("_deserialize"),
    "replaced _serialize": altered("_serialize"),
    "data_key": fields.String(data_key="content"),
    "attribute": fields.String(attribute="content"),
    "dump_default": fields.String(dump_default="hi"),
    "load_only": fields.String(load_only=True),
    "pre_load": fields.String(pre_load=str.strip),
    "post_load": fields.String(post_load=str.strip),
    "validator function": fields.String(validate=lambda value: True),
    "validator subclass": fields.String(validate=NoShouting(["a@b.cd"])),
    "choices in a view": fields.String(validate=validate.OneOf({"a@b.cd": 1}.keys())),
    "raw with a validator": fields.Raw(validate=validate.Length(max=10)),
    "integer as_string": fields.Integer(as_string=True),
    "float as_string": fields.Float(as_string=True),
    "dict with keys": fields.Dict(keys=fields.String()),
    "dict with values": fields.Dict(values=fields.Integer()),
    "list of lists": fields.List(fields.List(fields.Integer)),
    "list of integers as_string": fields.List(fields.Integer(as_string=True)),
    "boolean with truthy": fields.Boolean(truthy=["yes"]),
}


@pytest.mark.parametrize("field", NOT_SIMPLE.values(), ids=NOT_SIMPLE)
def test_a_field_that_is_not_simple_calls_marshmallow(
    field: fields.Field[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a field that converts, calls, renames or checks in its own way, all data reaches schema.load."""
    schema = Schema.from_dict({"content": field})
    for value in ("a@b.cd", 1, 1.5, True, {"a": 1}, [1], [[1]]):
        validator = Validator(schema)
        loaded = count_loads(validator, monkeypatch)
        assert outcome(validator.load, {"content": value}) == outcome(schema().load, {"content": value})
        assert len(loaded) == 1


def test_a_callable_default_is_called_once_per_load() -> None:
    """A callable load_default is called once for each load that needs it, and not for others."""
    calls: list[int] = []
    schema = Schema.from_dict({"n": fields.Integer(load_default=lambda: calls.append(1) or len(calls))})
    validator = Validator(schema)
    assert [validator.load({}), validator.event({}), validator.load({"n": 9})] == [{"n": 1}, {"n": 2}, {"n": 9}]


def test_choices_may_grow_after_the_start() -> None:
    """A list of choices that the plugin extends after the start allows the new choice."""
    choices = ["todo"]
    validator = Validator(Schema.from_dict({"status": fields.String(validate=validate.OneOf(choices))}))
    with pytest.raises(Refused):
        validator.load({"status": "done"})
    choices.append("done")
    assert validator.load({"status": "done"}) == {"status": "done"}
