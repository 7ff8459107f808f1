"""Pages and files for browsers: the console and its login, ``/docs``, the JavaScript client, ``/`` and unknown paths.

``templates`` renders all pages, each with a content security policy. ``static_files`` serves files with an ETag, also
for the console. Only ``web.routes`` imports this package. It imports ``app_state``, ``console_session``, ``cors``,
``json_errors``, ``request_head``, ``wrong_keys`` and, for the path of the WebSocket endpoint, ``upgrade.handshake``.
"""
