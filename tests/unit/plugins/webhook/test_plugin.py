"""The plugin on a server: its hooks, its routes and its metrics, on the embedded broker."""

from __future__ import annotations

from typing import Any

import pytest
from serving import Serve, answer, call, connect
from waiting import wait_until
from webhook_receiver import SECRET, WebhookReceiver

from roomcast.registry import load
from roomcast.settings import Settings


def variables(receiver: WebhookReceiver, **more: str) -> dict[str, str]:
    """Return the environment of a server with webhooks."""
    return {"WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": SECRET, **more}


async def test_a_visit(serve: Serve, webhook_receiver: WebhookReceiver) -> None:
    """A user comes, joins, publishes and goes: each is reported, the departure after the grace."""
    server = await serve(plugin_variables=variables(webhook_receiver), presence_grace=0.2)
    async with connect(server, 7) as alice:
        await alice.join("channel:1")
        await webhook_receiver.until(lambda: len(webhook_receiver.told()) == 2)
        assert webhook_receiver.told() == {7: "user.online", "channel:1": "room.occupied"}
        await alice.send("send_message", "channel:1", {"content": "Hello"}, id="1")
        sent = await alice.recv_type("sent")
        await webhook_receiver.until(webhook_receiver.published)
    [event] = [one for one in webhook_receiver.events if one["type"] == "event.published"]
    assert event["data"]["id"] == sent["data"]["event_id"]
    assert event["data"]["data"]["content"] == "Hello"
    gone = {7: "user.offline", "channel:1": "room.vacated"}
    await webhook_receiver.until(lambda: webhook_receiver.told() == gone)


async def test_only_selected_events(serve: Serve, webhook_receiver: WebhookReceiver) -> None:
    """A type that is left out has no hook."""
    chosen = variables(webhook_receiver, WEBHOOK_EVENTS="room.occupied")
    server = await serve(plugin_variables=chosen)
    async with connect(server, 7) as alice:
        await alice.join("channel:1")
        await alice.send("send_message", "channel:1", {"content": "Hello"}, id="1")
        await webhook_receiver.until(lambda: webhook_receiver.events)
    assert [event["type"] for event in webhook_receiver.events] == ["room.occupied"]


@pytest.mark.parametrize(
    ("environment", "kinds"),
    [
        ({}, set()),
        (
            {"WEBHOOK_URL": "http://localhost/", "WEBHOOK_SECRET": SECRET, "WEBHOOK_EVENTS": "user.offline"},
            {"on_online"},
        ),
    ],
)
def test_hooks_that_are_not_needed_are_not_active(environment: dict[str, str], kinds: set[str]) -> None:
    """Without a URL there are no hooks, and no event has hooks."""
    registry = load()
    registry.activate(Settings(jwt_secret="x" * 32, plugin_variables=environment))
    active = {hook.kind for hook in registry.hooks if hook.plugin == "webhook"}
    assert active == kinds | ({"on_offline"} if kinds else set())
    assert not registry.event("message").has_hooks


async def test_dead_letters(serve: Serve, webhook_receiver: WebhookReceiver) -> None:
    """Dead letters are listed, retried and deleted with an API key, and not without one."""
    webhook_receiver.answer = lambda events: 410 if any(e["type"] == "event.published" for e in events) else None
    chosen = variables(webhook_receiver, WEBHOOK_EVENTS="event.published")
    server = await serve(plugin_variables=chosen)
    async with connect(server, 7) as alice:
        await alice.join("channel:1")
        await alice.send("send_message", "channel:1", {"content": "Hello"}, id="1")
        sent = await alice.recv_type("sent")
    path = "/plugins/webhook/dead-letters"
    found: dict[str, Any] = {}

    async def is_listed() -> bool:
        nonlocal found
        status, found = await call(server, "GET", path)
        assert status == 200
        return bool(found["dead_letters"])

    await wait_until(is_listed)
    [letter] = found["dead_letters"]
    assert found["total"] == 1
    assert letter["event"]["id"] == sent["data"]["event_id"]
    assert letter["reason"] == "it answered 410"
    assert (await call(server, "GET", path, key=None))[0] == 401
    assert (await call(server, "POST", f"{path}/delete", key=None))[0] == 401
    for wrong in ({"ids": ["x"]}, {"ids": 1}, [1]):
        assert (await call(server, "POST", f"{path}/delete", json=wrong))[0] == 422
    for query in ("after=x", "limit=0", "limit=x"):
        assert (await call(server, "GET", f"{path}?{query}"))[0] == 422
    assert await call(server, "POST", f"{path}/retry", json={"ids": ["1-0"]}) == (200, {"retried": 0})
    assert await call(server, "POST", f"{path}/retry") == (200, {"retried": 1})
    assert (await call(server, "GET", path))[1] == {"dead_letters": [], "total": 0}
    assert await call(server, "POST", f"{path}/delete", json={}) == (200, {"deleted": 0})
    async with answer(server, "GET", "/metrics", key=None) as response:
        assert "roomcast_webhook_consumer 1" in await response.text()
