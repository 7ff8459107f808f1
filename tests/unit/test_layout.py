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
    "backoff": set(),
    "aiohttp_internals": set(),
    "fastpath": {"aiohttp_internals"},
    "protocol": {"aiohttp_internals", "errors", "fastpath"},
    "transport": {"errors", "fastpath", "protocol"},
    "settings": {"errors"},
    "logs": {"settings"},
    "broker": {"errors"},
    # The only part that knows Redis.
    "broker.redis": {"backoff", "broker", "errors"},
    "idempotency": {"broker", "errors"},
    "auth": {"broker", "errors", "settings"},
    "schemas": {"errors", "fastpath"},
    "context": {"auth", "broker", "errors", "fastpath", "protocol"},
    "plugin": {"context", "errors", "schemas"},
    "builtin_events": {"plugin"},
    "registry": {"builtin_events", "errors", "plugin"},
    "gateway": {
        *("auth", "broker", "builtin_events", "context", "errors", "fastpath", "idempotency", "plugin", "protocol"),
        *("registry", "settings", "transport"),
    },
    # What a server speaks, as documents.
    "specs": {"builtin_events", "errors", "plugin", "registry"},
    "web": {
        *("aiohttp_internals", "auth", "broker", "context", "errors", "gateway", "idempotency", "plugin"),
        *("registry", "schemas", "specs", "transport"),
    },
    "workers": {"broker", "broker.redis", "errors", "gateway", "registry", "settings", "web"},
    "cli": {
        *("auth", "broker.redis", "errors", "fastpath", "logs", "protocol", "registry", "settings", "specs", "web"),
        "workers",
    },
    "__main__": {"cli"},
    # For the tests of plugin authors: a server with the plugins under test.
    "testing": {"auth", "broker", "context", "errors", "gateway", "plugin", "registry", "settings", "web"},
    "": {"context", "errors", "plugin"},
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
#: Private attributes of aiohttp's objects, and public ones that are not meant to be set, which roomcast relies on.
PRIVATE_ATTRIBUTES = {"_message", "_message_tail", "_request_count", "SERVER_SOFTWARE"}


def test_only_one_module_depends_on_aiohttps_internals() -> None:
    """Private modules and attributes of aiohttp are used in one module, with their reason."""
    users = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiohttp._"):
                users.add(module)
            if isinstance(node, ast.Import) and any(alias.name.startswith("aiohttp._") for alias in node.names):
                users.add(module)
            if isinstance(node, ast.Attribute) and node.attr in PRIVATE_ATTRIBUTES:
                users.add(module)
    assert users == {AIOHTTP_INTERNALS}
