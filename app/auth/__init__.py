"""Authentication and room access: who a client is, whether its token was revoked, and which rooms it may join.

``identity`` verifies tokens, ``revocation`` asks the broker for revoked tokens, ``room_access`` is the built-in rule of
``ROOM_ACCESS``, ``access_url`` asks its URL. The package imports ``broker.base``, ``errors``, ``failure_log``,
``protocol.user_id``, ``room_patterns``, ``settings`` and ``signing_keys``. The plugin API, ``gateway``, ``web``,
``cli`` and ``testing`` import it.
"""
