"""One client's socket: WebSocket framing, heartbeat, back-pressure and the closing handshake.

This package implements RFC 6455 and does not depend on rooms, users or JSON. It imports ``errors``, ``protocol.frames``
and ``fastpath``. The gateway extends ``Connection`` and decides what a message means.
"""
