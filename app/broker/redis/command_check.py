"""Finds the commands that a server refuses: missing rights, and states such as a full memory or disk.

The check sends each command that a node uses once, in a form that changes nothing, to a key that does not exist. Redis
decides whether it accepts a command before it executes it. So the check notices every reason for which Redis refuses
writes, but writes nothing itself: nothing is appended to a file or sent to a replica. It takes one round trip, and
about 0.1 ms of the server's time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from .connection import Part, RedisConnection, ReplyError
from .keys import Keys

#: The name of a command, and of its subcommand after a space; and the arguments.
Command = tuple[str, *tuple[Part, ...]]
#: Commands with a key, in a form that changes nothing if the key does not exist. Redis executes none of those whose
#: arguments are wrong.
_WITH_KEY: Final[tuple[Command, ...]] = (
    ("DEL",),
    ("EXISTS",),
    ("GET",),
    ("GETDEL",),
    ("HDEL", "f"),
    ("HEXISTS", "f"),
    ("HGET", "f"),
    ("HGETALL",),
    ("HLEN",),
    ("HMGET", "f"),
    ("HSCAN", 0),
    ("HSET", "f", "v", "a field without a value"),
    ("MGET",),
    ("PEXPIRE", 1),
    ("PEXPIREAT", 1),
    ("PTTL",),
    ("SET", "", "XX", "PX", 1),
    ("XACK", "g", "0-1"),
    ("XADD", "NOMKSTREAM", "*", "f", "v"),
    ("XDEL", "0-1"),
    ("XGROUP CREATE", "g", "$"),
    ("XINFO STREAM",),
    ("XLEN",),
    ("XRANGE", "-", "+", "COUNT", 1),
    ("XREVRANGE", "+", "-", "COUNT", 1),
    ("XTRIM", "MINID", 0),
    ("ZADD", "XX", 1, "m"),
    ("ZCARD",),
    ("ZCOUNT", 0, "+inf"),
    ("ZRANGE", 0, 0),
    ("ZRANGEBYSCORE", "-inf", 0),
    ("ZREM", "m"),
    ("ZREMRANGEBYSCORE", "-inf", 0),
    ("ZREVRANGE", 0, 0),
    ("ZSCORE", "m"),
)
_NO_SHA: Final = "0" * 40
#: Codes of errors that do not mean that the command is refused: of commands with wrong arguments, of a script or
#: consumer group that does not exist, and of slots that are moving.
_HARMLESS: Final = frozenset({"ERR", "NOGROUP", "NOSCRIPT", "WRONGTYPE", "MOVED", "ASK", "TRYAGAIN"})
_UNKNOWN: Final = re.compile(r"ERR unknown (sub)?command", re.IGNORECASE)
#: The end of the error for a command that the user may run, but not on this key or channel.
_OF_PATTERN: Final = re.compile(r"\b(key|channel)s?(?: used as arguments)?\.?$")


class Refusal(NamedTuple):
    """A command that a server refuses. ``command`` is its name in ACL rules, such as ``script|load``."""

    command: str
    error: ReplyError

    @property
    def is_unknown(self) -> bool:
        """True if the server has no such command, or it is disabled."""
        return _UNKNOWN.match(str(self.error)) is not None

    def missing_rule(self, prefix: str) -> str | None:
        """Return the ACL rule that allows the command, or None if it is not refused for missing rights."""
        if self.error.code != "NOPERM":
            return None
        pattern = _OF_PATTERN.search(str(self.error))
        return f"+{self.command}" if pattern is None else f"{'&' if pattern[1] == 'channel' else '~'}*{prefix}:*"


def _commands(keys: Keys, key: str, db: int, *, is_cluster: bool, has_rooms: bool) -> Iterable[Command]:
    """Yield the commands that a node uses. ``has_rooms`` is True if the server stores ``keys.rooms``."""
    echo = keys.echo_channel("check")
    yield ("PING",)
    yield ("INFO", "server")
    yield ("CLIENT TRACKING", "ON", "OPTIN")  # as it is already
    yield ("TIME",)
    yield ("SCRIPT LOAD", "return 1")
    yield ("EVALSHA", _NO_SHA, 1, key)
    if db:
        yield ("SELECT", db)
    for command in _WITH_KEY:
        yield (command[0], key, *command[1:])
    if has_rooms:
        yield ("ZCARD", keys.rooms)
    yield ("XREADGROUP", "GROUP", "g", "c", "STREAMS", key, ">")
    yield ("PUBLISH", echo, "")
    yield ("SUBSCRIBE", echo)
    yield ("UNSUBSCRIBE", echo)
    if is_cluster:
        yield ("CLUSTER SLOTS",)
        yield ("SPUBLISH", key, "")
        yield ("SSUBSCRIBE", key)
        yield ("SUNSUBSCRIBE", key)
    else:
        yield ("PUBLISH", key, "")
        yield ("SUBSCRIBE", key)
        yield ("UNSUBSCRIBE", key)


async def find_refusals(
    connection: RedisConnection,
    keys: Keys,
    db: int = 0,
    *,
    is_cluster: bool = False,
    is_local: Callable[[bytes], bool] = lambda key: True,
) -> list[Refusal]:
    """Return the commands that the server of ``connection`` refuses.

    ``is_local`` tells whether the server stores a key. Raises ``Unavailable`` if the server does not answer.
    """
    key = next((key for key in map(keys.check, range(2**17)) if is_local(key.encode())), None)
    if key is None:  # it stores no slots any more
        return []
    has_rooms = is_local(keys.rooms.encode())
    commands = list(_commands(keys, key, db, is_cluster=is_cluster, has_rooms=has_rooms))
    answers = await connection.execute_all([(*command[0].split(), *command[1:]) for command in commands])
    refusals = []
    for (name, *_), replies in zip(commands, answers, strict=True):
        for reply in replies:
            if isinstance(reply, ReplyError):
                refusal = Refusal(name.lower().replace(" ", "|"), reply)
                if reply.code not in _HARMLESS or refusal.is_unknown:
                    refusals.append(refusal)
    return refusals


def describe_missing(refusals: Iterable[Refusal], user: str | None, prefix: str) -> list[str]:
    """Return phrases about commands that a server does not have, or does not allow to ``user``.

    They follow "Redis at <address>", and name the rules to grant.
    """
    user = user or "default"
    commands: list[str] = []
    rules: dict[str, None] = {}
    unknown = []
    for refusal in refusals:
        if rule := refusal.missing_rule(prefix):
            rules[rule] = None
            if rule == f"+{refusal.command}":
                commands.append(refusal.command)
        elif refusal.is_unknown:
            unknown.append(refusal.command)
    denied = [f"run {_listed(commands)}"] if commands else []
    denied += [
        f"use the {what} of REDIS_PREFIX"
        for sign, what in (("~", "keys"), ("&", "channels"))
        if f"{sign}*{prefix}:*" in rules
    ]
    phrases = []
    if denied:
        phrases.append(
            f"does not allow its user {user} to {' and to '.join(denied)}; "
            f"grant it with ACL SETUSER {user} {' '.join(rules)}"
        )
    if unknown:
        phrases.append(f"does not know {_listed(unknown)}: it is too old, or rename-command has disabled them")
    return phrases


def describe_state(refusals: Iterable[Refusal]) -> list[str]:
    """Return phrases about commands that a server refuses for a reason that may end.

    They follow "Redis at <address>".
    """
    by_code: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        if refusal.error.code != "NOPERM" and not refusal.is_unknown:
            by_code.setdefault(refusal.error.code, []).append(refusal)
    phrases = []
    for some in by_code.values():
        names = [refusal.command for refusal in some]
        listed = _listed(names if len(names) < 5 else [*names[:3], f"{len(names) - 3} more"])
        phrases.append(f"refuses commands ({listed}): {str(some[0].error).rstrip('.')}")
    return phrases


def _listed(commands: list[str]) -> str:
    return ", ".join(dict.fromkeys(commands))
