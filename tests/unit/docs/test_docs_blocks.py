"""Every fenced block in the documentation is used by a test or says why not, and every link has a target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_pages import PAGES, ROOT, TEST_COMMAND, blocks

#: A use of a snippet in a test module.
USE = re.compile(r"""\bsnippet\(\s*f?["'](.+?)["']\s*\)""")
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
MARKED = {block.comment.removeprefix("snippet: ") for block in blocks() if block.comment.startswith("snippet: ")}
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"{block.page}: {block.comment or block.text[:20]}")
def test_a_block_is_used_or_says_why_not(block):
    """Each block is preceded by a comment of one of the known forms."""
    assert block.language, f"a block in {block.page} names no language"
    assert block.comment == TEST_COMMAND or re.match(r"(snippet|not run|generated): \S", block.comment), block.text


@pytest.mark.parametrize("name", sorted(MARKED))
def test_a_snippet_is_used_by_a_test(name):
    """Each snippet is the argument of a call of ``snippet`` in some test module."""
    assert name in USE.findall(TESTS)


def test_every_name_is_that_of_a_snippet():
    """No test asks for a snippet that does not exist."""
    assert set(USE.findall(TESTS)) <= MARKED


def test_the_test_command_is_where_ci_looks_for_it():
    """``.ci/run`` extracts the one block of the README that has this comment."""
    assert [block.page for block in blocks() if block.comment == TEST_COMMAND] == ["README.md"]
    assert f"<!-- {TEST_COMMAND} -->" in (ROOT / ".ci" / "run").read_text()


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_has_a_target(page):
    """The file exists in the repository, and the heading in the page."""
    for link in LINK.findall(re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page} links to {link}, which does not exist"
        assert target.is_relative_to(ROOT), f"{page} links to {link}, outside the repository"
        if anchor:
            assert anchor in anchors(str(target.relative_to(ROOT))), f"{page} links to {link}; there is no such heading"


def test_every_page_is_linked():
    """Each page of ``docs/`` can be reached from another page."""
    linked = {
        ((ROOT / page).parent / link.partition("#")[0]).resolve()
        for page, text in PAGES.items()
        for link in LINK.findall(text)
    }
    assert {ROOT / page for page in PAGES if page.startswith("docs/")} <= linked


def test_the_readme_is_short():
    """The README is an introduction; everything else is in ``docs/``."""
    assert len(PAGES["README.md"].splitlines()) <= 130
