"""What rerankers are trained on, and how scores of pairs compare."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1 import collection_pb2 as search
from services.trainer import upkeep
from services.trainer.domain.classification import auc, confusion
from services.trainer.domain.data import Judged
from services.trainer.domain.examples import resampled
from services.trainer.domain.gate import GatePolicy, Verdict, decide
from services.trainer.domain.model import Kind
from services.trainer.domain.pairs import Pairs, compare
from services.trainer.domain.reranking import MOST_LISTED, Listed, choose, drawn, lists, pairs, schedule
from services.trainer.tables import RolloutRow

DOCUMENTS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([-0.5, 0.0, 0.5, 1.0]), min_size=1)
JUDGED = st.lists(st.builds(Judged, st.text(max_size=3), DOCUMENTS), max_size=8, unique_by=lambda one: one.query)
MINED = st.permutations(list("abcdefghij"))


@given(JUDGED, MINED, st.integers(1, 3), st.integers(0, 3))
def test_what_is_drawn_was_not_judged_and_is_as_much_as_was_asked_for(
    judged: list[Judged], mined: list[str], negatives: int, seed: int
) -> None:
    by_query = {one.query: mined for one in judged}
    found = drawn(judged, by_query, negatives, seed)
    assert found == drawn(judged, by_query, negatives, seed)
    for one in judged:
        left = [name for name in mined if name not in one.targets]
        assert set(found[one.query]) <= set(left)
        assert len(found[one.query]) == min(len(left), negatives * len(one.relevant))


def test_pairs_have_the_targets_and_zero_for_what_nobody_judged() -> None:
    judged = Judged("q", {"good": 0.8, "bad": -0.5}, {"good": 2.0})
    found = {row.documents: (row.label, row.weight) for row in pairs([judged], {"q": ["x"]})}
    assert found == {("good",): (0.8, 2.0), ("bad",): (0.0, 1.0), ("x",): (0.0, 1.0)}


@given(JUDGED, MINED)
def test_lists_hold_every_document_once_where_there_is_an_order(judged: list[Judged], mined: list[str]) -> None:
    unjudged = drawn(judged, {one.query: mined for one in judged}, 2, 0)
    found = {row.query: row for row in lists(judged, unjudged)}
    for one in judged:
        targets = {**one.targets, **dict.fromkeys(unjudged[one.query], 0.0)}
        if len(set(targets.values())) > 1:
            row = found[one.query]
            assert dict(zip(row.documents, row.labels, strict=True)) == targets
        else:
            assert one.query not in found


def test_a_long_list_is_parted_and_each_part_has_an_order() -> None:
    judged = Judged("q", {f"d{i}": float(i % 5 == 0) for i in range(60)})
    found = lists([judged], {})
    assert sorted(name for row in found for name in row.documents) == sorted(judged.targets)
    assert all(len(row.documents) <= MOST_LISTED and set(row.labels) == {0.0, 1.0} for row in found)


def test_lists_come_as_often_as_they_count() -> None:
    heavy, light = (Listed(name, ("a", "b"), (1.0, 0.0), weight) for name, weight in (("heavy", 3.0), ("light", 1.0)))
    found = [row.query for row in resampled([heavy] * 200 + [light] * 200, 1)]
    assert found.count("heavy") == pytest.approx(3 * found.count("light"), rel=0.2)


@pytest.mark.parametrize(
    ("targets", "queries", "recipe"),
    [
        ([1.0, 0.0], 400, "bce"),
        ([0.0, 0.25, 0.5, 1.0], 99, "bce"),
        ([0.0, 0.25, 0.5, 1.0], 100, "lambda"),
        ([0.8, -0.5], 400, "bce"),
        ([1.0, 0.0] * 6 + [0.5, 2 / 3], 400, "bce"),
    ],
)
def test_the_recipe_follows_what_was_said_and_how_much(targets: list[float], queries: int, recipe: str) -> None:
    judged = [Judged(str(n), {str(i): target for i, target in enumerate(targets)}) for n in range(queries)]
    assert choose(judged) == recipe


def test_grades_of_which_each_query_has_one_are_no_lists() -> None:
    assert choose([Judged(str(n), {"d": n % 5 / 4}) for n in range(400)]) == "bce"


def test_many_examples_are_trained_on_for_longer_and_more_slowly() -> None:
    (few, fast), (more, slow) = schedule(499), schedule(500)
    assert (few, fast) == (3, 5e-5)
    assert (more > few, slow < fast) == (True, True)


def _of(labels: Sequence[int], before: Sequence[float], after: Sequence[float], each: int = 4) -> Pairs:
    return Pairs([i // each for i in range(len(labels))], labels, before, after)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40))
def test_auc_and_f1_are_those_of_all_pairs_together(rows: list[tuple[int, int, int]]) -> None:
    labels = [label for label, _, _ in rows]
    before, after = ([row[i] / 4 for row in rows] for i in (1, 2))
    found = {one.metric: one for one in compare(_of(labels, before, after))}
    if len(set(labels)) < 2:
        assert not found
        return
    if "auc" in found:  # else no resample had both classes
        assert found["auc"].before == pytest.approx(auc(labels, before))
        assert found["auc"].after == pytest.approx(auc(labels, after))
    assert found["f1"].before == pytest.approx(confusion(labels, before).f1)
    assert found["f1"].after == pytest.approx(confusion(labels, after).f1)
    assert all(one.dimensions == 0 for one in found.values())


def test_an_interval_is_clear_of_zero_for_what_is_clearly_better_and_wider_for_fewer_queries() -> None:
    chance = random.Random(3)
    labels = [i % 2 for i in range(400)]
    before = [chance.random() for _ in labels]
    after = [0.3 + 0.4 * label + 0.2 * chance.random() for label in labels]
    better = compare(_of(labels, before, after))
    assert all(one.low > 0 and one.low <= one.difference <= one.high for one in better)
    few = compare(_of(labels, before, after, each=40))
    assert (few[0].before, few[0].after) == (better[0].before, better[0].after)
    same = compare(_of(labels, before, before))
    assert all(one.low == one.high == 0 for one in same)


def test_i9_the_gate_decides_on_a_reranker_by_rankings_without_dimensions() -> None:
    before, after = {0: {"ndcg@10": [0.4] * 80}}, {0: {"ndcg@10": [0.6] * 80}}
    assert decide(before, after, GatePolicy()).verdict is Verdict.PROMOTE
    worse = decide(after, before, GatePolicy())
    assert (worse.verdict, worse.reason.startswith("worse; ndcg@10")) == (Verdict.REJECT, True)


def test_i8_a_rollout_is_settled_when_one_of_its_indexes_is_gone_and_ends_as_what_serves_says() -> None:
    row = RolloutRow(collection="films", from_digest="a", to_digest="b")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for serving, held, over, back in (
        ("b", "ab", False, False),
        ("a", "ab", False, True),  # it may still be switched there again
        ("a", "a", True, True),
        ("b", "b", True, False),
        ("c", "c", True, False),
    ):
        indexes = [search.Index(id=digest, encoder=VersionRef(digest=digest)) for digest in held]
        route = search.Route(encoder=VersionRef(digest=serving))
        films = [search.Collection(name="films", route=route, indexes=indexes)]
        assert upkeep.settled(row, Kind.ENCODER, films, at) == over
        assert upkeep.taken_back(row, Kind.ENCODER, films) == back
    assert upkeep.settled(row, Kind.ENCODER, [], at)
    assert not upkeep.taken_back(row, Kind.ENCODER, [])
    first = RolloutRow(collection="films", from_digest="", to_digest="b")
    assert upkeep.taken_back(first, Kind.RERANKER, [search.Collection(name="films")])


def test_i8_a_reranker_that_was_replaced_is_kept_as_long_as_an_index_would_be() -> None:
    switched = datetime(2026, 1, 1, tzinfo=UTC)
    row = RolloutRow(collection="films", from_digest="a", to_digest="b", history=[["retiring", switched.isoformat()]])
    films = search.Collection(name="films", indexes=[search.Index(encoder=VersionRef(digest=each)) for each in "ab"])
    films.settings.retention.FromTimedelta(timedelta(seconds=60))
    for seconds, over in ((0, False), (59, False), (60, True)):
        at = switched + timedelta(seconds=seconds)
        assert upkeep.settled(row, Kind.RERANKER, [films], at) == over
        assert not upkeep.settled(row, Kind.ENCODER, [films], at)  # its index is there
    assert upkeep.settled(row, Kind.RERANKER, [], switched)  # the collection was deleted


def test_scores_are_resampled_by_query_with_all_pairs_of_each() -> None:
    # One query is better, the other worse by as much: only whole queries show how unsure that is.
    labels = [1, 0] * 20
    good, bad = [0.9, 0.1] * 10, [0.1, 0.9] * 10
    [found, _] = compare(_of(labels, good + bad, bad + good, each=20))
    assert found.difference == pytest.approx(0)
    assert (found.low, found.high) == (-1.0, 1.0)
    assert np.isfinite([found.before, found.after]).all()
