"""One contract for every engine: the embedded one, a server's, and a server's stand-in in this process."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient

from services.search.adapters.edge import EdgeEngine
from services.search.adapters.server import ServerEngine
from services.search.adapters.server_calls import ServerSettings
from services.search.domain import filters
from services.search.domain.filters import Equals, Exists, Filter
from services.search.domain.model import Distance, FieldType, Hit, Passages, Quantization
from services.search.ports import Engine, Fusion, Held, Query, Sparse, VectorIndex
from tests.support import oracle
from tests.support.engines import (
    FULL,
    SMALL,
    by_vector,
    distribution_based,
    index,
    nearness,
    point,
    reciprocal_ranks,
    split,
    vectors,
    word_scores,
    worded,
)
from tests.support.qdrant_wire import Wire, serving

# Payload indexes and compression are beyond the stand-in, which says so once.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]
REAL = os.environ.get("DIAPASON_TEST_QDRANT_URL", "")
# "local": the client's own stand-in for a server; "wire": the same behind gRPC.
KINDS = ["edge", "local", "wire", *(["server"] if REAL else [])]


# To shrink an example takes minutes with real engines.
PHASES = [phase for phase in Phase if phase is not Phase.shrink]


@pytest.fixture(params=KINDS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with running(request.param, tmp_path) as made:
        yield made


@asynccontextmanager
async def running(kind: str, folder: Path) -> AsyncIterator[Engine]:
    """An engine without any indexes."""
    mark = uuid.uuid4().hex
    chosen = ServerSettings(url=REAL, prefix=f"test-{mark}-", catalog=mark, settled_seconds=0)
    async with AsyncExitStack() as stack:
        made: Engine
        if kind == "edge":
            made = EdgeEngine(folder / "indexes")
        elif kind == "local":
            made = ServerEngine(chosen, AsyncQdrantClient(":memory:"))
        elif kind == "wire":
            port = await stack.enter_async_context(serving(Wire()))
            made = ServerEngine(replace(chosen, url="http://127.0.0.1", grpc_port=port))
        else:
            made = ServerEngine(chosen)
        yield made
        if made.shared:
            await made.keep_only(set())
        await made.close()


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.document_id for hit in hits]


async def ask(held: VectorIndex, query: Query) -> list[Hit]:
    return (await held.query([query]))[0]


async def filled(engine: Engine, count: int = 50, **settings: Any) -> VectorIndex:
    """An index of documents "0", "1", ... with the vectors of `vectors(count)` and random words."""
    made = await engine.create(index(**settings))
    await made.upsert(worded([point(str(i)) for i in range(count)]), vectors(count))
    return made


async def test_an_index_is_there_from_its_creation_until_it_is_dropped(engine: Engine) -> None:
    assert await engine.open(index()) is None
    made = await filled(engine)
    await made.flush()
    await made.close()
    opened = await engine.open(index())
    assert opened is not None
    assert await opened.count() == 50
    await opened.close()
    await engine.drop("one")
    assert await engine.open(index()) is None
    await engine.drop("one")


async def test_indexes_do_not_mix(engine: Engine) -> None:
    one, two = await filled(engine), await engine.create(index("two"))
    await two.upsert([point("only")], vectors(1))
    assert [await one.count(), await two.count()] == [50, 1]
    assert ids(await ask(two, by_vector(vectors(1)[0]))) == ["only"]


async def test_a_point_is_replaced_as_a_whole(engine: Engine) -> None:
    made = await engine.create(index(fields={"year": FieldType.INTEGER, "kind": FieldType.KEYWORD}))
    old, new = vectors(2)
    await made.upsert([point("a", year=1999, kind="film")], old[None])
    await made.upsert([replace(point("a", sequence=2, year=2024), key="another")], new[None])
    assert await made.held(["a", "b"]) == {"a": Held("another", 1)}
    await made.upsert([replace(point("a", sequence=3), truncated=True)], new[None])
    assert await made.held(["a"]) == {"a": Held("key of a", 1, truncated=True)}
    await made.upsert([replace(point("a", sequence=4, year=2024), key="another")], new[None])
    assert await made.held(["a"]) == {"a": Held("another", 1)}
    assert await made.points() == 1
    assert await made.count(Filter(must=(Exists("kind"),))) == 0
    assert await made.count(Filter(must=(Equals("year", 2024),))) == 1
    (stored,) = (await made.stored(["a"]))["a"]
    assert nearness(Distance.COSINE, new, stored.vector[None])[0] == pytest.approx(1)


async def test_passages_of_a_document_are_stored_in_order(engine: Engine) -> None:
    made = await engine.create(index(distance=Distance.DOT, passages=Passages()))
    rows = vectors(6)
    await made.upsert([*split("long", 5), point("short")], rows)
    assert await made.held(["long", "short", "none"]) == {
        "long": Held("key of long", 5),
        "short": Held("key of short", 1),
    }
    stored = await made.stored(["none", "short", "long"])
    assert stored.keys() == {"long", "short"}
    assert [(kept.passage, kept.span and kept.span.start) for kept in stored["long"]] == [(n, 10 * n) for n in range(5)]
    assert stored["short"][0].span is None
    np.testing.assert_allclose([kept.vector for kept in stored["long"]], rows[4::-1])


async def test_more_passages_are_stored_than_one_call_fetches(engine: Engine) -> None:
    made = await engine.create(index(passages=Passages()))
    await made.upsert(split("long", 1100), vectors(1100))
    assert [kept.passage for kept in (await made.stored(["long"]))["long"]] == [*range(1100)]


async def test_refreshing_changes_fields_of_all_passages_and_no_vector(engine: Engine) -> None:
    fields = {"year": FieldType.INTEGER, "kind": FieldType.KEYWORD}
    made = await engine.create(index(passages=Passages(), fields=fields))
    await made.upsert(split("long", 3, year=1999, kind="film"), vectors(3))
    before = (await made.stored(["long"]))["long"]
    await made.refresh([point("long", sequence=5, passages=3, year=2024), point("unknown", sequence=5)])
    hits = await ask(
        made, by_vector(vectors(1)[0], filter=Filter(must=(Equals("year", 2024),), must_not=(Exists("kind"),)))
    )
    assert {(hit.document_id, hit.passage) for hit in hits} == {("long", 0), ("long", 1), ("long", 2)}
    after = (await made.stored(["long"]))["long"]
    np.testing.assert_array_equal([kept.vector for kept in before], [kept.vector for kept in after])
    assert await made.held(["long", "unknown"]) == {"long": Held("key of long", 3)}


async def test_a_range_of_passages_is_deleted(engine: Engine) -> None:
    made = await engine.create(index(passages=Passages()))
    await made.upsert([*split("a", 4), *split("b", 2)], vectors(6))
    await made.delete({"a": (2, 4), "b": (0, 2), "unknown": (0, 9)}, up_to=9)
    assert [kept.passage for kept in (await made.stored(["a", "b"]))["a"]] == [0, 1]
    assert await made.points() == 2
    await made.delete({}, up_to=9)
    assert await made.points() == 2


async def test_nothing_is_written_or_asked_where_nothing_is_given(engine: Engine) -> None:
    made = await engine.create(index())
    await made.upsert([], vectors(0))
    await made.refresh([])
    assert [await made.held([]), await made.stored([]), await made.query([])] == [{}, {}, []]
    assert await made.scroll(None, "", 10) == ([], "")
    assert await ask(made, by_vector(vectors(1)[0])) == []


async def test_a_stale_writer_changes_nothing(engine: Engine) -> None:
    """I5: also when two processes believe that they alone write."""
    made = await engine.create(index(distance=Distance.DOT, passages=Passages(), fields={"by": FieldType.KEYWORD}))
    fresh, stale = vectors(4), vectors(4, seed=9)
    await made.upsert([*split("a", 2, 7, by="fresh"), point("b", 3, by="old"), point("c", 7, by="fresh")], fresh)
    late = [*split("a", 2, 6, by="stale"), point("b", 4, by="new"), point("d", 1, by="new")]
    await made.upsert(late, stale)
    await made.refresh([point("c", 6, by="stale")])
    await made.delete({"c": (0, 1), "a": (1, 2), "unknown": (0, 1)}, up_to=6)
    assert {by: await made.count(Filter(must=(Equals("by", by),))) for by in ("fresh", "stale", "new", "old")} == {
        "fresh": 2,
        "stale": 0,
        "new": 2,
        "old": 0,
    }
    stored = await made.stored(["a", "b"])
    np.testing.assert_allclose([kept.vector for kept in stored["a"]], fresh[1::-1])
    np.testing.assert_allclose(stored["b"][0].vector, stale[2])
    await made.delete({"c": (0, 1)}, up_to=7)
    assert await made.held(["c"]) == {}


async def test_a_write_may_be_applied_twice(engine: Engine) -> None:
    made = await engine.create(index(fields={"by": FieldType.KEYWORD}))
    for by in ("first", "again"):
        await made.upsert([point("a", 7, by=by)], vectors(1))
        await made.refresh([point("a", 8, by=by)])
        await made.upsert([point("b", 8, by=by)], vectors(1))
    assert await made.points() == 2
    assert await made.count(Filter(must=(Equals("by", "again"),))) == 2


async def test_questions_are_answered_while_one_writes(engine: Engine) -> None:
    made = await filled(engine)
    row = vectors(1)[0]

    async def write() -> None:
        for sequence in range(2, 12):
            await made.upsert([point(str(i), sequence) for i in range(50)], vectors(50))
            await made.optimize()

    writing = asyncio.create_task(write())
    while not writing.done():
        assert len(await ask(made, by_vector(row, 50))) == 50
        assert await made.count() == 50
        # Local mode waits for nothing, and so lets nobody else run.
        await asyncio.sleep(0)
    await writing


async def test_documents_are_counted_once_and_points_all(engine: Engine) -> None:
    made = await engine.create(index(passages=Passages(), fields={"odd": FieldType.BOOL}))
    for i in range(20):
        await made.upsert(split(str(i), 1 + i % 3, odd=bool(i % 2)), vectors(1 + i % 3))
    assert await made.points() == sum(1 + i % 3 for i in range(20))
    assert [await made.count(), await made.count(Filter(must=(Equals("odd", True),)))] == [20, 10]


@pytest.mark.parametrize("passages", [None, Passages()])
@pytest.mark.parametrize("where", [None, Filter(must=(Equals("odd", True),))])
async def test_scrolling_meets_each_document_once(
    engine: Engine, passages: Passages | None, where: Filter | None
) -> None:
    made = await engine.create(index(passages=passages, fields={"odd": FieldType.BOOL}))
    for i in range(50):
        await made.upsert(split(str(i), 3 if passages else 1, odd=bool(i % 2)), vectors(3 if passages else 1))
    found, after = await made.scroll(where, "", 7)
    while after:
        more, after = await made.scroll(where, after, 7)
        assert more
        found += more
    assert sorted(found) == sorted(str(i) for i in range(50) if where is None or i % 2)


@pytest.mark.parametrize("distance", Distance)
@pytest.mark.parametrize("size", [0, FULL, SMALL])
@pytest.mark.parametrize("exact", [True, False])
async def test_the_nearest_come_first(engine: Engine, distance: Distance, size: int, exact: bool) -> None:
    made = await filled(engine, distance=distance)
    row, held = vectors(1, seed=5)[0], vectors(50)
    near = nearness(distance, row[: size or FULL], held[:, : size or FULL])
    hits = await ask(made, by_vector(row, dimensions=size, exact=exact))
    assert ids(hits) == [str(i) for i in np.argsort(-near)[:10]]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(near)[::-1][:10], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", Distance)
@pytest.mark.parametrize("quantization", [Quantization.NONE, Quantization.BINARY])
async def test_a_coarse_first_stage_is_ordered_by_the_second(
    engine: Engine, distance: Distance, quantization: Quantization
) -> None:
    made = await filled(engine, 400, distance=distance, quantization=quantization)
    row, held = vectors(1, seed=5)[0], vectors(400)
    coarse = np.argsort(-nearness(distance, row[:SMALL], held[:, :SMALL]))[:200]
    near = nearness(distance, row, held)
    expected = sorted(coarse, key=lambda i: -near[i])
    hits = await ask(made, by_vector(row, 200, first_stage=SMALL))
    assert ids(hits) == [str(i) for i in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [near[i] for i in expected], rtol=1e-4, atol=1e-5)
    assert ids(await ask(made, by_vector(row, 15, first_stage=SMALL)))[10:] == [str(i) for i in expected[10:15]]


async def test_a_filter_holds_in_every_stage(engine: Engine) -> None:
    made = await engine.create(index(fields={"odd": FieldType.BOOL}))
    await made.upsert(worded([point(str(i), odd=bool(i % 2)) for i in range(300)]), vectors(300))
    row, words = vectors(1, seed=5)[0], Sparse([0, 1, 2, 3, 4], [1.0] * 5)
    odd = Filter(must=(Equals("odd", True),))
    asked = [
        by_vector(row, 100, filter=odd),
        by_vector(row, 100, first_stage=SMALL, filter=odd),
        Query(100, words=words, filter=odd),
        by_vector(row, 100, words=words, filter=odd),
        by_vector(row, 100, words=words, first_stage=SMALL, fusion=Fusion.RECIPROCAL_RANK, filter=odd),
    ]
    for hits in await made.query(asked):
        assert len(hits) == 100
        assert all(int(name) % 2 for name in ids(hits))


async def test_words_count_by_their_rarity(engine: Engine) -> None:
    made = await filled(engine)
    asked = Sparse([0, 3, 99], [1.0, 2.0, 1.0])
    expected = word_scores(asked, worded([point(str(i)) for i in range(50)]))
    hits = await ask(made, Query(100, words=asked))
    assert {hit.document_id: pytest.approx(hit.score, rel=1e-4) for hit in hits} == expected
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("distance", Distance)
@pytest.mark.parametrize("first_stage", [0, SMALL])
@pytest.mark.parametrize("fusion", Fusion)
async def test_two_lists_are_fused(engine: Engine, distance: Distance, first_stage: int, fusion: Fusion) -> None:
    made = await filled(engine, 150, distance=distance)
    row, words = vectors(1, seed=5)[0], Sparse([0, 3], [1.0, 2.0])
    near = by_vector(row, 200, first_stage=first_stage)
    both = replace(near, words=words, fusion=fusion)
    alone = await made.query([near, Query(200, words=words)])
    if fusion is Fusion.RECIPROCAL_RANK:
        expected = reciprocal_ranks([ids(hits) for hits in alone])
    else:
        expected = distribution_based([{hit.document_id: hit.score for hit in hits} for hits in alone])
    hits = await ask(made, replace(both, limit=100))
    best = sorted(expected.values(), reverse=True)
    np.testing.assert_allclose([hit.score for hit in hits], best[:100], rtol=1e-3)
    assert all(hit.score == pytest.approx(expected[hit.document_id], rel=1e-3) for hit in hits)
    # Bounds and pages are of fused scores.
    middle = (best[4] + best[5]) / 2
    assert ids(await ask(made, replace(both, threshold=middle))) == ids(hits)[:5]
    assert ids(await ask(made, replace(both, limit=5)))[2:] == ids(hits)[2:5]


@pytest.mark.parametrize("distance", Distance)
async def test_one_list_of_two_may_be_empty(engine: Engine, distance: Distance) -> None:
    made = await filled(engine, distance=distance)
    row = vectors(1, seed=5)[0]
    alone = await ask(made, by_vector(row, 20))
    for fusion in Fusion:
        assert ids(await ask(made, by_vector(row, 20, words=Sparse([99], [1.0]), fusion=fusion))) == ids(alone)


@pytest.mark.parametrize("distance", Distance)
async def test_a_threshold_keeps_what_is_near_enough(engine: Engine, distance: Distance) -> None:
    made = await filled(engine, distance=distance)
    row = vectors(1, seed=5)[0]
    near = np.sort(nearness(distance, row, vectors(50)))[::-1]
    for kept in (0, 1, 7):
        bound = float(near[0] + 0.001 if not kept else (near[kept - 1] + near[kept]) / 2)
        for first_stage in (0, SMALL):
            assert len(await ask(made, by_vector(row, 50, threshold=bound, first_stage=first_stage))) == kept


async def test_pages_follow_one_another(engine: Engine) -> None:
    made = await filled(engine, 90)
    row, words = vectors(1, seed=5)[0], Sparse([0, 3], [1.0, 2.0])
    for query in (by_vector(row), Query(10, words=words), by_vector(row, words=words)):
        whole = await ask(made, replace(query, limit=90))
        pages = [(await ask(made, replace(query, limit=start + 20)))[start:] for start in range(0, 100, 20)]
        # Of equal scores any may come first.
        assert [hit.score for page in pages for hit in page] == pytest.approx([hit.score for hit in whole])


async def test_a_batch_of_queries_is_as_good_as_one_by_one(engine: Engine) -> None:
    made = await filled(engine, distance=Distance.EUCLID)
    row, words = vectors(1, seed=5)[0], Sparse([0, 3], [1.0, 2.0])
    asked = [
        by_vector(row, 3),
        by_vector(row, 5, words=words),
        Query(4, words=words),
        by_vector(row, 5, words=words, fusion=Fusion.RECIPROCAL_RANK),
        by_vector(row, 2, first_stage=SMALL),
    ]
    together = await made.query(asked)
    alone = [await ask(made, query) for query in asked]
    for hits, same in zip(together, alone, strict=True):
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in same])


@pytest.mark.parametrize("quantization", Quantization)
@pytest.mark.parametrize("distance", Distance)
async def test_compressed_vectors_answer_like_whole_ones(
    engine: Engine, quantization: Quantization, distance: Distance
) -> None:
    made = await filled(engine, 200, distance=distance, quantization=quantization)
    assert await made.optimize()
    # So many results that the candidates are nearly all: with a bit for a number, and eight numbers, few are right.
    row = vectors(1, seed=5)[0]
    expected = await ask(made, by_vector(row, 60, exact=True))
    assert ids(expected) == [str(i) for i in np.argsort(-nearness(distance, row, vectors(200)))[:60]]
    hits = await ask(made, by_vector(row, 60))
    assert ids(hits) == ids(expected)
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected])


@pytest.mark.slow
async def test_a_graph_over_many_compressed_vectors_finds_nearly_all(tmp_path: Path) -> None:
    """Only so many have a graph at all. They lie in clusters, as vectors of texts do."""
    engine = EdgeEngine(tmp_path)
    made = await engine.create(index(dimension=256, bm25=None, quantization=Quantization.INT8))
    rows = np.tile(vectors(100, dimension=256), (120, 1)) + 0.7 * vectors(12_000, seed=1, dimension=256)
    for start in range(0, len(rows), 500):
        await made.upsert([point(str(start + i)) for i in range(500)], rows[start : start + 500])
    assert await made.optimize()
    queries = [by_vector(row) for row in vectors(100, dimension=256) + 0.7 * vectors(100, seed=2, dimension=256)]
    found, exact = await made.query(queries), await made.query([replace(query, exact=True) for query in queries])
    shared = [len({*ids(hits)} & {*ids(same)}) for hits, same in zip(found, exact, strict=True)]
    assert sum(shared) >= 0.95 * 10 * len(queries)
    assert [hits[0].score for hits in found] == pytest.approx([hits[0].score for hits in exact], abs=0.05)
    await made.close()
    await engine.close()


async def test_fields_may_be_declared_later(engine: Engine) -> None:
    made = await engine.create(index(fields={"year": FieldType.INTEGER}))
    await made.upsert([point(str(i), year=i, kind="film") for i in range(5)], vectors(5))
    for _ in range(2):
        await made.declare({"year": FieldType.INTEGER, "kind": FieldType.KEYWORD})
    assert await made.count(Filter(must=(Equals("kind", "film"), filters.Range("year", gte=3)))) == 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("local", "wire")])
async def test_words_are_sought_in_all_texts_of_a_list_together(kind: str, tmp_path: Path) -> None:
    """Local mode wants them all in one text: it has no index of words."""
    async with running(kind, tmp_path) as engine:
        made = await engine.create(index(fields={"text": FieldType.TEXT}))
        await made.upsert([point("a", text=["Red dog", "grey fox"]), point("b", text="red dog")], vectors(2))
        for words, found in (("red FOX", 1), ("dog", 2), ("red cat", 0), ("re", 0)):
            assert await made.count(Filter(must=(filters.Words("text", words),))) == found


@pytest.mark.parametrize("kind", KINDS)
@settings(
    deadline=None,
    max_examples=40,
    phases=[p for p in Phase if p is not Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    payloads=st.lists(oracle.PAYLOADS, max_size=8),
    wheres=st.lists(oracle.FILTERS, min_size=1, max_size=4),
    late=st.booleans(),
)
def test_filters_mean_what_the_contract_says(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    payloads: list[dict[str, Any]],
    wheres: list[Filter],
    late: bool,
) -> None:
    async def run() -> None:
        async with running(kind, tmp_path_factory.mktemp("engine")) as engine:
            made = await engine.create(index(fields={} if late else oracle.FIELDS, dimensions=(), bm25=None))
            points = [point(str(i), **payload) for i, payload in enumerate(payloads)]
            await made.upsert(points, vectors(len(points)))
            if late:
                await made.declare(oracle.FIELDS)
            for where in wheres:
                filters.check(where, oracle.FIELDS)
                expected = {str(i) for i, payload in enumerate(payloads) if oracle.passes(payload, where)}
                assert set((await made.scroll(where, "", 100))[0]) == expected
                assert set(ids(await ask(made, by_vector(vectors(1)[0], filter=where)))) == expected
                assert await made.count(where) == len(expected)
            await made.close()

    asyncio.run(run())
