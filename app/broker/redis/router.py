"""The way to Redis: takes commands and scripts to whichever server holds their key, and minds what is in between.

What is asked for while a server cannot be reached fails at once, or, if its caller has patience, waits in order and
bounded. What was under way when a connection broke may have been carried out or not; only what is patient is sent
again, so it must be harmless twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from ...errors import Unavailable
from .connection import Part, RedisConnection, ReplyError, pack
from .reconnect import Lost, ReconnectingConnection, spell
from .scripts import Script
from .topology import Address, Name, Topology

log = logging.getLogger("roomcast.redis")

#: Answers that mean "not carried out, because not here or not now": the servers may have changed roles.
ELSEWHERE: Final = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN"})
#: How long a call without patience follows a server's roles around, in seconds.
_FOLLOW: Final = 1.0
#: How often the map of servers is looked at when nothing seems wrong, and when something does, in seconds.
_LOOK: Final = 5.0
_LOOK_SOON: Final = 0.2
#: How often the log is told of a refused command at most, in seconds.
_SILENCE: Final = 1.0

#: A server that a node meets for the first time, and that has run for so many seconds at most, may have taken the place
#: of one that others knew.
YOUNG: Final = 2

#: Connects to an address; pushes and the loss are told to the functions given.
Opener = Callable[[Address | None, Callable[[list[Any]], None], Lost], Awaitable[RedisConnection]]


class Call:
    """One command on its way; calling it with the reply ends it."""

    __slots__ = ("args", "deadline", "future", "keys", "lane", "patience", "script", "sent", "size")

    def __init__(
        self, script: Script | None, keys: Sequence[str | bytes], args: Sequence[Part], future: asyncio.Future[Any]
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.future = future
        self.lane: ServerQueue | None = None
        self.deadline = 0.0
        self.patience = 0.0
        self.sent = 0
        self.size = 0

    def pack(self, link: RedisConnection) -> bytes:
        """What to write on ``link``."""
        script = self.script
        if script is None:
            return pack(tuple(self.args))
        stamp = (link.run_id, self.sent) if script.stamped else ()
        return pack(("EVALSHA", script.sha, len(self.keys), *self.keys, *stamp, *self.args))

    def __call__(self, reply: Any) -> None:
        """Take the reply."""
        if self.future.done():
            return
        if reply.__class__ is ReplyError:
            assert self.lane is not None
            self.lane.refused(self, reply)
        else:
            self.future.set_result(reply)

    def fail(self, why: str) -> None:
        """End it with ``Unavailable``."""
        if not self.future.done():
            self.future.set_exception(Unavailable(why))


class ServerQueue:
    """The commands for one server, in order."""

    def __init__(self, name: Name, router: Router, open_: Opener) -> None:
        self.name: Final = name
        self.waiting: Final[deque[Call]] = deque()
        #: Patience is with an outage, not with each call: a client's commands wait one after the other, and a hundred
        #: of them would keep it waiting a hundred times as long.
        self.away_since = asyncio.get_running_loop().time()
        self._silent_until = 0.0
        #: Of the server's process that it spoke with last.
        self.run_id = b""
        self._router: Final = router

        async def dial(address: Address | None, lost: Lost) -> RedisConnection:
            return await open_(address, lambda push: None, lost)

        self.keeper: Final = ReconnectingConnection(
            name, "commands", router.servers.address, dial, self._up, self._down
        )

    def send(self, call: Call) -> None:
        """Send ``call`` now, or let it wait if it has patience; raise ``Unavailable``."""
        link = self.keeper.link
        call.lane = self
        if link is not None:
            link.ask(call.pack(link), call)
            call.sent += 1
        elif call.deadline and self.away_since + call.patience > asyncio.get_running_loop().time():
            call.deadline = min(call.deadline, self.away_since + call.patience)
            self.waiting.append(call)
        else:
            raise Unavailable(self.trouble())

    def trouble(self) -> str:
        """A sentence that says what is wrong with the server."""
        return f"Redis at {spell(self.name)} cannot be reached: {self.keeper.why}."

    def _up(self, link: RedisConnection) -> None:
        calls = list(self.waiting)
        self.waiting.clear()
        for call in calls:
            if not call.future.done():
                try:
                    self.send(call)
                except Exception as error:  # it cannot be packed; the others are not to blame
                    call.future.set_exception(error)
        self._router.returned(self)

    def _down(self, link: RedisConnection, why: str) -> None:
        """Let the patient wait at the head of the line, in the order they came; the others must know."""
        self.away_since = asyncio.get_running_loop().time()
        lost = [one for one in link.abandoned if isinstance(one, Call)]
        # Not by the deadline: one without patience has one, too, once it was sent after its server.
        self.waiting.extendleft(call for call in reversed(lost) if call.patience)
        for call in lost:
            if not call.patience:
                call.fail(f"The connection to Redis at {spell(self.name)} broke before it answered: {why}.")
        self._router.look_soon()

    def refused(self, call: Call, error: ReplyError) -> None:
        """The server does not carry out ``call``: take it elsewhere, or tell its caller."""
        link = self.keeper.link
        if error.code == "NOSCRIPT" and call.script is not None and link is not None:
            link.ask(pack(("SCRIPT", "LOAD", call.script.text)), None)
            link.ask(call.pack(link), call)
        elif error.code in ELSEWHERE:
            if error.code in ("READONLY", "LOADING") and link is not None:
                link.abort("it is a replica now" if error.code == "READONLY" else "it is loading its data")
            self._router.reroute(call, str(error))
        else:
            # What follows an unknown command repeats its arguments, which are nobody's business.
            why = str(error).partition(", with args")[0].rstrip(".")
            now = asyncio.get_running_loop().time()
            if now >= self._silent_until:  # one that is full refuses thousands a second
                self._silent_until = now + _SILENCE
                log.error("Redis at %s refused a command: %s", spell(self.name), why)
            call.fail(f"Redis at {spell(self.name)} refused a command: {why}.")

    def expire(self, now: float) -> None:
        """Fail those whose patience has ended."""
        waiting = self.waiting
        while waiting and (waiting[0].deadline <= now or waiting[0].future.done()):
            waiting.popleft().fail(self.trouble())


class Router:
    """All lanes. ``open_`` connects to a server; at most ``buffer`` bytes of patient calls are under way or waiting.

    What is on a server with an end may have ended when it was away for ``forgets`` seconds.
    ``on_return`` are called when a server is reachable again after it was not, and at first; ``on_look`` whenever it
    was looked up which servers there are.
    """

    def __init__(self, servers: Topology, open_: Opener, buffer: int, forgets: float = math.inf) -> None:
        self.servers: Final = servers
        self.on_return: Final[list[Callable[[], None]]] = []
        self.on_look: Final[list[Callable[[], None]]] = []
        self._open: Final = open_
        self._buffer: Final = buffer
        self._forgets: Final = forgets
        self._held = 0
        self._lanes: Final[dict[Name, ServerQueue]] = {}
        #: Calls whose server is to be found out.
        self._homeless: list[Call] = []
        self._soon: Final = asyncio.Event()
        self._loop: Final = asyncio.get_running_loop()
        self._tender: asyncio.Task[None] | None = None
        self._expiring: asyncio.TimerHandle | None = None
        #: Since when a server is there again that may know nothing of what was: another process, or away for too long.
        self.anew_since = float("-inf")
        self._closed = False

    async def start(self, wait: float) -> None:
        """Connect; raise ``Unavailable`` if not all servers can be reached within ``wait`` seconds."""
        deadline = self._loop.time() + wait
        while True:
            try:
                await self.servers.refresh()
                break
            except Unavailable as error:
                if self._loop.time() > deadline:
                    raise Unavailable(f"Redis cannot be reached: {error}.") from error
                await asyncio.sleep(_LOOK_SOON)
        self._arrange()
        self._expire()
        self._tender = asyncio.create_task(self._tend(), name="roomcast redis servers")
        while troubles := self.troubles():
            if self._loop.time() > deadline:
                raise Unavailable(troubles[0])
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Drop every connection; what waits fails, and whatever is asked from now on."""
        self._closed = True
        if self._tender is not None:
            self._tender.cancel()
            await asyncio.wait([self._tender])
        if self._expiring is not None:
            self._expiring.cancel()
        lanes = list(self._lanes.values())
        self._lanes.clear()
        for lane in lanes:
            link = lane.keeper.link
            await lane.keeper.close()
            for call in [*(link.abandoned if link is not None else ()), *lane.waiting]:
                if isinstance(call, Call):
                    call.fail("This node is closing its broker.")
        for call in self._homeless:
            call.fail("This node is closing its broker.")

    def troubles(self) -> list[str]:
        """A sentence for each server that cannot be reached."""
        return [lane.trouble() for lane in self._lanes.values() if lane.keeper.link is None]

    @property
    def held(self) -> int:
        """Bytes of patient calls that are under way or waiting."""
        return self._held

    @property
    def waiting(self) -> int:
        """Calls that wait for their server."""
        return len(self._homeless) + sum(len(lane.waiting) for lane in self._lanes.values())

    # Asking.

    def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Part], *, patience: float = 0.0, size: int = 0
    ) -> asyncio.Future[Any]:
        """Run ``script`` on the server of ``keys[0]``, whose hash tag all keys share; the result is its reply.

        Raises ``Unavailable``, here or from the future. With ``patience`` it waits for a server that cannot be reached,
        until that has been away for so many seconds, and is sent again if the connection broke before the reply;
        ``size`` is what it holds then, in bytes.
        """
        return self._begin(Call(script, keys, args, self._loop.create_future()), patience, size)

    def call(self, key: str, *parts: Part, patience: float = 0.0) -> asyncio.Future[Any]:
        """Carry out one command on the server of ``key``; the rest as in ``run``."""
        size = sum(len(part) for part in parts if isinstance(part, bytes | str)) if patience else 0
        return self._begin(Call(None, (key,), parts, self._loop.create_future()), patience, size)

    async def everywhere(self, *parts: Part) -> list[Any]:
        """Carry out one command on every server; the results are their replies."""
        calls = []
        for lane in list(self._lanes.values()):
            call = Call(None, (), parts, self._loop.create_future())
            lane.send(call)
            calls.append(call.future)
        return await asyncio.gather(*calls)

    def _begin(self, call: Call, patience: float, size: int) -> asyncio.Future[Any]:
        if patience:
            self.hold(size)
            call.size = size
            call.patience = patience
            call.deadline = self._loop.time() + patience
            call.future.add_done_callback(lambda _: self.let_go(size))
        try:
            self._route(call)
        except BaseException:  # also what cannot be packed must let go of what it holds
            call.future.cancel()
            raise
        return call.future

    def hold(self, size: int) -> None:
        """Count ``size`` bytes more that wait for Redis; raise ``Unavailable`` if the buffer is full."""
        if self._held + size > self._buffer and self._held:
            raise Unavailable("Redis takes no more: REDIS_BUFFER is full of what waits for it.")
        self._held += size

    def let_go(self, size: int) -> None:
        """``size`` bytes wait no longer."""
        self._held -= size

    def _route(self, call: Call) -> None:
        key = call.keys[0]
        try:
            lane = self._lanes.get(self.servers.name(key.encode() if isinstance(key, str) else key))
            if lane is None:
                raise Unavailable("This node's broker is closed, or its servers are changing.")
        except Unavailable:
            if not call.deadline or self._closed:
                raise
            self._homeless.append(call)
            self.look_soon()
        else:
            lane.send(call)

    def reroute(self, call: Call, why: str) -> None:
        """Take ``call``, which was not carried out, to its server as soon as that is known."""
        now = self._loop.time()
        if not call.deadline:
            call.deadline = now + _FOLLOW
        if call.deadline <= now:
            call.fail(f"Redis does not take it now: {why}.")
            return
        self._homeless.append(call)
        self.look_soon()

    # Minding.

    def returned(self, lane: ServerQueue) -> None:
        """``lane`` can be used (again)."""
        link = lane.keeper.link
        if link is not None:
            now = self._loop.time()
            if lane.run_id:
                anew = lane.run_id != link.run_id or now - lane.away_since >= self._forgets
            else:
                anew = link.uptime <= YOUNG
            if anew:
                self.anew_since = now
            lane.run_id = link.run_id
        for told in self.on_return:
            told()

    def look_soon(self) -> None:
        """Something seems to have changed among the servers."""
        self._soon.set()

    def _expire(self) -> None:
        """Fail those whose patience has ended, also while nobody tells which servers there are."""
        now = self._loop.time()
        for lane in self._lanes.values():
            lane.expire(now)
        for call in self._homeless:
            if call.deadline <= now:
                call.fail("Redis has no server for it now.")
        self._expiring = self._loop.call_later(_LOOK_SOON, self._expire)

    async def _tend(self) -> None:
        looked = self._loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SOON):
                    await self._soon.wait()
            now = self._loop.time()
            if self._soon.is_set() or now - looked > _LOOK or self._homeless or self.troubles():
                self._soon.clear()
                looked = now
                await self._look()
            if self._soon.is_set():
                await asyncio.sleep(_LOOK_SOON / 4)

    async def _look(self) -> None:
        try:
            await self.servers.refresh()
        except Unavailable as error:
            log.debug("the servers cannot be found out: %s", error)
        except Exception:  # who would look the next time, if this ended the task?
            log.exception("What was said of the Redis servers could not be understood")
        else:
            self._arrange()
        homeless, self._homeless = self._homeless, []
        for call in homeless:
            if call.future.done():
                continue
            try:
                self._route(call)
            except Unavailable as error:
                call.fail(str(error))
            except Exception as error:  # it cannot be packed
                call.future.set_exception(error)

    def _arrange(self) -> None:
        """Have a lane for each server there is now, and none besides."""
        names = self.servers.names()
        for name in names:
            if name not in self._lanes:
                self._lanes[name] = ServerQueue(name, self, self._open)
            else:
                self._lanes[name].keeper.mind(self.servers.address(name))
        for name in [name for name in self._lanes if name not in names]:
            lane = self._lanes.pop(name)
            link = lane.keeper.link
            self._homeless += [call for call in lane.waiting if not call.future.done()]
            for call in link.abandoned if link is not None else ():
                if isinstance(call, Call):
                    self.reroute(call, "its server left") if call.patience else call.fail("Its Redis server left.")
            asyncio.ensure_future(lane.keeper.close())  # noqa: RUF006  # holds nothing that is needed
        for told in self.on_look:
            told()
