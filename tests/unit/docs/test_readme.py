"""The README says what is so: its tables are those of the code."""

from __future__ import annotations

import pytest
from paths import ROOT

from roomcast.errors import CLOSES, ERROR_CODES
from roomcast.settings import describe

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("variable", describe(), ids=lambda variable: variable.name)
def test_every_setting_is_listed(variable):
    """Each setting has a row with its default, its unit and its meaning."""
    default = f"`{variable.default}`" if variable.default else ""
    unit = f" {variable.unit}" if variable.unit and variable.default else ""
    assert f"| `{variable.name}` | {default}{unit} | {variable.meaning} |" in README


@pytest.mark.parametrize("code", ERROR_CODES)
def test_every_error_code_is_listed(code):
    """Each code of an error frame has a row with its meaning and whether to try again."""
    error = ERROR_CODES[code]
    assert f"| `{code}` | {error.meaning} | {'yes' if error.temporary else 'no'} |" in README


@pytest.mark.parametrize("close", [close for close in CLOSES if close.reason], ids=lambda close: close.reason)
def test_every_close_is_listed(close):
    """Each way in which the server closes has a row with its code and whether to come back."""
    assert f"| {close.code} | {close.reason} | {'yes' if close.reconnect else 'no'} |" in README
