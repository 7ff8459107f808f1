"""``roomcast listen``: print the events of rooms, across lost connections and restarts of the server."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import unquote

import click
import orjson

from .. import registry
from ..backoff import Backoff
from ..errors import PluginError, RoomcastError, SettingsError, is_temporary
from ..logs import escape
from ..secret_files import read_secret
from ..suggestions import did_you_mean
from . import tokens
from .exit_status import Denied, Unreachable
from .options import run, url_option
from .printing import event_line, note
from .target import DEFAULT_WS_URL, Target, parse_target
from .websocket_client import End, Ended, Stream

#: The pauses between attempts to connect, in seconds. Half of a pause is random, so that listeners do not all reconnect
#: at the same moment.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
#: After this many seconds without a message the client sends a ping. After the same time again without an answer, the
#: connection counts as lost.
MAX_SILENCE: Final = 45.0

_ACCESS: Final = "its rooms claim, or the rule of the room's type, must allow it; see `roomcast token --room`"

#: The close codes after which another attempt would fail too, each with the error for the user.
FINAL_ENDS: Final[dict[int, RoomcastError]] = {
    4401: Denied(
        "The server does not accept the token (4401): the token is wrong, expired, or signed with another secret; "
        "the server's log has the reason. Get a new one with `roomcast token`."
    ),
    4403: Denied(f"The token gives no access to the room (4403): {_ACCESS}."),
    4410: RoomcastError("An operator has disconnected this user (4410)."),
    4429: RoomcastError(
        "The user has as many connections as allowed (4429): close another one, or raise MAX_CONNECTIONS_PER_USER on "
        "the server."
    ),
}


@click.command()
@click.argument("rooms", metavar="[ROOM]...", nargs=-1)
@url_option(DEFAULT_WS_URL)
@click.option("--token", envvar="ROOMCAST_TOKEN", show_envvar=True, help="Token of the user.")
@click.option("--since", metavar="ID", help="Print the events after the one with this id. Only with a single room.")
@click.option("--type", "types", metavar="TYPE", multiple=True, help="Print only events of this type; may be repeated.")
@click.option("--count", type=click.IntRange(1), help="End after this many events.")
@click.option(
    *("--json", "--raw", "as_json"),
    is_flag=True,
    help="Print the JSON of each event unchanged, on one line, as `roomcast publish -` reads it.",
)
def listen(
    rooms: tuple[str, ...],
    url: str,
    token: str | None,
    since: str | None,
    types: tuple[str, ...],
    count: int | None,
    as_json: bool,
) -> None:
    """Print the events of rooms as they happen.

    Prints each event as a line: time, room, type, sender, data. Events sent to the user of the token are printed too,
    with - as the room. Without ROOM, only those are printed.

    Without a token, the command makes one with JWT_SECRET. If the connection is lost, the command reconnects and
    prints the missed events, as far as the server's history reaches back. Messages about the connection go to standard
    error.

    \b
    roomcast listen project:1 --type task.created --count 1
    """
    for room in rooms:
        if room.startswith("user:"):
            user = shlex.quote(unquote(room.removeprefix("user:")))
            raise click.UsageError(
                f"{room} cannot be joined: it is the personal room of a user, whose connections receive its events "
                "without joining. Leave it out, and use a token of that user: "
                f'roomcast listen --token "$(roomcast token --user-id {user})".'
            )
    if since is not None and len(rooms) != 1:
        raise click.UsageError("--since works only with a single room, because an id belongs to one room.")
    listener = Listener(
        parse_target(url),
        rooms,
        _token_source(token),
        since=since,
        types=types,
        count=count,
        raw=as_json,
        out=click.echo,
        note=note,
    )
    _check_types(types)
    run(listener.run())


def _check_types(types: Sequence[str]) -> None:
    """Print a note for each of ``types`` that is similar to an event of the plugins installed here.

    The server may have other plugins, so an unknown type is no error.
    """
    if not types:
        return
    try:
        known = registry.load().events
    except PluginError:
        return
    for type in types:
        if type not in known:
            hint = did_you_mean(type, known)
            note(f"The plugins that are installed here declare no event {type!r}; the server may have others.{hint}")


def _token_source(token: str | None) -> Callable[[], str]:
    """Return a function that returns ``token``, or that makes a new token for each call if ``token`` is empty.

    Raises ``SettingsError`` if there is neither a token nor JWT_SECRET.
    """
    if token is not None and token.strip():
        return lambda: token.strip()
    if read_secret("JWT_SECRET", os.environ) is None:
        raise SettingsError("A token is needed: give --token, or set ROOMCAST_TOKEN, or JWT_SECRET to make one with.")
    settings = tokens.signing_settings(os.environ)
    user = f"listen-{secrets.token_hex(4)}"
    return lambda: tokens.mint(settings, user, username="listen")


class Listener:
    """Joins ``rooms`` and prints their events and those of the user's personal room.

    ``token`` returns the token for each connection. ``since`` is the id after which the single room resumes. With
    ``types``, other events are not printed. After ``count`` events, ``run`` returns. ``out`` receives the lines of
    events, ``note`` the sentences about the connection.
    """

    def __init__(
        self,
        target: Target,
        rooms: Sequence[str],
        token: Callable[[], str],
        *,
        since: str | None = None,
        types: Sequence[str] = (),
        count: int | None = None,
        raw: bool = False,
        out: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._target = target
        self._token = token
        self._types = types
        self._left = count
        self._raw = raw
        self._out = out
        self._note = note
        #: For each room the id of the last event, or None before the room was joined the first time.
        self._last_ids: dict[str, str | None] = dict.fromkeys(rooms, since)
        #: The id of the last event of the personal room; empty before the first ``connected``.
        self._last_user_id = ""
        #: The rooms that this connection has joined.
        self._joined: set[str] = set()
        #: The joins that will be repeated on this connection.
        self._repeats: set[asyncio.TimerHandle] = set()
        self._backoff: Final = Backoff(FIRST_PAUSE, LONGEST_PAUSE, jitter=0.5)

    async def run(self) -> None:
        """Listen, and reconnect after each lost connection. Return after the number of events that was asked for.

        Raises ``RoomcastError`` if the first connection fails or another attempt would be useless.
        """
        stream = await self._open(is_first=True)
        while True:
            try:
                await self._follow(stream)
                return
            except Ended as ended:
                self._raise_if_final(ended.end)
                self._note(f"Disconnected ({ended.end}).")
            stream = await self._open(is_first=False)

    async def _open(self, *, is_first: bool) -> Stream:
        """Connect. The first time, try once, because the address may be wrong. Later, retry until it succeeds."""
        while True:
            if not is_first:
                pause = self._backoff.next_pause()
                self._note(f"Connecting again in {pause:.1f} s.")
                await asyncio.sleep(pause)
            try:
                return await Stream.open(self._resuming_target(), self._token())
            except Unreachable as error:
                if is_first:
                    raise
                self._note(str(error))
            except Ended as ended:
                self._raise_if_final(ended.end)
                if is_first:
                    raise RoomcastError(f"{self._target.authority} did not open a WebSocket: {ended.end}.") from ended
                self._note(str(ended))

    def _resuming_target(self) -> Target:
        """Return the target with ``since`` for the personal room."""
        path = self._target.path
        return self._target._replace(path=f"{path}{'&' if '?' in path else '?'}since={self._last_user_id}")

    def _raise_if_final(self, end: End) -> None:
        """Raise ``RoomcastError`` if another attempt would end in the same way."""
        if (error := FINAL_ENDS.get(end.code)) is not None:
            raise error
        if 400 <= end.code < 500 or end.code in (1002, 1003, 1007, 1009):
            raise RoomcastError(f"{self._target.authority} refused the connection ({end}).")

    async def _follow(self, stream: Stream) -> None:
        """Join the rooms and handle frames, until all events were printed. Raises ``Ended`` if the connection ends."""
        self._joined = set()
        for room in self._last_ids:
            self._join(stream, room)
        try:
            while self._left != 0:
                self._handle(stream, await self._receive(stream))
        finally:
            for repeat in self._repeats:
                repeat.cancel()
            self._repeats.clear()
            stream.close()

    def _join(self, stream: Stream, room: str) -> None:
        stream.send(orjson.dumps({"type": "join_room", "room": room, "data": {"since": self._last_ids[room]}}))

    def _join_later(self, stream: Stream, room: str, reason: str) -> None:
        pause = self._backoff.next_pause()
        self._note(f"{room} cannot be joined now: {reason} Trying again in {pause:.1f} s.")
        self._repeats.add(asyncio.get_running_loop().call_later(pause, self._join, stream, room))

    async def _receive(self, stream: Stream) -> bytes:
        try:
            async with asyncio.timeout(MAX_SILENCE):
                return await stream.receive()
        except TimeoutError:
            stream.send(b'{"type":"ping"}')
        try:
            async with asyncio.timeout(MAX_SILENCE):
                return await stream.receive()
        except TimeoutError:
            raise Ended(End(1006, "the server does not answer a ping")) from None

    def _handle(self, stream: Stream, frame: bytes) -> None:
        message = orjson.loads(frame)
        type, room, data = message.get("type"), message.get("room"), message.get("data") or {}
        if type == "connected":
            self._on_connected(data)
        elif type == "joined_room":
            self._on_joined(room, data)
        elif type == "resync":
            self._note(f"{room or 'To the user'}: events were lost on the server.")
            self._set_last_id(room, data.get("last_id"))
        elif type == "error" and room in self._last_ids and is_temporary(str(data.get("code"))):
            self._join_later(stream, room, f"{str(data.get('error')).rstrip('.')}.")
        elif type == "error":
            is_denied = data.get("code") in ("forbidden", "bad_token")
            hint = f" (4403): {_ACCESS}." if data.get("code") == "forbidden" else "."
            sentence = f"{room or 'The server'}: {escape(str(data.get('error')).rstrip('.'))}{hint}"
            raise (Denied if is_denied else RoomcastError)(sentence)
        elif type == "left_room":
            raise RoomcastError(f"{data.get('message')}, by an operator.")
        elif type != "pong":
            self._set_last_id(room, message.get("id"))
            self._print(message, frame)

    def _print(self, message: dict[str, Any], frame: bytes) -> None:
        """Print an event, if it is of the types that were asked for."""
        if not self._types or message.get("type") in self._types:
            self._out(frame.decode() if self._raw else event_line(message))
            if self._left is not None:
                self._left -= 1

    def _set_last_id(self, room: str | None, id: str | None) -> None:
        """Store the id of the last event of ``room``. None stands for the personal room."""
        if id is not None and room is None:
            self._last_user_id = id
        elif id is not None and room in self._last_ids:
            self._last_ids[room] = id

    def _on_connected(self, data: dict[str, Any]) -> None:
        if self._last_user_id and not data.get("recovered"):
            self._note(
                "Events sent to the user may have been missed: the server's history does not reach back far enough."
            )
        if not data.get("recovered"):
            self._set_last_id(None, data.get("last_id"))
        if not self._last_ids:
            self._note(f"Listening to events sent to user {data.get('user_id')}.")
            self._backoff.reset()

    def _on_joined(self, room: str, data: dict[str, Any]) -> None:
        last_id = self._last_ids.get(room)
        if last_id is None:
            self._note(f"Listening in {room}.")
        elif data.get("recovered"):
            self._note(f"Listening in {room} again; nothing was missed.")
        else:
            self._note(
                f"Listening in {room} again; events may have been missed: the server's history does not reach back far "
                "enough."
            )
        if last_id is None or not data.get("recovered"):
            self._last_ids[room] = data.get("last_id")
        self._joined.add(room)
        if len(self._joined) == len(self._last_ids):
            self._backoff.reset()
