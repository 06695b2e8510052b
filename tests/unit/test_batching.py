"""Which texts go together."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from services.embedder.domain.batching import Bounds, Lanes, take

LENGTHS = st.lists(st.integers(1, 6000), max_size=50)


@given(LENGTHS, st.integers(1, 20), st.integers(1, 8000))
def test_i10_batches_stay_within_bounds_and_lose_nothing(lengths: list[int], texts: int, tokens: int) -> None:
    queue, batches = deque(lengths), []
    while queue:
        batches.append(take(queue, lambda length: length, Bounds(texts, tokens)))
    assert [length for batch in batches for length in batch] == lengths
    for batch in batches:
        assert 1 <= len(batch) <= texts
        assert len(batch) == 1 or max(batch) * len(batch) <= tokens


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=30), st.integers(1, 40))
def test_i10_a_full_queue_refuses_whole_requests(offers: list[tuple[int, bool]], capacity: int) -> None:
    lanes: Lanes[int] = Lanes(capacity)
    for size, bulk in offers:
        room = len(lanes) + size <= capacity
        assert lanes.offer(list(range(size)), bulk) is room
        assert len(lanes) <= capacity


def test_interactive_goes_before_bulk_that_came_first() -> None:
    lanes: Lanes[str] = Lanes(10)
    lanes.offer(["bulk"], bulk=True)
    lanes.offer(["asked"], bulk=False)
    order = [lanes.next_batch(len, Bounds()) for _ in range(2)]
    assert order == [["asked"], ["bulk"]]
