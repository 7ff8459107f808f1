"""The layout of the house: which module may import which. If a change does not fit, change this table on purpose."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: What each module of roomcast may import of roomcast, at run time; imports for type checking alone are free.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"errors"},
    "logs": {"settings"},
    "identity": {"errors", "settings"},
    "access": {"identity", "settings"},
    "frames": {"errors"},
    "held": set(),
    "broker": {"errors", "held"},
    "revocation": {"broker", "errors", "identity"},
    # The only place that knows Redis.
    "redis": {"broker", "errors", "held"},
    "envelope": set(),
    "outlet": set(),
    "step": set(),
    # The only place that knows what was compiled.
    "hot": {"_native", "envelope", "frames", "outlet", "step"},
    "protocol": {"envelope", "errors", "hot"},
    "schemas": {"errors", "hot"},
    "stepper": {"hot", "step"},
    "intake": {"hot"},
    "hub": {"hot"},
    "connection": {"errors", "frames", "hot", "hub", "intake"},
    "context": {"broker", "errors", "protocol"},
    "plugin": {"errors", "schemas"},
    "core": {"plugin"},
    "registry": {"core", "errors", "plugin"},
    "client": {"connection", "frames", "identity", "protocol"},
    "membership": {"client", "context", "core", "errors", "frames", "protocol"},
    "gateway": {
        *("access", "broker", "client", "connection", "context", "errors", "frames", "hot", "hub", "identity"),
        *("membership", "plugin", "protocol", "registry", "revocation", "settings", "stepper"),
    },
    # What a server speaks, as documents.
    "documents": {"core", "errors", "plugin", "registry"},
    "web": {
        "broker",
        "client",
        "connection",
        "context",
        "documents",
        "errors",
        "gateway",
        "hub",
        "identity",
        "plugin",
        "protocol",
        "registry",
        "schemas",
    },
    "cli": {
        "broker",
        "documents",
        "errors",
        "frames",
        "gateway",
        "hot",
        "identity",
        "logs",
        "redis",
        "registry",
        "settings",
        "web",
    },
    "__main__": {"cli"},
    # For plugin authors' tests: a server with the plugins under test.
    "testing": {"broker", "context", "errors", "gateway", "identity", "plugin", "registry", "settings", "web"},
    "": {"context", "errors", "plugin"},
}


def modules() -> Iterator[tuple[str, Path]]:
    """Each module of the package with its path."""
    for path in sorted((ROOT / "app").rglob("*.py")):
        parts = path.relative_to(ROOT / "app").with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imports(path: Path, package: str) -> Iterator[str]:
    """Each module that ``path`` imports at run time, in full."""

    class Visitor(ast.NodeVisitor):
        found: set[str] = set()

        def visit_If(self, node: ast.If) -> None:
            if "TYPE_CHECKING" not in ast.dump(node.test):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            self.found |= {alias.name for alias in node.names}

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            self.found |= {f"{base}.{alias.name}" for alias in node.names} if not node.module else {base}

    visitor = Visitor()
    visitor.found = set()
    visitor.visit(ast.parse(path.read_text()))
    yield from visitor.found


def package_of(module: str, path: Path) -> str:
    """The package that relative imports in ``module`` start from."""
    parts = ["roomcast", *module.split(".")] if module else ["roomcast"]
    return ".".join(parts if path.name == "__init__.py" else parts[:-1])


def home(module: str) -> str:
    """The row of the table that a module of ``roomcast`` belongs to: ``web.api`` is in the row ``web``."""
    return module.removeprefix("roomcast").removeprefix(".").split(".")[0]


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[name or "roomcast" for name, _ in modules()])
def test_a_module_imports_only_what_its_row_allows(module: str, path: Path) -> None:
    """Every import at run time is in the table."""
    row = home(module)
    used = {home(name) for name in imports(path, package_of(module, path)) if name.split(".")[0] == "roomcast"} - {row}
    assert row in MAY_IMPORT, f"{module} is in no row of the table: say what it may import"
    assert used <= MAY_IMPORT[row], f"{module} imports {sorted(used - MAY_IMPORT[row])}"


def test_the_table_has_no_circle() -> None:
    """No module depends, over whatever way, on itself."""
    rows = {row: allowed - {row} for row, allowed in MAY_IMPORT.items()}
    assert list(TopologicalSorter(rows).static_order())


def test_the_table_has_no_row_too_many() -> None:
    """Every row is a module that exists."""
    assert set(MAY_IMPORT) == {home(module) for module, _ in modules()}


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*.py")), ids=lambda path: path.stem)
def test_built_in_plugins_use_the_public_api_alone(path: Path) -> None:
    """What roomcast's own plugins can do, anybody's can."""
    own = {name for name in imports(path, "roomcast.plugins") if name.split(".")[0] == "roomcast"}
    assert own <= {"roomcast"}


def test_only_one_file_knows_aiohttps_insides() -> None:
    """Names of aiohttp that begin with an underscore are used where their reason is written, and nowhere else."""
    users = {
        module
        for module, path in modules()
        if any("aiohttp._" in name for name in imports(path, package_of(module, path)))
    }
    assert users == {"frames"}
