"""What the peers share: the tokens, join_room and send_message of roomcast.

Each is run as ``python NAME.py PORT`` with ``JWT_SECRET`` and ``REDIS_URL`` in the environment.
"""

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

import jwt

PATH = "/api/v1/ws/connect"
SECRET = os.environ["JWT_SECRET"]
REDIS_URL = os.environ["REDIS_URL"]
PORT = int(sys.argv[1])


def user_of(token: str) -> dict[str, Any]:
    """Verify a token and return its claims."""
    claims: dict[str, Any] = jwt.decode(token, SECRET, algorithms=["HS256"])
    return claims


def joined(room: str) -> dict[str, Any]:
    """Return the reply to a join_room."""
    return {"type": "joined_room", "room": room, "data": {"message": f"Joined room {room}"}, "timestamp": _now()}


def message(user: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Return the event that a send_message of ``user`` publishes."""
    data = {
        "content": request["data"]["content"],
        "username": user["username"],
        "user_id": user["user_id"],
        "metadata": request["data"].get("metadata"),
    }
    return {"type": "message", "room": request["room"], "data": data, "sender": user["username"], "timestamp": _now()}


def dumps(document: dict[str, Any]) -> str:
    """Return ``document`` as JSON."""
    return json.dumps(document)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
