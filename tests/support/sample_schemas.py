"""Schemas for the tests of ``roomcast.schemas``: two simple ones, and some with hooks."""

from __future__ import annotations

from typing import Any

from marshmallow import (
    Schema,
    ValidationError,
    fields,
    post_dump,
    post_load,
    pre_dump,
    pre_load,
    validate,
    validates_schema,
)


class SendMessage(Schema):
    """Say something in a channel."""

    content = fields.String(required=True, validate=validate.Length(min=1, max=4000))
    metadata = fields.Dict(load_default=dict, validate=validate.Length(max=20))


class Message(Schema):
    """A message in a channel."""

    content = fields.String(required=True)
    username = fields.String(required=True)
    user_id = fields.Integer(required=True)
    metadata = fields.Dict()


MESSAGE = {"content": "Hello everyone!", "username": "alice", "user_id": 12345, "metadata": {"reply_to": 789}}


class Inner(Schema):
    """A schema to nest."""

    x = fields.Integer(required=True)
    when = fields.DateTime()


class Doubling(Schema):
    """Doubles every text after loading."""

    @post_load
    def double(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**data, **{key: value * 2 for key, value in data.items() if type(value) is str}}


class Tidying(Schema):
    """Removes the field ``extra`` before loading."""

    @pre_load
    def tidy(self, data: Any, **_: Any) -> Any:
        return {key: value for key, value in data.items() if key != "extra"}


class Refusing(Schema):
    """Refuses objects of two fields."""

    @validates_schema
    def refuse(self, data: dict[str, Any], **_: Any) -> None:
        if len(data) == 2:
            raise ValidationError("Two is a crowd.")


class Sealing(Schema):
    """Dumps into an envelope."""

    @post_dump
    def seal(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"sealed": data}


class PreDumping(Schema):
    """Has a hook that changes nothing."""

    @pre_dump
    def nothing(self, data: Any, **_: Any) -> Any:
        return data
