"""The order of deliveries, and when failed ones are repeated."""

from __future__ import annotations

import random

from roomcast.plugins.webhook.lanes import Batch, Item, Key, Lanes

A, B, C = ("event", "a"), ("event", "b"), ("state", "c")


def lanes_with(contents: dict[Key, list[int]], max_items: int = 100) -> Lanes:
    """Return lanes with items, whose content is their place."""
    lanes = Lanes(max_items, 10_000)
    for key, orders in contents.items():
        for order in orders:
            lanes.add(key, Item((0, order), order, 10))
    return lanes


def contents(batch: Batch | None) -> dict[Key, list[int]]:
    """Return the contents of a batch."""
    return {key: [item.content for item in items] for key, items in (batch or {}).items()}


def take(lanes: Lanes, now: float) -> Batch:
    """Return the next batch, which there is."""
    batch = lanes.next_batch(now)
    assert batch is not None
    return batch


def test_a_batch_has_all_lanes_in_order() -> None:
    """A batch has the items of all lanes, those of a lane in order, whatever the order of their arrival."""
    lanes = lanes_with({A: [3, 1, 2], B: [1], C: [0]})
    batch = take(lanes, 0)
    assert contents(batch) == {A: [1, 2, 3], B: [1], C: [0]}
    assert lanes.next_batch(0) is None
    lanes.succeeded(batch, 0)
    assert (lanes.count, lanes.size, lanes.next_batch(0)) == (0, 0, None)


def test_a_batch_has_limits() -> None:
    """A batch ends at the limit of items and of bytes, but has at least one item."""
    lanes = lanes_with({A: [1, 2], B: [1, 2]}, max_items=3)
    assert contents(take(lanes, 0)) == {A: [1, 2], B: [1]}
    lanes = Lanes(100, 50)
    lanes.add(A, Item((0, 1), 1, 60))
    lanes.add(A, Item((0, 2), 2, 10))
    assert contents(take(lanes, 0)) == {A: [1]}


def test_a_lane_that_is_sent_waits() -> None:
    """While items of a lane are sent, later items of it wait, and other lanes go on."""
    lanes = lanes_with({A: [1]})
    first = take(lanes, 0)
    lanes.add(A, Item((0, 2), 2))
    lanes.add(B, Item((0, 1), 1))
    second = take(lanes, 0)
    assert contents(second) == {B: [1]}
    lanes.succeeded(first, 0)
    assert contents(take(lanes, 0)) == {A: [2]}


def test_items_wait_for_earlier_ones() -> None:
    """A lane is sent from its time on, with the items that arrived meanwhile at their places."""
    lanes = Lanes(100, 1000)
    lanes.add(A, Item((0, 2), 2, waits_until=1.0))
    assert lanes.next_batch(0.5) is None
    lanes.add(A, Item((0, 1), 1, waits_until=1.0))
    lanes.succeeded(take(lanes, 1.0), 1.0)
    lanes.add(A, Item((0, 4), 4, waits_until=9.0))
    lanes.add(A, Item((0, 5), 5, waits_until=9.0))
    assert lanes.next_batch(8.0) is None
    lanes.add(A, Item((0, 3), 3, waits_until=9.0))
    batch = take(lanes, 8.0)
    assert contents(batch) == {A: [3, 4, 5]}
    lanes.succeeded(batch, 8.0)
    lanes.add(A, Item((0, 8), 8, waits_until=9.0))
    assert contents(take(lanes, 9.0)) == {A: [8]}


def test_a_failing_item_is_found() -> None:
    """If one item fails always, the others are delivered after a few requests, and its lane waits longer and longer.

    Other lanes have an item every 5 seconds.
    """
    lanes = lanes_with({("event", str(i)): [i] for i in range(100)})
    now, requests, delivered, attempts = 0.0, 0, set(), []
    while now < 3000:
        if (batch := lanes.next_batch(now)) is None:
            now += 0.05
            if len(delivered) >= 99 and now % 5 < 0.05:
                lanes.add(B, Item((0, 1), 1000))
            continue
        requests += 1
        found = [item.content for item in batch.items_in_order()]
        if 37 in found:
            lanes.failed(batch, now)
            attempts.append(now)
        else:
            lanes.succeeded(batch, now)
            delivered |= set(found)
            if len(delivered) == 99:
                assert requests <= 20
                assert now < 20
    assert delivered == {*range(100), 1000} - {37}
    pauses = [b - a for a, b in zip(attempts[-4:], attempts[-3:], strict=False)]
    assert min(pauses) > 100


def test_no_item_overtakes_another_one_of_its_lane() -> None:
    """With random failures, each lane is accepted in order, and nothing is lost."""
    chance = random.Random(7)
    lanes = lanes_with({("event", str(lane)): list(range(30)) for lane in range(20)}, max_items=50)
    accepted: dict[Key, list[int]] = {}
    now, open_batches = 0.0, []
    while lanes.count:
        if (batch := lanes.next_batch(now)) is not None:
            open_batches.append(batch)
        if open_batches and (batch is None or len(open_batches) == 3):
            batch = open_batches.pop(chance.randrange(len(open_batches)))
            if chance.random() < 0.4:
                lanes.failed(batch, now)
            else:
                for key, orders in contents(batch).items():
                    accepted.setdefault(key, []).extend(orders)
                lanes.succeeded(batch, now)
        elif batch is None:
            now += 1.0
    assert len(accepted) == 20
    assert all(orders == list(range(30)) for orders in accepted.values())


def test_all_lanes_are_repeated_soon_after_an_outage() -> None:
    """When the receiver accepts something after many failures, lanes that waited for long are repeated at once."""
    lanes = lanes_with({("event", str(i)): [i] for i in range(5)})
    now = 0.0
    while now < 3600:  # the receiver is down
        if (batch := lanes.next_batch(now)) is not None:
            lanes.failed(batch, now)
        now += 1.0
    back = now
    while lanes.count:
        if (batch := lanes.next_batch(now)) is not None:
            lanes.succeeded(batch, now)
        now += 0.1
        assert now < back + 20


def test_one_request_at_a_time_after_a_failure() -> None:
    """After a failure there is one request at a time, and a pause that grows to 15 s at most."""
    lanes = lanes_with({A: [1], B: [1]}, max_items=1)
    first, second = take(lanes, 0), take(lanes, 0)
    lanes.failed(first, 0)
    assert lanes.next_batch(100) is None
    lanes.failed(second, 100)
    batch = take(lanes, 200)
    assert lanes.next_batch(200) is None
    for _ in range(20):
        now = lanes.paused_until + 1000
        lanes.failed(batch, now)
        assert lanes.paused_until <= now + 15
        batch = take(lanes, now + 1000)


def test_the_receiver_requests_a_pause() -> None:
    """Nothing is sent before the time that Retry-After names."""
    lanes = lanes_with({A: [1]})
    lanes.failed(take(lanes, 0), 0, 30.0)
    assert lanes.next_batch(29) is None
    assert lanes.next_batch(31) is not None


def test_postponed_and_dropped_items() -> None:
    """Items that are taken out of a batch wait, or are forgotten; the batch goes on without them."""
    lanes = lanes_with({A: [1, 2, 3], B: [1], C: [0]})
    batch = take(lanes, 0)
    lanes.postpone(batch, C, 5.0)
    lanes.drop(batch, A, batch[A][:2])
    lanes.drop(batch, B, batch[B])
    assert contents(batch) == {A: [3]}
    assert lanes.count == 2
    lanes.succeeded(batch, 0)
    assert lanes.next_batch(4) is None
    assert contents(take(lanes, 5)) == {C: [0]}
    assert not lanes.has(A)
