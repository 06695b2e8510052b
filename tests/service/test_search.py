"""Searching, reindexing and switching on the real engine and a real catalog; only the embedder is planted."""

import asyncio
from pathlib import Path

import pytest

from services.kit import context as request_context
from services.kit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServiceError,
)
from services.search.domain.model import Document, ReindexState, Settings
from tests.support.fakes import FILMS, NEW, OLD, Bench, best, caught_up, rolled_out


async def test_what_was_written_is_found_with_its_payload(bench: Bench) -> None:
    found = await bench.search.search("films", "text number 7", 5, 0, "someone")
    hit, document = found.hits[0]
    assert (hit.document_id, document.payload) == ("d7", {"n": 7})
    assert found.route.version == found.query_version == OLD
    assert [i.search_id for i in bench.noted.impressions] == [found.search_id]
    assert len(bench.noted.impressions[0].hits) == 5


async def test_it_searches_at_a_declared_smaller_size_only(bench: Bench) -> None:
    found = await bench.search.search("films", "text number 7", 1, 16, "")
    assert found.hits[0][0].document_id == "d7"
    with pytest.raises(InvalidArgument, match="dimensions"):
        await bench.search.search("films", "text number 7", 1, 8, "")


async def test_i5_a_deleted_document_is_gone_also_from_a_new_index(bench: Bench) -> None:
    assert await bench.search.delete("films", ["d7", "unknown"]) == 1
    await rolled_out(bench)
    found = await bench.search.search("films", "text number 7", 50, 0, "")
    assert "d7" not in [hit.document_id for hit, _ in found.hits]
    assert len(found.hits) == 49


@pytest.mark.parametrize("query", ["", "   ", "x" * 4001])
async def test_bad_queries_are_refused(bench: Bench, query: str) -> None:
    with pytest.raises(InvalidArgument, match="query"):
        await bench.search.search("films", query, 5, 0, "")


async def test_unknown_things_are_named(bench: Bench) -> None:
    with pytest.raises(NotFound, match="'nothing'"):
        await bench.search.search("nothing", "x", 5, 0, "")
    with pytest.raises(NotFound, match="encoder version"):
        await bench.search.create("more", ("other", 0, ""), Settings())
    with pytest.raises(AlreadyExists):
        await bench.search.create("films", ("tiny", 1, ""), Settings())
    with pytest.raises(InvalidArgument, match="name"):
        await bench.search.create("../etc", ("tiny", 1, ""), Settings())
    with pytest.raises(InvalidArgument, match="dimensions"):
        await bench.search.create("more", ("tiny", 1, ""), Settings((24,)))


async def test_i1_an_embedder_that_answers_with_another_version_is_never_compared(bench: Bench) -> None:
    bench.embedder.answers_with = NEW
    with pytest.raises(ServiceError, match="same version"):
        await bench.search.search("films", "text number 7", 5, 0, "")
    assert not bench.noted.impressions


async def test_i1_a_document_embedded_by_another_version_is_never_indexed(bench: Bench) -> None:
    bench.embedder.answers_with = NEW
    writing = asyncio.create_task(bench.search.write("films", [Document("late", "late words", "", {})]))
    async with asyncio.timeout(10):
        while not next(iter(bench.search._indexers.values())).reason:
            await asyncio.sleep(0.02)
    view = await bench.search.view("films")
    assert [points for _, points in view.indexes] == [50]
    bench.embedder.answers_with = None
    assert (await writing)[0].indexed


async def test_i2_searches_during_switches_each_see_one_version(bench: Bench) -> None:
    reindex, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    await caught_up(bench, reindex.id)
    seen: set[int] = set()
    done = asyncio.Event()

    async def keep_searching(number: int) -> None:
        while not done.is_set():
            found = await bench.search.search("films", f"text number {number}", 1, 0, "")
            assert found.hits[0][0].document_id == f"d{number}"
            assert found.hits[0][0].score == pytest.approx(1.0, abs=1e-4)
            seen.add(found.route.generation)

    clients = [asyncio.create_task(keep_searching(number)) for number in range(8)]
    for generation in range(1, 9):
        await asyncio.sleep(0)
        await (
            bench.search.switch("films", reindex.index, 1)
            if generation == 1
            else bench.search.roll_back("films", generation)
        )
        while generation + 1 not in seen:
            await asyncio.sleep(0.01)
    done.set()
    await asyncio.gather(*clients)
    assert len(seen) >= 8
    assert [route.generation for route in await bench.search.routes("films")] == list(range(9, 0, -1))


async def test_i5_writes_during_a_reindex_are_there_after_the_switch(bench: Bench) -> None:
    reindex, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    for i in range(20):
        await bench.search.write("films", [Document(f"new{i}", f"written meanwhile {i}", "", {})])
    await bench.search.write("films", [Document("d3", "rewritten meanwhile", "", {})])
    await bench.search.delete("films", ["d4"])
    await bench.search.switch("films", await caught_up(bench, reindex.id), 1)
    assert await best(bench, "written meanwhile 19") == "new19"
    assert await best(bench, "rewritten meanwhile") == "d3"
    assert "d4" not in [
        h.document_id for h, _ in (await bench.search.search("films", "text number 4", 100, 0, "")).hits
    ]


async def test_i8_rollback_is_a_switch_that_serves_also_what_was_written_since(bench: Bench) -> None:
    await rolled_out(bench)
    await bench.search.write("films", [Document("since", "written since the switch", "", {})])
    route = await bench.search.roll_back("films", 2)
    assert (route.generation, route.version) == (3, OLD)
    assert await best(bench, "written since the switch") == "since"
    assert await best(bench, "text number 9") == "d9"


async def test_i6_a_switch_on_a_stale_generation_changes_nothing(bench: Bench) -> None:
    reindex, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    with pytest.raises(Conflict):
        await bench.search.switch("films", index, 7)
    assert (await bench.search.routes("films"))[0].generation == 1
    assert await best(bench, "text number 9") == "d9"


async def test_i6_an_index_with_another_count_is_not_switched_to(bench: Bench) -> None:
    reindex, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    bench.search._indexers[index].vectors.delete(["d5"])
    with pytest.raises(FailedPrecondition, match="49 points for 50 documents"):
        await bench.search.switch("films", index, 1)
    assert await best(bench, "text number 5") == "d5"


async def test_i6_a_cancelled_reindex_leaves_what_serves(bench: Bench) -> None:
    reindex, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    cancelled, _ = await bench.search.cancel_reindex(reindex.id)
    assert cancelled.state is ReindexState.CANCELLED
    dropping = asyncio.create_task(bench.search.drop_expired())
    async with asyncio.timeout(10):
        while len((await bench.search.view("films")).indexes) > 1:
            await asyncio.sleep(0.05)
    dropping.cancel()
    assert await best(bench, "text number 5") == "d5"
    with pytest.raises(NotFound):
        await bench.search.switch("films", reindex.index, 1)


async def test_starting_a_reindex_twice_gives_the_same(bench: Bench) -> None:
    first, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    second, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    assert first.id == second.id
    with pytest.raises(FailedPrecondition, match="already"):
        await bench.search.start_reindex("films", ("tiny", 1, ""))


async def test_an_old_index_is_dropped_after_the_retention_window(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.search.open()
    await bench.search.create("films", ("tiny", 1, ""), Settings(retention=0))
    await bench.search.write("films", FILMS)
    await rolled_out(bench)
    dropping = asyncio.create_task(bench.search.drop_expired())
    async with asyncio.timeout(10):
        while len((await bench.search.view("films")).indexes) > 1:
            await asyncio.sleep(0.05)
    dropping.cancel()
    assert [p.name for p in (tmp_path / "indexes").iterdir()] == ["films-2-tiny-2"]
    assert await best(bench, "text number 5") == "d5"
    with pytest.raises(FailedPrecondition, match="retained"):
        await bench.search.roll_back("films", 2)
    await bench.close()


async def test_indexing_is_not_bound_by_the_deadline_of_the_request_that_began_it(bench: Bench) -> None:
    request_context.begin(None, 0.05)
    await bench.search.create("more", ("tiny", 1, ""), Settings())
    reindex, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    request_context.begin(None, None)
    await caught_up(bench, reindex.id)
    assert bench.embedder.time_left == 1000
    [receipt] = await bench.search.write("more", [Document("x", "some words", "", {})])
    assert receipt.indexed
    assert bench.embedder.time_left == 1000


async def test_i2_a_switch_whose_caller_goes_away_is_carried_out_whole(bench: Bench) -> None:
    reindex, _ = await bench.search.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    for pauses in range(6):  # wherever the caller was when it went
        generation = (await bench.search.routes("films"))[0].generation
        call = asyncio.create_task(
            bench.search.switch("films", index, generation)
            if generation == 1
            else bench.search.roll_back("films", generation)
        )
        for _ in range(pauses):
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.gather(*bench.search._finishing)
        found = await bench.search.search("films", "text number 9", 1, 0, "")
        assert found.route == (await bench.search.routes("films"))[0]
        assert found.hits[0][0].score == pytest.approx(1.0, abs=1e-4)


async def test_i7_a_switch_asked_for_again_after_its_answer_was_lost_is_answered_alike(bench: Bench) -> None:
    index = await rolled_out(bench)
    assert (await bench.search.switch("films", index, 1)).generation == 2
    assert len(await bench.search.routes("films")) == 2


async def test_reindexes_begun_at_once_are_one(bench: Bench) -> None:
    begun = await asyncio.gather(*(bench.search.start_reindex("films", ("tiny", 2, "")) for _ in range(5)))
    assert len({reindex.id for reindex, _ in begun}) == 1
    await caught_up(bench, begun[0][0].id)
    assert len((await bench.search.view("films")).indexes) == 2


async def test_settings_have_bounds(bench: Bench) -> None:
    with pytest.raises(InvalidArgument, match="365 days"):
        await bench.search.create("more", ("tiny", 1, ""), Settings(retention=1e12))
    with pytest.raises(InvalidArgument, match="actor"):
        await bench.search.search("films", "x", 1, 0, "a" * 201)
