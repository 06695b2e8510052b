"""Impressions on their way to the feedback service: buffered, bounded, never in the way of an answer."""

import asyncio
import time
from collections.abc import Sequence

import grpc
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from diapason.feedback.v1 import feedback_pb2 as pb
from diapason.feedback.v1 import feedback_pb2_grpc as rpc
from services.kit.context import call_options
from services.search import metrics
from services.search.ports import Impression
from services.search.wire import route_to_pb

log = structlog.get_logger()

_CAPACITY = 10_000
_BATCH = 200
_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
# A fault of the feedback service's may pass too, or lie in these very impressions.
_TRIES = 5


class ImpressionBuffer:
    """Sends what was recorded in batches, again and again until the feedback service has it or refuses it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rpc.FeedbackServiceStub(channel)
        self._queue: asyncio.Queue[tuple[Impression, int]] = asyncio.Queue(_CAPACITY)
        self._sending: list[tuple[Impression, int]] = []
        self._faults = 0
        self.dropped = 0

    def record(self, impression: Impression) -> None:
        """Queue it, or count it as dropped."""
        try:
            self._queue.put_nowait((impression, time.time_ns()))
        except asyncio.QueueFull:
            self.dropped += 1
            metrics.IMPRESSIONS_DROPPED.inc()
            if self.dropped % 1000 == 1:
                log.warning("impressions dropped: the feedback service does not keep up", dropped=self.dropped)

    async def run(self) -> None:
        """Send for ever."""
        while True:
            self._sending = [await self._queue.get()]
            while len(self._sending) < _BATCH and not self._queue.empty():
                self._sending.append(self._queue.get_nowait())
            while not await self._send(self._sending):  # noqa: ASYNC110 - a pause between tries, no event to wait for
                await asyncio.sleep(_RETRY_SECONDS)
            self._sending = []

    async def flush(self) -> None:
        """Send what is left, once, at the end of the process."""
        left = [*self._sending, *(self._queue.get_nowait() for _ in range(self._queue.qsize()))]
        for start in range(0, len(left), _BATCH):
            if not await self._send(left[start : start + _BATCH]):
                break

    async def _send(self, batch: Sequence[tuple[Impression, int]]) -> bool:
        request = pb.RecordImpressionsRequest(impressions=[_to_pb(*each) for each in batch])
        try:
            # Repeating is safe: an impression is stored once per search id.
            await self._stub.RecordImpressions(request, **call_options(_SECONDS))
        except grpc.RpcError as error:
            fault = error.code() is grpc.StatusCode.INTERNAL
            self._faults += fault
            if error.code() in _PASSING or (fault and self._faults < _TRIES):
                log.warning("impressions wait for the feedback service", code=error.code().name, waiting=len(batch))
                return False
            # It will never be taken; those behind it must not wait for it.
            self.dropped += len(batch)
            metrics.IMPRESSIONS_DROPPED.inc(len(batch))
            log.error("impressions were refused and are dropped", code=error.code().name, dropped=len(batch))
        self._faults = 0
        return True


def _to_pb(impression: Impression, nanoseconds: int) -> pb.Impression:
    at = Timestamp()
    at.FromNanoseconds(nanoseconds)
    return pb.Impression(
        search_id=impression.search_id,
        query=impression.query,
        actor=impression.actor,
        route=route_to_pb(impression.route),
        shown=[
            pb.ShownDocument(document_id=hit.document_id, rank=rank, score=hit.score)
            for rank, hit in enumerate(impression.hits, impression.first_rank)
        ],
        time=at,
    )
