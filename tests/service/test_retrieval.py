"""What a search can ask for, on the real engine and a real catalog; only the embedder is planted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from diapason.blending import blended
from services.kit.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.search.domain.asking import Rerank, Words
from services.search.domain.filters import Equals, Exists, Filter, Prefix, Range
from services.search.domain.model import Bm25, Document, FieldType, Passages, Settings
from tests.support.fakes import JUDGE, OLD, Bench

FIELDS = {"genre": FieldType.KEYWORD, "year": FieldType.INTEGER}


def story(i: int) -> str:
    """Texts of different lengths, so that no two are equally good by their words."""
    return f"story number {i} of {'whales' if i % 5 == 0 else 'gardens'}" + " further" * i


BOOKS = [
    Document(f"b{i}", story(i), "", {"genre": genre, "year": 1900 + i})
    for i, genre in enumerate(["sea", "land", "air"] * 10)
]


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.open()
    settings = Settings((16, 8), bm25=Bm25(average_words=6), fields=FIELDS)
    made.embedder.sizes = (32, 16, 8)
    await made.collections.create("books", ("tiny", 1, ""), settings)
    await made.writing.write("books", BOOKS)
    yield made
    await made.close()


async def ids(bench: Bench, query: str = "", limit: int = 10, **wishes: object) -> list[str]:
    return await bench.ids(query, limit, "books", **wishes)


async def test_a_filter_leaves_only_what_passes(books: Bench) -> None:
    where = Filter(must=(Equals("genre", "sea"), Range("year", gte=1906, lt=1915)))
    assert sorted(await ids(books, story(6), 30, filter=where)) == ["b12", "b6", "b9"]
    assert (await ids(books, story(6), 1, filter=where)) == ["b6"]


async def test_a_filter_on_a_field_that_is_not_declared_names_those_that_are(books: Bench) -> None:
    with pytest.raises(InvalidArgument, match=r"'colour'.*genre, year"):
        await ids(books, "x", filter=Filter(must=(Equals("colour", "red"),)))
    with pytest.raises(InvalidArgument, match=r"prefix.*use equals, any_of, range"):
        await ids(books, "x", filter=Filter(must=(Prefix("year", "19"),)))
    with pytest.raises(InvalidArgument, match="'1900'; give a int"):
        await ids(books, "x", filter=Filter(must=(Equals("year", "1900"),)))


async def test_a_field_declared_later_can_be_used_once_every_point_has_it(books: Bench) -> None:
    await books.writing.write("books", [Document("late", "late words", "", {"colour": "red"})])
    embedded = len(books.embedder.embedded)
    await books.collections.update("books", None, {"colour": FieldType.KEYWORD})
    async with asyncio.timeout(10):
        while True:
            try:
                assert await ids(books, "late words", filter=Filter(must=(Equals("colour", "red"),))) == ["late"]
                break
            except FailedPrecondition:
                await asyncio.sleep(0.01)
    assert len(books.embedder.embedded) == embedded + 1, "only the query is embedded"
    with pytest.raises(InvalidArgument, match="'colour' as integer; it is keyword"):
        await books.collections.update("books", None, {"colour": FieldType.INTEGER})


async def test_words_find_what_vectors_do_not(books: Bench) -> None:
    whales = {f"b{i}" for i in range(0, 30, 5)}
    assert set(await ids(books, "whales", 6, words=Words.ONLY)) == whales
    assert len(await ids(books, "whales", 30, words=Words.RECIPROCAL_RANK)) == 30, "and vectors find the others"
    found = await books.found("whales", 30, "books", words=Words.ONLY)
    assert {r.hit.document_id for r in found.results} == whales
    assert found.query_version is None, "nothing was embedded"


@pytest.mark.parametrize("words", [Words.RECIPROCAL_RANK, Words.DISTRIBUTION_BASED])
async def test_a_document_that_both_ways_find_is_first(books: Bench, words: Words) -> None:
    assert (await ids(books, story(10), 3, words=words))[0] == "b10"


async def test_hybrid_needs_its_settings(books: Bench) -> None:
    await books.collections.create("plain", ("tiny", 1, ""), Settings())
    with pytest.raises(InvalidArgument, match="bm25"):
        await books.found("x", 5, "plain", words=Words.RECIPROCAL_RANK)


async def test_explain_gives_each_part_of_the_score(books: Bench) -> None:
    query = "whales"
    found = await books.found(query, 30, "books", words=Words.RECIPROCAL_RANK, explain=True)
    dense = await books.found(query, 30, "books")
    words = await books.found(query, 30, "books", words=Words.ONLY)
    near = {r.hit.document_id: (r.hit.score, i) for i, r in enumerate(dense.results, 1)}
    worded = {r.hit.document_id: (r.hit.score, i) for i, r in enumerate(words.results, 1)}
    for result in found.results:
        name, parts = result.hit.document_id, result.parts
        assert parts is not None
        assert parts.dense == pytest.approx(near[name][0])
        assert parts.dense_rank == near[name][1]
        assert parts.fused == pytest.approx(result.hit.score)
        score, rank = worded.get(name, (None, None))
        assert parts.bm25 == (None if score is None else pytest.approx(score))
        assert parts.bm25_rank == rank
        # The six whales are equally good by their words: the engine's order of them is its own.
        by_words = [1 / (60 + place) for place in range(1, 7)] if rank else [0.0]
        expected = [1 / (60 + near[name][1]) + share for share in by_words]
        assert any(parts.fused == pytest.approx(each, rel=1e-5) for each in expected)
    assert found.results[0].parts.rerank is None  # type: ignore[union-attr]


async def test_the_route_s_reranker_orders_the_first_candidates(books: Bench) -> None:
    await books.routing.switch("books", "", 1, ("judge", 0, ""))
    plain = await ids(books, story(10), 10)
    found = await books.found(story(10), 5, "books", rerank=Rerank(candidates=10), explain=True)
    assert found.reranking is not None
    assert (found.reranking.applied, found.reranking.version, found.reranking.candidates) == (True, JUDGE, 10)
    lengths = [len(result.document.text) for result in found.results]
    assert lengths == sorted(lengths), "the planted reranker likes short texts"
    assert {r.hit.document_id for r in found.results} <= set(plain)
    for result in found.results:
        assert result.parts is not None
        assert result.parts.rerank == result.hit.score == -len(result.document.text)
        assert plain[(result.parts.first_stage_rank or 0) - 1] == result.hit.document_id
    assert len(books.embedder.reranked[-1]) == 10


async def test_a_reranker_that_leaves_a_share_to_the_first_stage_is_blended_with_it(books: Bench) -> None:
    await books.routing.switch("books", "", 1, ("judge", 0, ""))
    first = await books.found(story(10), 10, "books")
    alone = await books.found(story(10), 10, "books", rerank=Rerank(candidates=10))
    books.embedder.first_stage_share = 0.6
    found = await books.found(story(10), 10, "books", rerank=Rerank(candidates=10), explain=True)
    assert found.reranking is not None
    assert found.reranking.first_stage_share == 0.6
    final = blended([r.hit.score for r in first.results], [-float(len(r.document.text)) for r in first.results], 0.6)
    expected = {r.hit.document_id: score for r, score in zip(first.results, final, strict=True)}
    assert [r.hit.score for r in found.results] == pytest.approx(sorted(final, reverse=True))
    for result in found.results:
        assert result.hit.score == pytest.approx(expected[result.hit.document_id])
        assert result.parts is not None
        assert result.parts.rerank == -len(result.document.text)
    orders = [[r.hit.document_id for r in one.results] for one in (first, alone, found)]
    assert orders[2] not in orders[:2]


async def test_past_its_budget_the_first_order_is_returned_and_flagged(books: Bench) -> None:
    query = story(10)
    without = await books.found(query, 5, "books", rerank=Rerank())
    assert without.reranking is not None
    assert not without.reranking.applied
    assert "no reranker" in without.reranking.reason
    await books.routing.switch("books", "", 1, ("judge", 0, ""))
    books.embedder.slow = True
    found = await books.found(query, 5, "books", rerank=Rerank(budget=0.05))
    assert found.reranking is not None
    assert not found.reranking.applied
    assert "budget" in found.reranking.reason
    assert [r.hit for r in found.results] == [r.hit for r in without.results]


async def test_i8_a_reranker_is_swapped_and_rolled_back_without_reindexing(books: Bench) -> None:
    index = books.index("books")
    route = await books.routing.switch("books", "", 1, ("judge", 0, ""))
    assert (route.generation, route.index, route.reranker) == (2, index, JUDGE)
    assert (await books.routing.switch("books", "", 1, ("judge", 0, ""))).generation == 2, "asked again"
    route = await books.routing.roll_back("books", 2)
    assert (route.generation, route.index, route.reranker) == (3, index, None)
    found = await books.found("whales", 5, "books", rerank=Rerank())
    assert found.reranking is not None
    assert not found.reranking.applied
    with pytest.raises(NotFound, match="reranker"):
        await books.routing.switch("books", "", 3, ("nobody", 0, ""))


async def test_pages_follow_each_other_without_gap_or_repeat(books: Bench) -> None:
    everything = await ids(books, story(3), 30)
    seen, token = [], ""
    while True:
        found = await books.found(story(3), 7, "books", page_token=token)
        seen += [r.hit.document_id for r in found.results]
        token = found.next_page_token
        if not token:
            break
    assert seen == everything
    first = await books.found(story(3), 7, "books")
    with pytest.raises(InvalidArgument, match="page_token"):
        await books.found("another query", 7, "books", page_token=first.next_page_token)
    with pytest.raises(InvalidArgument, match="page_token"):
        await books.found(story(3), 7, "books", page_token="rubbish")
    beyond = first.next_page_token.replace(".7.", ".994.")
    with pytest.raises(InvalidArgument, match="page_token"):
        await books.found(story(3), 7, "books", page_token=beyond)


async def test_pages_of_a_reranked_search_share_their_candidates_also_where_scores_are_equal(books: Bench) -> None:
    await books.routing.switch("books", "", 1, ("judge", 0, ""))
    best = [r.hit.score for r in (await books.found(story(3), 6, "books")).results]
    # Five books are nearer than this text, so that the documents that have it lie on both sides of the tenth place.
    query = books.embedder._vector(OLD, story(3))[0]
    text = next(t for t in map(str, range(10_000)) if best[5] < query @ books.embedder._vector(OLD, t)[0] < best[4])
    await books.writing.write("books", [Document(f"same{i}", text, "", {}) for i in reversed(range(20, 40))])
    seen, token = [], ""
    for _ in range(2):
        found = await books.found(story(3), 5, "books", rerank=Rerank(candidates=10), page_token=token)
        seen += [r.hit.document_id for r in found.results]
        token = found.next_page_token
    assert seen[:5] == [f"same{i}" for i in range(20, 25)], "the planted reranker likes short texts"
    assert len({*seen}) == 10


async def test_i2_a_page_comes_from_the_version_that_gave_the_first(books: Bench) -> None:
    query = story(3)
    expected = (await ids(books, query, 14))[7:]
    first = await books.found(query, 7, "books")
    reindex, _ = await books.routing.start_reindex("books", ("tiny", 2, ""))
    newest = books.documents.last_sequence("books")
    assert await books.state.indexers[reindex.index].wait_for(newest, 20)
    async with asyncio.timeout(10):
        while (await books.routing.reindex(reindex.id))[0].state.value != "caught_up":
            await asyncio.sleep(0.01)
    await books.routing.switch("books", reindex.index, 1)
    second = await books.found(query, 7, "books", page_token=first.next_page_token)
    assert [r.hit.document_id for r in second.results] == expected
    assert (second.route.generation, second.query_version) == (1, OLD)
    assert (await books.found(query, 7, "books")).route.generation == 2


async def test_results_below_the_threshold_are_left_out(books: Bench) -> None:
    found = await books.found(story(3), 30, "books", threshold=0.999)
    assert [r.hit.document_id for r in found.results] == ["b3"]
    assert not found.next_page_token


async def test_more_like_these_not_like_those(books: Bench) -> None:
    likeness = (await ids(books, story(4), 30))[1:]
    assert await ids(books, like=("b4",), limit=29) == likeness, "itself is not shown"
    away = await ids(books, like=("b4",), unlike=(likeness[0],), limit=28)
    assert likeness[0] not in away
    assert "b4" not in away
    both = await ids(books, story(7), 29, like=("b4",))
    assert both[0] == "b7", "the query counts as much as the example"
    with pytest.raises(InvalidArgument, match="'nobody'"):
        await ids(books, like=("nobody",))
    with pytest.raises(InvalidArgument, match="query: is empty"):
        await ids(books, unlike=("b4",))
    found = await books.found("", 5, "books", like=("b4",))
    assert (found.search_id, found.query_version) == ("", None)


async def test_a_small_first_stage_is_ordered_by_full_vectors(books: Bench) -> None:
    query = story(8)
    full = await books.found(query, 30, "books")
    staged = await books.found(query, 30, "books", first_stage=8)
    assert [r.hit.document_id for r in staged.results] == [r.hit.document_id for r in full.results]
    assert [r.hit.score for r in staged.results] == pytest.approx([r.hit.score for r in full.results])
    with pytest.raises(InvalidArgument, match="first_stage_dimensions"):
        await books.found(query, 5, "books", first_stage=16, dimensions=8)


async def test_exact_and_indexed_agree(books: Bench) -> None:
    assert await ids(books, story(8), 30, exact=True) == await ids(books, story(8), 30)


@pytest.mark.parametrize(
    ("wishes", "named"),
    [
        ({"limit": 101}, "limit"),
        ({"rerank": Rerank(candidates=3)}, "rerank.candidates"),
        ({"rerank": Rerank(budget=0.0)}, "rerank.budget"),
        ({"threshold": float("nan")}, "score_threshold"),
        ({"like": tuple(map(str, range(21)))}, "like"),
        ({"words": Words.ONLY, "like": ("b1",)}, "like"),
    ],
)
async def test_what_makes_no_sense_is_named(books: Bench, wishes: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await books.found("words", **{"limit": 10, "collection": "books", **wishes})  # type: ignore[arg-type]
    assert named in {violation.field for violation in caught.value.violations}


async def test_long_documents_are_found_by_their_best_passage(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    await bench.collections.create("long", ("tiny", 1, ""), Settings(passages=Passages(20, 0), bm25=Bm25()))
    text = "".join(f"part {i} of the novel." for i in range(8))
    assert len(text) == 8 * 20
    await bench.writing.write("long", [Document("novel", text, "", {}), Document("note", "a note on novels", "", {})])
    found = await bench.found("part 5 of the novel.", 5, "long")
    assert sorted(r.hit.document_id for r in found.results) == ["note", "novel"], "each document once"
    best = found.results[0]
    assert (best.hit.passage, best.passage) == (5, "part 5 of the novel.")
    assert best.hit.score == pytest.approx(1.0, abs=1e-4)
    view = await bench.collections.view("long")
    assert (view.documents, view.indexes[0][1]) == (2, 9)
    await bench.writing.write("long", [Document("novel", text[:40], "", {})])
    assert (await bench.collections.view("long")).indexes[0][1] == 3, "passages that are no more are gone"
    await bench.writing.delete("long", ["novel"])
    assert (await bench.collections.view("long")).indexes[0][1] == 1
    assert await bench.writing.count("long", None) == 1
    await bench.close()


async def test_the_embedder_s_absence_is_said(books: Bench) -> None:
    books.embedder.failure = Unavailable("away")
    with pytest.raises(Unavailable, match="away"):
        await ids(books, "x")
    assert await ids(books, "whales", 6, words=Words.ONLY), "words alone need no embedder"


async def test_filters_can_ask_what_exists(books: Bench) -> None:
    await books.writing.write("books", [Document("bare", "no payload", "", {})])
    where = Filter(must_not=(Exists("genre"),))
    assert await ids(books, "story", 40, filter=where) == ["bare"]
    assert await books.writing.count("books", where) == 1
    assert await books.writing.delete_where("books", where) == 1
    assert await books.writing.count("books", None) == 30


async def test_equally_good_results_have_one_order_over_all_pages(books: Bench) -> None:
    await books.writing.write("books", [Document(f"same{i:03}", "the same words", "", {}) for i in range(60)])
    for wishes in ({}, {"words": Words.ONLY}, {"words": Words.DISTRIBUTION_BASED}, {"words": Words.RECIPROCAL_RANK}):
        seen, token = list[str](), ""
        while True:
            found = await books.found("the same words", 7, "books", page_token=token, **wishes)
            assert [found.first_rank, found.route.generation] == [len(seen) + 1, 1]
            seen += [r.hit.document_id for r in found.results]
            token = found.next_page_token
            if not token:
                break
        assert len(seen) == len(set(seen)) >= 60, wishes


async def test_there_is_a_next_page_while_the_index_still_holds_what_was_deleted(books: Bench) -> None:
    books.embedder.failing = {"never mind"}
    serving = books.state.indexers[books.index("books")]
    await serving.keep(None)  # it follows no more
    books.documents.write("books", [Document("b3", "", "", {}, deleted=True)])
    found = await books.found(story(3), 10, "books")
    assert len(found.results) == 10
    assert "b3" not in {r.hit.document_id for r in found.results}
    assert found.next_page_token


async def test_the_guard_against_deleting_everything_is_not_passed_by_empty_or_endless_filters(books: Bench) -> None:
    with pytest.raises(InvalidArgument, match="finite"):
        await books.writing.delete_where("books", Filter(must=(Range("year", gte=float("nan")),)))
    with pytest.raises(InvalidArgument, match="64 bits"):
        await books.writing.count("books", Filter(must=(Equals("year", 10**20),)))


async def test_fields_declared_one_after_the_other_are_both_taken_in(books: Bench) -> None:
    await books.writing.write("books", [Document(f"m{i}", f"more {i}", "", {"a": i, "b": i}) for i in range(300)])
    await books.collections.update("books", None, {"a": FieldType.INTEGER})
    await asyncio.sleep(0)
    await books.collections.update("books", None, {"b": FieldType.INTEGER})
    both = {"a", "b"}
    async with asyncio.timeout(20):
        while not books.state.indexers[books.index("books")].has_fields(both):
            await asyncio.sleep(0.01)
    for name in both:
        assert await books.writing.count("books", Filter(must=(Exists(name),))) == 300
