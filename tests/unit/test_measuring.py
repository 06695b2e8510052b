"""What the demo measures: that a mixed answer would be seen, and the arithmetic of the table."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from diapason.cli.demo.measuring import Ranking, Sample, difference, means, mismatched
from diapason.cli.demo.samples import Query
from diapason.client import Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1.collection_pb2 import Route
from diapason.search.v1.search_pb2 import Result, SearchResponse
from diapason.vectors import Matrix

OLD, NEW = VersionRef(model="m", number=1, digest="a"), VersionRef(model="m", number=2, digest="b")
ROUTES = [
    Route(collection="c", generation=2, encoder=NEW, index="two"),
    Route(collection="c", generation=1, encoder=OLD, index="one"),
]
# Each version has its own vectors for the query, "q", and the document, "d".
VECTORS = {"a": {"q": [1.0, 0.0], "d": [0.8, 0.6]}, "b": {"q": [0.0, 1.0], "d": [0.28, 0.96]}}


class TwoVersions:
    """The two calls that the check makes."""

    def routes(self, collection: str) -> list[Route]:
        return ROUTES

    def embed(self, version: VersionRef, texts: Sequence[str], query: bool) -> Matrix:
        return np.array([VECTORS[version.digest][text] for text in texts], np.float32)


def answer(route: Route, score: float, query_version: VersionRef | None = None) -> Sample:
    response = SearchResponse(
        route=route, query_version=query_version or route.encoder, results=[Result(id="d", text="d", score=score)]
    )
    return Sample("q", 0.0, 0.0, response, "")


def wrong(*samples: Sample) -> int:
    return mismatched(cast("Client", TwoVersions()), samples)


def test_answers_of_one_version_match() -> None:
    assert wrong(answer(ROUTES[1], 0.8), answer(ROUTES[0], 0.96), Sample("q", 0.0, 0.0, None, "failed")) == 0


def test_i1_a_score_between_two_versions_is_seen() -> None:
    mixed = float(np.dot(VECTORS["a"]["q"], VECTORS["b"]["d"]))
    assert wrong(answer(ROUTES[1], 0.8), answer(ROUTES[1], mixed), answer(ROUTES[0], mixed)) == 2


def test_i1_a_score_of_the_other_version_is_seen() -> None:
    assert wrong(answer(ROUTES[0], 0.8)) == 1


def test_i2_an_answer_that_contradicts_itself_or_the_record_is_seen() -> None:
    never = Route(collection="c", generation=2, encoder=OLD, index="one")
    assert wrong(answer(ROUTES[0], 0.96, query_version=OLD), answer(never, 0.8)) == 2


def rankings(*ranks: int) -> list[Ranking]:
    return [Ranking(Query("q", "d"), (), (), rank) for rank in ranks]


def test_the_table_of_a_worked_example() -> None:
    found = means(rankings(1, 3, 6, 0))
    assert found["mrr@10"] == pytest.approx((1 + 1 / 3 + 1 / 6) / 4)
    assert found["recall@5"] == 0.5
    assert found["ndcg@10"] == pytest.approx((1 + 0.5 + 1 / np.log2(7)) / 4)


def test_the_interval_is_above_zero_only_for_what_is_surely_better() -> None:
    assert difference(rankings(*[3] * 50), rankings(*[1] * 50))["low"] > 0
    assert difference(rankings(*[1, 3] * 25), rankings(*[3, 1] * 25))["low"] < 0
