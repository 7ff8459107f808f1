"""How a client gets a WebSocket: ``acceptor`` takes connections, ``handshake`` checks, authenticates and upgrades them.

Speed matters here: a crowd that reconnects after a restart costs one handshake for each client. ``web.server`` creates
the acceptor and ``web.routes`` adds the route; ``cli`` and ``testing`` import the path of the endpoint. The package
imports from ``web`` only ``app_keys``, ``request_head`` and ``api.ticket_limit``.
"""
