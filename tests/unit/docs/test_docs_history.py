"""The example of the command ``history`` in docs/protocol.md."""

from __future__ import annotations

import json
from typing import Any

from docs_pages import snippet
from serving import Serve, connect

ROOM = "channel:456"


def without_times(frame: dict[str, Any]) -> dict[str, Any]:
    """Return the frame without its timestamp and those of its events."""
    events = [
        {name: value for name, value in event.items() if name != "timestamp"} for event in frame["data"]["events"]
    ]
    return {**frame, "data": {**frame["data"], "events": events}, "timestamp": ""}


async def test_the_example(serve: Serve) -> None:
    """The server sends the reply of the example to its request."""
    server = await serve()
    async with connect(server, 12345, "alice") as alice:
        await alice.join(ROOM)
        for _ in range(9):
            await alice.send("send_message", ROOM, {"content": "Hello everyone!"}, id=1)
            last = (await alice.recv_type("sent"))["data"]["event_id"]
        await alice.settled()
        epoch = last.rpartition("-")[0]
        await alice.socket.send(snippet("history request").replace("k3x9q2ab1", epoch))
        expected = json.loads(snippet("history").replace("k3x9q2ab1", epoch))
        reply = await alice.recv()
        assert without_times(reply) == without_times(expected)
        assert list(reply) == list(expected)
        assert list(reply["data"]["events"][0]) == list(expected["data"]["events"][0])
