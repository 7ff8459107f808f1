"""The WebSocket handshake: ``acceptor`` accepts connections, ``handshake`` checks, authenticates and upgrades them.

With TLS, ``tls_connection`` does the TLS handshake first.

Speed matters here: after a restart all clients reconnect at once, each with a handshake. ``web.server`` creates the
acceptor and ``web.routes`` adds the route. ``pages``, ``cli`` and ``testing`` import the path of the endpoint. From
``web`` the package imports only ``api.ticket_limit``, ``app_state``, ``client_address``, ``connection_limit``,
``failure_logs``, ``json_errors``, ``origins``, ``request_head`` and ``unread_responses``.
"""
