"""Tasks: what a backend says of them, to whoever is in the room of the task or of its project."""

from __future__ import annotations

from marshmallow import Schema, fields

from roomcast import Plugin

task = Plugin("task", "Tasks and what happens to them")

task.room("task", description="Updates to specific task")


@task.event("task.created")
class Created(Schema):
    """New task created."""

    task_id = fields.Raw(required=True)
    title = fields.String(required=True)
    status = fields.String()
    priority = fields.String()
    assignee = fields.String(allow_none=True)
    creator = fields.String()


@task.event("task.updated")
class Updated(Schema):
    """Task updated."""

    task_id = fields.Raw(required=True)
    changes = fields.Dict(required=True)
    updated_by = fields.String()


@task.event("task.status_changed")
class StatusChanged(Schema):
    """Task status changed."""

    task_id = fields.Raw(required=True)
    old_status = fields.String(required=True)
    new_status = fields.String(required=True)
    changed_by = fields.String()


@task.event("task.assigned")
class Assigned(Schema):
    """Task assigned to user."""

    task_id = fields.Raw(required=True)
    assignee = fields.String(required=True, allow_none=True)
    assigned_by = fields.String()


@task.event("task.deleted")
class Deleted(Schema):
    """Task deleted."""

    task_id = fields.Raw(required=True)
    deleted_by = fields.String()
