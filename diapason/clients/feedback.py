"""The client's calls of the feedback service."""

import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime

from diapason.clients.calls import errors
from diapason.common.v1.version_pb2 import VersionRef
from diapason.feedback.v1 import feedback_pb2, feedback_pb2_grpc

_PAGE = 1_000


class FeedbackCalls:
    """What `diapason.client.Client` can say of, and ask about, feedback."""

    _timeout: float
    _feedback: feedback_pb2_grpc.FeedbackServiceStub

    def thumbs(self, search_id: str, document_id: str, up: bool, actor: str = "", reason: str = "") -> bool:
        """One thumb on one result. False if it is what this actor said of it last."""
        signal = feedback_pb2.SIGNAL_THUMBS_UP if up else feedback_pb2.SIGNAL_THUMBS_DOWN
        return self.say(
            feedback_pb2.Feedback(
                search_id=search_id, document_id=document_id, signal=signal, actor=actor, reason=reason
            )
        )

    def say(self, item: feedback_pb2.Feedback) -> bool:
        """Store one piece of feedback, which needs no idempotency key: what it says is its key.

        False, and nothing is stored, if it is what this actor said of the query and the document last; so it may be
        repeated after any failure, and said again after something else.
        """
        said = [
            item.search_id, item.query.collection, item.query.text, item.document_id, item.signal,
            item.value, item.tenant, item.actor,
        ]  # fmt: skip
        first = feedback_pb2.Feedback()
        first.CopyFrom(item)
        first.idempotency_key = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(said)).hex
        if not self.submit([first])[0].duplicate:
            return True
        request = feedback_pb2.ListFeedbackRequest(
            search_id=item.search_id,
            collection=item.query.collection,
            query=item.query.text,
            document_id=item.document_id,
            actor=item.actor,
            tenant=item.tenant,
            page_size=1,
        )
        with errors():
            last = self._feedback.ListFeedback(request, timeout=self._timeout).feedback
        if not last or (last[0].feedback.signal, last[0].feedback.value) == (item.signal, item.value):
            return False
        first.idempotency_key = uuid.uuid4().hex
        return not self.submit([first])[0].duplicate

    def submit(self, feedback: Sequence[feedback_pb2.Feedback]) -> Sequence[feedback_pb2.FeedbackReceipt]:
        """Store a batch of feedback, whole or not at all."""
        request = feedback_pb2.SubmitFeedbackRequest(feedback=feedback)
        with errors():
            return self._feedback.SubmitFeedback(request, timeout=self._timeout).receipts

    def feedback(
        self,
        collection: str = "",
        actor: str = "",
        tenant: str | None = None,
        query: str = "",
        document_id: str = "",
        signals: Sequence[feedback_pb2.Signal.ValueType] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        current: bool = False,
        search_id: str = "",
    ) -> Iterator[feedback_pb2.StoredFeedback]:
        """What was stored, newest first; each filter that is given must hold.

        ``current``: only opinions that stand. ``since`` and ``until`` are aware of their zones, or UTC.
        """
        request = feedback_pb2.ListFeedbackRequest(
            collection=collection,
            actor=actor,
            tenant=tenant,
            query=query,
            document_id=document_id,
            signals=signals,
            current=current,
            search_id=search_id,
            page_size=_PAGE,
        )
        if since is not None:
            request.since.FromDatetime(since)
        if until is not None:
            request.until.FromDatetime(until)
        while True:
            with errors():
                page = self._feedback.ListFeedback(request, timeout=self._timeout)
            yield from page.feedback
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def summary(self, collection: str = "") -> feedback_pb2.GetSummaryResponse:
        """Counts of impressions and feedback."""
        request = feedback_pb2.GetSummaryRequest(collection=collection)
        with errors():
            return self._feedback.GetSummary(request, timeout=self._timeout)

    def judgments(
        self,
        collection: str,
        cursor: str = "",
        policy: str | feedback_pb2.JudgmentPolicy = "",
        consumer: str = "",
    ) -> Iterator[feedback_pb2.ExportJudgmentsResponse]:
        """What training would read, each with the cursor from which to go on."""
        parts = self.export_judgments(collection, cursor, policy, consumer)
        return (part for part in parts if part.HasField("judgment"))

    def export_judgments(
        self,
        collection: str,
        cursor: str = "",
        policy: str | feedback_pb2.JudgmentPolicy = "",
        consumer: str = "",
    ) -> Iterator[feedback_pb2.ExportJudgmentsResponse]:
        """The header, which says the policy with all its numbers, then judgments.

        ``policy`` is a name, or a message that changes numbers of the one that it names.
        """
        named = feedback_pb2.JudgmentPolicy(name=policy) if isinstance(policy, str) else policy
        request = feedback_pb2.ExportJudgmentsRequest(
            collection=collection, cursor=cursor, policy=named, consumer=consumer
        )
        with errors():
            yield from self._feedback.ExportJudgments(request)

    def record_training(self, consumer: str, version: VersionRef) -> None:
        """Note that a version came out of what a consumer exported."""
        request = feedback_pb2.RecordTrainingRequest(consumer=consumer, version=version)
        with errors():
            self._feedback.RecordTraining(request, timeout=self._timeout)

    def erase_subject(
        self, actor: str, tenant: str | None = None, idempotency_key: str = ""
    ) -> feedback_pb2.EraseSubjectResponse:
        """Delete what a person said and was shown, in one tenant or in all; says what, and who had read it."""
        request = feedback_pb2.EraseSubjectRequest(actor=actor, tenant=tenant, idempotency_key=idempotency_key)
        with errors():
            return self._feedback.EraseSubject(request, timeout=self._timeout)
