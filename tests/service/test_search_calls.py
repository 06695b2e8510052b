"""Search over gRPC: what goes in and comes out in the contract's words. Only the embedder is planted."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1 import collection_pb2 as collections
from diapason.search.v1 import collection_pb2_grpc as collections_rpc
from diapason.search.v1 import document_pb2 as documents
from diapason.search.v1 import document_pb2_grpc as documents_rpc
from diapason.search.v1 import filter_pb2 as filters
from diapason.search.v1 import search_pb2 as pb
from diapason.search.v1 import search_pb2_grpc as rpc
from services.kit.admission import Admission
from services.kit.errors import Overloaded
from services.kit.server import Host
from services.kit.settings import ServiceSettings
from services.search.__main__ import serve
from services.search.servicers.searching import SearchServicer
from tests.support.fakes import Bench

TINY = VersionRef(model="tiny", number=1)
SETTINGS = collections.CollectionSettings(
    dimensions=[16],
    retention=Duration(seconds=60),
    distance=collections.DISTANCE_COSINE,
    quantization=collections.QUANTIZATION_INT8,
    bm25=collections.Bm25(language="english", average_words=5),
    passages=collections.Passages(max_tokens=40, overlap_tokens=0),
    fields={
        "genre": collections.FIELD_TYPE_KEYWORD,
        "year": collections.FIELD_TYPE_INTEGER,
        "stars": collections.FIELD_TYPE_FLOAT,
        "lent": collections.FIELD_TYPE_BOOL,
        "bought": collections.FIELD_TYPE_DATETIME,
        "blurb": collections.FIELD_TYPE_TEXT,
    },
)


class Over:
    """Stubs to one search service."""

    def __init__(self, channel: grpc.aio.Channel, bench: Bench) -> None:
        self.search = rpc.SearchServiceStub(channel)
        self.documents = documents_rpc.DocumentServiceStub(channel)
        self.collections = collections_rpc.CollectionServiceStub(channel)
        self.bench = bench

    async def upsert(self, collection: str, *given: documents.Document) -> list[documents.UpsertDocumentsResponse]:
        requests = [documents.UpsertDocumentsRequest(collection=collection, document=document) for document in given]
        return [receipt async for receipt in self.documents.UpsertDocuments(iter(requests), timeout=20)]

    async def ids(self, **asked: object) -> list[str]:
        request = pb.SearchRequest(collection="books", **asked)  # type: ignore[arg-type]
        return [result.id for result in (await self.search.Search(request, timeout=10)).results]


def book(number: int) -> documents.Document:
    made = documents.Document(id=f"b{number}", text=f"a story of {number} whales", title=f"Volume {number}")
    made.payload.update(
        {
            "genre": ["sea", "land"][number % 2],
            "year": 2000 + number,
            "stars": number / 2,
            "lent": number % 3 == 0,
            "bought": f"2026-01-{number + 1:02}T00:00:00Z",
            "blurb": f"Whales by the {['dozen', 'pair'][number % 2]}",
        }
    )
    return made


@pytest.fixture
async def over(tmp_path: Path) -> AsyncIterator[Over]:
    bench = Bench(tmp_path)
    await bench.open()
    host = Host(ServiceSettings(listen=""))
    serve(host, bench.search, 8)
    port = await host.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        made = Over(channel, bench)
        request = collections.CreateCollectionRequest(name="books", encoder=TINY, settings=SETTINGS)
        await made.collections.CreateCollection(request, timeout=10)
        receipts = await made.upsert("books", *(book(number) for number in range(10)))
        assert all(receipt.indexed for receipt in receipts)
        yield made
    await host.stop(5)
    await bench.close()


async def test_settings_come_back_as_they_were_given(over: Over) -> None:
    asked = collections.GetCollectionRequest(name="books")
    found = (await over.collections.GetCollection(asked, timeout=10)).collection
    assert found.settings == SETTINGS
    assert (found.documents, found.indexes[0].points) == (10, 10)
    update = collections.UpdateCollectionRequest(name="books", retention=Duration(seconds=5))
    changed = (await over.collections.UpdateCollection(update, timeout=10)).collection
    assert changed.settings.retention.seconds == 5
    assert changed.settings.fields == SETTINGS.fields
    for wrong, named in (
        ({"retention": Duration(seconds=-5)}, "^retention: is -5 s"),
        ({"fields": {"a.b": collections.FIELD_TYPE_TEXT}}, "^fields: has 'a.b'"),
        ({"fields": {"genre": collections.FIELD_TYPE_TEXT}}, "^fields: declares 'genre'"),
    ):
        request = collections.UpdateCollectionRequest(name="books", **wrong)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await over.collections.UpdateCollection(request, timeout=10)
        assert re.search(named, caught.value.details() or "")


def day(number: int) -> Timestamp:
    moment = Timestamp()
    moment.FromJsonString(f"2026-01-{number:02}T00:00:00Z")
    return moment


CONDITIONS: list[tuple[filters.Condition, set[int]]] = [
    (filters.Condition(field="genre", equals={"string_value": "sea"}), {0, 2, 4, 6, 8}),  # type: ignore[arg-type]
    (filters.Condition(field="lent", equals={"bool_value": True}), {0, 3, 6, 9}),  # type: ignore[arg-type]
    (filters.Condition(field="year", equals={"number_value": 2003}), {3}),  # type: ignore[arg-type]
    (filters.Condition(field="year", any_of={"values": [{"number_value": 2001}, {"number_value": 2002}]}), {1, 2}),  # type: ignore[arg-type]
    (filters.Condition(field="stars", range=filters.Range(gt=1.0, lte=2.0)), {3, 4}),
    (filters.Condition(field="bought", time_range=filters.TimeRange(gte=day(9), lt=day(10))), {8}),
    (filters.Condition(field="genre", prefix="la"), {1, 3, 5, 7, 9}),
    (filters.Condition(field="blurb", text="DOZEN whales"), {0, 2, 4, 6, 8}),
    (filters.Condition(field="year", exists=False), set()),
    (
        filters.Condition(
            filter=filters.Filter(
                should=[filters.Condition(field="year", range=filters.Range(lt=2001))],
                must_not=[filters.Condition(field="lent", exists=False)],
            )
        ),
        {0},
    ),
]


@pytest.mark.parametrize(("condition", "expected"), CONDITIONS)
async def test_every_condition_passes_what_it_should(
    over: Over, condition: filters.Condition, expected: set[int]
) -> None:
    where = filters.Filter(must=[condition])
    assert set(await over.ids(query="whales", limit=20, filter=where)) == {f"b{number}" for number in expected}
    counted = await over.documents.CountDocuments(documents.CountDocumentsRequest(collection="books", filter=where))
    assert counted.documents == len(expected)
    listed = await over.documents.GetDocuments(
        documents.GetDocumentsRequest(collection="books", filter=where, page_size=100)
    )
    assert {document.id for document in listed.documents} == {f"b{number}" for number in expected}


@pytest.mark.parametrize(
    ("condition", "named"),
    [
        (filters.Condition(field="year"), "says nothing"),
        (filters.Condition(field="genre", range=filters.Range(gt=1)), "tests the keyword field"),
        (filters.Condition(field="year", range=filters.Range()), "without bounds"),
        (filters.Condition(field="year", equals={"number_value": 1.5}), "whole number"),  # type: ignore[arg-type]
        (filters.Condition(field="pages", exists=True), "declares blurb, bought"),
        (filters.Condition(field="genre", filter=filters.Filter()), "both a field"),
    ],
)
async def test_a_condition_that_makes_no_sense_is_named(over: Over, condition: filters.Condition, named: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=named) as caught:
        await over.ids(query="whales", filter=filters.Filter(must=[condition]))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_answer_says_all_that_it_was_asked_to(over: Over) -> None:
    request = pb.SearchRequest(
        collection="books",
        query="Volume 4\na story of 4 whales",
        limit=3,
        hybrid=pb.Hybrid(fusion=pb.FUSION_RECIPROCAL_RANK),
        rerank=pb.Rerank(),
        explain=True,
    )
    answer = await over.search.Search(request, timeout=10)
    [first, *_] = answer.results
    assert (first.id, first.rank, first.title, first.payload["year"]) == ("b4", 1, "Volume 4", 2004)
    assert first.parts.dense == pytest.approx(1, abs=0.01)
    assert (first.parts.dense_rank, first.parts.bm25_rank) == (1, 1)
    assert first.parts.fused == pytest.approx(first.score)
    assert not first.parts.HasField("rerank")
    assert (answer.reranking.applied, "no reranker" in answer.reranking.reason) == (False, True)
    assert answer.next_page_token
    assert answer.search_id
    assert answer.timings.total.ToNanoseconds() >= answer.timings.query.ToNanoseconds() > 0
    quiet = await over.search.Search(pb.SearchRequest(collection="books", query="whales", unrecorded=True), timeout=10)
    assert not quiet.search_id
    assert [noted.search_id for noted in over.bench.noted.impressions] == [answer.search_id]


async def test_searches_of_a_batch_succeed_and_fail_one_by_one(over: Over) -> None:
    searches = [
        pb.SearchRequest(collection="books", query="Volume 2\na story of 2 whales", limit=1),
        pb.SearchRequest(collection="nothing", query="x"),
        pb.SearchRequest(collection="books", query=""),
    ]
    answers = (await over.search.BatchSearch(pb.BatchSearchRequest(searches=searches), timeout=10)).answers
    assert [result.id for result in answers[0].response.results] == ["b2"]
    assert [answer.error.code for answer in answers[1:]] == [5, 3]
    assert "'nothing'" in answers[1].error.message
    with pytest.raises(grpc.aio.AioRpcError, match="101 searches"):
        await over.search.BatchSearch(pb.BatchSearchRequest(searches=[pb.SearchRequest()] * 101), timeout=10)


async def test_deleting_by_filter_needs_a_condition(over: Over) -> None:
    everything = documents.DeleteDocumentsRequest(collection="books", filter=filters.Filter())
    with pytest.raises(grpc.aio.AioRpcError, match="would delete everything"):
        await over.documents.DeleteDocuments(everything, timeout=10)
    old = filters.Filter(must=[filters.Condition(field="year", range=filters.Range(lt=2004))])
    request = documents.DeleteDocumentsRequest(collection="books", filter=old)
    assert (await over.documents.DeleteDocuments(request, timeout=10)).deleted == 4
    assert set(await over.ids(query="whales", limit=20)) == {f"b{number}" for number in range(4, 10)}


async def test_a_collection_moves_over_the_wire_to_another_name(over: Over) -> None:
    request = collections.ExportCollectionRequest(collection="books")
    parts = [part async for part in over.collections.ExportCollection(request, timeout=20)]
    header = parts[0].header
    assert (header.encoder.digest, header.dimensions, len(parts)) == ("a" * 64, 32, 11)
    header.collection = "copy"
    sent = [collections.ImportCollectionRequest(header=header)]
    sent += [collections.ImportCollectionRequest(document=part.document) for part in parts[1:]]
    embedded = len(over.bench.embedder.embedded)
    nine, ten = (collections.ImportCollectionRequest(sent=number) for number in (9, 10))
    for end, wrong in (([], "sent: is missing"), ([nine], "sent: is 9, but 10"), ([ten, sent[1]], "was not last")):
        with pytest.raises(grpc.aio.AioRpcError, match=wrong):
            await over.collections.ImportCollection(iter([*sent, *end]), timeout=20)
    sent.append(collections.ImportCollectionRequest(sent=10))
    done = await over.collections.ImportCollection(iter(sent), timeout=20)
    assert (done.documents, done.to_embed, done.collection.name) == (10, 0, "copy")
    assert len(over.bench.embedder.embedded) == embedded
    with pytest.raises(grpc.aio.AioRpcError, match="header: is missing"):
        await over.collections.ImportCollection(iter(sent[1:]), timeout=20)


async def test_a_reindex_is_estimated_begun_with_a_bound_and_reported(over: Over) -> None:
    new = VersionRef(model="tiny", number=2)
    estimate = await over.collections.EstimateReindex(
        collections.EstimateReindexRequest(collection="books", encoder=new), timeout=10
    )
    assert estimate.documents == 10
    assert 0 < estimate.disk_bytes < estimate.free_disk_bytes
    with pytest.raises(grpc.aio.AioRpcError, match="max_documents_per_second: is -1"):
        await over.collections.StartReindex(
            collections.StartReindexRequest(collection="books", encoder=new, max_documents_per_second=-1), timeout=10
        )
    request = collections.StartReindexRequest(collection="books", encoder=new, max_documents_per_second=2)
    reindex = (await over.collections.StartReindex(request, timeout=10)).reindex
    assert (reindex.total, reindex.state) == (10, collections.REINDEX_STATE_RUNNING)
    indexer = over.bench.state.indexers[reindex.index]
    assert await indexer.wait_for(4, 20)
    assert indexer.applied < 10, "two at a time, each second"
    again = (await over.collections.GetReindex(collections.GetReindexRequest(id=reindex.id), timeout=10)).reindex
    assert 4 <= again.done < 10
    assert 0 < again.documents_per_second < 10
    assert again.time_left.ToNanoseconds() > 0
    cancelled = await over.collections.CancelReindex(collections.CancelReindexRequest(id=reindex.id), timeout=10)
    assert cancelled.reindex.state == collections.REINDEX_STATE_CANCELLED


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (collections.CollectionSettings(dimensions=[7]), "settings.dimensions"),
        (collections.CollectionSettings(distance=99), "settings.distance"),  # type: ignore[arg-type]
        (collections.CollectionSettings(bm25=collections.Bm25(language="klingon")), "settings.bm25.language"),
        (
            collections.CollectionSettings(passages=collections.Passages(max_tokens=9999)),
            "settings.passages.max_tokens",
        ),
        (collections.CollectionSettings(passages=collections.Passages(overlap_tokens=200)), "overlap_tokens"),
        (collections.CollectionSettings(fields={"a.b": collections.FIELD_TYPE_TEXT}), "settings.fields"),
        (collections.CollectionSettings(fields={"a": collections.FIELD_TYPE_UNSPECIFIED}), "settings.fields.a"),
    ],
)
async def test_settings_that_make_no_sense_are_named(
    over: Over, settings: collections.CollectionSettings, named: str
) -> None:
    request = collections.CreateCollectionRequest(name="more", encoder=TINY, settings=settings)
    with pytest.raises(grpc.aio.AioRpcError, match=named) as caught:
        await over.collections.CreateCollection(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_i10_searches_beyond_the_bound_are_refused_at_once(over: Over) -> None:
    over.bench.embedder.answering.clear()
    searches = [asyncio.create_task(over.ids(query=f"whales {number}")) for number in range(60)]
    refused = [each for _, each in zip(range(60 - 8), asyncio.as_completed(searches), strict=False)]
    for each in refused:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await each
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    over.bench.embedder.answering.set()
    outcomes = await asyncio.gather(*searches, return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 8


async def test_i10_a_batch_takes_as_many_places_as_it_has_at_work(over: Over) -> None:
    admission = Admission(20)
    servicer = SearchServicer(over.bench.search.retrieval, admission)
    search = pb.SearchRequest(collection="books", query="whales")
    with admission.admitted(5):
        for count in (15, 100):  # of these, 16 are at work at once
            batch = servicer.BatchSearch(pb.BatchSearchRequest(searches=[search] * count), None)  # type: ignore[arg-type]
            if count == 15:
                assert len((await batch).answers) == 15
            else:
                with pytest.raises(Overloaded):
                    await batch


async def test_i10_answers_of_a_batch_that_no_message_can_hold_are_left_out_and_said_so(
    over: Over, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.search.servicers.searching.MESSAGE_BYTES", 5_000)
    searches = [pb.SearchRequest(collection="books", query=f"whales {i}") for i in range(20)]
    answers = (await over.search.BatchSearch(pb.BatchSearchRequest(searches=searches), timeout=10)).answers
    held = [answer.HasField("response") for answer in answers]
    assert 0 < sum(held) < 20
    assert held == sorted(held, reverse=True)
    assert answers[-1].error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
