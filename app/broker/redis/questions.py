"""Questions that one node asks another, and their answers.

They are messages on the own channels of the nodes, so that other nodes do not receive them and nothing is stored. A
message is lost if its receiver is not connected; the asking node waits only for a limited time.

A message is ``?`` or ``!`` (a question or an answer), the name of the sender, the number of the question, a newline,
the text, and a signature of all before it (see ``lua/tell.lua``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping
from hashlib import sha1
from typing import Final

from ...errors import Unavailable
from .keys import Keys
from .scripts import Script, ScriptRunner

log = logging.getLogger("roomcast.redis")

_TELL: Final = Script("tell", stamped=True)
_SIGNATURE_SIZE: Final = 16


class Questions:
    """The questions of ``node``, and its answers, which ``on_question`` returns."""

    def __init__(self, runner: ScriptRunner, keys: Keys, node: str, on_question: Callable[[bytes], bytes]) -> None:
        self._runner: Final = runner
        self._keys: Final = keys
        self._node: Final = node
        self._on_question: Final = on_question
        self._numbers: Final = itertools.count(1)
        #: The answers that are awaited, by the node and the number of the question.
        self._awaited: Final[dict[tuple[str, str], asyncio.Future[bytes]]] = {}

    async def ask(self, questions: Mapping[str, bytes], wait: float) -> dict[str, bytes]:
        """See ``Broker.ask``. This node answers itself without Redis."""
        answers = {}
        if (own := questions.get(self._node)) is not None:
            answers[self._node] = self._on_question(own)
        others = [node for node in questions if node != self._node]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await asyncio.gather(*[self._ask(node, questions[node], answers) for node in others])
        return answers

    async def _ask(self, node: str, question: bytes, answers: dict[str, bytes]) -> None:
        """Ask ``node``, and add its answer to ``answers``."""
        number = str(next(self._numbers))
        answer = self._awaited[node, number] = asyncio.get_running_loop().create_future()
        try:
            if await self._tell(node, b"?", number, question):
                answers[node] = await answer
        except Unavailable as error:
            log.debug("node %s cannot be asked: %s", node, error.detail)
        finally:
            del self._awaited[node, number]

    async def _tell(self, node: str, kind: bytes, number: str, text: bytes) -> bool:
        """Send a message to ``node``; return False if it is not connected."""
        message = b"%b%b %b\n%b" % (kind, self._node.encode(), number.encode(), text)
        return bool(await self._runner.run(_TELL, (self._keys.echo_channel(node),), (message,)))

    def received(self, secret: bytes, message: bytes) -> None:
        """Process a message to this node. ``secret`` is the generation of the server, and the name of the channel."""
        message, signature = message[:-_SIGNATURE_SIZE], message[-_SIGNATURE_SIZE:]
        head, _, text = message.partition(b"\n")
        if signature != sha1(secret + message, usedforsecurity=False).hexdigest()[:_SIGNATURE_SIZE].encode():
            return  # not sent by a node, or Redis was restarted meanwhile
        node, _, number = head[1:].decode().partition(" ")
        if head.startswith(b"!"):
            answer = self._awaited.get((node, number))
            if answer is not None and not answer.done():
                answer.set_result(text)
        else:
            asyncio.ensure_future(self._answer(node, number, text))  # noqa: RUF006  # ends with its call at the latest

    async def _answer(self, node: str, number: str, question: bytes) -> None:
        try:
            await self._tell(node, b"!", number, self._on_question(question))
        except Unavailable as error:
            log.debug("node %s got no answer: %s", node, error.detail)
        except Exception:
            log.exception("A question of node %s could not be answered", node)
