"""What the engine on a server sends, what it makes of failures, and what it must never delete."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest
from qdrant_client import grpc as pb
from qdrant_client import models

from services.kit import context
from services.kit.errors import DeadlineExceeded, Overloaded, ServiceError, Unavailable
from services.search.adapters.server import ServerEngine
from services.search.adapters.server_calls import ServerSettings
from services.search.domain.model import FieldType, Passages
from services.search.ports import IndexGone, VectorIndex
from tests.support.engines import by_vector, index, point, split, vectors
from tests.support.qdrant_wire import Wire, serving

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]
NAME = "test-one"


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def settings(wire: Wire) -> AsyncIterator[ServerSettings]:
    async with serving(wire) as port:
        yield ServerSettings(
            "http://127.0.0.1", grpc_port=port, prefix="test-", catalog="ours", timeout=5, settled_seconds=0
        )


Connect = Callable[..., ServerEngine]


@pytest.fixture
async def connect(settings: ServerSettings) -> AsyncIterator[Connect]:
    """Engines with these settings, or some of them changed."""
    async with AsyncExitStack() as stack:

        def connected(**changes: Any) -> ServerEngine:
            engine = ServerEngine(replace(settings, **changes))
            stack.push_async_callback(engine.close)
            return engine

        yield connected


@pytest.fixture
def engine(connect: Connect) -> ServerEngine:
    return connect()


CALLS: list[Callable[[VectorIndex], Awaitable[object]]] = [
    lambda made: made.upsert([point("a")], vectors(1)),
    lambda made: made.refresh([point("a")]),
    lambda made: made.delete({"a": (0, 1)}, up_to=3),
    lambda made: made.held(["a"]),
    lambda made: made.stored(["a"]),
    lambda made: made.query([by_vector(vectors(1)[0])]),
    lambda made: made.count(),
    lambda made: made.points(),
    lambda made: made.scroll(None, "", 10),
    lambda made: made.declare({"year": FieldType.INTEGER}),
    lambda made: made.optimize(),
]


async def test_a_collection_is_made_as_the_settings_say_with_its_indexes_before_any_point(
    wire: Wire, connect: Connect
) -> None:
    engine = connect(shards=3, replication_factor=3)
    made = await engine.create(index(fields={"year": FieldType.INTEGER}))
    await made.upsert([point("a")], vectors(1))
    await made.held(["a"])
    (created,) = wire.asked(pb.CreateCollection)
    assert (created.shard_number, created.replication_factor, created.write_consistency_factor) == (3, 3, 2)
    assert {request.field_name for request in wire.asked(pb.CreateFieldIndexCollection)} == {
        "id",
        "passage",
        "sequence",
        "f.year",
    }
    kinds = [type(request) for request in wire.requests]
    assert kinds.index(pb.UpsertPoints) > max(
        i for i, kind in enumerate(kinds) if kind is pb.CreateFieldIndexCollection
    )
    (read,) = wire.asked(pb.GetPoints)
    assert read.read_consistency.type == pb.ReadConsistencyType.Majority


async def test_a_half_made_collection_is_completed_when_it_is_opened(wire: Wire, engine: ServerEngine) -> None:
    await engine.create(index(fields={"year": FieldType.INTEGER}))
    del wire.indexes[NAME]["f.year"], wire.indexes[NAME]["id"]
    assert await engine.open(index(fields={"year": FieldType.INTEGER}))
    assert wire.indexes[NAME].keys() == {"id", "passage", "sequence", "f.year"}
    asked = len(wire.asked(pb.CreateFieldIndexCollection))
    assert await engine.open(index(fields={"year": FieldType.INTEGER}))
    assert len(wire.asked(pb.CreateFieldIndexCollection)) == asked


async def test_two_replicas_may_make_the_same_index_at_once(connect: Connect) -> None:
    engines = [connect() for _ in range(2)]
    assert engines[0].owner != engines[1].owner
    one, other = await asyncio.gather(*(engine.create(index()) for engine in engines))
    await one.upsert([point("a")], vectors(1))
    assert await other.count() == 1
    # What one closes the other keeps.
    await one.close()
    await engines[0].close()
    assert await other.count() == 1


async def test_writes_are_in_effect_when_they_return(wire: Wire, engine: ServerEngine) -> None:
    made = await engine.create(index(passages=Passages()))
    await made.upsert(split("a", 2), vectors(2))
    await made.refresh([point("a", passages=2)])
    await made.delete({"a": (0, 2)}, up_to=9)
    written = [*wire.asked(pb.UpsertPoints), *wire.asked(pb.UpdateBatchPoints), *wire.asked(pb.DeletePoints)]
    assert len(written) == 5
    assert all(request.wait and request.ordering.type == pb.WriteOrderingType.Medium for request in written)
    wire.update_status = pb.UpdateStatus.WaitTimeout
    for call in CALLS[:3]:
        with pytest.raises(Unavailable, match="too slow with writes"):
            await call(made)


async def test_first_passages_are_written_last_and_removed_last(wire: Wire, engine: ServerEngine) -> None:
    """I5: after a write that failed half way, the index must not look as if it held the document."""
    made = await engine.create(index(passages=Passages()))
    await made.upsert([*split("a", 150), *split("b", 150)], vectors(300))
    sent = [[one.payload["passage"].integer_value for one in request.points] for request in wire.asked(pb.UpsertPoints)]
    assert [len(numbers) for numbers in sent] == [100, 100, 98, 2]
    assert sent[-1] == [0, 0]
    await made.delete({"a": (0, 150), "b": (0, 150)}, up_to=9)
    removed = [len(request.points.filter.must[0].has_id.has_id) for request in wire.asked(pb.DeletePoints)]
    assert removed == [298, 2]
    assert await made.points() == 0


@pytest.mark.parametrize("call", range(len(CALLS)))
async def test_an_index_that_another_replica_dropped_is_gone(connect: Connect, call: int) -> None:
    engine, other = connect(), connect()
    made = await engine.create(index())
    await other.drop("one")
    with pytest.raises(IndexGone, match="test-one"):
        await CALLS[call](made)
    assert await engine.open(index()) is None


async def test_not_everything_that_is_missing_is_the_index(wire: Wire, engine: ServerEngine) -> None:
    made = await engine.create(index())
    wire.failing = pb.CountPoints
    wire.failure = (grpc.StatusCode.NOT_FOUND, "No point with id 5")
    with pytest.raises(ServiceError) as raised:
        await made.count()
    assert not isinstance(raised.value, IndexGone)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Unavailable),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.INTERNAL, ServiceError),
        (grpc.StatusCode.INVALID_ARGUMENT, ServiceError),
        (grpc.StatusCode.UNAUTHENTICATED, ServiceError),
    ],
)
async def test_failures_have_their_names(
    wire: Wire, engine: ServerEngine, code: grpc.StatusCode, expected: type[ServiceError]
) -> None:
    made = await engine.create(index())
    wire.failure = (code, "details")
    for call in CALLS[:1] + CALLS[-1:]:
        with pytest.raises(ServiceError) as raised:
            await call(made)
        assert type(raised.value) is expected
        # Callers need not know where the server is.
        assert "127.0.0.1" not in raised.value.message
    with pytest.raises(expected):
        await engine.open(index())


async def test_a_server_that_is_not_there_is_unavailable(connect: Connect) -> None:
    engine = connect(grpc_port=1)
    with pytest.raises(Unavailable, match="can't be reached"):
        await engine.open(index())
    with pytest.raises(Unavailable, match="can't be reached"):
        await engine.create(index())


@pytest.mark.parametrize("version", ["1.18.3", "0.11.0"])
async def test_an_old_server_is_refused(wire: Wire, connect: Connect, version: str) -> None:
    """It would let a stale writer overwrite what is newer."""
    wire.version = version
    for call in (connect().open(index()), connect().create(index())):
        with pytest.raises(ServiceError, match=f"is Qdrant {version}; run 1.19 or newer"):
            await call
    assert not await wire.local.collection_exists(NAME)


async def test_a_call_takes_no_longer_than_its_own_time_or_the_request_s(wire: Wire, connect: Connect) -> None:
    engine = connect(timeout=0.3)
    made = await engine.create(index())
    wire.delay = 3
    for seconds, expected in ((None, Unavailable), (10.0, Unavailable), (0.2, DeadlineExceeded)):
        context.begin(None, seconds)
        started = time.monotonic()
        with pytest.raises(expected, match="did not answer"):
            await made.count()
        assert time.monotonic() - started < 1.5
    context.begin(None, None)


async def test_an_index_is_in_its_fastest_form_when_the_server_says_so(wire: Wire, engine: ServerEngine) -> None:
    made = await engine.create(index())
    assert await made.optimize()
    wire.optimizer = models.OptimizersStatusOneOf1(error="no space left")
    assert not await made.optimize()
    wire.optimizer, wire.status = models.OptimizersStatusOneOf.OK, models.CollectionStatus.GREY
    assert not await made.optimize()
    # The server had to be woken.
    assert wire.status is models.CollectionStatus.YELLOW
    assert not await made.optimize()
    assert len(wire.asked(pb.UpdateCollection)) == 1


async def test_only_what_this_catalog_made_and_forgot_is_deleted(wire: Wire, connect: Connect) -> None:
    ours, theirs, elsewhere = connect(), connect(catalog="theirs"), connect(prefix="other-")
    for name in ("one", "two"):
        await ours.create(index(name))
    await theirs.create(index("three"))
    await elsewhere.create(index("four"))
    await wire.local.create_collection("test-five", {"full": models.VectorParams(size=2, distance=models.Distance.DOT)})
    moved = {"diapason_catalog": "ours", "diapason_index": "two", "diapason_created": 0}
    await wire.local.create_collection(
        "test-copy", {"full": models.VectorParams(size=2, distance=models.Distance.DOT)}, metadata=moved
    )
    await connect(catalog="").keep_only(set())
    await connect(settled_seconds=60).keep_only(set())
    assert len((await wire.local.get_collections()).collections) == 6
    await ours.keep_only({"one"})
    names = {one.name for one in (await wire.local.get_collections()).collections}
    assert names == {"test-one", "test-three", "other-four", "test-five", "test-copy"}


async def test_what_others_made_is_neither_used_nor_dropped(wire: Wire, connect: Connect) -> None:
    ours, theirs = connect(), connect(catalog="theirs")
    await theirs.create(index())
    for call in (ours.open(index()), ours.create(index()), ours.drop("one")):
        with pytest.raises(ServiceError, match="not made by this catalog"):
            await call
    assert await wire.local.collection_exists(NAME)


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(ServerSettings("https://example.com", api_key="secret"))
