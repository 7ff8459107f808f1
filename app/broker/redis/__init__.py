"""The broker on Redis or Valkey, for several nodes: a single server, Sentinel, or Cluster.

``connection`` to ``router`` send commands, ``subscriptions`` to ``receiver`` receive events, ``publisher``, ``leases``
and ``presence`` use both, and ``broker`` puts them together. The Lua scripts are in ``lua``.
May import ``errors``, ``backoff`` and the rest of ``broker``. No other package knows Redis; ``workers`` and ``cli``
import ``broker``, ``options``, ``urls`` and ``inspection``.
"""
