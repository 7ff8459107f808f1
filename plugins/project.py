"""Projects: what a backend says of them, to whoever is in the project's room."""

from __future__ import annotations

from marshmallow import Schema, fields

from roomcast import Plugin

project = Plugin("project", "Projects and what happens to them")

project.room("project", description="All updates related to project")


@project.event("project.updated")
class Updated(Schema):
    """Project details updated."""

    project_id = fields.Raw(required=True)
    changes = fields.Dict(required=True)
    updated_by = fields.String()


@project.event("project.archived")
class Archived(Schema):
    """Project archived."""

    project_id = fields.Raw(required=True)
    archived_by = fields.String()
