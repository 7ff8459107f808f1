"""One client's socket: WebSocket framing, heartbeat, back-pressure and the closing handshake.

This package knows RFC 6455 and nothing about rooms, users or JSON. It imports ``errors``, ``protocol.frames`` and
``fastpath``. The gateway extends ``Connection`` and decides what a message means.
"""
