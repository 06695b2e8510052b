"""Feedback as a server in this loop, and short ways to say things to it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

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


@asynccontextmanager
async def listening(url: str, **settings: Any) -> AsyncIterator[str]:
    """The address of the service over a database, for the time of the block."""
    made = FeedbackSettings(listen="127.0.0.1:0", database_url=url, **settings)
    host = Host(made)
    async with build(made, host):
        yield f"127.0.0.1:{await host.start(made.listen)}"
        await host.stop(5)


@asynccontextmanager
async def serving(url: str, **settings: Any) -> AsyncIterator[Stub]:
    """A way to call it."""
    async with listening(url, **settings) as address, grpc.aio.insecure_channel(address) as channel:
        yield rpc.FeedbackServiceStub(channel)


async def shown(
    stub: Stub, search_id: str = "s1", query: str = "a query", actor: str = "", tenant: str = "", documents: int = 3
) -> None:
    ranks = range(1, documents + 1)
    impression = pb.Impression(
        search_id=search_id,
        query=query,
        route=Route(collection="films"),
        shown=[pb.ShownDocument(document_id=f"d{i}", rank=i, score=1 / i) for i in ranks],
        actor=actor,
        tenant=tenant,
    )
    await stub.RecordImpressions(pb.RecordImpressionsRequest(impressions=[impression]))


def said(
    key: str,
    document: str = "d1",
    signal: pb.Signal.ValueType = pb.SIGNAL_THUMBS_UP,
    query: str = "a query",
    collection: str = "films",
    **more: Any,
) -> pb.Feedback:
    """Feedback on a query's text."""
    item = pb.Feedback(idempotency_key=key, document_id=document, signal=signal, **more)
    if not item.search_id:
        item.query.CopyFrom(pb.QuerySubject(collection=collection, text=query))
    return item


def thumb(key: str, document: str = "d1", up: bool = True, search_id: str = "s1", actor: str = "") -> pb.Feedback:
    """Feedback on a search."""
    signal = pb.SIGNAL_THUMBS_UP if up else pb.SIGNAL_THUMBS_DOWN
    return said(key, document, signal, search_id=search_id, actor=actor)


async def submit(stub: Stub, *items: pb.Feedback) -> list[bool]:
    """For each item whether it was stored before."""
    response = await stub.SubmitFeedback(pb.SubmitFeedbackRequest(feedback=items))
    return [receipt.duplicate for receipt in response.receipts]


async def exported(stub: Stub, cursor: str = "", **more: Any) -> list[pb.ExportJudgmentsResponse]:
    """Judgments, without the header."""
    return (await exported_whole(stub, cursor, **more))[1:]


async def exported_whole(stub: Stub, cursor: str = "", **more: Any) -> list[pb.ExportJudgmentsResponse]:
    """The header and the judgments."""
    request = pb.ExportJudgmentsRequest(collection="films", cursor=cursor, **more)
    return [answer async for answer in stub.ExportJudgments(request)]


async def listed(stub: Stub, **filters: Any) -> list[pb.StoredFeedback]:
    """All pages."""
    request = pb.ListFeedbackRequest(**filters)
    found: list[pb.StoredFeedback] = []
    while True:
        page = await stub.ListFeedback(request)
        found += page.feedback
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


def keys(found: Sequence[pb.StoredFeedback]) -> list[str]:
    return [stored.feedback.idempotency_key for stored in found]


async def refused(call: Callable[[], Awaitable[object]]) -> tuple[grpc.StatusCode, str, list[str]]:
    """The code, the message and the fields of a refused call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call()
    fields = [
        violation.field
        for bad in details(caught.value, error_details_pb2.BadRequest)
        for violation in bad.field_violations
    ]
    return caught.value.code(), caught.value.details() or "", fields


def details(error: grpc.aio.AioRpcError, kind: Any) -> list[Any]:
    """The details of one kind."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    found = []
    for packed in status.details if status else ():
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found
