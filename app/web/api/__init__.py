"""The HTTP API for backends, tickets for browsers, and the routes of plugins.

``events``, ``rooms`` and ``users`` handle the requests of backends. ``auth`` checks the key, and ``params`` reads path,
query and body. ``batch`` validates events, and ``idempotency`` handles repeated requests. ``tickets`` is for browsers.
``web.routes`` and ``upgrade`` import this package. From ``web`` it imports ``app_state``, ``console_session``,
``cors``, ``json_errors``, ``origins`` and ``request_head``.
"""
