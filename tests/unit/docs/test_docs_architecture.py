"""docs/architecture.md describes the code as it is: its diagram is generated, and the files that the pages name exist.

To write the diagram into the page, run this module as a program, with ``tests/support`` in PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from paths import ROOT

PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- generated: the import diagram, by tests/unit/docs/test_docs_architecture.py -->\n"
END = "<!-- end of the import diagram -->\n"

Table = Mapping[str, set[str]]


def may_import() -> Table:
    """Return the table of the layout test."""
    spec = importlib.util.spec_from_file_location("layout_table", ROOT / "tests" / "unit" / "test_layout.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table: Table = module.MAY_IMPORT
    return table


def diagram(table: Table) -> str:
    """Return the table as a Mermaid flowchart, without the arrows that follow from others."""

    @cache
    def reachable(part: str) -> frozenset[str]:
        """Return all that ``part`` imports, directly or through others."""
        return frozenset(table[part]).union(*map(reachable, table[part]))

    lines = ["```mermaid", "flowchart TD"]
    for part in table:
        through_others = frozenset().union(*map(reachable, table[part]))
        for other in table:
            if other in table[part] and other not in through_others:
                lines.append(f"    {_node(part)} --> {_node(other)}")
    return "\n".join([*lines, "```", ""])


def _node(part: str) -> str:
    return f'{part.strip("_").replace(".", "_") or "api"}["{part or "roomcast: the public API"}"]'


def updated(page: str, table: Table) -> str:
    """Return the page with the diagram of ``table``."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{diagram(table)}{END}{after}"


def test_the_diagram_is_that_of_the_layout():
    """The page has the diagram that is generated from the table of allowed imports."""
    page = PAGE.read_text()
    assert page == updated(page, may_import()), (
        f"run `PYTHONPATH=tests/support python {Path(__file__).relative_to(ROOT)}` to update it"
    )


def test_every_part_has_a_purpose():
    """The table of packages names each part of the layout."""
    section = PAGE.read_text().partition("\n## Packages\n")[2].partition("\n## ")[0]
    named = {name.rstrip("/").removesuffix(".py") for name in re.findall(r"`([a-z_.]+/?)`", section)}
    assert {part.rpartition(".")[2] for part in may_import()} - {"", "__main__"} <= named


#: Folders that the pages leave out of paths.
FOLDERS = ("", "app", "app/broker/redis")
#: A file or a folder in inline code, perhaps with ``python`` before it and options after it.
NAMED = re.compile(r"`(?:python )?([A-Za-z0-9_./-]+(?:\.(?:py|c|js|ts|lua|cfg|toml|md)|/))(?: --[^`]*)?`")
#: Names in inline code that only look like files of the repository.
NOT_FILES = {
    *("/static/", "backend/tests/test_websocket.py", "conftest.py", "tests/unit/test_x.py", "x.py"),
    # Files that a reader writes.
    *("roomcast_polls.py", "tests/test_roomcast_polls.py", "receiver.py"),
}
#: The names of all files and folders.
NAMES = {
    f"{path.name}/" if path.is_dir() else path.name
    for folder in ("app", "clients", "native", "plugins", "static", "tests")
    for path in (ROOT / folder).rglob("*")
}
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "clients").rglob("*.md")]


def exists(name: str) -> bool:
    """Return True if the path exists, or for a name without a folder, if any file has it."""
    return name in NAMES or any((ROOT / folder / name).exists() for folder in FOLDERS)


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path):
    """Each path in inline code exists in the repository."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = set(NAMED.findall(text)) - NOT_FILES
    assert [name for name in sorted(named) if not exists(name)] == []


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(), may_import()))
