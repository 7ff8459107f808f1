"""Tests of ``plugin_settings``: declarations, values, and what is wrong with them."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from marshmallow import Schema
from serving import Serve, connect

from roomcast import Context, Plugin, Service, setting
from roomcast.errors import PluginError, SettingsError
from roomcast.plugin_settings import declared_settings
from roomcast.registry import LoadedPlugin, Registry


@dataclass(frozen=True)
class PollsSettings:
    url: str = setting("URL of the archive")
    token: str = setting("Token for the archive", secret=True)
    max_options: int = setting("How many options a poll may have", default=10, minimum=2, maximum=100)
    pause: float = setting("Pause between two polls", default=1.5, unit="s", above=0)
    is_open: bool = setting("Let everyone vote", default=False)
    languages: tuple[str, ...] = setting("Languages", default=("en",))
    mode: str = setting("How votes are shown", default="live", choices=("live", "late"))
    owner: str | None = setting("Name of the owner", default=None)
    size: int | None = setting("Size", default=None)

    def __post_init__(self) -> None:
        if self.mode == "late" and self.is_open:
            raise ValueError("POLLS_MODE is late and POLLS_IS_OPEN is true; change one of them.")


REQUIRED = {"POLLS_URL": "https://archive.example.com", "POLLS_TOKEN": "t0ken"}
DECLARED = declared_settings("polls", PollsSettings)


def test_the_defaults() -> None:
    """Without variables, the fields have their defaults."""
    assert DECLARED.read(REQUIRED) == PollsSettings(*REQUIRED.values())


def test_the_values() -> None:
    """Each variable is read as the type of its field."""
    given = {
        "POLLS_MAX_OPTIONS": "20",
        "POLLS_PAUSE": "2",
        "POLLS_IS_OPEN": "true",
        "POLLS_LANGUAGES": "de, fr",
        "POLLS_MODE": "LIVE",
        "POLLS_OWNER": " bob ",
        "POLLS_SIZE": "3",
    }
    assert DECLARED.read(REQUIRED | given) == PollsSettings(
        *REQUIRED.values(), 20, 2.0, True, ("de", "fr"), "live", "bob", 3
    )
    assert DECLARED.read(REQUIRED | dict.fromkeys(given, "")) == DECLARED.read(REQUIRED)


def test_a_secret_in_a_file(tmp_path: Path) -> None:
    """The variable of a secret may name a file; others may not."""
    (tmp_path / "token").write_text("from the file\n")
    path = str(tmp_path / "token")
    given = {"POLLS_URL": "x", "POLLS_TOKEN_FILE": path, "POLLS_OWNER_FILE": path}
    found = DECLARED.read(given)
    assert (found.token, found.owner) == ("from the file", None)
    with pytest.raises(SettingsError, match="POLLS_TOKEN and POLLS_TOKEN_FILE are both set"):
        DECLARED.read(REQUIRED | given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"POLLS_URL": ""}, "POLLS_URL is not set, and plugin 'polls' needs it: URL of the archive."),
        (
            {"POLLS_MAX_OPTIONS": "x"},
            "POLLS_MAX_OPTIONS is 'x'; it must be a whole number of at least 2 and at most 100.",
        ),
        (
            {"POLLS_MAX_OPTIONS": "1"},
            "POLLS_MAX_OPTIONS is 1; it must be a whole number of at least 2 and at most 100.",
        ),
        ({"POLLS_PAUSE": "0"}, "POLLS_PAUSE is 0.0; it must be a number above 0."),
        ({"POLLS_PAUSE": "nan"}, "POLLS_PAUSE is 'nan'; it must be a number above 0."),
        ({"POLLS_IS_OPEN": "maybe"}, "POLLS_IS_OPEN is 'maybe'; it must be true or false."),
        ({"POLLS_MODE": "never"}, "POLLS_MODE is 'never'; it must be live or late."),
        (
            {"POLLS_MODE": "late", "POLLS_IS_OPEN": "1"},
            "The settings of plugin 'polls' are wrong: POLLS_MODE is late and POLLS_IS_OPEN is true; "
            "change one of them.",
        ),
    ],
)
def test_wrong_values(given: dict[str, str], sentence: str) -> None:
    """The error is a sentence that names the variable."""
    with pytest.raises(SettingsError) as caught:
        DECLARED.read(REQUIRED | given)
    assert str(caught.value) == sentence


def test_a_risky_value() -> None:
    """A warning of the class is given to the caller, and is no error otherwise, whatever filters Python has."""

    @dataclass(frozen=True)
    class Risky:
        pin: str = setting("A PIN")

        def __post_init__(self) -> None:
            if len(self.pin) < 5:
                warnings.warn("RISKY_PIN is short.", stacklevel=2)

    declared, found = declared_settings("risky", Risky), []
    assert declared.read({"RISKY_PIN": "123"}) == declared.read({"RISKY_PIN": "123"}, found.append)
    declared.read({"RISKY_PIN": "12345"}, found.append)
    assert found == ["RISKY_PIN is short."]


def test_a_secret_is_never_shown() -> None:
    """Neither its value nor its default is in an error, in a description or in the repr of the settings."""

    @dataclass(frozen=True)
    class Secrets:
        pin: int = setting("A PIN", default=12345, minimum=0, secret=True)

    (one,) = declared_settings("bank", Secrets).settings
    assert one.describe().default == ""
    assert one.rule.show(6789) == "***"
    assert "12345" not in repr(Secrets())


class Plain:
    size: int = 1


@dataclass(frozen=True)
class WithoutSetting:
    size: int = field(default=1)


@dataclass(frozen=True)
class WrongType:
    size: dict[str, int] = setting("Size", default=None)  # noqa: RUF009


@dataclass(frozen=True)
class TwoTypes:
    size: int | str = setting("Size", default=1)


@dataclass(frozen=True)
class WrongDefault:
    size: int = setting("Size", default="1")


@dataclass(frozen=True)
class BoolForInt:
    size: int = setting("Size", default=True)


@dataclass(frozen=True)
class OutOfBounds:
    size: int = setting("Size", default=1, minimum=2)


@dataclass(frozen=True)
class NotOptional:
    size: int = setting("Size", default=None)


@dataclass(frozen=True)
class UpperCase:
    Size: int = setting("Size", default=1)


@dataclass(frozen=True)
class UnknownName:
    size: Undeclared = setting("Size", default=1)  # type: ignore[name-defined]  # noqa: F821, RUF009


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Plain, r"must be a class with @dataclass\(frozen=True\)"),
        (PollsSettings("u", "t"), r"must be a class with @dataclass\(frozen=True\)"),
        (WithoutSetting, "setting 'size' of plugin 'polls' must be declared with setting"),
        (WrongType, r"has the type dict\[str, int\]; it must be str, int, float, bool or tuple"),
        (TwoTypes, r"has the type int \| str; it must be"),
        (WrongDefault, "has the default '1'; it must be a whole number"),
        (BoolForInt, "has the default True; it must be a whole number"),
        (OutOfBounds, "has the default 1; it must be a whole number of at least 2"),
        (NotOptional, r"has the default None, but not the type `int \| None`"),
        (UpperCase, "must have a lower-case name"),
        (UnknownName, "have an annotation with an unknown name: name 'Undeclared' is not defined"),
    ],
)
def test_wrong_declarations(cls: Any, words: str) -> None:
    """A class that cannot be used is refused when the plugin is created."""
    with pytest.raises(PluginError, match=words):
        Plugin("polls", settings=cls)


@dataclass(frozen=True)
class Size:
    size: int = setting("Size", default=1)


@dataclass(frozen=True)
class OptionSize:
    option_size: int = setting("Size", default=1)


@dataclass(frozen=True)
class FileSize:
    secret: str = setting("Secret", default="x", secret=True)


@dataclass(frozen=True)
class Secret:
    secret_file: str = setting("File", default="x")


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            Plugin("polls", settings=OptionSize),
            Plugin("polls_option", settings=Size),
            "the variable POLLS_OPTION_SIZE, which belongs to package 'a', entry point 'polls'",
        ),
        (Plugin("a"), Plugin("history", settings=Size), "HISTORY_SIZE, which belongs to roomcast itself"),
        (Plugin("a"), Plugin("room", settings=Size), "ROOM_SIZE, which belongs to the options of room types"),
        (Plugin("a"), Plugin("jwt", settings=Secret), "JWT_SECRET_FILE, which belongs to roomcast itself"),
        (Plugin("a"), Plugin("jwt", settings=FileSize), "JWT_SECRET, which belongs to roomcast itself"),
    ],
    ids=["plugin", "core", "room", "file of the core", "secret of the core"],
)
def test_a_variable_of_two_settings(first: Plugin, second: Plugin, words: str) -> None:
    """Two settings with one variable are refused."""
    with pytest.raises(PluginError, match=words):
        Registry([LoadedPlugin(one, "a", one.name) for one in (first, second)])


class Lab:
    """A plugin whose lifespan and command keep their settings."""

    def __init__(self) -> None:
        self.seen: list[PollsSettings] = []
        self.plugin = Plugin("polls", settings=PollsSettings)
        self.plugin.command("poll.show", Schema, access="anyone")(self.show)

        @self.plugin.lifespan
        async def lifespan(service: Service[PollsSettings]) -> AsyncIterator[None]:
            self.seen.append(service.settings)
            yield

    async def show(self, ctx: Context[PollsSettings], data: dict[str, Any]) -> dict[str, Any]:
        """Return a setting."""
        return {"max_options": ctx.settings.max_options}


async def test_a_plugin_gets_its_settings(serve: Serve) -> None:
    """Lifespans and commands get the values of the variables, and a plugin without settings an explanation."""
    lab = Lab()
    server = await serve(plugins=[lab.plugin], plugin_variables=REQUIRED | {"POLLS_MAX_OPTIONS": "7"})
    assert lab.seen == [DECLARED.read(REQUIRED | {"POLLS_MAX_OPTIONS": "7"})]
    async with connect(server) as alice:
        await alice.send("poll.show", id=1)
        assert (await alice.recv_type("reply"))["data"] == {"max_options": 7}
    with pytest.raises(RuntimeError, match="plugin 'chat' declares no settings"):
        _ = server.gateway.services["chat"].settings


async def test_wrong_settings_stop_the_start(serve: Serve) -> None:
    """A server with a wrong variable does not start."""
    with pytest.raises(SettingsError, match="POLLS_URL is not set"):
        await serve(plugins=[Lab().plugin])
