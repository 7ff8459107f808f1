"""Limits how many bytes of responses the server writes in one iteration of the event loop.

If 100 clients request a file of 160 KB at the same time, writing all responses at once keeps other clients waiting for
30 ms. The responses beyond the limit are written in the next iterations, after the work for other connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from aiohttp import web

#: How many bytes one iteration writes, about. This takes 2 to 4 ms.
MAX_BYTES: Final = 2 * 2**20
#: Responses of less than this never wait.
SMALL: Final = 16 * 1024


class ResponsePace:
    """A handler of the signal ``on_response_prepare``: lets large responses wait for their turn."""

    def __init__(self) -> None:
        #: The size of the large responses of this loop iteration, in bytes.
        self._size = 0
        #: The sizes of the responses that wait, in order, each with the future that ends its wait.
        self._waiting: Final[deque[tuple[int, asyncio.Future[None]]]] = deque()

    async def __call__(self, request: web.Request, response: web.StreamResponse) -> None:
        """Return when ``response`` may be written: at once, unless others have used up this iteration's bytes."""
        body = response.body if isinstance(response, web.Response) else None
        size = len(body) if isinstance(body, bytes) else 0
        if size < SMALL:
            return
        if not self._waiting and self._fits(size):
            self._count(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        await turn

    def _fits(self, size: int) -> bool:
        return not self._size or self._size + size <= MAX_BYTES

    def _count(self, size: int) -> None:
        if not self._size:
            asyncio.get_running_loop().call_soon(self._begin_iteration)
        self._size += size

    def _begin_iteration(self) -> None:
        self._size = 0
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():  # otherwise the client has closed the connection
                self._count(size)
                turn.set_result(None)
