"""Tests of ``gateway.live_queue``: order, fairness and bounds of the live events that wait in a room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roomcast.gateway.live_queue import BATCH_BYTES, MAX_ROOM_BYTES, MAX_SOURCE_BYTES, LiveQueue

ALICE, BOB = (1, None), (2, None)


def drain(queue: LiveQueue) -> list[bytes]:
    """Take everything; return the frames in order."""
    found = []
    while queue:
        found += [frame for segment in queue.take() for frame in segment.frames]
    return found


def test_a_key_is_replaced_in_its_place() -> None:
    """A newer frame takes the place of the older one with its key, also if another source has the same key."""
    queue = LiveQueue()
    for source, frame in ((ALICE, b"a1"), (BOB, b"b1"), (ALICE, b"a2"), (ALICE, b"a3")):
        assert queue.add(source, "typing", frame, others_only=False) == 0
    assert drain(queue) == [b"a3", b"b1"]
    assert queue.size == 0


def test_the_user_does_not_receive_frames_for_others() -> None:
    """A segment has the frames that its user receives."""
    queue = LiveQueue()
    queue.add(ALICE, 1, b"all", others_only=False)
    queue.add(ALICE, 2, b"others", others_only=True)
    assert queue.take() == [(ALICE, [b"all", b"others"], [b"all"])]


def test_sources_take_turns() -> None:
    """A source that floods delays another one by at most one batch."""
    queue = LiveQueue()
    for number in range(1000):
        queue.add(ALICE, number, b"%0100d" % number, others_only=False)
    queue.add(BOB, "typing", b"bob", others_only=False)
    taken = [segment.source for _ in range(2) for segment in queue.take()]
    assert BOB in taken


def test_a_source_loses_its_oldest_frames() -> None:
    """Of a source with too much, the newest frames stay."""
    queue = LiveQueue()
    dropped = sum(queue.add(ALICE, number, b"%0400d" % number, others_only=False) for number in range(100))
    frames = drain(queue)
    assert frames == [b"%0400d" % number for number in range(dropped, 100)]
    assert MAX_SOURCE_BYTES * 0.9 < len(frames) * 500 <= MAX_SOURCE_BYTES


def test_a_full_room_refuses_new_frames_but_replaces_old_ones() -> None:
    """In a full room a new frame is dropped; a frame that replaces one of the same size is not."""
    queue = LiveQueue()
    number = 0
    while not queue.add((number, None), "typing", b"x" * 300, others_only=False):
        number += 1
    assert number == MAX_ROOM_BYTES // 400
    assert queue.add((0, None), "typing", b"y" * 300, others_only=False) == 0
    assert drain(queue) == [b"y" * 300] + [b"x" * 300] * (number - 1)


def test_one_large_frame() -> None:
    """A frame that is larger than all bounds is sent alone."""
    queue = LiveQueue()
    large = b"x" * (2 * MAX_ROOM_BYTES)
    assert queue.add(ALICE, 1, large, others_only=False) == 0
    assert queue.add(BOB, 1, b"b", others_only=False) == 1
    assert drain(queue) == [large]


STEPS = st.lists(
    st.tuples(st.integers(0, 30), st.one_of(st.just("k"), st.integers(0, 10**9)), st.integers(0, 9000)) | st.none(),
    max_size=200,
)


@given(STEPS)
def test_the_bounds_hold(steps: list[tuple[int, str | int, int] | None]) -> None:
    """Whatever is added and taken, the bounds hold, and each frame is taken, replaced, or counted as dropped."""
    queue = LiveQueue()
    added = taken = dropped = replaced = 0

    def take() -> int:
        segments = queue.take()
        frames = [frame for segment in segments for frame in segment.frames]
        assert frames
        assert sum(map(len, frames[:-1])) < BATCH_BYTES
        return len(frames)

    for step in steps:
        if step is None:
            taken += take() if queue else 0
            continue
        source, key, size = step
        waiting = queue._sources.get((source, None))
        replaced += waiting is not None and key in waiting.frames
        before = queue.size
        lost = queue.add((source, None), key, b"x" * size, others_only=False)
        added += 1
        dropped += lost
        if queue.size == before and lost:  # the new frame itself was dropped, so nothing was replaced
            replaced -= waiting is not None and key in waiting.frames
        assert queue.size <= MAX_ROOM_BYTES
        assert queue.size == sum(one.size for one in queue._sources.values())
        assert all(one.size <= MAX_SOURCE_BYTES or len(one.frames) == 1 for one in queue._sources.values())
    while queue:
        taken += take()
    assert taken + dropped + replaced == added
    assert queue.size == 0
