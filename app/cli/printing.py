"""The output of the commands: tables for people, JSON for programs.

Colors are for terminals: click removes them from pipes and files, and ``main.py`` obeys NO_COLOR.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import orjson

from ..logs import escape

#: The columns of a character that terminals show as wide. Combining characters take none.
_WIDE: Final = 2


def print_json(document: Any) -> None:
    """Print one JSON document, indented."""
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def print_line(document: Any) -> None:
    """Print a JSON document on one line, as an element of a stream."""
    click.echo(orjson.dumps(document))


def note(text: str) -> None:
    """Print a sentence about the output on standard error."""
    click.echo(text, err=True)


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], colors: Mapping[str, str] | None = None
) -> None:
    """Print rows of columns under bold ``headers``.

    Columns of numbers are aligned to the right. None is shown as ``-``. A cell in ``colors`` has that color.
    """
    cells = [[escape("-" if value is None else str(value)) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(headers, *cells, strict=True)]
    is_number = [all(isinstance(row[at], int) for row in rows) and bool(rows) for at in range(len(headers))]

    def line(texts: Sequence[str]) -> str:
        padded = []
        for text, width, number in zip(texts, widths, is_number, strict=True):
            space = " " * (width - _width(text))
            shown = click.style(text, fg=colors[text]) if colors and text in colors else text
            padded.append(space + shown if number else shown + space)
        return "  ".join(padded).rstrip()

    click.secho(line(headers), bold=True)
    for row in cells:
        click.echo(line(row))


def _width(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes."""
    return sum(
        0 if unicodedata.combining(char) else _WIDE if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def event_line(message: dict[str, Any]) -> str:
    """Return an event as a line of text: time, room, type, sender, data. ``-`` stands for no room or no sender."""
    styles: Sequence[dict[str, Any]] = ({"dim": True}, {"fg": "cyan"}, {"bold": True}, {"fg": "green"})
    words = [message.get("timestamp"), message.get("room"), message.get("type"), message.get("sender")]
    styled = [click.style(escape(str(word or "-")), **style) for word, style in zip(words, styles, strict=True)]
    return " ".join([*styled, escape(orjson.dumps(message.get("data")).decode())])
