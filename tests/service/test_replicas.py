"""Two search processes over one catalog and one vector database, on SQLite and on a real PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from qdrant_client import AsyncQdrantClient

from services.kit.errors import Conflict, InvalidArgument, NotFound, Unavailable
from services.kit.sql import Database
from services.search.__main__ import MIGRATIONS
from services.search.adapters.catalog import Catalog
from services.search.adapters.documents import Documents
from services.search.adapters.server import ServerEngine
from services.search.adapters.server_calls import ServerSettings
from services.search.adapters.tables import CollectionRow, IndexRow, ReindexRow
from services.search.domain.filters import Equals, Filter
from services.search.domain.model import Document, Encoder, FieldType, IndexState, Settings
from services.search.moving import Parcel
from tests.support import postgres as postgresql
from tests.support.fakes import FILMS, NEW, OLD, Bench, best, caught_up

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]


@dataclass
class Pair:
    """Two replicas. ``vectors`` is the database that they share."""

    one: Bench
    other: Bench
    vectors: AsyncQdrantClient

    @property
    def both(self) -> tuple[Bench, Bench]:
        return self.one, self.other


def replica(folder: Path, url: str, vectors: AsyncQdrantClient) -> Bench:
    engine = ServerEngine(ServerSettings(url="", catalog="test"), vectors)
    return Bench(folder, url, engine)


@pytest.fixture
async def pair(tmp_path: Path, catalog_url: str) -> AsyncIterator[Pair]:
    vectors = AsyncQdrantClient(":memory:")
    made = Pair(replica(tmp_path, catalog_url, vectors), replica(tmp_path, catalog_url, vectors), vectors)
    for each in made.both:
        await each.open()
    await made.one.collections.create("films", ("tiny", 1, ""), Settings(retention=3600))
    await made.one.writing.write("films", FILMS)
    yield made
    for each in made.both:
        await each.close()
    await vectors.close()


async def seen(bench: Bench, generation: int) -> None:
    """Wait until a replica serves that generation."""
    async with asyncio.timeout(10):
        while (await bench.found("text number 1", 1)).route.generation != generation:
            await asyncio.sleep(0.02)


async def test_what_one_replica_wrote_the_other_finds(pair: Pair) -> None:
    assert await best(pair.other, "text number 7") == "d7"
    [receipt] = await pair.other.writing.write("films", [Document("x", "written by the other", "", {})])
    assert receipt.indexed
    assert await best(pair.one, "written by the other") == "x"
    await pair.one.writing.delete("films", ["x"])
    assert "x" not in await pair.other.ids("written by the other", 60)


async def test_i7_each_index_has_one_keeper(pair: Pair) -> None:
    await pair.other.state.find("films")
    kept = [indexer.kept for bench in pair.both for indexer in bench.state.indexers.values()]
    assert sorted(kept) == [False, True]


async def test_i2_a_replica_with_a_stale_route_is_consistent(pair: Pair) -> None:
    await seen(pair.other, 1)
    reindex, _ = await pair.one.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(pair.one, reindex.id)
    await pair.one.routing.switch("films", index, 1)
    # Whatever it has noticed by now, what it finds is of one version.
    for number in range(20):
        found = await pair.other.found(f"text number {number}", 1)
        assert found.results[0].hit.document_id == f"d{number}"
        assert found.results[0].hit.score == pytest.approx(1.0, abs=1e-4)
        assert found.query_version == found.route.version
    await seen(pair.other, 2)


async def test_i5_writes_by_the_other_replica_during_a_switch_are_there_after_it(pair: Pair) -> None:
    reindex, _ = await pair.one.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(pair.one, reindex.id)
    await seen(pair.other, 1)
    acknowledged: list[str] = []
    switched = asyncio.Event()

    async def keep_writing() -> None:
        number = 0
        while not switched.is_set() or number < 10:
            [receipt] = await pair.other.writing.write("films", [Document(f"w{number}", f"new {number}", "", {})])
            acknowledged.append(receipt.id)
            number += 1

    writing = asyncio.create_task(keep_writing())
    while len(acknowledged) < 3:
        await asyncio.sleep(0.005)
    await pair.one.routing.switch("films", index, 1)
    switched.set()
    await writing
    for bench in pair.both:
        await seen(bench, 2)
        for number in range(len(acknowledged)):
            assert await best(bench, f"new {number}") == f"w{number}"


async def test_i6_of_two_switches_at_once_one_wins(pair: Pair) -> None:
    await seen(pair.other, 1)
    ids = []
    for bench in pair.both:  # the second starts none, but finds the first's
        reindex, _ = await bench.routing.start_reindex("films", ("tiny", 2, ""))
        ids.append(await caught_up(bench, reindex.id))
    assert ids[0] == ids[1]
    judged = await pair.one.routing.switch("films", "", 1, ("judge", 0, ""))
    assert judged.generation == 2
    with pytest.raises(Conflict):
        await pair.other.routing.switch("films", ids[0], 1)
    assert [route.generation for route in await pair.other.routing.routes("films")] == [2, 1]


async def test_i7_when_its_keeper_is_gone_another_goes_on(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    await pair.other.state.find("films")
    keeper = next(b for b in pair.both if any(i.kept for i in b.state.indexers.values()))
    heir = next(b for b in pair.both if b is not keeper)
    for task in keeper._background:  # it hangs: it neither renews its lease nor gives it up
        task.cancel()
    for indexer in keeper.state.indexers.values():
        assert indexer._task is not None
        indexer._task.cancel()
    monkeypatch.setattr("services.search.state.LEASE_SECONDS", 0.5)
    heir.catalog.claim(keeper.engine.owner, 0.1)  # as if the lease had been taken that long ago
    [receipt] = await heir.writing.write("films", [Document("heir", "written by the heir", "", {})])
    assert receipt.indexed
    assert await best(heir, "written by the heir") == "heir"
    assert [i.kept for i in heir.state.indexers.values()] == [True]


async def test_i5_a_keeper_that_comes_back_too_late_undoes_nothing(pair: Pair) -> None:
    await pair.other.state.find("films")
    keeper = next(b for b in pair.both if any(i.kept for i in b.state.indexers.values()))
    [indexer] = keeper.state.indexers.values()
    late = await indexer._begin(keeper.documents.after("films", 6, 1, True), [])
    await pair.one.writing.write("films", [Document("d6", "fresh words", "", {})])
    found = await late.embedding
    await indexer.vectors.upsert(found.points, found.rows)  # what it was about to write when it was stopped
    assert await best(pair.other, "fresh words") == "d6"
    assert (await indexer.vectors.held(["d6"]))["d6"].key == Document("d6", "fresh words", "", {}).key


async def test_a_collection_that_one_deletes_is_gone_from_the_other(pair: Pair) -> None:
    await seen(pair.other, 1)
    await pair.one.collections.delete("films")
    async with asyncio.timeout(10):
        while pair.other.state.names():
            await asyncio.sleep(0.02)
    assert (await pair.vectors.get_collections()).collections == []
    assert pair.other.catalog.indexes() == []


async def test_an_index_dropped_by_one_is_let_go_by_the_other(pair: Pair) -> None:
    await pair.one.collections.update("films", 0.0, {})
    await seen(pair.other, 1)
    reindex, _ = await pair.one.routing.start_reindex("films", ("tiny", 2, ""))
    await pair.one.routing.switch("films", await caught_up(pair.one, reindex.id), 1)
    async with asyncio.timeout(10):
        while len(pair.other.state.indexers) > 1 or len((await pair.vectors.get_collections()).collections) > 1:
            assert await best(pair.other, "text number 3") == "d3", "at no moment is a search without an answer"
            await asyncio.sleep(0.01)
    assert pair.other.index(state=IndexState.SERVING) == reindex.index


async def test_i2_a_switch_by_a_replica_that_has_not_noticed_the_last_one_keeps_its_encoder(pair: Pair) -> None:
    await seen(pair.other, 1)
    for task in pair.other._background:
        task.cancel()  # it notices nothing more
    reindex, _ = await pair.one.routing.start_reindex("films", ("tiny", 2, ""))
    await pair.one.routing.switch("films", await caught_up(pair.one, reindex.id), 1)
    route = await pair.other.routing.switch("films", "", 2, ("judge", 0, ""))
    assert (route.generation, route.index, route.version.number) == (3, reindex.index, 2)
    back = await pair.other.routing.roll_back("films", 3)
    assert (back.generation, back.index, back.reranker) == (4, reindex.index, None)
    again = await pair.one.routing.roll_back("films", 3)
    assert again.generation == 4, "the same request, come again after its answer was lost"


async def test_i6_an_index_that_is_switched_to_is_not_cancelled_nor_dropped(pair: Pair) -> None:
    reindex, _ = await pair.one.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(pair.one, reindex.id)
    async with asyncio.timeout(20):
        switching = asyncio.create_task(pair.one.routing.switch("films", index, 1))
        cancels = [asyncio.to_thread(pair.other.catalog.cancel_reindex, reindex.id) for _ in range(20)]
        await asyncio.gather(switching, *cancels, return_exceptions=True)
    states = {i.id: i.state for i in pair.one.catalog.indexes("films")}
    serving = pair.one.catalog.routes("films")[0].index
    assert states[serving] is IndexState.SERVING
    assert serving not in {i.id for i in pair.one.catalog.droppable()}


async def test_fields_declared_by_one_replica_can_be_used_by_both(pair: Pair) -> None:
    await seen(pair.other, 1)
    await pair.one.collections.update("films", None, {"n": FieldType.INTEGER})
    where = Filter(must=(Equals("n", 7),))
    for bench in pair.both:
        async with asyncio.timeout(20):
            while not (bench.state.indexers and all(i.has_fields({"n"}) for i in bench.state.indexers.values())):
                await asyncio.sleep(0.02)
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await bench.ids("text", 5, filter=where) == ["d7"]
                    break
                except InvalidArgument:  # it has not read the settings yet
                    await asyncio.sleep(0.02)


def test_i6_a_collection_is_deleted_while_its_keeper_notes_how_far_it_is(postgres: str) -> None:
    """Both lock an index and its reindex: in one order, else one of them is ended."""
    database = Database(postgresql.fresh_database(postgres))
    database.migrate(MIGRATIONS)
    catalog = Catalog(database)
    catalog.create_collection("films", Settings(), Encoder(OLD, 32, (32,)))
    reindex = catalog.start_reindex("films", Encoder(NEW, 32, (32,)), 0.0)
    waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with ThreadPoolExecutor(1) as threads:
        with database.writing() as session:
            session.get_one(IndexRow, reindex.index, with_for_update=True)
            deleting = threads.submit(catalog.delete_collection, "films")
            with database.reading() as looking:
                while not looking.scalar(waiting):
                    looking.rollback()
            session.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
            session.execute(sa.update(ReindexRow).where(ReindexRow.id == reindex.id).values(rate=1.0))
        assert len(deleting.result(10)[0]) == 2
    assert catalog.indexes() == []
    database.close()


@pytest.mark.parametrize("name", ["nothing", "with\0nul"])
async def test_names_that_nothing_has_are_the_caller_s_mistake(pair: Pair, name: str) -> None:
    for call in (
        pair.one.routing.reindex(name),
        pair.one.routing.cancel_reindex(name),
        pair.one.routing.routes(name),
        pair.one.routing.switch("films", name, 1),
        pair.one.collections.view(name),
        pair.one.writing.documents(name, ["x"]),
        pair.one.found("words", 1, name),
    ):
        with pytest.raises((NotFound, InvalidArgument)):
            await call


async def test_i5_an_index_that_somebody_deleted_by_hand_is_built_again(pair: Pair) -> None:
    await seen(pair.other, 1)
    idle = next(b for b in pair.both if not any(i.kept for i in b.state.indexers.values()))
    [described] = (await pair.vectors.get_collections()).collections
    await pair.vectors.delete_collection(described.name)
    await idle.ids("text number 7")  # its keeper hears of it from the catalog
    async with asyncio.timeout(20):
        while len(await idle.ids("text number 7", 60)) < len(FILMS):
            await asyncio.sleep(0.02)
    for bench in pair.both:
        assert await best(bench, "text number 7") == "d7"
    assert (await idle.writing.write("films", [Document("x", "written afterwards", "", {})]))[0].indexed
    async with asyncio.timeout(20):  # as much as is noted is there
        while idle.catalog.index(idle.index()).applied < len(FILMS) + 1:
            await asyncio.sleep(0.02)


async def test_i5_what_its_keeper_can_not_write_to_any_more_is_built_again(pair: Pair) -> None:
    [described] = (await pair.vectors.get_collections()).collections
    await pair.vectors.delete_collection(described.name)
    [receipt] = await pair.one.writing.write("films", [Document("x", "written afterwards", "", {})])
    assert receipt.indexed
    assert await best(pair.one, "text number 7") == "d7"
    assert await best(pair.one, "written afterwards") == "x"


async def test_an_index_that_another_has_just_dropped_is_not_made_again(pair: Pair) -> None:
    for task in pair.other._background:
        task.cancel()
    [index] = pair.other.catalog.indexes()
    await pair.one.collections.delete("films")
    pair.other.state.indexers.clear()
    await pair.other.state._open(index)  # it read the catalog before that
    assert pair.other.state.indexers == {}
    assert (await pair.vectors.get_collections()).collections == []


async def test_i6_an_import_goes_on_as_long_as_its_process_lives_and_is_ended_by_another_after_that(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.search.state.LEASE_SECONDS", 3.0)
    monkeypatch.setattr("services.search.moving.LEASE_SECONDS", 3.0)
    header, parcels = await pair.one.moving.export("films")
    held, going_on = [parcel async for parcel in parcels], asyncio.Event()

    async def slowly() -> AsyncIterator[Parcel]:
        for number, parcel in enumerate(held):
            if number == 40:
                await going_on.wait()
            yield parcel

    def until() -> datetime | None:
        with pair.other.database.reading() as session:
            return session.get_one(CollectionRow, "copy").importing_until

    monkeypatch.setattr("services.search.moving._BATCH", 10)
    copy = replace(header, collection="copy")
    importing = asyncio.create_task(pair.one.moving.take_in(copy, slowly()))
    async with asyncio.timeout(20):
        while pair.other.documents.count("copy") < 40:
            await asyncio.sleep(0.01)
        first = until()
        while until() == first:
            await asyncio.sleep(0.01)
        for task in pair.one._background:  # it hangs
            task.cancel()
        while pair.other.catalog.knows("copy"):
            await asyncio.sleep(0.05)
    going_on.set()
    with pytest.raises((NotFound, Unavailable)):
        await importing
    assert pair.other.catalog.routes("films")


async def test_receipts_say_the_same_whoever_keeps_the_index(pair: Pair) -> None:
    await seen(pair.other, 1)
    for bench in pair.both:
        bench.embedder.failing = {"poison"}
    for bench in pair.both:
        batch = [Document("p", "poison", "", {}), Document("l", "x" * 2000, "", {}), Document("q", "short", "", {})]
        for _ in range(2):  # the second time they are unchanged
            receipts = await bench.writing.write("films", batch)
            assert [receipt.indexed for receipt in receipts] == [False, True, True]
            assert [receipt.truncated for receipt in receipts] == [False, True, False]
        await bench.writing.delete("films", ["p", "l", "q"])


async def test_i6_points_of_deleted_documents_are_swept_also_by_who_does_not_keep_the_index(pair: Pair) -> None:
    reindex, _ = await pair.one.routing.start_reindex("films", ("tiny", 2, ""))
    index = await caught_up(pair.one, reindex.id)
    await pair.other.state.read()
    keeper, idle = sorted(pair.both, key=lambda bench: not bench.state.indexers[index].kept)
    late = await keeper.state.indexers[index]._begin(keeper.documents.after("films", 6, 1, True), [])
    await pair.one.writing.delete("films", ["d6"])
    assert await keeper.state.indexers[index].wait_for(51, 10)
    found = await late.embedding
    await keeper.state.indexers[index].vectors.upsert(found.points, found.rows)  # written once more, too late
    assert not idle.state.indexers[index].kept
    assert (await idle.routing.switch("films", index, 1)).generation == 2


async def test_who_has_nothing_to_do_asks_once_for_all_indexes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        await pair.one.collections.create(f"more{number}", ("tiny", 1, ""), Settings())
    await seen(pair.other, 1)
    asked: Counter[str] = Counter()

    def counted(documents: Documents, name: str) -> None:
        ask = getattr(documents, name)

        def count(*given: object) -> object:
            asked[name] += 1
            return ask(*given)

        monkeypatch.setattr(documents, name, count)

    for bench in pair.both:
        for name in ("after", "newest"):
            counted(bench.documents, name)
    async with asyncio.timeout(20):
        while asked["newest"] < 30:
            await asyncio.sleep(0.01)
    assert asked["after"] < 15, "six indexes, of which each looks by itself every five seconds"
