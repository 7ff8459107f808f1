"""Names that are similar to an unknown one, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final

#: Clients can cause the search in ``did_you_mean``, and a comparison of two words takes about 40 us. So it compares
#: only words of up to ``_MAX_LENGTH`` characters, with names whose length differs by at most ``_MAX_DIFFERENCE``
#: characters, and that begin with one of the word's first two characters.
_MAX_LENGTH: Final = 40
_MAX_DIFFERENCE: Final = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the sentence " Did you mean 'x'?", which begins with a space, or an empty text if no name is similar."""
    found = _most_similar(word, tuple(known)) if len(word) <= _MAX_LENGTH else None
    return "" if found is None else f" Did you mean {found!r}?"


@lru_cache(maxsize=64)
def _most_similar(word: str, known: tuple[str, ...]) -> str | None:
    candidates = [name for name in known if name[0] in word[:2] and abs(len(name) - len(word)) <= _MAX_DIFFERENCE]
    return next(iter(difflib.get_close_matches(word, candidates, 1)), None)


def suggestion(name: str, known: Collection[str], what: str, shape: str = "{}") -> str:
    """Return a clause that proposes the one of ``known`` that is similar to ``name``, or else lists all of them.

    ``what`` are the words for all of them. ``shape`` is the text that is proposed, with braces in place of the name.
    """
    if similar := difflib.get_close_matches(name, known, 1):
        return f"did you mean {shape.format(similar[0])}?"
    return f"{what} are {', '.join(sorted(known))}."
