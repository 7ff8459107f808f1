"""The layout: which part of roomcast may import which. If a change does not fit, change this table on purpose.

``docs/architecture.md`` contains a diagram that is generated from the table.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest
from paths import ROOT

#: What each part of roomcast may import of roomcast, imports under TYPE_CHECKING included. A part is a module directly
#: in ``app/`` or a package.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "suggestions": set(),
    "certificates": set(),
    "certificate_files": {"certificates", "errors"},
    "backoff": set(),
    "failure_log": set(),
    "output": set(),
    "aiohttp_internals": set(),
    "fastpath": {"aiohttp_internals"},
    "protocol": {"aiohttp_internals", "errors", "fastpath"},
    "transport": {"errors", "fastpath", "protocol"},
    "setting_rules": {"errors"},
    "signing_keys": {"errors"},
    "secret_files": {"errors", "setting_rules"},
    "room_patterns": set(),
    "api_keys": {"errors", "room_patterns", "setting_rules"},
    "setting_fields": {"secret_files", "setting_rules"},
    "settings": {"api_keys", "errors", "secret_files", "setting_fields", "setting_rules", "signing_keys"},
    "room_options": {"setting_rules", "suggestions"},
    "room_variables": {"errors", "room_options", "setting_fields", "setting_rules", "settings", "suggestions"},
    "logs": {"settings"},
    "broker": {"errors", "failure_log"},
    # The only part that knows Redis.
    "broker.redis": {"backoff", "broker", "certificate_files", "errors", "failure_log"},
    "idempotency": {"broker", "errors"},
    "auth": {"broker", "errors", "failure_log", "protocol", "room_patterns", "settings", "signing_keys"},
    "schemas": {"errors", "fastpath"},
    "stored_events": {"broker", "errors"},
    "live_event": {"errors", "schemas"},
    "plugin_host": {"auth", "broker", "connection_id", "fastpath", "live_event", "plugin_state"},
    "context": {"broker", "connection_id", "plugin_host", "protocol", "service", "stored_events"},
    "member_context": {"plugin_host", "service"},
    "declarations": {"context", "live_event", "room_options", "route_user", "schemas", "service"},
    "plugin_functions": {"errors", "service"},
    "plugin_hooks": {"errors", "plugin_functions"},
    "plugin": {
        *("declarations", "errors", "live_event", "plugin_functions", "plugin_hooks", "plugin_requirement"),
        *("plugin_routes", "plugin_schedule", "plugin_settings", "room_options", "schemas", "service"),
    },
    "connection_id": {"broker", "protocol"},
    "plugin_state": set(),
    "service": {"broker", "connection_id", "errors", "plugin_host", "plugin_state", "protocol", "stored_events"},
    "plugin_requirement": {"errors"},
    "plugin_settings": {"errors", "secret_files", "setting_fields", "setting_rules"},
    "plugin_schedule": {"errors", "plugin_functions", "service"},
    "plugin_routes": {"api_keys", "declarations", "errors", "plugin_functions"},
    "route_user": {"auth"},
    "builtin_events": {"plugin"},
    "hook_targets": {"builtin_events", "declarations", "errors", "plugin_hooks", "room_options"},
    "registry": {
        *("builtin_events", "declarations", "errors", "hook_targets", "plugin", "plugin_hooks", "room_options"),
        *("room_variables", "setting_rules", "settings", "suggestions"),
    },
    "gateway": {
        *("auth", "backoff", "broker", "builtin_events", "connection_id", "context", "declarations", "errors"),
        *("failure_log", "fastpath", "idempotency", "live_event", "member_context", "plugin_functions"),
        *("plugin_hooks", "plugin_host", "plugin_schedule", "plugin_state", "protocol", "registry", "room_options"),
        *("service", "settings", "stored_events", "suggestions", "transport"),
    },
    # What a server speaks, as documents.
    "specs": {"broker", "builtin_events", "declarations", "errors", "protocol", "registry", "room_options"},
    "web": {
        *("aiohttp_internals", "api_keys", "auth", "broker", "certificates", "declarations", "errors", "failure_log"),
        *("gateway", "idempotency", "live_event", "logs", "output", "protocol", "registry", "room_options"),
        *("route_user", "schemas", "service", "setting_rules", "specs", "stored_events", "transport"),
    },
    "workers": {
        "backoff",
        "broker",
        "broker.redis",
        "errors",
        "gateway",
        "output",
        "registry",
        "settings",
        "specs",
        "web",
    },
    # A client of the HTTP API.
    "relay": {"backoff", "broker.redis", "errors", "failure_log"},
    "cli": {
        *("aiohttp_internals", "api_keys", "auth", "backoff", "broker.redis", "builtin_events", "certificate_files"),
        *("certificates", "context", "declarations", "errors", "fastpath", "logs", "output", "plugin", "plugin_hooks"),
        *("plugin_settings", "protocol", "registry", "relay", "room_options", "room_variables", "secret_files"),
        *("service", "setting_fields", "setting_rules", "settings", "specs", "suggestions", "web", "workers"),
    },
    "__main__": {"cli"},
    # For the tests of plugin authors: a server with the plugins under test.
    "testing": {
        *("auth", "broker", "context", "errors", "gateway", "live_event", "member_context", "plugin", "plugin_host"),
        *("plugin_state", "protocol", "registry", "service", "settings", "web", "workers"),
    },
    "": {
        "broker",
        "context",
        "errors",
        "member_context",
        "plugin",
        "plugin_settings",
        "protocol",
        "route_user",
        "service",
    },
}
#: Packages inside packages that are parts of their own.
NESTED = ("broker.redis",)


def modules() -> Iterator[tuple[str, Path]]:
    """Yield each module of the package with its path."""
    for path in sorted((ROOT / "app").rglob("*.py")):
        parts = path.relative_to(ROOT / "app").with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(modules())


def package_of(module: str, path: Path) -> str:
    """Return the package that relative imports in ``module`` start from."""
    parts = ["roomcast", *module.split(".")] if module else ["roomcast"]
    return ".".join(parts if path.stem == "__init__" else parts[:-1])


def imports(path: Path, package: str) -> set[str]:
    """Return the full name of each module of roomcast that ``path`` imports, under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner.removeprefix("roomcast.") in MODULES or inner == "roomcast._native" else base)
    return {name for name in found if name.split(".")[0] == "roomcast"} - {"roomcast._native"}


def part_of(module: str) -> str:
    """Return the row of the table that a module belongs to: ``web.api.events`` is in the row ``web``."""
    name = module.removeprefix("roomcast").removeprefix(".")
    for nested in NESTED:
        if name == nested or name.startswith(f"{nested}."):
            return nested
    return name.split(".")[0]


def edges() -> dict[str, set[str]]:
    """Return what each module imports of roomcast, both without the prefix ``roomcast.``."""
    return {
        module: {name.removeprefix("roomcast").removeprefix(".") for name in imports(path, package_of(module, path))}
        - {module}
        for module, path in MODULES.items()
    }


EDGES = edges()


@pytest.mark.parametrize("module", list(MODULES), ids=[name or "roomcast" for name in MODULES])
def test_a_module_imports_only_what_its_row_allows(module: str) -> None:
    """Every import from another part is in the table."""
    row = part_of(module)
    assert row in MAY_IMPORT, f"{module} is in no row of the table: add what it may import"
    used = {part_of(name) for name in EDGES[module]} - {row}
    assert used <= MAY_IMPORT[row], f"{module} imports {sorted(used - MAY_IMPORT[row])}"


def test_the_table_has_no_cycle() -> None:
    """No part depends on itself through others."""
    assert list(TopologicalSorter(MAY_IMPORT).static_order())


def test_no_module_imports_itself_through_others() -> None:
    """No import cycle inside packages, imports under TYPE_CHECKING included."""
    assert list(TopologicalSorter(EDGES).static_order())


def test_the_table_has_no_stale_row() -> None:
    """Every row is a part that exists, and every import that a row allows is used."""
    assert set(MAY_IMPORT) == {part_of(module) for module in MODULES}
    used: dict[str, set[str]] = {row: set() for row in MAY_IMPORT}
    for module, imported in EDGES.items():
        used[part_of(module)] |= {part_of(name) for name in imported} - {part_of(module)}
    assert used == MAY_IMPORT


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*.py")), ids=lambda path: path.stem)
def test_built_in_plugins_use_only_the_public_api(path: Path) -> None:
    """Built-in plugins can do what any other plugin can."""
    assert imports(path, "roomcast.plugins") <= {"roomcast"}


AIOHTTP_INTERNALS = "aiohttp_internals"
#: Modules of aiohttp that are not documented: its private ones, its parser and its server protocol.
UNDOCUMENTED_MODULES = ("aiohttp._", "aiohttp.http", "aiohttp.web_protocol")
#: Private attributes of aiohttp's objects that are also names in roomcast's own code.
PRIVATE_OF_AIOHTTP = {"_message", "_message_tail", "_request_count"}
#: Public attributes that are not meant to be set.
UNDOCUMENTED_ATTRIBUTES = {"SERVER_SOFTWARE"}
#: The documented methods and attributes of a NamedTuple, the documented functions of ``os`` and ``sys``, and the method
#: that fields of marshmallow override.
DOCUMENTED = {"_asdict", "_current_frames", "_deserialize", "_exit", "_fields", "_make", "_replace"}


def own_private_names() -> set[str]:
    """Return every private name that roomcast's own code defines: functions, classes, variables, attributes, slots."""
    names: set[str] = set()
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own_object(node.value):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # in __slots__
                names.add(node.value)
    return {name for name in names if name.startswith("_")}


def is_own_object(node: ast.expr) -> bool:
    """Return True for ``self`` and ``cls``."""
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


OWN_PRIVATE_NAMES = own_private_names()


def undocumented_uses(path: Path) -> list[str]:
    """Return the uses of undocumented modules of aiohttp, and of private attributes of any library, in ``path``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        imported: list[str] = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [name for name in imported if name.startswith(UNDOCUMENTED_MODULES)]
        if isinstance(node, ast.Attribute) and is_undocumented_attribute(node):
            found.append(ast.unparse(node))
    return found


def is_undocumented_attribute(node: ast.Attribute) -> bool:
    """Return True if ``node`` is an attribute of an object of a library that is private or not meant to be set."""
    name = node.attr
    if name in PRIVATE_OF_AIOHTTP:
        return not is_own_object(node.value)
    if name in UNDOCUMENTED_ATTRIBUTES:
        return True
    is_private = name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED
    return is_private and not is_own_object(node.value) and name not in OWN_PRIVATE_NAMES


@pytest.mark.parametrize("module", list(MODULES), ids=[name or "roomcast" for name in MODULES])
def test_only_one_module_depends_on_aiohttps_internals(module: str) -> None:
    """Undocumented modules and private attributes are used in one module, with their reason."""
    uses = undocumented_uses(MODULES[module])
    assert bool(uses) == (module == AIOHTTP_INTERNALS), uses


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import aiohttp.http_parser", 1),
        ("from aiohttp.http import HttpRequestParser, HttpVersion11", 2),
        ("from aiohttp.web_protocol import RequestHandler", 1),
        ("from aiohttp import http_writer", 1),
        ("from aiohttp._websocket.helpers import websocket_mask", 1),
        ("from aiohttp import web\nweb.Request._private_of_aiohttp", 1),
        ("request.protocol._message_tail = b''", 1),
        ("from aiohttp import web\nfrom aiohttp.abc import AbstractStreamWriter", 0),
        ("self._private_of_a_base_class", 0),
        ("pair._replace(name=1)", 0),
        ("module.__file__", 0),
    ],
)
def test_uses_of_internals_are_found(tmp_path: Path, source: str, count: int) -> None:
    """Imports and attributes count; a class's own attributes and documented names do not."""
    (tmp_path / "module.py").write_text(source)
    assert len(undocumented_uses(tmp_path / "module.py")) == count
