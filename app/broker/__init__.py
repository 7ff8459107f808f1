"""The state that all nodes share: events with ids and history, presence, leases, claims and revocations.

``base`` contains the interface, ``memory`` the broker for a single process, ``redis`` the broker for several nodes.
May import ``errors``, and ``redis`` also ``backoff``. Other packages use the interface; ``workers`` selects the broker.
"""
