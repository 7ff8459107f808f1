"""Settings for tests: read from an environment with a valid secret, or refused."""

from __future__ import annotations

import pytest
from serving import SECRET

from roomcast.errors import SettingsError
from roomcast.settings import Settings


def read(**environ: str) -> Settings:
    """Return the settings of an environment with a valid secret and ``environ``."""
    return Settings.from_env({"JWT_SECRET": SECRET, **environ})


def refusal(**environ: str) -> str:
    """Return the sentence that stops the start with ``environ``: one line that ends with a full stop."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(environ)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence
