"""Packages with plugins, as pip installs them, in a folder of a test."""

from __future__ import annotations

import textwrap
from pathlib import Path

from roomcast.registry import GROUP

#: How each module of a throw-away package begins.
HEAD = """
from marshmallow import Schema, fields
from roomcast import Context, Plugin, Refused

class Data(Schema):
    pass

async def handler(ctx, data):
    pass
"""


def install(folder: Path, name: str, source: str, *, point: str | None = None, value: str | None = None) -> None:
    """Create the files of an installed package ``name`` 1.0: a module, and a dist-info folder with an entry point."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(HEAD + textwrap.dedent(source))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{point or module} = {value or f'{module}:plugin'}\n")
