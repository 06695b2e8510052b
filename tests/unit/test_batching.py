"""Which texts are computed together, and whose turn it is."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.embedder.domain.batching import Bounds, Lane, Lanes, TokenEstimate, similar

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=80)
BOUNDS = st.builds(Bounds, texts=st.integers(1, 40), tokens=st.integers(1, 2000))
ANY = Bounds(10**9, 10**9)


@dataclass(eq=False)
class Text:
    """A waiting text."""

    tokens: int = 10
    since: float = 0.0
    dead: bool = False
    kind: str = "text"


def lanes(patience: float = 0.1, texts: int = 1000, tokens: int = 100_000) -> Lanes[Text]:
    batches = {Lane.INTERACTIVE: Bounds(4, 1000), Lane.BULK: Bounds(2, 1000)}
    return Lanes(Bounds(texts, tokens), batches, patience)


def always(version: str) -> bool:
    return True


@given(LENGTHS, BOUNDS)
def test_the_oldest_is_always_in_the_batch_which_stays_within_its_bounds(lengths: list[int], bounds: Bounds) -> None:
    chosen = similar(lengths, bounds)
    assert 0 in chosen
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= bounds.texts
    longest = max(lengths[i] for i in chosen)
    assert len(chosen) == 1 or longest * len(chosen) <= bounds.tokens


@given(LENGTHS, BOUNDS)
def test_no_text_left_out_lies_between_two_that_were_taken(lengths: list[int], bounds: Bounds) -> None:
    chosen = set(similar(lengths, bounds))
    low, high = min(lengths[i] for i in chosen), max(lengths[i] for i in chosen)
    assert not [i for i in range(len(lengths)) if i not in chosen and low < lengths[i] < high]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_all_are_taken_where_the_bounds_allow(lengths: list[int]) -> None:
    assert similar(lengths, ANY) == list(range(len(lengths)))


def test_texts_of_the_same_length_go_together() -> None:
    assert similar([100, 10, 99, 11, 101, 10], Bounds(3, 320)) == [0, 2, 4]


@given(st.lists(st.tuples(st.sampled_from(Lane), st.sampled_from("ab"), st.integers(1, 500)), max_size=120))
def test_i10_every_text_comes_out_exactly_once(arrivals: list[tuple[Lane, str, int]]) -> None:
    waiting, offered = lanes(), []
    for at, (lane, version, tokens) in enumerate(arrivals):
        text = Text(tokens, float(at))
        assert waiting.offer(version, lane, [text])
        offered.append(text)
    taken: list[Text] = []
    while batch := waiting.next_batch(1e6, always):
        taken += batch.items
    assert sorted(map(id, taken)) == sorted(map(id, offered))
    assert len(waiting) == 0
    assert all(waiting.tokens(lane) == 0 for lane in Lane)


def test_interactive_goes_first_across_versions() -> None:
    waiting = lanes()
    waiting.offer("a", Lane.BULK, [Text(since=1.95)])
    waiting.offer("b", Lane.INTERACTIVE, [Text(since=2.0)])
    first, second = waiting.next_batch(2.0, always), waiting.next_batch(2.0, always)
    assert first
    assert second
    assert (first.lane, second.lane) == (Lane.INTERACTIVE, Lane.BULK)


def test_within_a_lane_the_version_whose_text_waited_longest_goes_first() -> None:
    waiting = lanes()
    waiting.offer("a", Lane.BULK, [Text(since=2.0)])
    waiting.offer("b", Lane.BULK, [Text(since=1.0)])
    batch = waiting.next_batch(2.0, always)
    assert batch
    assert batch.version == "b"


def test_bulk_is_never_put_off_for_good() -> None:
    waiting = lanes(patience=0.1)
    waiting.offer("a", Lane.BULK, [Text(since=0.0) for _ in range(4)])
    turns = []
    for tick in range(100):
        now = tick * 0.01
        waiting.offer("a", Lane.INTERACTIVE, [Text(since=now)])
        batch = waiting.next_batch(now, always)
        assert batch
        turns.append((now, batch.lane))
    bulk = [now for now, lane in turns if lane is Lane.BULK]
    assert len(bulk) == 2  # two batches of two, each after a wait
    assert bulk[0] == pytest.approx(0.11, abs=0.011)
    assert bulk[1] - bulk[0] == pytest.approx(0.11, abs=0.011)


def test_the_oldest_text_is_not_starved_by_others_of_a_common_length() -> None:
    waiting = lanes()
    odd = Text(tokens=700, since=0.0)
    waiting.offer("a", Lane.INTERACTIVE, [odd, *(Text(tokens=10, since=1.0) for _ in range(100))])
    batch = waiting.next_batch(2.0, always)
    assert batch
    assert batch.items == [odd]


def test_i10_a_full_lane_refuses_by_texts_and_by_tokens_and_leaves_the_other_open() -> None:
    waiting = lanes(texts=3, tokens=100)
    assert waiting.offer("a", Lane.BULK, [Text(), Text()])
    assert not waiting.offer("a", Lane.BULK, [Text(), Text()])
    assert not waiting.offer("a", Lane.BULK, [Text(tokens=81)])
    assert waiting.offer("a", Lane.BULK, [Text(tokens=80)])
    assert waiting.offer("a", Lane.INTERACTIVE, [Text()])
    assert len(waiting) == 4


def test_an_empty_lane_takes_even_what_exceeds_its_bound() -> None:
    assert lanes(tokens=100).offer("a", Lane.BULK, [Text(tokens=101)])


def test_i10_what_nobody_waits_for_is_dropped_and_no_longer_counted() -> None:
    waiting = lanes()
    texts = [Text(), Text(), Text()]
    waiting.offer("a", Lane.INTERACTIVE, texts)
    texts[0].dead = texts[2].dead = True
    batch = waiting.next_batch(1.0, always)
    assert batch
    assert batch.items == [texts[1]]
    assert waiting.next_batch(1.0, always) is None
    assert len(waiting) == 0


class Expiring(Text):
    """Dead from its so-manieth look on: as time passes between one look and the next."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    @property
    def dead(self) -> bool:
        self._looks -= 1
        return self._looks < 0

    @dead.setter
    def dead(self, value: bool) -> None:
        """As the base has it."""


@given(st.lists(st.integers(0, 4), min_size=1, max_size=100))
def test_i10_counts_stay_right_when_texts_expire_while_they_are_looked_at(looks: list[int]) -> None:
    waiting = lanes()
    texts: list[Text] = [Expiring(each) for each in looks]
    assert waiting.offer("a", Lane.BULK, texts)
    taken: list[Text] = []
    while batch := waiting.next_batch(1.0, always):
        taken += batch.items
    assert len(taken) == len(set(map(id, taken)))
    assert len(waiting) == 0
    assert waiting.tokens(Lane.BULK) == 0


def test_purging_drops_the_dead_wherever_they_stand() -> None:
    waiting = lanes(texts=3)
    texts = [Text(), Text(dead=True), Text(dead=True)]
    waiting.offer("a", Lane.BULK, texts)
    waiting.purge(Lane.BULK)
    assert len(waiting) == 1
    assert waiting.offer("a", Lane.BULK, [Text(), Text()])


def test_a_version_that_may_not_start_waits_while_others_go() -> None:
    waiting = lanes()
    waiting.offer("a", Lane.INTERACTIVE, [Text(since=0.0)])
    waiting.offer("b", Lane.BULK, [Text(since=1.0)])
    batch = waiting.next_batch(2.0, lambda version: version != "a")
    assert batch
    assert batch.version == "b"
    assert len(waiting) == 1


def test_removing_a_version_gives_back_all_its_texts() -> None:
    waiting = lanes()
    mine, others = [Text(), Text()], [Text()]
    waiting.offer("a", Lane.INTERACTIVE, mine[:1])
    waiting.offer("a", Lane.BULK, mine[1:])
    waiting.offer("b", Lane.BULK, others)
    assert waiting.remove("a") == mine
    assert [version for _, version, *_ in waiting.waiting()] == ["b"]
    assert len(waiting) == 1


def test_the_estimate_of_tokens_learns_and_is_capped() -> None:
    estimate = TokenEstimate(100)
    before = estimate(120)
    for _ in range(200):
        estimate.learn(2, 1200, 244)
    assert before == 42
    assert estimate(120) == pytest.approx(26, abs=1)
    assert estimate(10**6) == 100
    assert estimate(0) > 0


def test_many_short_texts_do_not_spoil_the_estimate_for_long_ones() -> None:
    estimate = TokenEstimate(1000)
    for _ in range(1000):
        estimate.learn(1, 600, 122)
        estimate.learn(1, 10, 4)
    assert estimate(600) == pytest.approx(122, abs=5)


@given(st.lists(st.tuples(st.sampled_from(["text", "cut"]), st.integers(1, 500)), min_size=1, max_size=120))
def test_a_batch_has_texts_of_one_kind_and_none_waits_for_ever(sent: list[tuple[str, int]]) -> None:
    waiting = lanes()
    texts = [Text(tokens, kind=kind) for kind, tokens in sent]
    assert waiting.offer("a", Lane.BULK, texts)
    taken: list[Text] = []
    while batch := waiting.next_batch(0.0, always):
        assert len({text.kind for text in batch.items}) == 1
        oldest = next(text for text in texts if not any(text is other for other in taken))
        assert any(text is oldest for text in batch.items)
        taken += batch.items
    assert len(taken) == len(texts)
