"""Django Channels with channels_redis. ``LAYER`` is pubsub or queue, ``SERVER`` uvicorn or daphne."""

import json
import os
from typing import Any
from urllib.parse import parse_qs

import django
from common import PATH, PORT, REDIS_URL, dumps, joined, message, user_of
from django.conf import settings

BACKENDS = {
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "queue": "channels_redis.core.RedisChannelLayer",
}
# By default redis-py's pool refuses more than 100 connections, and reads of more than 5 s, which the queue needs.
host = {"address": REDIS_URL, "max_connections": 10_000, "socket_timeout": None}
layer = {"BACKEND": BACKENDS[os.environ.get("LAYER", "pubsub")], "CONFIG": {"hosts": [host], "capacity": 100_000}}
settings.configure(
    SECRET_KEY="of no use here", INSTALLED_APPS=["channels"], CHANNEL_LAYERS={"default": layer}, ALLOWED_HOSTS=["*"]
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class Member(AsyncWebsocketConsumer):
    """One connection."""

    async def connect(self) -> None:
        """Accept the connection if its token is valid."""
        self.user = user_of(parse_qs(self.scope["query_string"].decode())["token"][0])
        self.joined: set[str] = set()
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Join a room, or send to its group."""
        request = json.loads(text_data or "")
        group = request["room"].replace(":", ".")  # group names cannot contain a colon
        if request["type"] == "join_room":
            await self.channel_layer.group_add(group, self.channel_name)
            self.joined.add(group)
            await self.send(dumps(joined(request["room"])))
        else:
            await self.channel_layer.group_send(
                group, {"type": "room.message", "text": dumps(message(self.user, request))}
            )

    async def room_message(self, event: dict[str, Any]) -> None:
        """Send a message of a group to the client."""
        await self.send(event["text"])

    async def disconnect(self, code: int) -> None:
        """Leave all rooms."""
        for group in self.joined:
            await self.channel_layer.group_discard(group, self.channel_name)


application = ProtocolTypeRouter({"websocket": URLRouter([path(PATH.removeprefix("/"), Member.as_asgi())])})

if __name__ == "__main__":
    if os.environ.get("SERVER", "uvicorn") == "daphne":
        from daphne.server import Server

        Server(application, endpoints=[f"tcp:port={PORT}:interface=127.0.0.1"], signal_handlers=False).run()
    else:
        import uvicorn

        uvicorn.run(
            application,
            host="127.0.0.1",
            port=PORT,
            log_level="error",
            loop="uvloop",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            lifespan="off",
        )
