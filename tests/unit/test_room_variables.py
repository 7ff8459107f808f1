"""The variables that override options of room types."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.errors import SettingsError
from roomcast.room_options import RULES, EffectiveOptions, RoomOptions
from roomcast.room_variables import effective_options, variable_names
from roomcast.settings import Settings

SECRET = "x" * 32
COMMANDS = ("send_message", "edit_message", "poll.vote", "poll.open")
DECLARED = {
    "user": RoomOptions(),
    "channel": RoomOptions(),
    "channel_archive": RoomOptions(),
    "poll": RoomOptions(50, 60.0, None, 7, ("poll.*",)),
    "log": RoomOptions(history_size=0, presence=False),
}


def options(**environ: str) -> dict[str, EffectiveOptions]:
    """Return the options of all room types with these variables."""
    return effective_options(DECLARED, COMMANDS, Settings.from_env({"JWT_SECRET": SECRET, **environ}))


def refusal(**environ: str) -> str:
    """Return the sentence with which the variables are refused."""
    with pytest.raises(SettingsError) as raised:
        options(**environ)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_without_variables() -> None:
    """Declared options count, and the settings for all rooms where nothing is declared."""
    found = options(HISTORY_SIZE="9", HISTORY_TTL="8", ANNOUNCE_MAX="7")
    assert found["channel"] == EffectiveOptions(9, 8.0, True, 7)
    assert found["poll"] == EffectiveOptions(
        50, 60.0, True, 7, frozenset({"poll.vote", "poll.open"}), DECLARED["poll"], ()
    )
    assert found["log"][:5] == (0, 8.0, False, 7, None)
    assert found["user"][:3] == (9, 8.0, False)


def test_variables_override_declared_options() -> None:
    """A variable replaces one option of one type; all others stay as they are."""
    found = options(
        ROOM_POLL_HISTORY_SIZE="1000",
        ROOM_POLL_COMMANDS=" send_message , poll.* ",
        ROOM_LOG_PRESENCE="yes",
        ROOM_USER_HISTORY_TTL="86400",
        ROOM_CHANNEL_ARCHIVE_HISTORY_TTL="1e6",
        ROOM_CHANNEL_ANNOUNCE_MAX="0",
    )
    everything = frozenset({"send_message", "poll.vote", "poll.open"})
    assert found["poll"][:5] == (1000, 60.0, True, 7, everything)
    assert found["poll"].variables == ("ROOM_POLL_HISTORY_SIZE", "ROOM_POLL_COMMANDS")
    assert found["log"][:3] == (0, 3600.0, True)
    assert found["user"][:2] == (500, 86400.0)
    assert found["channel_archive"][:2] == (500, 1e6)
    assert found["channel"][:4] == (500, 3600.0, True, 0)


@pytest.mark.parametrize(
    ("value", "allowed"),
    [("none", set()), ("*", set(COMMANDS)), ("send_message", {"send_message"}), ("poll.*,poll.vote", {*COMMANDS[2:]})],
)
def test_commands(value: str, allowed: set[str]) -> None:
    """Commands are names and patterns, separated by commas, or none."""
    assert options(ROOM_CHANNEL_COMMANDS=value)["channel"].commands == allowed


def test_an_empty_variable_is_not_set() -> None:
    """A blank variable, as container files often contain, overrides nothing."""
    assert options(**dict.fromkeys(variable_names(DECLARED), " ")) == options()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            *("ROOM_CHANEL_HISTORY_SIZE", "5"),
            "ROOM_CHANEL_HISTORY_SIZE is '5', but no plugin declares a room type 'chanel'; did you mean "
            "ROOM_CHANNEL_HISTORY_SIZE?",
        ),
        (
            *("ROOM_X_PRESENCE", "false"),
            "ROOM_X_PRESENCE is 'false', but no plugin declares a room type 'x'; the room types, in upper case, are "
            "CHANNEL, CHANNEL_ARCHIVE, LOG, POLL, USER.",
        ),
        ("ROOM_channel_PRESENCE", "false", "no plugin declares a room type 'channel'"),
        (
            *("ROOM_CHANNEL_HISTROY_SIZE", "5"),
            "ROOM_CHANNEL_HISTROY_SIZE is '5', but room types have no option HISTROY_SIZE; did you mean "
            "ROOM_CHANNEL_HISTORY_SIZE?",
        ),
        (
            *("ROOM_CHANNEL_ARCHIVE_MAX_AGE", "5"),
            "ROOM_CHANNEL_ARCHIVE_MAX_AGE is set, but room types have no option MAX_AGE; the options are "
            "ANNOUNCE_MAX, COMMANDS, HISTORY_SIZE, HISTORY_TTL, PRESENCE.",
        ),
        (
            *("ROOM_PRESENCE", "true"),
            "ROOM_PRESENCE is 'true', but names no room type; write it like ROOM_CHANNEL_PRESENCE.",
        ),
        ("ROOM_CHANNEL_HISTORY_SIZE", "-1", "ROOM_CHANNEL_HISTORY_SIZE is -1; it must be a whole number of at least 0"),
        ("ROOM_CHANNEL_HISTORY_SIZE", "many", "ROOM_CHANNEL_HISTORY_SIZE is 'many'; it must be a whole number"),
        ("ROOM_CHANNEL_HISTORY_SIZE", "9999999999", "and at most 1000000000."),
        ("ROOM_CHANNEL_HISTORY_TTL", "0", "ROOM_CHANNEL_HISTORY_TTL is 0.0; it must be a number above 0"),
        ("ROOM_CHANNEL_HISTORY_TTL", "nan", "must be a number above 0"),
        ("ROOM_CHANNEL_HISTORY_TTL", "inf", "must be a number above 0"),
        ("ROOM_CHANNEL_PRESENCE", "maybe", "ROOM_CHANNEL_PRESENCE is 'maybe'; it must be true or false."),
        ("ROOM_CHANNEL_COMMANDS", ",", "must be commands, separated by commas, or none."),
        (
            *("ROOM_CHANNEL_COMMANDS", "send_mesage"),
            "ROOM_CHANNEL_COMMANDS is 'send_mesage', but no plugin declares a command 'send_mesage'; did you mean "
            "send_message?",
        ),
        ("ROOM_CHANNEL_COMMANDS", "none,poll.vote", "no plugin declares a command 'none'"),
        ("ROOM_CHANNEL_COMMANDS", "join_room", "no plugin declares a command 'join_room'"),
        ("ROOM_USER_PRESENCE", "true", "personal rooms, so they have only the options HISTORY_SIZE and HISTORY_TTL"),
        ("ROOM_USER_COMMANDS", "poll.vote", "personal rooms"),
        (
            *("ROOM_LOG_HISTORY_TTL", "60"),
            "ROOM_LOG_HISTORY_TTL is 60, but log rooms keep no history; unset it, or set ROOM_LOG_HISTORY_SIZE to 1 or "
            "more.",
        ),
        (
            *("ROOM_LOG_ANNOUNCE_MAX", "60"),
            "ROOM_LOG_ANNOUNCE_MAX is 60, but log rooms have no presence; unset it, or set ROOM_LOG_PRESENCE to true.",
        ),
    ],
)
def test_a_wrong_variable_is_refused(name: str, value: str, sentence: str) -> None:
    """One sentence names the variable, its value, and what to do."""
    found = refusal(**{name: value})
    assert found.startswith(f"{name} is ")
    assert sentence in found


def test_the_value_of_an_unknown_variable_is_not_shown() -> None:
    """It may be a secret of another program."""
    sentence = refusal(ROOM_CHANNEL_PASSWORD="hunter2")
    assert sentence.startswith("ROOM_CHANNEL_PASSWORD is set, but room types have no option PASSWORD")
    assert "hunter2" not in sentence


def test_contradictory_variables_are_refused() -> None:
    """The sentence names both variables, or the setting for all rooms counts."""
    assert refusal(ROOM_CHANNEL_HISTORY_TTL="60", ROOM_CHANNEL_HISTORY_SIZE="0") == (
        "ROOM_CHANNEL_HISTORY_TTL is 60, but channel rooms keep no history because of ROOM_CHANNEL_HISTORY_SIZE; unset "
        "it, or set ROOM_CHANNEL_HISTORY_SIZE to 1 or more."
    )
    assert "keep no history; unset it" in refusal(ROOM_CHANNEL_HISTORY_TTL="60", HISTORY_SIZE="0")
    assert "because of ROOM_POLL_PRESENCE" in refusal(ROOM_POLL_ANNOUNCE_MAX="60", ROOM_POLL_PRESENCE="false")


def test_a_variable_may_switch_off_what_the_plugin_declares() -> None:
    """An operator cannot remove what a plugin declares, so only variables contradict each other."""
    found = options(ROOM_POLL_HISTORY_SIZE="0", ROOM_POLL_PRESENCE="false")["poll"]
    assert found[:4] == (0, 60.0, False, 7)
    assert options(HISTORY_SIZE="0")["channel"].history_size == 0


@pytest.mark.parametrize(
    "name",
    [
        *("ROOM_ACCESS", "ROOM_ACCESS_TIMEOUT", "ROOM_ACCESS_CACHE"),
        *("ROOM_NAME", "ROOM_", "ROOM_CHANNELS_MAX", "ROOMS_CHANNEL_HISTORY_SIZE", "ROOM_CHANNEL", "ROOMCAST_URL"),
        *("ROOM_CHANNEL_SERVICE_HOST", "ROOM_CHANNEL_SERVICE_PORT", "ROOM_CHANNEL_SERVICE_PORT_HTTP"),
        *("ROOM_CHANNEL_PORT", "ROOM_CHANNEL_PORT_80_TCP", "ROOM_CHANNEL_PORT_80_TCP_ADDR"),
    ],
)
def test_other_variables_are_not_mistaken(name: str) -> None:
    """Settings, variables of other programs, and those that Kubernetes sets for a service change nothing."""
    value = {"ROOM_ACCESS": "open"}.get(name, "5")
    assert options(**{name: value}) == options()


def test_the_settings_of_access_are_no_options_even_if_a_type_is_named_access() -> None:
    """ROOM_ACCESS_CACHE is a setting, and ROOM_ACCESS_HISTORY_SIZE an option of the room type ``access``."""
    environ = {"JWT_SECRET": SECRET, "ROOM_ACCESS_CACHE": "5", "ROOM_ACCESS_HISTORY_SIZE": "5"}
    found = effective_options({"access": RoomOptions()}, COMMANDS, Settings.from_env(environ))
    assert found["access"].variables == ("ROOM_ACCESS_HISTORY_SIZE",)


def test_the_names_of_all_variables() -> None:
    """Each type has a variable for each option, personal rooms only for those of the history."""
    names = list(variable_names(DECLARED))
    assert len(names) == len(set(names)) == (len(DECLARED) - 1) * len(RULES) + 2
    assert {"ROOM_USER_HISTORY_SIZE", "ROOM_CHANNEL_ARCHIVE_ANNOUNCE_MAX"} < set(names)


@given(
    st.dictionaries(
        st.one_of(
            st.sampled_from([*variable_names(DECLARED)]),
            st.from_regex(r"ROOM_[A-Z_]{0,30}", fullmatch=True),
            st.builds("ROOM_{}_{}".format, st.text("CHANEL_", max_size=9), st.sampled_from([*RULES]).map(str.upper)),
        ),
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20) | st.integers(-2, 2).map(str),
        max_size=4,
    )
)
def test_any_variables_are_used_or_refused(environ: dict[str, Any]) -> None:
    """Whatever the variables contain, the result has valid options, or one sentence says what is wrong."""
    try:
        found = options(**environ)
    except SettingsError as error:
        assert any(str(error).startswith(name) for name in environ)
    else:
        for one in found.values():
            assert one.history_size >= 0 and one.history_ttl > 0 and one.announce_max >= 0
