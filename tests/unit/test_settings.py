"""Tests of ``settings``: reading the environment, checks across settings, and the table for the docs."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settings_environment import SECRET, read, refusal

from roomcast.errors import SettingsError
from roomcast.settings import Settings, describe


def test_only_the_key_is_required() -> None:
    """All settings except the key have a default, in code and from the environment."""
    assert Settings(jwt_secret=SECRET) == read()
    assert read().jwt_algorithms == ("HS256",)


def test_variables_are_converted() -> None:
    """Numbers, booleans, words and lists have their types; words are lower case."""
    settings = read(
        MAX_CONNECTIONS_PER_USER="7",
        WS_HEARTBEAT_INTERVAL="0.5",
        CONSOLE="1",
        JWT_REQUIRE_EXP="no",
        LOG_LEVEL="WARNING",
        ROOM_ACCESS=" open ",
        JWT_ALGORITHMS="HS256",
    )
    assert (settings.max_connections_per_user, settings.ws_heartbeat_interval) == (7, 0.5)
    assert (settings.console, settings.jwt_require_exp) == (True, False)
    assert (settings.log_level, settings.room_access) == ("warning", "open")


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping, the variables of the process are read."""
    monkeypatch.setenv("JWT_SECRET", SECRET)
    monkeypatch.setenv("HISTORY_SIZE", "12")
    assert Settings.from_env().history_size == 12


def test_a_mapping_replaces_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mapping, the variables of the process are not read."""
    monkeypatch.setenv("HISTORY_SIZE", "12")
    assert read().history_size == 500


def test_overrides_replace_variables() -> None:
    """The variable of a field that is given in the call is not read."""
    settings = Settings.from_env({"JWT_SECRET": "short", "HISTORY_SIZE": "x"}, jwt_secret=SECRET, history_size=9)
    assert (settings.jwt_secret, settings.history_size) == (SECRET, 9)


@pytest.mark.parametrize("name", [variable.name for variable in describe()])
def test_an_empty_variable_is_not_set(name: str) -> None:
    """A blank variable, as container files often contain, means the default."""
    assert Settings.from_env({name: " "}, jwt_secret=SECRET) == read()


def test_values_given_in_code_are_checked() -> None:
    """Bounds apply to a Settings that was created without the environment, and exclude NaN."""
    with pytest.raises(SettingsError, match="WS_HEARTBEAT_INTERVAL is nan"):
        Settings(jwt_secret=SECRET, ws_heartbeat_interval=float("nan"))


def test_a_redis_url_is_not_shown() -> None:
    """repr does not show REDIS_URL, which may contain a password."""
    settings = read(JWT_SECRET=SECRET, REDIS_URL="redis://:pa55@cache:6379/0")
    assert settings.redis_url == "redis://:pa55@cache:6379/0"
    assert "pa55" not in repr(settings)


@pytest.mark.parametrize(("variables", "rate"), [({}, 524288), ({"WS_MESSAGE_RATE": "0"}, 0)])
def test_bytes_have_a_limit_if_messages_have_one(variables, rate):
    """The default of WS_BYTE_RATE follows WS_MESSAGE_RATE; a value that is set counts in any case."""
    given = {"JWT_SECRET": "x" * 32} | variables
    assert Settings.from_env(given).ws_byte_rate == rate
    assert Settings.from_env(given | {"WS_BYTE_RATE": "1000"}).ws_byte_rate == 1000


def test_a_buffer_smaller_than_a_message_is_refused() -> None:
    """A buffer smaller than the longest message is refused; the sentence names both settings."""
    sentence = refusal(JWT_SECRET=SECRET, WS_MAX_BUFFER="1000", WS_MAX_MESSAGE_SIZE="1001")
    assert "WS_MAX_BUFFER is 1000" in sentence
    assert "WS_MAX_MESSAGE_SIZE, which is 1001" in sentence
    assert read(JWT_SECRET=SECRET, WS_MAX_BUFFER="1000", WS_MAX_MESSAGE_SIZE="1000").ws_max_buffer == 1000


def test_a_lease_that_is_too_short_is_refused() -> None:
    """A lease shorter than 1.5 times REDIS_TIMEOUT is refused, whichever of the two was set."""
    for variable, value in (("REDIS_LEASE", "4"), ("REDIS_TIMEOUT", "20.5")):
        assert "REDIS_LEASE is" in refusal(JWT_SECRET=SECRET, **{variable: value})
    assert read(JWT_SECRET=SECRET, REDIS_LEASE="4.5").redis_lease == 4.5
    assert read(JWT_SECRET=SECRET, REDIS_TIMEOUT="20").redis_timeout == 20


def test_repr_shows_no_secret() -> None:
    """Secrets are stars in repr and str, and None if they are not set."""
    text = f"{read(API_KEY='ap1-key')!r} {read(API_KEY='ap1-key')}"
    assert SECRET not in text
    assert "ap1-key" not in text
    assert "jwt_secret=***" in text
    assert "redis_url=None" in text


def test_settings_are_frozen() -> None:
    """A setting cannot be changed after the start."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().console = True  # type: ignore[misc]


def test_describe_lists_every_field_once() -> None:
    """The table has a row for each field, in order, with the defaults as operators write them."""
    table = {variable.name: variable for variable in describe()}
    assert [*table, "PLUGIN_VARIABLES", "ROOM_VARIABLES"] == [
        field.name.upper() for field in dataclasses.fields(Settings)
    ]
    assert table["WS_HEARTBEAT_INTERVAL"][1:3] == ("30", "s")
    assert table["JWT_REQUIRE_EXP"].default == "true"
    assert table["JWT_SECRET"].default == table["ALLOWED_ORIGINS"].default == ""
    assert all(variable.meaning and not variable.meaning.endswith(".") for variable in table.values())


def test_the_defaults_of_the_table_are_accepted() -> None:
    """Setting all variables to the defaults of the table changes nothing."""
    environ = {variable.name: variable.default for variable in describe()}
    assert Settings.from_env(environ | {"JWT_SECRET": SECRET}) == read()


@given(st.dictionaries(st.sampled_from([variable.name for variable in describe()]), st.text(max_size=80)))
def test_any_environment_gives_settings_or_a_settings_error(environ: dict[str, str]) -> None:
    """Any environment results in settings or a SettingsError, never in another exception."""
    try:
        Settings.from_env(environ)
    except SettingsError as error:
        assert str(error)


def test_no_refusal_shows_a_secret() -> None:
    """The error for any other setting does not contain a secret."""
    for name, bad in itertools.product([variable.name for variable in describe()], ["-1", "no such thing"]):
        try:
            Settings.from_env({"JWT_SECRET": SECRET, "API_KEY": "ap1-key", name: bad})
        except SettingsError as error:
            assert SECRET not in str(error)
            assert "ap1-key" not in str(error)
