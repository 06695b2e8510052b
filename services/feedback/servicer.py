"""The contract, translated to and from the use cases."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate

import grpc
from google.protobuf.json_format import MessageToDict

from diapason.feedback.v1 import feedback_pb2 as pb
from diapason.feedback.v1 import feedback_pb2_grpc as rpc
from services.feedback import metrics, wire
from services.feedback.adapters.reading import FeedbackReading, Stored
from services.feedback.adapters.records import Records
from services.feedback.adapters.store import FeedbackStore
from services.feedback.domain.policies import named
from services.feedback.domain.rules import check_texts
from services.feedback.exporting import Begun, Exporting
from services.feedback.submitting import Submitting
from services.kit.admission import Admission
from services.kit.errors import InvalidArgument, Violation

Context = grpc.aio.ServicerContext[object, object]

_MAX_IMPRESSIONS = 1_000
_MAX_EXPORTS = 16
_PAGE, _MAX_PAGE = 100, 1_000
_PAGE_CHARACTERS = 2_000_000
_PAGE_TOKEN = re.compile(r"\d{1,18}")
_SUMMARY_DAYS = 30


class FeedbackServicer(rpc.FeedbackServiceServicer):
    """Impressions in, feedback in, judgments out."""

    def __init__(
        self,
        submitting: Submitting,
        exporting: Exporting,
        store: FeedbackStore,
        reading: FeedbackReading,
        records: Records,
        admission: Admission,
    ) -> None:
        self._submitting, self._exporting = submitting, exporting
        self._store, self._reading, self._records = store, reading, records
        self._admission, self._exports = admission, Admission(_MAX_EXPORTS)

    async def SubmitFeedback(self, request: pb.SubmitFeedbackRequest, context: Context) -> pb.SubmitFeedbackResponse:
        """Store a batch, whole or not at all."""
        with self._admission.admitted():
            duplicates = await self._submitting.submit([wire.submission(item) for item in request.feedback])
        receipts = [
            pb.FeedbackReceipt(idempotency_key=item.idempotency_key, duplicate=duplicate)
            for item, duplicate in zip(request.feedback, duplicates, strict=True)
        ]
        return pb.SubmitFeedbackResponse(receipts=receipts)

    async def RecordImpressions(
        self, request: pb.RecordImpressionsRequest, context: Context
    ) -> pb.RecordImpressionsResponse:
        """Store what searches showed."""
        if len(request.impressions) > _MAX_IMPRESSIONS:
            raise InvalidArgument(
                Violation("impressions", f"has {len(request.impressions)} items; the most is {_MAX_IMPRESSIONS}")
            )
        with self._admission.admitted():
            rows = [wire.impression_row(i, impression) for i, impression in enumerate(request.impressions)]
            stored = await asyncio.to_thread(self._store.add_impressions, rows)
        metrics.IMPRESSIONS.inc(stored)
        return pb.RecordImpressionsResponse(stored=stored)

    async def ListFeedback(self, request: pb.ListFeedbackRequest, context: Context) -> pb.ListFeedbackResponse:
        """A page of what was stored."""
        if request.page_size > _MAX_PAGE:
            raise InvalidArgument(Violation("page_size", f"is {request.page_size}; the most is {_MAX_PAGE}"))
        if request.page_token and not _PAGE_TOKEN.fullmatch(request.page_token):
            raise InvalidArgument(Violation("page_token", "is not one; give back next_page_token as it came, or none"))
        filters, before = wire.filters(request), int(request.page_token) if request.page_token else None
        page = self._reading.standing_page if request.current else self._reading.page
        with self._admission.admitted():
            found, following = await asyncio.to_thread(page, filters, before, request.page_size or _PAGE)
        kept = _fitting(found)
        if kept < len(found):
            found, following = found[:kept], found[kept - 1].event.number
        return pb.ListFeedbackResponse(
            feedback=[wire.stored_to_pb(stored) for stored in found],
            next_page_token="" if following is None else str(following),
        )

    async def GetSummary(self, request: pb.GetSummaryRequest, context: Context) -> pb.GetSummaryResponse:
        """Count."""
        check_texts([("collection", request.collection, wire.NAME)])
        today, rules = wire.today(), named("").crowd
        with self._admission.admitted():
            found = await asyncio.to_thread(self._reading.summary, request.collection, rules, today, _SUMMARY_DAYS)
        return wire.summary_to_pb(found, today, _SUMMARY_DAYS)

    async def ExportJudgments(
        self, request: pb.ExportJudgmentsRequest, context: Context
    ) -> AsyncIterator[pb.ExportJudgmentsResponse]:
        """The header, then judgments."""
        if not request.collection:
            raise InvalidArgument(Violation("collection", "is empty; name one"))
        check_texts([("collection", request.collection, wire.NAME), ("consumer", request.consumer, wire.NAME)])
        policy = wire.policy(request.policy)
        resolved = wire.policy_to_pb(policy)
        noted = MessageToDict(resolved, preserving_proto_field_name=True)
        with self._exports.admitted():
            parts = self._exporting.export(request.collection, policy, request.cursor, request.consumer, noted)
            async for part in parts:
                if isinstance(part, Begun):
                    header = pb.ExportHeader(policy=resolved, up_to=part.up_to, flagged_actors=part.flagged)
                    yield pb.ExportJudgmentsResponse(header=header, cursor=part.cursor)
                else:
                    judgment, cursor = part
                    yield pb.ExportJudgmentsResponse(judgment=wire.judgment_to_pb(judgment), cursor=cursor)

    async def RecordTraining(self, request: pb.RecordTrainingRequest, context: Context) -> pb.RecordTrainingResponse:
        """Note what came out of an export."""
        _required("consumer", request.consumer)
        version = wire.version(request.version)
        with self._admission.admitted():
            await asyncio.to_thread(self._records.add_training, request.consumer, version)
        return pb.RecordTrainingResponse()

    async def EraseSubject(self, request: pb.EraseSubjectRequest, context: Context) -> pb.EraseSubjectResponse:
        """Delete a person's feedback and impressions."""
        _required("actor", request.actor)
        check_texts([("tenant", request.tenant, wire.NAME), ("idempotency_key", request.idempotency_key, wire.NAME)])
        tenant = request.tenant if request.HasField("tenant") else None
        with self._admission.admitted():
            erasure = await asyncio.to_thread(self._records.erase, request.actor, tenant, request.idempotency_key)
        return wire.erasure_to_pb(erasure)


def _fitting(found: Sequence[Stored]) -> int:
    """How many of a page go into one message: at least one, and no more long texts than a message takes."""
    sizes = accumulate(2 * len(stored.event.query) + len(stored.reason) for stored in found)
    return max(1, sum(size <= _PAGE_CHARACTERS for size in sizes))


def _required(field: str, text: str) -> None:
    if not text:
        raise InvalidArgument(Violation(field, "is empty; name one"))
    check_texts([(field, text, wire.NAME)])
