"""The broker on Redis or Valkey, for several nodes: a single server, Sentinel, or Cluster.

``router`` sends commands and scripts, ``receiver`` receives events. ``publisher``, ``leases`` and ``presence`` use the
router, and ``broker`` puts all of them together. The Lua scripts are in ``lua``, the names of all keys in ``keys``.
May import ``errors``, ``backoff`` and the rest of ``broker``. No other package uses Redis; ``workers`` and ``cli``
import ``broker``, ``options``, ``urls`` and ``inspection``.
"""
