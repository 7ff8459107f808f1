"""The contract for queues."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from roomcast.broker.queue import Queue, QueueEntry

from .harness import QUEUE_LIMITS, Harness

LEASE = 30.0


async def _read(queue: Queue, limit: int = 100, max_bytes: int = 10**6) -> Sequence[QueueEntry]:
    entries = await queue.read(limit, max_bytes)
    assert entries is not None
    return entries


def _payloads(entries: Sequence[QueueEntry]) -> list[bytes]:
    return [entry.payload for entry in entries]


class QueueContract:
    """Queues: entries, the lease, dead letters and states."""

    async def test_entries_are_read_in_order(self, harness: Harness) -> None:
        """Entries are read in the order in which they were appended, each once while the consumer lives."""
        queue = harness.broker.queue("q")
        await queue.acquire(LEASE)
        assert await _read(queue) == []
        await asyncio.gather(*[queue.append([b"%d" % i, b"%d+" % i]) for i in range(5)])
        expected = [b"%d%s" % (i, sign) for i in range(5) for sign in (b"", b"+")]
        assert _payloads(await _read(queue, 3)) == expected[:3]
        await queue.append([b"last \xff\0"])
        assert _payloads(await _read(queue)) == [*expected[3:], b"last \xff\0"]
        assert await _read(queue) == []

    async def test_queues_are_separate(self, harness: Harness) -> None:
        """The entries, the lease and the states of one queue are not those of another one."""
        one, other = harness.broker.queue("one"), harness.broker.queue("other")
        assert harness.broker.queue("one") is one
        await one.acquire(LEASE)
        await one.append([b"x"])
        assert await one.write_states({"a": "1"})
        assert (await other.info()).entries == 0
        assert await other.read_states() == {}
        assert await other.read(1, 1) is None
        assert not await other.write_states({"a": "1"})

    async def test_a_page_has_limits(self, harness: Harness) -> None:
        """A read returns at most ``limit`` entries, and stops soon after ``max_bytes``."""
        queue = harness.broker.queue("q")
        await queue.acquire(LEASE)
        await queue.append([b"%d" % (i % 10) * 200 for i in range(40)])
        assert len(await _read(queue, 15)) == 15
        few = await _read(queue, 100, 300)
        assert 1 < len(few) <= 11
        assert len(await _read(queue)) == 25 - len(few)

    async def test_only_the_node_with_the_lease_reads(self, harness: Harness) -> None:
        """Without the lease, and after it has ended or was given back, a read returns None and no state is written."""
        queue = harness.broker.queue("q")
        await queue.append([b"x"])
        assert await queue.read(1, 1) is None
        assert not await queue.write_states({"a": "1"})
        assert await queue.acquire(LEASE) == "taken"
        assert await queue.acquire(LEASE) == "extended"
        assert _payloads(await _read(queue)) == [b"x"]
        await queue.release()
        assert (await queue.info()).consumer is None
        assert await queue.read(1, 1) is None
        assert await queue.read_states() == {}

    async def test_entries_stay_until_they_are_removed(self, harness: Harness) -> None:
        """After the lease was taken again, the entries that were not removed are read again, before later ones."""
        queue = harness.broker.queue("q")
        await queue.acquire(LEASE)
        await queue.append([b"%d" % i for i in range(4)])
        entries = await _read(queue, 3)
        await queue.remove([entries[1]])
        await queue.release()
        await queue.append([b"4"])
        await queue.acquire(LEASE)
        again: list[QueueEntry] = []
        while page := await _read(queue, 2):
            again += page
        assert _payloads(again) == [b"0", b"2", b"3", b"4"]
        assert [entry.id for entry in again[:2]] == [entries[0].id, entries[2].id]
        assert await queue.acquire(LEASE)
        assert await _read(queue) == []

    async def test_reading_again(self, harness: Harness) -> None:
        """After ``rewind`` the entries that were not removed are read again, before later ones."""
        queue = harness.broker.queue("q")
        await queue.acquire(LEASE)
        await queue.append([b"%d" % i for i in range(4)])
        entries = await _read(queue, 3)
        await queue.remove([entries[1]])
        queue.rewind()
        again: list[QueueEntry] = []
        while page := await _read(queue, 2):
            again += page
        assert _payloads(again) == [b"0", b"2", b"3"]

    async def test_info(self, harness: Harness) -> None:
        """The sizes follow what is appended and removed; removing twice changes nothing."""
        queue = harness.broker.queue("q")
        empty = await queue.info()
        assert empty == (0, 0, 0.0, 0, None)
        await queue.append([b"abc", b"defgh"])
        await queue.acquire(LEASE)
        entries = await _read(queue)
        info = await queue.info()
        assert info[:2] == (2, 8)
        assert 0 <= info.oldest_age < 10
        assert info.consumer
        for _ in range(2):
            await queue.remove(entries[:1])
        assert (await queue.info())[:2] == (1, 5)
        await queue.remove(entries)
        assert (await queue.info())[:4] == empty[:4]

    async def test_the_oldest_entries_are_dropped(self, harness: Harness) -> None:
        """A queue that is full drops its oldest entries and counts them, also those that were read already."""
        queue = harness.broker.queue("q")
        await queue.acquire(LEASE)
        await queue.append([b"%d" % i for i in range(QUEUE_LIMITS.entries)])
        entries = await _read(queue, 10)
        await queue.append([b"new"] * 3)
        assert queue.dropped == 3
        assert (await queue.info()).entries == QUEUE_LIMITS.entries
        await queue.remove(entries[:4])
        await queue.release()
        await queue.acquire(LEASE)
        assert _payloads(await _read(queue, 2)) == [b"4", b"5"]
        await queue.append([b"x" * (QUEUE_LIMITS.bytes - 10)])
        info = await queue.info()
        assert info.bytes <= QUEUE_LIMITS.bytes
        assert info.entries < QUEUE_LIMITS.entries
        await queue.append([b"x" * (QUEUE_LIMITS.bytes + 1)])
        assert (await queue.info())[:2] == (0, 0)
        await queue.append([b"y"])
        assert _payloads(await _read(queue)) == [b"y"]

    async def test_dead_letters(self, harness: Harness) -> None:
        """Buried entries are listed page by page, oldest first, with their reason; the oldest are dropped."""
        queue = harness.broker.queue("q")
        await queue.acquire(LEASE)
        await queue.append([b"%d" % i for i in range(5)])
        entries = await _read(queue)
        await queue.bury(entries[:2], "it answered 500")
        await queue.bury(entries[:2], "again")
        await queue.bury(entries[2:], "late")
        info = await queue.info()
        assert (info.entries, info.bytes, info.dead_letters) == (0, 0, QUEUE_LIMITS.dead_letters)
        letters = await queue.dead_letters(None, 2)
        letters = [*letters, *await queue.dead_letters(letters[-1].id, 2)]
        assert [(letter.payload, letter.reason) for letter in letters] == [(b"%d" % i, "late") for i in (2, 3, 4)]
        assert letters[0].time > 1.7e9
        assert await queue.dead_letters(letters[-1].id, 2) == []

    async def test_retried_and_deleted_dead_letters(self, harness: Harness) -> None:
        """A retried dead letter is a new entry; a deleted one is gone; each works once."""
        queue = harness.broker.queue("q")
        await queue.acquire(LEASE)
        await queue.append([b"a", b"b", b"c"])
        await queue.bury(await _read(queue), "r")
        ids = [letter.id for letter in await queue.dead_letters(None, 10)]
        assert [await queue.retry(ids[:1]), await queue.retry(ids[:1])] == [1, 0]
        assert [await queue.delete(ids[:2]), await queue.delete(ids[:2])] == [1, 0]
        assert _payloads(await queue.dead_letters(None, 10)) == [b"c"]  # type: ignore[arg-type]
        assert (await queue.info())[:2] == (1, 1)
        assert _payloads(await _read(queue)) == [b"a"]

    @pytest.mark.parametrize(
        "id", ["", "x", "1", "1-", "-1", "1-1-1", "(1-1", "+", "-", "$", "1-\u0661", "9" * 30 + "-0"]
    )
    async def test_texts_that_are_no_ids(self, harness: Harness, id: str) -> None:
        """Ids come from callers of the HTTP API; others than ids raise ValueError."""
        queue = harness.broker.queue("q")
        for call in (queue.dead_letters(id, 1), queue.retry([id]), queue.delete([id])):
            with pytest.raises(ValueError, match="not an id"):
                await call

    async def test_states(self, harness: Harness) -> None:
        """States are set, replaced and deleted, and outlive the lease of the node that wrote them."""
        queue = harness.broker.queue("q")
        await queue.acquire(LEASE)
        assert await queue.write_states({"user:é": "online", "b": "", "c": "3"})
        assert await queue.write_states({"c": None, "d": None, "b": "2"})
        await queue.release()
        assert await queue.read_states() == {"user:é": "online", "b": "2"}

    async def test_many_states(self, harness: Harness) -> None:
        """More states than one page has are read completely."""
        queue = harness.broker.queue("q")
        await queue.acquire(LEASE)
        many = {f"user:{i}": str(i) for i in range(3500)}
        names = list(many)
        for i in range(0, len(names), 500):
            assert await queue.write_states({name: many[name] for name in names[i : i + 500]})
        assert await queue.read_states() == many
