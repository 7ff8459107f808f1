"""``GET /api/v1/users/{user_id}`` and ``POST /api/v1/users/status``: the online status of users."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import TestClient
from docs_pages import snippet
from serving import WITH_KEY, GatewayClient, connect
from waiting import wait_until
from yarl import URL

from roomcast.broker.memory import MemoryBroker
from roomcast.gateway import user_status
from roomcast.web.app_state import GATEWAY

OFFLINE = {
    "user_id": 1,
    "online": False,
    "connections": 0,
    "rooms": [],
    "rooms_complete": True,
    "since": None,
    "last_seen": None,
}


async def status_of(client: TestClient, user_id: object = 1) -> dict[str, Any]:
    """Return the status of a user."""
    response = await client.get(f"/api/v1/users/{user_id}", headers=WITH_KEY)
    assert response.status == 200
    return await response.json()


async def statuses_of(client: TestClient, body: object) -> tuple[int, Any]:
    """Return the status and the body of a POST with ``body``, which is sent as it is if it is bytes."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    response = await client.post("/api/v1/users/status", data=data, headers=WITH_KEY)
    return response.status, await response.json()


def assert_is_now(text: str) -> None:
    """Fail unless ``text`` is a time of the last minute, in the form of timestamps."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) < 60


async def test_a_user_who_was_never_online(gateway_client: GatewayClient):
    """An unknown user is offline, which is not an error."""
    assert await status_of(await gateway_client()) == OFFLINE


async def test_a_user_online(gateway_client: GatewayClient):
    """The status has the number of connections and the rooms of all of them, sorted, once each."""
    client = await gateway_client()
    async with connect(client) as alice, connect(client) as tab, connect(client, 2, "bob") as bob:
        await alice.join("channel:2")
        await alice.join("channel:1")
        await tab.join("channel:1")
        await tab.join("project:1")
        await bob.join("task:1")
        found = await status_of(client)
        since = found.pop("since")
        assert_is_now(since)
        assert found == {
            "user_id": 1,
            "online": True,
            "connections": 2,
            "rooms": ["channel:1", "channel:2", "project:1"],
            "rooms_complete": True,
            "last_seen": None,
        }


def test_the_documentation_shows_every_member():
    """The example in docs/http-api.md has the members of a status, in their order."""
    assert list(json.loads(snippet("online status"))) == list(OFFLINE)


async def test_a_user_who_left(gateway_client: GatewayClient):
    """The status has when the user was last online."""
    client = await gateway_client()
    async with connect(client) as alice:
        await alice.join("channel:1")
    await wait_until(lambda: is_offline(client))
    found = await status_of(client)
    assert_is_now(found["last_seen"])
    assert found == {**OFFLINE, "last_seen": found["last_seen"]}


async def is_offline(client: TestClient) -> bool:
    """Return True if user 1 is offline."""
    return not (await status_of(client))["online"]


async def test_no_times_are_kept(gateway_client: GatewayClient):
    """With LAST_SEEN_TTL=0 the status has no times."""
    client = await gateway_client(last_seen_ttl=0)
    async with connect(client):
        found = await status_of(client)
        assert (found["online"], found["since"], found["last_seen"]) == (True, None, None)
    await wait_until(lambda: is_offline(client))
    assert await status_of(client) == OFFLINE


async def test_several_users(gateway_client: GatewayClient):
    """The statuses have the order of the ids. Ids are written as in tokens, and may repeat."""
    client = await gateway_client()
    async with connect(client, 7, "seven") as seven:
        await seven.join("channel:1")
        status, body = await statuses_of(client, {"user_ids": [8, "7", 7, "auth0|x", "007"]})
        assert status == 200
        assert [(one["user_id"], one["online"], one["rooms"]) for one in body["users"]] == [
            (8, False, []),
            (7, True, ["channel:1"]),
            (7, True, ["channel:1"]),
            ("auth0|x", False, []),
            ("007", False, []),
        ]
        assert body["users"][1] == await status_of(client, 7)
    assert await statuses_of(client, {"user_ids": []}) == (200, {"users": []})


async def test_a_thousand_users(gateway_client: GatewayClient):
    """1,000 ids are the most."""
    client = await gateway_client()
    async with connect(client, 999, "last") as last:
        await last.join("channel:1")
        status, body = await statuses_of(client, {"user_ids": list(range(1000))})
        assert status == 200
        assert [one["user_id"] for one in body["users"]] == list(range(1000))
        assert [one["user_id"] for one in body["users"] if one["rooms"] == ["channel:1"]] == [999]
    status, body = await statuses_of(client, {"user_ids": list(range(1001))})
    assert (status, body["code"]) == (422, "too_many_users")
    assert body["error"] == "The list has 1001 user ids; 1000 is the most at once."


@pytest.mark.parametrize(
    "body", [[], {}, "x", None, {"user_ids": 1}, {"user_ids": None}, {"user_ids": {}}, {"user_ids": [], "x": 1}]
)
async def test_a_body_of_another_form(gateway_client: GatewayClient, body: object):
    """The refusal shows the form."""
    client = await gateway_client()
    assert await statuses_of(client, body) == (
        422,
        {
            "error": 'The body must be an object with a list of user ids: {"user_ids": [1, "bob"]}.',
            "code": "bad_message",
        },
    )


async def test_a_body_that_is_not_json(gateway_client: GatewayClient):
    """It is refused as for other calls."""
    status, body = await statuses_of(await gateway_client(), b"user_ids=1")
    assert (status, body["code"]) == (400, "bad_json")


@pytest.mark.parametrize("id", ["", ".", "..", "a\0", "x" * 256, -1, 1.5, True, None, [1], {"id": 1}])
async def test_an_invalid_id_in_a_list(gateway_client: GatewayClient, id: object):
    """The refusal names the index and the form of an id."""
    status, body = await statuses_of(await gateway_client(), {"user_ids": [1, id]})
    assert (status, body["code"]) == (422, "bad_user")
    assert body["error"].startswith("user_ids[1] is ")
    assert body["error"].isprintable()


@pytest.mark.parametrize("segment", ["%2E", "a%00", "x" * 256, "%FF", "100%"])
async def test_an_invalid_id_in_the_path(gateway_client: GatewayClient, segment: str):
    """It is refused as for other calls."""
    client = await gateway_client()
    response = await client.get(URL(f"/api/v1/users/{segment}", encoded=True), headers=WITH_KEY)
    assert (response.status, (await response.json())["code"]) == (422, "bad_user")


async def test_a_user_whose_id_is_status(gateway_client: GatewayClient):
    """The path of the call for several users is also the path of a user."""
    client = await gateway_client()
    async with connect(client, "status", "someone"):
        assert (await status_of(client, "status"))["online"]


async def test_other_parameters(gateway_client: GatewayClient):
    """A query is refused."""
    client = await gateway_client()
    response = await client.get("/api/v1/users/1?rooms=no", headers=WITH_KEY)
    assert (response.status, (await response.json())["code"]) == (400, "bad_query")


class SilentBroker(MemoryBroker):
    """A broker whose node does not answer questions."""

    async def ask(self, questions: Any, timeout: float) -> dict[str, bytes]:
        """Return no answers."""
        return {}


async def test_a_node_that_does_not_answer(gateway_client: GatewayClient):
    """The status says that rooms are missing. Users without connections on the node are not affected."""
    client = await gateway_client(broker=SilentBroker())
    async with connect(client) as alice:
        await alice.join("channel:1")
        found = await status_of(client)
        assert (found["online"], found["connections"], found["rooms"]) == (True, 1, [])
        assert found["rooms_complete"] is False
        assert (await status_of(client, 2))["rooms_complete"] is True


async def test_an_answer_that_is_too_large(gateway_client: GatewayClient, monkeypatch: pytest.MonkeyPatch):
    """The rooms of the users that do not fit are missing, and the status says so."""
    monkeypatch.setattr(user_status, "MAX_ANSWER_BYTES", 25)
    client = await gateway_client()
    async with connect(client, 1) as one, connect(client, 2) as two, connect(client, 3):
        for room in ("channel:1", "channel:2"):
            await one.join(room)
            await two.join(room)
        _, body = await statuses_of(client, {"user_ids": [1, 2, 3]})
        assert [(len(one["rooms"]), one["rooms_complete"]) for one in body["users"]] == [
            (2, True),
            (0, False),
            (0, False),
        ]


async def test_without_the_broker(gateway_client: GatewayClient):
    """The call fails with 503."""
    client = await gateway_client()
    await client.app[GATEWAY].broker.close()
    response = await client.get("/api/v1/users/1", headers=WITH_KEY)
    assert (response.status, (await response.json())["code"]) == (503, "unavailable")
