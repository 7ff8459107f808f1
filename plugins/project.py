"""Projects: events that a backend publishes in the project's room."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields

from roomcast import Plugin

project = Plugin("project", "Projects and what happens to them")

project.room("project", description="All updates related to project")


def _id() -> fields.Raw:
    return fields.Raw(required=True, validate=_number_or_text, metadata={"type": ["integer", "string"]})


def _number_or_text(id: Any) -> None:
    if isinstance(id, bool) or not isinstance(id, int | str):
        raise ValidationError("Must be an integer or a string.")


@project.event("project.updated")
class Updated(Schema):
    """Project details updated."""

    project_id = _id()
    changes = fields.Dict(required=True)
    updated_by = fields.String()


@project.event("project.archived")
class Archived(Schema):
    """Project archived."""

    project_id = _id()
    archived_by = fields.String()
