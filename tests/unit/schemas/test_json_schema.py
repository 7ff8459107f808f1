"""Tests of ``schemas.json_schema``."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from marshmallow import EXCLUDE, INCLUDE, RAISE, Schema, fields, validate
from sample_schemas import SendMessage

from roomcast.schemas.validator import Validator


def test_json_schema_of_a_command() -> None:
    """The JSON Schema contains required fields, lengths, and that no other field is allowed."""
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


def test_json_schema_has_the_keywords_that_a_form_needs() -> None:
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
    """Nested schemas, recursive ones included, are under $defs and have different names."""
    result = Validator(Comment).json_schema()
    assert result["title"] == "A comment"
    assert result["additionalProperties"] is False
    assert result["properties"]["replies"]["items"] == {"$ref": "#/$defs/Comment"}
    assert result["properties"]["first"] == {"$ref": "#/$defs/Comment2"}
    assert result["$defs"]["Comment"]["properties"] == result["properties"]
    assert list(result["$defs"]["Comment2"]["properties"]) == ["text"]
    orjson.dumps(result)


@pytest.mark.parametrize(("unknown", "expected"), [(RAISE, False), (INCLUDE, True), (EXCLUDE, None)])
def test_json_schema_of_schemas_with_unknown_fields(unknown: Any, expected: bool | None) -> None:
    """Unknown fields are forbidden, allowed, or not mentioned, as the schema treats them."""
    schema = type("Open", (Schema,), {"Meta": type("Meta", (), {"unknown": unknown, "description": "Open"})})
    assert Validator(schema).json_schema().get("additionalProperties") is expected
