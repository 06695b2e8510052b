"""Impressions on their way, to a feedback service that answers as the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from diapason.feedback.v1 import feedback_pb2 as pb
from services.search.adapters.impressions import ImpressionBuffer
from services.search.adapters.tables import now
from services.search.domain.model import Route
from services.search.ports import Impression
from tests.support.fakes import OLD

Fault = Callable[[list[str]], grpc.StatusCode | None]


class Feedback:
    """Fails as ``fault`` says of the queries that it is sent."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.calls = 0
        self.taken: list[str] = []

    async def record(
        self, request: pb.RecordImpressionsRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.RecordImpressionsResponse:
        self.calls += 1
        queries = [impression.query for impression in request.impressions]
        if code := self.fault(queries):
            await context.abort(code, "as the test says")
        self.taken += queries
        return pb.RecordImpressionsResponse()


@asynccontextmanager
async def sending(feedback: Feedback) -> AsyncIterator[ImpressionBuffer]:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        feedback.record, pb.RecordImpressionsRequest.FromString, pb.RecordImpressionsResponse.SerializeToString
    )
    service = pb.DESCRIPTOR.services_by_name["FeedbackService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"RecordImpressions": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        buffer = ImpressionBuffer(channel)
        running = asyncio.create_task(buffer.run())
        yield buffer
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await server.stop(None)


def shown(query: str) -> Impression:
    return Impression(query, query, "", Route("films", 1, OLD, "one", now()), [])


async def sent(buffer: ImpressionBuffer, feedback: Feedback, *queries: str) -> None:
    """Each in a batch of its own."""
    for query in queries:
        buffer.record(shown(query))
        async with asyncio.timeout(10):
            while query not in feedback.taken and not buffer.dropped:
                await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.search.adapters.impressions._RETRY_SECONDS", 0.001)


async def test_i10_what_feedback_can_not_take_is_dropped_after_some_tries_and_counted() -> None:
    feedback = Feedback(lambda queries: grpc.StatusCode.INTERNAL if "poison" in queries else None)
    async with sending(feedback) as buffer:
        await sent(buffer, feedback, "poison")
        assert (feedback.calls, buffer.dropped) == (5, 1)
        buffer.dropped = 0
        await sent(buffer, feedback, "next")
    assert feedback.taken == ["next"], "the next ones do not wait for it"


async def test_a_fault_that_passes_loses_nothing() -> None:
    faults = iter([grpc.StatusCode.INTERNAL] * 4 + [grpc.StatusCode.UNAVAILABLE] * 20)
    feedback = Feedback(lambda queries: next(faults, None))
    async with sending(feedback) as buffer:
        await sent(buffer, feedback, "patient")
        faults = iter([grpc.StatusCode.INTERNAL] * 4)
        await sent(buffer, feedback, "patient again")
        assert buffer.dropped == 0
    assert feedback.taken == ["patient", "patient again"]
