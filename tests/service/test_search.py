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
    Unavailable,
)
from services.search.domain.model import Document, IndexState, ReindexState, Settings
from services.search.ports import Point
from tests.support.fakes import FILMS, NEW, OLD, Bench, best, caught_up, rolled_out


async def test_what_was_written_is_found_with_its_payload(bench: Bench) -> None:
    found = await bench.found("text number 7", 5, actor="someone")
    hit, document = found.results[0].hit, found.results[0].document
    assert (hit.document_id, document.payload) == ("d7", {"n": 7})
    assert found.route.version == found.query_version == OLD
    assert [i.search_id for i in bench.noted.impressions] == [found.search_id]
    assert len(bench.noted.impressions[0].hits) == 5


async def test_it_searches_at_a_declared_smaller_size_only(bench: Bench) -> None:
    found = await bench.found("text number 7", 1, dimensions=16)
    assert found.results[0].hit.document_id == "d7"
    with pytest.raises(InvalidArgument, match="dimensions"):
        await bench.found("text number 7", 1, dimensions=8)


async def test_i5_a_deleted_document_is_gone_also_from_a_new_index(bench: Bench) -> None:
    assert await bench.writing.delete("films", ["d7", "unknown"]) == 1
    await rolled_out(bench)
    found = await bench.found("text number 7", 50)
    assert "d7" not in [r.hit.document_id for r in found.results]
    assert len(found.results) == 49


@pytest.mark.parametrize("query", ["", "   ", "x" * 4001])
async def test_bad_queries_are_refused(bench: Bench, query: str) -> None:
    with pytest.raises(InvalidArgument, match="query"):
        await bench.found(query, 5)


async def test_unknown_things_are_named(bench: Bench) -> None:
    with pytest.raises(NotFound, match="'nothing'"):
        await bench.found("x", 5, "nothing")
    with pytest.raises(NotFound, match="encoder version"):
        await bench.collections.create("more", ("other", 0, ""), Settings())
    with pytest.raises(AlreadyExists):
        await bench.collections.create("films", ("tiny", 1, ""), Settings())
    with pytest.raises(InvalidArgument, match="name"):
        await bench.collections.create("../etc", ("tiny", 1, ""), Settings())
    with pytest.raises(InvalidArgument, match="dimensions"):
        await bench.collections.create("more", ("tiny", 1, ""), Settings((24,)))


async def test_i1_an_embedder_that_answers_with_another_version_is_never_compared(bench: Bench) -> None:
    bench.embedder.answers_with = NEW
    with pytest.raises(ServiceError, match="same version"):
        await bench.found("text number 7", 5)
    assert not bench.noted.impressions


async def test_i1_a_document_embedded_by_another_version_is_never_indexed(bench: Bench) -> None:
    bench.embedder.answers_with = NEW
    writing = asyncio.create_task(bench.writing.write("films", [Document("late", "late words", "", {})]))
    async with asyncio.timeout(10):
        while not next(iter(bench.state.indexers.values())).reason:
            await asyncio.sleep(0.02)
    view = await bench.collections.view("films")
    assert [points for _, points in view.indexes] == [50]
    bench.embedder.answers_with = None
    assert (await writing)[0].indexed


async def test_i2_searches_during_switches_each_see_one_version(bench: Bench) -> None:
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    await caught_up(bench, reindex.id)
    seen: set[int] = set()
    done = asyncio.Event()

    async def keep_searching(number: int) -> None:
        while not done.is_set():
            found = await bench.found(f"text number {number}", 1)
            assert found.results[0].hit.document_id == f"d{number}"
            assert found.results[0].hit.score == pytest.approx(1.0, abs=1e-4)
            seen.add(found.route.generation)

    clients = [asyncio.create_task(keep_searching(number)) for number in range(8)]
    for generation in range(1, 9):
        await asyncio.sleep(0)
        await (
            bench.routing.switch("films", reindex.index, 1)
            if generation == 1
            else bench.routing.roll_back("films", generation)
        )
        while generation + 1 not in seen:
            await asyncio.sleep(0.01)
    done.set()
    await asyncio.gather(*clients)
    assert len(seen) >= 8
    assert [route.generation for route in await bench.routing.routes("films")] == list(range(9, 0, -1))


async def test_i5_writes_during_a_reindex_are_there_after_the_switch(bench: Bench) -> None:
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    for i in range(20):
        await bench.writing.write("films", [Document(f"new{i}", f"written meanwhile {i}", "", {})])
    await bench.writing.write("films", [Document("d3", "rewritten meanwhile", "", {})])
    await bench.writing.delete("films", ["d4"])
    await bench.routing.switch("films", await caught_up(bench, reindex.id), 1)
    assert await best(bench, "written meanwhile 19") == "new19"
    assert await best(bench, "rewritten meanwhile") == "d3"
    assert "d4" not in await bench.ids("text number 4", 100)


async def test_i5_indexed_means_in_the_index_that_served_when_it_was_written(bench: Bench) -> None:
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    # As when another replica switches, or this one is about to notice.
    await asyncio.to_thread(bench.catalog.switch, "films", index, 1, None, None)
    [receipt] = await bench.writing.write("films", [Document("late", "written since the switch", "", {})])
    assert receipt.indexed
    assert "late" in await bench.state.indexers[index].vectors.held(["late"])
    assert (await bench.found("written since the switch", 1)).route.generation == 2
    await asyncio.to_thread(bench.catalog.switch, "films", bench.index(state=IndexState.RETAINED), 2, None, None)
    assert await bench.writing.delete("films", ["late"]) == 1
    found = await bench.found("written since the switch", 60)
    assert found.route.generation == 3
    assert "late" not in [r.hit.document_id for r in found.results]


async def test_i8_rollback_is_a_switch_that_serves_also_what_was_written_since(bench: Bench) -> None:
    await rolled_out(bench)
    await bench.writing.write("films", [Document("since", "written since the switch", "", {})])
    route = await bench.routing.roll_back("films", 2)
    assert (route.generation, route.version) == (3, OLD)
    assert await best(bench, "written since the switch") == "since"
    assert await best(bench, "text number 9") == "d9"


async def test_i6_a_switch_on_a_stale_generation_changes_nothing(bench: Bench) -> None:
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    with pytest.raises(Conflict):
        await bench.routing.switch("films", index, 7)
    assert (await bench.routing.routes("films"))[0].generation == 1
    assert await best(bench, "text number 9") == "d9"


async def test_i6_an_index_with_another_count_is_not_switched_to(bench: Bench) -> None:
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    await bench.state.indexers[index].vectors.delete({"d5": (0, 1)}, up_to=50)
    with pytest.raises(FailedPrecondition, match="49 of 50 documents"):
        await bench.routing.switch("films", index, 1)
    assert await best(bench, "text number 5") == "d5"


async def test_i5_a_point_that_came_back_after_its_document_was_deleted_is_swept_before_a_switch(bench: Bench) -> None:
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    await bench.writing.delete("films", ["d5"])
    indexer = bench.state.indexers[index]
    assert await indexer.wait_for(bench.documents.last_sequence("films"), 10)
    late = await indexer._begin([FILMS[5]], [])  # what a process that lost its lease was about to write
    found = await late.embedding
    await indexer.vectors.upsert(found.points, found.rows)
    assert await indexer.vectors.count() == 50
    assert (await bench.routing.switch("films", index, 1)).generation == 2
    assert await indexer.vectors.count() == 49


async def test_i6_an_index_with_vectors_of_another_version_is_not_switched_to(bench: Bench) -> None:
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    serving, building = bench.state.indexers[bench.index()], bench.state.indexers[index]
    point = (await building._begin(bench.documents.after("films", 0, 1, False), [])).plan
    [stored] = (await serving.vectors.stored(["d0"]))["d0"]
    made = Point("d0", 99, FILMS[0].key, 0, 1, {})
    assert not point.points, "the index holds its text already"
    await building.vectors.upsert([made], stored.vector[None])
    with pytest.raises(FailedPrecondition, match="vectors of another version"):
        await bench.routing.switch("films", index, 1)
    assert await best(bench, "text number 0") == "d0"


async def test_i6_a_document_that_the_new_version_can_not_embed_is_named_when_a_switch_is_refused(bench: Bench) -> None:
    bench.embedder.failing = {"text number 9"}
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    with pytest.raises(FailedPrecondition, match=r"holds 49 of 50.*'d9'"):
        await bench.routing.switch("films", index, 1)
    await bench.writing.write("films", [Document("d9", "easier words", "", {})])
    assert (await bench.routing.switch("films", index, 1)).generation == 2
    assert await best(bench, "easier words") == "d9"


async def test_i6_a_cancelled_reindex_leaves_what_serves(bench: Bench) -> None:
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    cancelled, _ = await bench.routing.cancel_reindex(reindex.id)
    assert cancelled.state is ReindexState.CANCELLED
    async with asyncio.timeout(10):
        while len((await bench.collections.view("films")).indexes) > 1:
            await asyncio.sleep(0.05)
    assert await best(bench, "text number 5") == "d5"
    with pytest.raises(NotFound):
        await bench.routing.switch("films", reindex.index, 1)


async def test_starting_a_reindex_twice_gives_the_same(bench: Bench) -> None:
    first, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    second, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    assert first.id == second.id
    with pytest.raises(FailedPrecondition, match="already"):
        await bench.routing.start_reindex("films", ("tiny", 1, ""))


async def test_an_old_index_is_dropped_after_the_retention_window(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    await bench.collections.create("films", ("tiny", 1, ""), Settings(retention=0))
    await bench.writing.write("films", FILMS)
    await rolled_out(bench)
    async with asyncio.timeout(10):
        while [p.name for p in (tmp_path / "indexes" / "shards").iterdir() if p.is_dir()] != [bench.index()]:
            await asyncio.sleep(0.05)
    assert await best(bench, "text number 5") == "d5"
    with pytest.raises(FailedPrecondition, match="retained"):
        await bench.routing.roll_back("films", 2)
    await bench.close()


async def test_indexing_is_not_bound_by_the_deadline_of_the_request_that_began_it(bench: Bench) -> None:
    request_context.begin(None, 0.05)
    await bench.collections.create("more", ("tiny", 1, ""), Settings())
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    request_context.begin(None, None)
    await caught_up(bench, reindex.id)
    assert bench.embedder.time_left == 1000
    [receipt] = await bench.writing.write("more", [Document("x", "some words", "", {})])
    assert receipt.indexed
    assert bench.embedder.time_left == 1000


async def test_i2_a_switch_whose_caller_goes_away_is_carried_out_whole(bench: Bench) -> None:
    reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(bench, reindex.id)
    for pauses in range(6):  # wherever the caller was when it went
        generation = (await bench.routing.routes("films"))[0].generation
        call = asyncio.create_task(
            bench.routing.switch("films", index, generation)
            if generation == 1
            else bench.routing.roll_back("films", generation)
        )
        for _ in range(pauses):
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.gather(*bench.state._finishing)
        found = await bench.found("text number 9", 1)
        assert found.route == (await bench.routing.routes("films"))[0]
        assert found.results[0].hit.score == pytest.approx(1.0, abs=1e-4)


async def test_i7_a_switch_asked_for_again_after_its_answer_was_lost_is_answered_alike(bench: Bench) -> None:
    index = await rolled_out(bench)
    assert (await bench.routing.switch("films", index, 1)).generation == 2
    assert len(await bench.routing.routes("films")) == 2


async def test_reindexes_begun_at_once_are_one(bench: Bench) -> None:
    begun = await asyncio.gather(*(bench.routing.start_reindex("films", ("tiny", 2, "")) for _ in range(5)))
    assert len({reindex.id for reindex, _ in begun}) == 1
    await caught_up(bench, begun[0][0].id)
    assert len((await bench.collections.view("films")).indexes) == 2


async def test_settings_have_bounds(bench: Bench) -> None:
    with pytest.raises(InvalidArgument, match="365 days"):
        await bench.collections.create("more", ("tiny", 1, ""), Settings(retention=1e12))
    with pytest.raises(InvalidArgument, match="actor"):
        await bench.found("x", 1, actor="a" * 201)


async def test_a_drop_that_fails_is_tried_again(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.search.state._DROP_AGAIN_SECONDS", 0.01)
    drop, faults = bench.engine.drop, iter([Unavailable("away"), OSError("busy")])
    read, blind = bench.state.read, iter([OSError("the catalog is away")])

    async def failing_drop(index_id: str) -> None:
        if fault := next(faults, None):
            raise fault
        await drop(index_id)

    async def failing_read() -> None:
        if fault := next(blind, None):
            raise fault
        await read()

    monkeypatch.setattr(bench.engine, "drop", failing_drop)
    monkeypatch.setattr(bench.state, "read", failing_read)
    assert await bench.collections.delete("films") == 50
    assert [p for p in (tmp_path / "indexes" / "shards").iterdir() if p.is_dir()] == []


async def test_an_export_that_nobody_reads_holds_up_its_own_index_only(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.search.state._GONE_WITHIN_SECONDS", 0.01)
    _, parcels = await bench.moving.export("films")
    first = await anext(parcels)
    await bench.collections.create("more", ("tiny", 1, ""), Settings())
    serving = bench.index()
    async with asyncio.timeout(10):
        assert await bench.collections.delete("films") == 50
        assert await bench.collections.delete("more") == 0
        shards = tmp_path / "indexes" / "shards"
        while [p.name for p in shards.iterdir() if p.is_dir()] != [serving]:
            await asyncio.sleep(0.01)
        assert [first.document.id, *[(await anext(parcels)).document.id for _ in FILMS[1:]]] == [f.id for f in FILMS]
        with pytest.raises(NotFound):
            await anext(parcels)
        while [p.name for p in shards.iterdir() if p.is_dir()]:
            await asyncio.sleep(0.01)
