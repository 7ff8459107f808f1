"""Secrets in files: for ``JWT_SECRET``, the variable ``JWT_SECRET_FILE`` may name a file.

Docker and Kubernetes mount secrets as files. Files, unlike environment variables, can change while a process runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .errors import SettingsError
from .setting_rules import show

#: The ending of the variables that name files.
FILE_SUFFIX: Final = "_FILE"


def read_secret(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the value of the variable ``name``, or of the file that the variable ``<name>_FILE`` names.

    Line ends at the end of the file do not count. Returns None if neither is set. Raises ``SettingsError`` if both are
    set, or if the file cannot be read or is empty.
    """
    value = environ.get(name, "")
    path = environ.get(name + FILE_SUFFIX, "").strip()
    if not path:
        return value if value.strip() else None
    variable = name + FILE_SUFFIX
    if value.strip():
        raise SettingsError(f"{name} and {variable} are both set; unset one of them.")
    try:
        value = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise SettingsError(f"{variable} is {show(path)}, which cannot be read ({reason}).") from error
    if not value.strip():
        raise SettingsError(f"{variable} is {show(path)}, which is empty; it must contain the value of {name}.")
    return value
