"""The connections that one user holds, as small as they can be kept: most users have one, few have many."""

from __future__ import annotations

#: Up to this many connections of one user are a tuple, which is smaller than a set: 72 bytes for two against 232.
_FEW = 4

#: One connection, or a few, or many. Never empty; only ``plus`` and ``minus`` make new ones.
Held = int | tuple[int, ...] | set[int]


def has(held: Held, connection: int) -> bool:
    """Whether ``connection`` is one of ``held``."""
    return held == connection if isinstance(held, int) else connection in held


def plus(held: Held, connection: int) -> Held:
    """Return ``held`` with ``connection`` in it; a set is changed in place."""
    if has(held, connection):
        return held
    if isinstance(held, set):
        held.add(connection)
        return held
    few = (held,) if isinstance(held, int) else held
    return (*few, connection) if len(few) < _FEW else {*few, connection}


def minus(held: Held, connection: int) -> Held | None:
    """Return ``held`` without ``connection``, or None when nothing is left; a set is changed in place."""
    if not has(held, connection):
        return held
    if isinstance(held, int):
        return None
    if isinstance(held, set):
        held.discard(connection)
        return held or None
    rest = tuple(other for other in held if other != connection)
    return rest[0] if len(rest) == 1 else rest


def count(held: Held) -> int:
    """How many connections ``held`` are."""
    return 1 if isinstance(held, int) else len(held)


def each(held: Held) -> tuple[int, ...]:
    """The connections themselves."""
    return (held,) if isinstance(held, int) else tuple(held)
