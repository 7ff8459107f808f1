"""The documentation as data: pages, fenced blocks, table rows and links.

A fenced block is preceded by a comment: ``<!-- snippet: NAME -->`` if a test uses it through ``snippet``, and
``<!-- not run: REASON -->`` otherwise. ``tests/unit/docs/test_docs_blocks.py`` enforces this.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from paths import ROOT

#: Every page, by its path from the root of the repository.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "clients").rglob("*.md")])
}
#: The block that ``.ci/run`` extracts and runs.
TEST_COMMAND = "the test command"

_FENCE = re.compile(r"^(?:<!-- (.+?) -->\n)?^( *)```(\w*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its page, the comment before it (empty: none), its language and its text."""

    page: str
    comment: str
    language: str
    text: str


def blocks() -> list[Block]:
    """Return every fenced block of every page."""
    return [
        Block(page, comment, language, text)
        for page, content in PAGES.items()
        for comment, _, language, text in _FENCE.findall(content)
    ]


def snippet(name: str) -> str:
    """Return the text of the block that is marked ``<!-- snippet: name -->``."""
    found = [block.text for block in blocks() if block.comment == f"snippet: {name}"]
    assert len(found) == 1, f"{len(found)} blocks are marked as snippet {name!r}"
    return found[0]


def rows(page: str, section: str = "") -> list[tuple[str, ...]]:
    """Return the rows of all tables in a page, or in the section with this heading; each is a tuple of its cells."""
    text = PAGES[page]
    if section:
        level, _, _ = section.partition(" ")
        text = text.partition(f"\n{section}\n")[2]
        text = re.split(rf"^#{{1,{len(level)}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]
    lines = re.findall(r"^\|(.*)\|$", _FENCE.sub("", text), re.MULTILINE)
    cells = [tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)) for line in lines]
    return [row for row in cells if not set(row[0]) <= {"-"} or not row[0]]


def code(cell: str) -> str:
    """Return the first inline code of a cell."""
    found = re.search(r"`([^`]+)`", cell)
    assert found is not None, f"no code in {cell!r}"
    return found[1]


def module_of(*parts: str) -> dict[str, Any]:
    """Return the globals after running snippets as one module."""
    module: dict[str, Any] = {"__name__": "roomcast_deploy"}
    for part in parts:
        exec(compile(part, "snippet", "exec", dont_inherit=True), module)
    return module
