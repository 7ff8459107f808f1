"""The HTTP API for backends, tickets for browsers, and the routes of plugins.

``events``, ``rooms`` and ``users`` handle the requests of backends. ``auth`` checks the key, and ``params`` reads path,
query and body. ``batch`` validates events, and ``idempotency`` handles repeated requests. ``tickets`` is for browsers.
``web.routes``, ``upgrade`` and ``ops`` import this package. From ``web`` it imports ``app_state``,
``client_address``, ``connection_limit``, ``console_session``, ``cors``, ``failure_logs``, ``json_errors``, ``origins``,
``request_head`` and ``wrong_keys``.
"""
