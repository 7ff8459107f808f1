"""Tests of ``gateway.join_options``: the data of ``join_room``."""

from __future__ import annotations

from typing import Any

import pytest
from serving import Serve, connect

from roomcast.errors import Refused
from roomcast.gateway.join_options import PLAIN, JoinOptions, parse_options
from roomcast.protocol.messages import Request

FIELDS = ("since", "last", "presence")


def parse(data: dict[str, Any] | None) -> JoinOptions:
    """Parse the data of a join on a server that has all options."""
    return parse_options(Request("join_room", "channel:1", data), FIELDS)


def test_a_plain_join_has_the_options_of_all_plain_joins() -> None:
    """A join without data, or with empty data, asks for nothing, and creates no object."""
    assert parse(None) is PLAIN
    assert parse({}) is PLAIN
    assert JoinOptions(None, 0, False) == PLAIN


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ({"since": None}, JoinOptions("")),
        ({"since": ""}, JoinOptions("")),
        ({"since": "a-1"}, JoinOptions("a-1")),
        ({"last": 1}, JoinOptions(None, 1)),
        ({"last": 200}, JoinOptions(None, 200)),
        ({"presence": True}, JoinOptions(presence=True)),
        ({"presence": False}, JoinOptions()),
        ({"presence": True, "last": 50, "since": "a-1"}, JoinOptions("a-1", 50, True)),
        ({"last": 50, "since": None}, JoinOptions("", 50)),
    ],
)
def test_any_combination_of_options(data: dict[str, Any], options: JoinOptions) -> None:
    """Each option is independent of the others."""
    assert parse(data) == options


@pytest.mark.parametrize("last", [0, -1, 201, 2**70, True, False, None, "5", 5.0, [5], {}])
def test_a_wrong_last(last: Any) -> None:
    """Only whole numbers from 1 to 200 are accepted."""
    with pytest.raises(Refused, match=r"^data\.last: give a number of events from 1 to 200\.$") as refused:
        parse({"since": "a-1", "last": last})
    assert refused.value.code == "invalid_data"
    expected = "Not a whole number in this range; give a number of events from 1 to 200."
    assert refused.value.fields == {"last": [expected]}


@pytest.mark.parametrize("presence", [None, 0, 1, "true", [], {}])
def test_a_wrong_presence(presence: Any) -> None:
    """Only true and false are accepted."""
    with pytest.raises(Refused, match=r"^data\.presence: give true if you want the members") as refused:
        parse({"presence": presence})
    assert refused.value.fields is not None and list(refused.value.fields) == ["presence"]


@pytest.mark.parametrize("since", [0, 5, True, [], {}])
def test_a_wrong_since(since: Any) -> None:
    """Only strings and null are accepted."""
    with pytest.raises(Refused, match=r"^data\.since: give the id of the last event you saw, or null\.$"):
        parse({"since": since, "last": 5})


async def test_a_refused_option(serve: Serve) -> None:
    """The client gets ``invalid_data`` and does not join."""
    server = await serve()
    async with connect(server) as alice:
        for data in ({"till": 1}, {"since": 7}):
            await alice.send("join_room", "channel:1", data, id=1)
            error = await alice.recv_type("error")
            assert (error["id"], error["data"]["code"]) == (1, "invalid_data")
            assert list(error["data"]["fields"]) == list(data)
        assert not server.gateway.delivery.rooms
