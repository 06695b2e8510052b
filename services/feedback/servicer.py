"""The contract, translated to and from `application.py`."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC

import grpc
from google.protobuf.json_format import MessageToDict

from diapason.feedback.v1 import feedback_pb2 as pb
from diapason.feedback.v1 import feedback_pb2_grpc as rpc
from services.feedback import application
from services.feedback.domain.model import Aim, Policy, Signal
from services.feedback.domain.rules import Submission
from services.feedback.store import FeedbackStore, ImpressionRow
from services.kit.admission import Admission
from services.kit.errors import InvalidArgument, Violation

Context = grpc.aio.ServicerContext[object, object]

_MAX_IMPRESSIONS = 1_000
_SIGNALS = {pb.Signal.Value(f"SIGNAL_{signal.name}"): signal for signal in Signal}
_NUMBERS = {signal: number for number, signal in _SIGNALS.items()}


class FeedbackServicer(rpc.FeedbackServiceServicer):
    """Impressions in, feedback in, judgments out."""

    def __init__(self, store: FeedbackStore, admission: Admission) -> None:
        self._store = store
        self._admission = admission

    async def SubmitFeedback(self, request: pb.SubmitFeedbackRequest, context: Context) -> pb.SubmitFeedbackResponse:
        """Store a batch, whole or not at all."""
        with self._admission.admitted():
            duplicates = await application.submit(self._store, [_submission(item) for item in request.feedback])
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
        for i, impression in enumerate(request.impressions):
            if not impression.search_id or not impression.route.collection:
                raise InvalidArgument(Violation(f"impressions[{i}]", "lacks its search_id or its route"))
        rows = [_row(impression) for impression in request.impressions]
        stored = await asyncio.to_thread(self._store.add_impressions, rows)
        return pb.RecordImpressionsResponse(stored=stored)

    async def GetSummary(self, request: pb.GetSummaryRequest, context: Context) -> pb.GetSummaryResponse:
        """Count."""
        summary = await asyncio.to_thread(self._store.summary, request.collection)
        response = pb.GetSummaryResponse(
            impressions=summary.impressions,
            signals=[pb.SignalCount(signal=_NUMBERS[s], count=n) for s, n in sorted(summary.signals.items(), key=str)],
            queries=summary.queries,
        )
        if summary.last:
            response.last_feedback_time.FromDatetime(summary.last.replace(tzinfo=summary.last.tzinfo or UTC))
        return response

    async def ExportJudgments(
        self, request: pb.ExportJudgmentsRequest, context: Context
    ) -> AsyncIterator[pb.ExportJudgmentsResponse]:
        """Stream judgments."""
        if not request.collection:
            raise InvalidArgument(Violation("collection", "is empty; name one"))
        policy = _policy(request.policy) if request.HasField("policy") else Policy()
        for judgment, cursor in await application.export(self._store, request.collection, policy, request.cursor):
            yield pb.ExportJudgmentsResponse(
                judgment=pb.Judgment(
                    query=judgment.query,
                    document_id=judgment.document_id,
                    target=judgment.target,
                    weight=judgment.weight,
                ),
                cursor=cursor,
            )


def _submission(item: pb.Feedback) -> Submission:
    return Submission(
        key=item.idempotency_key,
        search_id=item.search_id,
        collection=item.query.collection,
        query=item.query.text,
        document_id=item.document_id,
        signal=_SIGNALS.get(item.signal),
        value=item.value if item.HasField("value") else None,
        actor=item.actor,
        reason=item.reason,
    )


def _row(impression: pb.Impression) -> ImpressionRow:
    return ImpressionRow(
        search_id=impression.search_id,
        collection=impression.route.collection,
        query=impression.query,
        actor=impression.actor,
        route=MessageToDict(impression.route, preserving_proto_field_name=True),
        shown=[{"document_id": s.document_id, "rank": s.rank, "score": s.score} for s in impression.shown],
        at=impression.time.ToDatetime(tzinfo=UTC),
    )


def _policy(policy: pb.JudgmentPolicy) -> Policy:
    aims: dict[Signal, Aim] = {}
    for i, item in enumerate(policy.targets):
        signal = _SIGNALS.get(item.signal)
        if signal is None:
            raise InvalidArgument(Violation(f"policy.targets[{i}].signal", "is missing or unknown"))
        if item.weight < 0:
            raise InvalidArgument(Violation(f"policy.targets[{i}].weight", f"is {item.weight}; give 0 or more"))
        aims[signal] = Aim(item.target, item.weight)
    return Policy(policy.name or "unnamed", aims)
