"""Tasks: events that a backend publishes in the room of the task or of its project."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields

from roomcast import Plugin

task = Plugin("task", "Tasks and what happens to them")

task.room("task", description="Updates to specific task")


def _id() -> fields.Raw:
    return fields.Raw(required=True, validate=_number_or_text, metadata={"type": ["integer", "string"]})


def _number_or_text(id: Any) -> None:
    if isinstance(id, bool) or not isinstance(id, int | str):
        raise ValidationError("Must be an integer or a string.")


@task.event("task.created")
class Created(Schema):
    """New task created."""

    task_id = _id()
    title = fields.String(required=True)
    status = fields.String()
    priority = fields.String()
    assignee = fields.String(allow_none=True)
    creator = fields.String()


@task.event("task.updated")
class Updated(Schema):
    """Task updated."""

    task_id = _id()
    changes = fields.Dict(required=True)
    updated_by = fields.String()


@task.event("task.status_changed")
class StatusChanged(Schema):
    """Task status changed."""

    task_id = _id()
    old_status = fields.String(required=True)
    new_status = fields.String(required=True)
    changed_by = fields.String()


@task.event("task.assigned")
class Assigned(Schema):
    """Task assigned to user."""

    task_id = _id()
    assignee = fields.String(required=True, allow_none=True)
    assigned_by = fields.String()


@task.event("task.deleted")
class Deleted(Schema):
    """Task deleted."""

    task_id = _id()
    deleted_by = fields.String()
