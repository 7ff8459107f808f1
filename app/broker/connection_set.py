"""Compact, non-empty sets of connection ids.

The lease and presence tables keep one set per user (and room), and most of them have one element. An int takes no extra
memory, a two-element tuple 72 bytes, a set 232. Use the functions below; do not build a ConnectionSet by hand. Import
the module, not its functions, whose names are too general.
"""

from __future__ import annotations

#: One id, up to ``_MAX_TUPLE`` ids, or more.
ConnectionSet = int | tuple[int, ...] | set[int]
_MAX_TUPLE = 4


def contains(connections: ConnectionSet, connection: int) -> bool:
    """Return True if ``connection`` is in ``connections``."""
    return connections == connection if isinstance(connections, int) else connection in connections


def add(connections: ConnectionSet, connection: int) -> ConnectionSet:
    """Return ``connections`` with ``connection`` added. May modify a ``set`` in place."""
    if contains(connections, connection):
        return connections
    if isinstance(connections, set):
        connections.add(connection)
        return connections
    few = to_tuple(connections)
    return (*few, connection) if len(few) < _MAX_TUPLE else {*few, connection}


def remove(connections: ConnectionSet, connection: int) -> ConnectionSet | None:
    """Return ``connections`` without ``connection``, or None if that leaves none. May modify a ``set`` in place."""
    if not contains(connections, connection):
        return connections
    if isinstance(connections, int):
        return None
    if isinstance(connections, set):
        connections.discard(connection)
        return connections or None
    rest = tuple(other for other in connections if other != connection)
    return rest[0] if len(rest) == 1 else rest


def size(connections: ConnectionSet) -> int:
    """Return the number of ids."""
    return 1 if isinstance(connections, int) else len(connections)


def to_tuple(connections: ConnectionSet) -> tuple[int, ...]:
    """Return the ids as a tuple."""
    return (connections,) if isinstance(connections, int) else tuple(connections)
