"""A receiver of webhooks in a process of its own, which appends the events that it accepts to a file.

Usage: python webhook_log_receiver.py PORT FILE, with the secret in ``WEBHOOK_SECRET``. Each line of the file is the
time, the ``webhook-id`` and the events of one request, written before the answer.
"""

from __future__ import annotations

import os
import sys
import time

import orjson
from aiohttp import web
from standardwebhooks import Webhook

VERIFIER = Webhook(os.environ["WEBHOOK_SECRET"])
FILE = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


async def receive(request: web.Request) -> web.Response:
    """Verify and record a request."""
    body = await request.text()
    VERIFIER.verify(body, dict(request.headers))
    line = [time.time(), request.headers["webhook-id"], orjson.loads(body)]
    os.write(FILE, orjson.dumps(line) + b"\n")
    return web.Response(status=204)


app = web.Application()
app.add_routes([web.post("/webhooks", receive)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
