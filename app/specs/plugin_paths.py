"""The routes of plugins, for the OpenAPI document and the page of documentation."""

from __future__ import annotations

import re
from typing import Any, Final

from ..declarations import MountedRoute
from ..registry import Registry
from .core_frames import JsonSchema

#: A variable of aiohttp in a path, with its regular expression.
_VARIABLE: Final = re.compile(r"\{(\w+)(?::(?:[^{}]|\{[^{}]*\})*)?\}")
_REFUSED: Final = {
    "user": {"401": "The token is missing, not valid or revoked.", "403": "The page's origin is not allowed."},
    "api_key": {
        **{"401": "The key is missing or wrong.", "403": "The API is off, or the key lacks the scope or rooms."},
        "429": "Too many wrong keys; try again later.",
    },
    "public": {},
}
_FAILED: Final = {
    "422": "The plugin refuses the request.",
    "500": "The plugin failed.",
    "503": "A part that the request needs does not work; try again later.",
}


def route_path(plugin: str, route: MountedRoute) -> str:
    """Return the path of a route, with its variables as in OpenAPI: ``/plugins/deploy/live/{environment}``."""
    path = _VARIABLE.sub(r"{\1}", route.path)
    return f"/plugins/{plugin}{path}"


def plugin_paths(registry: Registry) -> dict[str, JsonSchema]:
    """Return the paths of all routes of plugins. If two routes differ only in regular expressions, the first counts."""
    paths: dict[str, JsonSchema] = {}
    ids: set[str] = set()
    for loaded in registry:
        plugin = loaded.plugin.name
        for route in loaded.plugin.routes:
            path, method = route_path(plugin, route), route.method.lower()
            if method in paths.setdefault(path, {}):
                continue
            id = name = re.sub(r"\W+", "_", f"{plugin}_{method}{route.path}").strip("_")
            while id in ids:
                id = f"{name}_{len(ids)}"
            ids.add(id)
            paths[path][method] = _operation(id, plugin, route)
    return paths


def _operation(id: str, plugin: str, route: MountedRoute) -> JsonSchema:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses: dict[str, Any] = {"2XX": {"description": "The response of the plugin."}}
    for status, text in {**_REFUSED[route.auth], **_FAILED}.items():
        responses[status] = {"description": text, "content": error}
    security = {"user": [{"userToken": []}], "api_key": [{"apiKey": [route.scope]}], "public": []}
    summary, _, rest = route.description.partition("\n")
    operation: JsonSchema = {"operationId": id, "tags": [plugin], "security": security[route.auth]}
    if summary:
        operation["summary"] = summary
    if rest.strip():
        operation["description"] = rest.strip()
    names = [match[1] for match in _VARIABLE.finditer(route.path)]
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return {**operation, "responses": responses}
