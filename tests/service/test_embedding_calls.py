"""What callers see of Embed, EmbedStream and Rerank: order, errors, overload, cache, metrics and spans."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from diapason import vectors
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from services.embedder.domain.versions import State
from tests.conftest import Tiny
from tests.support.embedding import Embedding, changed, embedding, publish
from tests.support.words import NAMES, document, query

TEXTS = [document(i) * (1 + i % 5) for i in range(40)]


@pytest.fixture
async def running(tiny: Tiny, tmp_path: Path) -> AsyncIterator[Embedding]:
    async with embedding(
        tmp_path / "store", tmp_path / "cache", max_texts=100, max_queued_texts=100, inference_threads=2
    ) as started:
        await started.holding(publish(tmp_path / "store", tiny.candidate, 1))
        yield started


def digest(running: Embedding) -> str:
    return running.residents.all()[0].desired.digest


def request(running: Embedding, texts: Sequence[str], **more: object) -> pb.EmbedRequest:
    given = {"role": pb.ROLE_DOCUMENT, **more}
    return pb.EmbedRequest(version=VersionRef(digest=digest(running)), texts=texts, **given)  # type: ignore[arg-type]


def config(running: Embedding, dimensions: int = 0) -> pb.EmbedStreamConfig:
    version = VersionRef(digest=digest(running))
    return pb.EmbedStreamConfig(version=version, role=pb.ROLE_DOCUMENT, dimensions=dimensions)


async def streamed(running: Embedding, *messages: pb.EmbedStreamRequest) -> list[pb.EmbedStreamResponse]:
    return [answer async for answer in running.stub.EmbedStream(iter(messages))]


def messages(running: Embedding, texts: Sequence[str], size: int) -> Iterator[pb.EmbedStreamRequest]:
    for start in range(0, len(texts), size):
        yield pb.EmbedStreamRequest(config=None if start else config(running), texts=texts[start : start + size])


async def failure(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_a_stream_answers_each_message_in_order_with_the_vectors_that_embed_gives(running: Embedding) -> None:
    answers = await streamed(running, *messages(running, TEXTS, 7))
    assert [len(answer.token_counts) for answer in answers] == [7, 7, 7, 7, 7, 5]
    found = np.concatenate([vectors.from_bytes(answer.vectors, answer.dimensions) for answer in answers])
    whole = await running.stub.Embed(request(running, TEXTS))
    expected = vectors.from_bytes(whole.vectors, whole.dimensions)
    assert (found * expected).sum(axis=1).min() > 0.9999
    assert {answer.version.digest for answer in answers} == {digest(running)}
    assert not any(answer.failures for answer in answers)


async def test_a_bad_text_does_not_end_a_stream(running: Embedding) -> None:
    first, second = await streamed(
        running,
        pb.EmbedStreamRequest(config=config(running), texts=[TEXTS[0], " ", "x" * 100_001, TEXTS[1]]),
        pb.EmbedStreamRequest(texts=[""]),
    )
    assert [(f.index, f.code) for f in first.failures] == [(1, 3), (2, 3)]
    assert first.failures[0].message.startswith("texts[1]:")
    assert len(vectors.from_bytes(first.vectors, first.dimensions)) == len(first.token_counts) == 2
    assert (second.vectors, [f.index for f in second.failures]) == (b"", [0])


@pytest.mark.parametrize(
    ("broken", "field"),
    [("no config", "config"), ("config again", "config"), ("no texts", "texts"), ("dimensions", "dimensions")],
)
async def test_a_stream_that_breaks_the_contract_ends_after_what_came_before(
    running: Embedding, broken: str, field: str
) -> None:
    good = pb.EmbedStreamRequest(config=config(running), texts=TEXTS[:3])
    sent = {
        "no config": [pb.EmbedStreamRequest(texts=TEXTS[:3])],
        "config again": [good, good],
        "no texts": [good, pb.EmbedStreamRequest()],
        "dimensions": [pb.EmbedStreamRequest(config=config(running, dimensions=5), texts=TEXTS[:3])],
    }[broken]
    call, answered = running.stub.EmbedStream(iter(sent)), 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012
        async for _ in call:
            answered += 1
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(field)
    assert answered == len(sent) - 1


async def test_i10_a_stream_is_slowed_down_where_a_request_is_refused(running: Embedding) -> None:
    many = TEXTS * 20
    streaming = asyncio.create_task(streamed(running, *messages(running, many, 80)))
    assert sum(len(answer.token_counts) for answer in await streaming) == len(many)


async def test_a_stream_that_its_caller_leaves_lets_the_version_go(running: Embedding) -> None:
    call = running.stub.EmbedStream(messages(running, TEXTS * 50, 100))
    await anext(aiter(call))
    call.cancel()
    left = digest(running)
    running.residents.want([])
    await running.until(left, State.GONE)


async def test_i4_an_open_stream_does_not_keep_a_version_that_is_let_go(running: Embedding) -> None:
    call = running.stub.EmbedStream()
    await call.write(pb.EmbedStreamRequest(config=config(running), texts=TEXTS[:3]))
    first = await call.read()
    assert isinstance(first, pb.EmbedStreamResponse)
    left = digest(running)
    running.residents.want([])
    await running.until(left, State.GONE)
    await call.write(pb.EmbedStreamRequest(texts=TEXTS[:3]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("size", [1, 50])
async def test_i10_overload_is_refused_with_the_time_to_wait_single_and_batched_alike(
    running: Embedding, size: int
) -> None:
    [resident] = running.residents.all()
    assert resident.worker
    os.kill(resident.worker.pid, signal.SIGSTOP)  # nothing leaves the queue meanwhile
    calls = [asyncio.create_task(_outcome(running, request(running, ["tbaba"] * size))) for _ in range(600 // size)]
    refused = 0
    for call in asyncio.as_completed(calls):
        error = await call
        assert error
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = rpc_status.from_call(error).details  # type: ignore[arg-type]
        retry = RetryInfo()
        assert any(detail.Unpack(retry) for detail in details)
        assert retry.retry_delay.ToNanoseconds() > 0
        refused += 1
        if sum(not each.done() for each in calls) * size <= 100 + 2 * 32:  # queued, and two batches under way
            break
    os.kill(resident.worker.pid, signal.SIGCONT)
    assert refused
    admitted = [outcome for outcome in await asyncio.gather(*calls) if outcome is None]
    assert len(admitted) * size >= 100


async def test_i10_a_full_bulk_lane_leaves_the_interactive_one_open(running: Embedding) -> None:
    long = "wbaba " * 60
    bulk = [asyncio.create_task(_outcome(running, request(running, [long] * 100, lane=pb.LANE_BULK))) for _ in range(8)]
    await asyncio.sleep(0)
    answers = [await running.stub.Embed(request(running, [f"{NAMES[i]} {i}"])) for i in range(20)]
    assert all(answer.vectors for answer in answers)
    assert any(await asyncio.gather(*bulk))


async def _outcome(running: Embedding, message: pb.EmbedRequest) -> grpc.aio.AioRpcError | None:
    try:
        await running.stub.Embed(message)
    except grpc.aio.AioRpcError as error:
        return error
    return None


def _cached(running: Embedding, result: str) -> float:
    return (
        REGISTRY.get_sample_value(
            "diapason_embedder_cache_lookups_total", {"model": "tiny", "version": "1", "result": result}
        )
        or 0.0
    )


async def test_a_query_asked_again_is_answered_the_same_and_counted(running: Embedding) -> None:
    before = _cached(running, "hit"), _cached(running, "miss")
    asked = request(running, [query(1, 1), query(2, 2)], role=pb.ROLE_QUERY)
    first, again = await running.stub.Embed(asked), await running.stub.Embed(asked)
    assert first.vectors == again.vectors
    assert list(first.token_counts) == list(again.token_counts)
    assert again.timings.inference.ToNanoseconds() == 0
    partly = await running.stub.Embed(request(running, [query(3, 3), query(1, 1)], role=pb.ROLE_QUERY, dimensions=16))
    rows = vectors.from_bytes(first.vectors, 32)
    short = vectors.from_bytes(partly.vectors, 16)
    assert np.allclose(short[1], vectors.truncated(rows[:1], 16)[0], atol=1e-6)
    assert (_cached(running, "hit") - before[0], _cached(running, "miss") - before[1]) == (3, 3)


async def test_documents_and_bulk_are_not_cached(running: Embedding) -> None:
    before = _cached(running, "hit") + _cached(running, "miss")
    await running.stub.Embed(request(running, [query(1, 1)]))
    await running.stub.Embed(request(running, [query(1, 1)], role=pb.ROLE_QUERY, lane=pb.LANE_BULK))
    assert _cached(running, "hit") + _cached(running, "miss") == before


async def test_i1_the_cache_never_answers_for_another_version(tiny: Tiny, other_tiny: Tiny, tmp_path: Path) -> None:
    one, other = publish(tmp_path / "store", tiny.candidate, 1), publish(tmp_path / "store", other_tiny.candidate, 2)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(one, other)
        rows = []
        for version in (one, other, one, other):
            answer = await running.stub.Embed(
                pb.EmbedRequest(version=VersionRef(digest=version.digest), texts=[query(1, 1)], role=pb.ROLE_QUERY)
            )
            assert answer.version.digest == version.digest
            rows.append(vectors.from_bytes(answer.vectors, 32)[0])
        assert np.array_equal(rows[0], rows[2])
        assert np.array_equal(rows[1], rows[3])
        assert rows[0] @ rows[1] < 0.999


async def test_the_cache_can_be_turned_off(tiny: Tiny, tmp_path: Path) -> None:
    async with embedding(tmp_path / "store", tmp_path / "cache", query_cache_entries=0) as running:
        await running.holding(publish(tmp_path / "store", tiny.candidate, 1))
        before = _cached(running, "hit") + _cached(running, "miss")
        asked = request(running, [query(1, 1)], role=pb.ROLE_QUERY)
        for _ in range(2):
            answer = await running.stub.Embed(asked)
            assert answer.timings.inference.ToNanoseconds() > 0
        assert _cached(running, "hit") + _cached(running, "miss") == before


async def test_an_encoder_does_not_rerank(running: Embedding) -> None:
    error = await failure(
        running.stub.Rerank(pb.RerankRequest(version=VersionRef(digest=digest(running)), query="q", texts=["t"]))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "use Embed" in (error.details() or "")


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    # A process has one provider for good.
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    return kept


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


async def test_spans_join_the_callers_trace(running: Embedding, spans: InMemorySpanExporter) -> None:
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await running.stub.Embed(request(running, [TEXTS[0]]), metadata=(("traceparent", caller),))
    await failure(running.stub.Embed(pb.EmbedRequest(), metadata=(("traceparent", caller),)))
    finished = {(span.name, span.status.is_ok): span for span in spans.get_finished_spans()}
    served = finished["diapason.embedder.v1.EmbedderService/Embed", True]
    assert served.parent
    assert f"{served.parent.span_id:016x}" == "b7ad6b7169203331"
    assert served.context
    for stage in ("queue", "tokenization", "inference"):
        span = finished[stage, True]
        assert span.parent
        assert span.parent.span_id == served.context.span_id
    refused = finished["diapason.embedder.v1.EmbedderService/Embed", False]
    assert refused.attributes
    assert refused.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert {f"{span.context.trace_id:032x}" for span in finished.values() if span.context} == {
        "0af7651916cd43dd8448eb211c80319c"
    }


async def test_metrics_tell_of_batches_padding_truncation_and_changes(running: Embedding) -> None:
    labels = {"model": "tiny", "version": "1"}
    bulk = {**labels, "lane": "bulk"}

    def value(name: str, **more: str) -> float:
        return REGISTRY.get_sample_value(f"diapason_embedder_{name}", {**bulk, **more}) or 0.0

    def truncated() -> float:
        return REGISTRY.get_sample_value("diapason_embedder_truncated_texts_total", labels) or 0.0

    before = value("tokens_total"), value("batch_tokens_sum"), truncated(), value("batch_texts_sum")
    padding = value("padding_tokens_total")
    sent = ["tbaba", "tbaba " * 5, "tbaba " * 100]
    answer = await running.stub.Embed(request(running, sent, lane=pb.LANE_BULK))
    assert value("tokens_total") - before[0] == sum(answer.token_counts)
    computed = value("batch_tokens_sum") - before[1]
    assert value("padding_tokens_total") - padding == computed - sum(answer.token_counts)
    assert truncated() - before[2] == 1
    assert value("batch_texts_sum") - before[3] == 3
    for stage in ("queue", "tokenization", "inference", "transport"):
        assert value("stage_seconds_count", stage=stage) > 0
    for stage in ("fetching", "verifying", "loading", "warming", "swap"):
        assert REGISTRY.get_sample_value("diapason_embedder_version_seconds_count", {**labels, "stage": stage})


async def test_i10_an_error_of_many_parts_still_fits_into_its_headers(running: Embedding) -> None:
    error = await failure(running.stub.Embed(request(running, [" "] * 100)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").endswith("and 84 more")


async def test_i10_a_request_beyond_the_bound_on_tokens_is_sent_to_the_stream(tiny: Tiny, tmp_path: Path) -> None:
    async with embedding(tmp_path / "store", tmp_path / "cache", max_queued_tokens=500) as running:
        await running.holding(publish(tmp_path / "store", tiny.candidate, 1))
        long = ["tbaba " * 60] * 20
        error = await failure(running.stub.Embed(request(running, long)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "use EmbedStream" in (error.details() or "")
        [answer] = await streamed(running, pb.EmbedStreamRequest(config=config(running), texts=long))
        assert len(answer.token_counts) == 20


async def test_i10_more_streams_than_allowed_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    async with embedding(tmp_path / "store", tmp_path / "cache", max_streams=1) as running:
        await running.holding(publish(tmp_path / "store", tiny.candidate, 1))
        first = running.stub.EmbedStream()
        await first.write(pb.EmbedStreamRequest(config=config(running), texts=TEXTS[:1]))
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await streamed(running, *messages(running, TEXTS[:1], 1))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        assert len(await streamed(running, *messages(running, TEXTS[:1], 1))) == 1


async def test_the_models_own_prompts_stand_before_texts_of_each_role(tiny: Tiny, tmp_path: Path) -> None:
    prompts = {"query": "tbaba ", "document": "tbace "}
    prompted = changed(tiny, tmp_path / "candidate", {"prompts": prompts}, {})
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        plain, version = publish(tmp_path / "store", tiny.candidate, 1), publish(tmp_path / "store", prompted, 2)
        await running.holding(plain, version)

        async def rows(of: str, texts: list[str], role: pb.Role.ValueType) -> vectors.Matrix:
            answer = await running.stub.Embed(
                pb.EmbedRequest(version=VersionRef(digest=of), texts=texts, role=role, lane=pb.LANE_INTERACTIVE)
            )
            return vectors.from_bytes(answer.vectors, answer.dimensions)

        for role, prompt in ((pb.ROLE_QUERY, prompts["query"]), (pb.ROLE_DOCUMENT, prompts["document"])):
            expected = await rows(plain.digest, [prompt + TEXTS[1]], pb.ROLE_DOCUMENT)
            for _ in range(2):  # the second time perhaps from the cache
                assert np.allclose(await rows(version.digest, [TEXTS[1]], role), expected, atol=1e-3)
            stream_config = pb.EmbedStreamConfig(version=VersionRef(digest=version.digest), role=role)
            [answer] = await streamed(running, pb.EmbedStreamRequest(config=stream_config, texts=[TEXTS[1]]))
            assert np.allclose(vectors.from_bytes(answer.vectors, 32), expected, atol=1e-3)


async def test_gauges_tell_of_what_waits_and_what_is_resident(running: Embedding) -> None:
    [resident] = running.residents.all()
    assert resident.worker
    os.kill(resident.worker.pid, signal.SIGSTOP)
    waiting = [asyncio.create_task(_outcome(running, request(running, [TEXTS[i % 40]]))) for i in range(100)]
    labels = {"model": "tiny", "version": "1"}

    def gauges() -> dict[tuple[str, str], float]:
        found = {}
        for family in running.gauges.collect():
            for sample in family.samples:
                assert labels.items() <= sample.labels.items()
                found[sample.name.removeprefix("diapason_embedder_"), sample.labels.get("lane", "")] = sample.value
        return found

    async with asyncio.timeout(10):
        while gauges().get(("queued_texts", "interactive"), 0) < 36:  # 100 less two batches of 32
            await asyncio.sleep(0.01)
    seen = gauges()
    assert 1 <= seen["batches_in_flight", ""] <= 2  # one, if the first text had the machine to itself
    assert seen["queued_tokens", "interactive"] > 36
    assert seen["queue_age_seconds", "interactive"] > 0
    assert seen["resident_bytes", ""] > 10_000_000
    os.kill(resident.worker.pid, signal.SIGCONT)
    await asyncio.gather(*waiting)
    assert gauges()["batches_in_flight", ""] == 0


async def test_the_series_of_a_version_go_with_it(running: Embedding) -> None:
    await running.stub.Embed(request(running, TEXTS[:2]))
    gone, labels = digest(running), {"model": "tiny", "version": "1", "stage": "swap"}
    assert REGISTRY.get_sample_value("diapason_embedder_version_seconds_count", labels)
    running.residents.want([])
    await running.until(gone, State.GONE)
    assert REGISTRY.get_sample_value("diapason_embedder_version_seconds_count", labels) is None


async def test_what_leaves_and_comes_back_serves_again_from_the_cache_on_disk(
    running: Embedding, tmp_path: Path
) -> None:
    [resident] = running.residents.all()
    known = resident.desired
    running.residents.want([])
    await running.until(known.digest, State.GONE)
    (tmp_path / "store" / known.path / "openvino" / "model.bin").unlink()
    running.residents.want([known])
    await running.until(known.digest, State.READY)
