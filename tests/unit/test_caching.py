"""The cache of queries."""

from hypothesis import given
from hypothesis import strategies as st

from services.embedder.domain.caching import Cache


def test_the_entry_used_longest_ago_makes_room() -> None:
    cache: Cache[str, int] = Cache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers()), max_size=60), st.integers(0, 4))
def test_i10_it_never_holds_more_than_it_may_and_never_gives_another_value(
    puts: list[tuple[str, int]], capacity: int
) -> None:
    cache: Cache[str, int] = Cache(capacity)
    last: dict[str, int] = {}
    for key, value in puts:
        cache.put(key, value)
        last[key] = value
        assert len(cache) <= capacity
        assert cache.get(key) in ({value} if capacity else {None})
    assert all(cache.get(key) in (None, value) for key, value in last.items())
