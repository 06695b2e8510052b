"""Feedback through a real server and a real database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from diapason.feedback.v1 import feedback_pb2 as pb
from diapason.feedback.v1 import feedback_pb2_grpc as rpc
from diapason.search.v1.collection_pb2 import Route
from services.feedback.__main__ import build
from services.feedback.settings import FeedbackSettings
from services.kit.server import Host

if TYPE_CHECKING:
    Stub = rpc.FeedbackServiceAsyncStub
else:
    Stub = rpc.FeedbackServiceStub


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Stub]:
    settings = FeedbackSettings(listen="127.0.0.1:0", database_url=f"sqlite:///{tmp_path / 'feedback.db'}")
    host = Host(settings)
    async with build(settings, host):
        port = await host.start(settings.listen)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield rpc.FeedbackServiceStub(channel)
        await host.stop(5)


async def shown(stub: Stub, search_id: str = "s1", query: str = "a query") -> None:
    documents = [pb.ShownDocument(document_id=f"d{i}", rank=i, score=1 / i) for i in (1, 2, 3)]
    impression = pb.Impression(search_id=search_id, query=query, route=Route(collection="films"), shown=documents)
    await stub.RecordImpressions(pb.RecordImpressionsRequest(impressions=[impression]))


def thumb(key: str, document: str = "d1", up: bool = True, search_id: str = "s1", actor: str = "") -> pb.Feedback:
    signal = pb.SIGNAL_THUMBS_UP if up else pb.SIGNAL_THUMBS_DOWN
    return pb.Feedback(idempotency_key=key, search_id=search_id, document_id=document, signal=signal, actor=actor)


async def submit(stub: Stub, *items: pb.Feedback) -> list[bool]:
    response = await stub.SubmitFeedback(pb.SubmitFeedbackRequest(feedback=items))
    return [receipt.duplicate for receipt in response.receipts]


async def exported(stub: Stub, cursor: str = "") -> list[pb.ExportJudgmentsResponse]:
    request = pb.ExportJudgmentsRequest(collection="films", cursor=cursor)
    return [answer async for answer in stub.ExportJudgments(request)]


async def refused(call: Callable[[], Awaitable[object]]) -> tuple[grpc.StatusCode, str, list[str]]:
    """The code, the message and the fields of a refused call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call()
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    fields = []
    for packed in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if packed.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
    return caught.value.code(), caught.value.details() or "", fields


async def test_a_thumb_becomes_a_judgment(stub: Stub) -> None:
    await shown(stub)
    assert await submit(stub, thumb("k1"), thumb("k2", "d2", up=False)) == [False, False]
    found = [(a.judgment.query, a.judgment.document_id, a.judgment.target) for a in await exported(stub)]
    assert found == [("a query", "d1", 1.0), ("a query", "d2", 0.0)]


async def test_the_same_key_is_stored_once_and_said_so(stub: Stub) -> None:
    await shown(stub)
    assert await submit(stub, thumb("k1")) == [False]
    assert await submit(stub, thumb("k1"), thumb("k2")) == [True, False]
    assert await submit(stub, thumb("k3"), thumb("k3")) == [False, True]
    summary = await stub.GetSummary(pb.GetSummaryRequest(collection="films"))
    assert [(c.signal, c.count) for c in summary.signals] == [(pb.SIGNAL_THUMBS_UP, 3)]
    assert (summary.impressions, summary.queries) == (1, 1)


async def test_a_document_that_was_not_shown_is_refused_and_nothing_stored(stub: Stub) -> None:
    await shown(stub)
    code, message, _ = await refused(lambda: submit(stub, thumb("k1"), thumb("k2", "d9")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "feedback[1].document_id" in message
    assert not await exported(stub)


async def test_an_unknown_search_is_refused_with_the_remedy(stub: Stub) -> None:
    code, message, _ = await refused(lambda: submit(stub, thumb("k1", search_id="none")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "'none'" in message
    assert "the id that Search returned" in message


async def test_feedback_that_comes_before_its_impression_waits_for_it(stub: Stub) -> None:
    early = asyncio.create_task(submit(stub, thumb("k1", search_id="soon")))
    await asyncio.sleep(0.1)
    await shown(stub, "soon")
    assert await early == [False]


async def test_feedback_on_a_query_needs_no_search(stub: Stub) -> None:
    item = pb.Feedback(idempotency_key="k", document_id="x", signal=pb.SIGNAL_GRADE, value=0.25)
    item.query.CopyFrom(pb.QuerySubject(collection="films", text="  spaced   out "))
    await submit(stub, item)
    [answer] = await exported(stub)
    assert (answer.judgment.query, answer.judgment.target) == ("spaced out", 0.25)


async def test_every_broken_rule_of_a_batch_is_listed(stub: Stub) -> None:
    grade = pb.Feedback(idempotency_key="k", search_id="s1", document_id="d1", signal=pb.SIGNAL_GRADE, value=2)
    code, _, fields = await refused(lambda: submit(stub, pb.Feedback(), grade, thumb("x" * 201)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert fields == [
        "feedback[0].idempotency_key",
        "feedback[0].document_id",
        "feedback[0].subject",
        "feedback[0].signal",
        "feedback[1].value",
        "feedback[2].idempotency_key",
    ]


@pytest.mark.parametrize("count", [0, 501])
async def test_i10_batches_are_bounded(stub: Stub, count: int) -> None:
    code, _, fields = await refused(lambda: submit(stub, *(thumb(str(i)) for i in range(count))))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["feedback"])


async def test_impressions_are_stored_once(stub: Stub) -> None:
    await shown(stub)
    await shown(stub)
    assert (await stub.GetSummary(pb.GetSummaryRequest())).impressions == 1


async def test_an_export_goes_on_where_it_stopped_whatever_was_added(stub: Stub) -> None:
    await shown(stub)
    await submit(stub, thumb("k1"), thumb("k2", "d2"), thumb("k3", "d3"))
    whole = await exported(stub)
    await shown(stub, "s0", "a first query")
    await submit(stub, thumb("k4", search_id="s0"))
    rest = await exported(stub, whole[0].cursor)
    assert [a.judgment.document_id for a in rest] == ["d2", "d3"]
    assert len(await exported(stub)) == 4


async def test_a_cursor_that_is_none_is_refused(stub: Stub) -> None:
    code, _, fields = await refused(lambda: exported(stub, "nonsense"))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["cursor"])
