"""Contestant: callers of feedback over gRPC, in a process of their own. `… callers ADDRESS`."""

import sys
from itertools import count

from benchmarks.calling import Caller, together
from benchmarks.players import serve
from diapason.feedback.v1 import feedback_pb2 as pb
from diapason.feedback.v1 import feedback_pb2_grpc as rpc

_SECONDS = 60.0
_ACTORS, _QUERIES, _DOCUMENTS = 1_000, 5_000, 997


class Callers(Caller):
    """Batches over one channel; no event is sent twice."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._numbers = count()

    async def submit(self, callers: int, batch: int, each: int) -> float:
        """Events per second of callers who each send so many batches, one after the other."""
        stub: rpc.FeedbackServiceAsyncStub = rpc.FeedbackServiceStub(self.channel)
        requests = iter([self._request(batch) for _ in range(callers * each)])

        async def call() -> None:
            receipts = (await stub.SubmitFeedback(next(requests), timeout=_SECONDS)).receipts
            assert not any(receipt.duplicate for receipt in receipts)

        done = await together(call, callers, each)
        return batch * done["asked"] / (done["ended"] - done["began"])

    def _request(self, batch: int) -> pb.SubmitFeedbackRequest:
        return pb.SubmitFeedbackRequest(feedback=[_item(next(self._numbers)) for _ in range(batch)])


def _item(number: int) -> pb.Feedback:
    mixed = number * 2_654_435_761 % 2**32
    return pb.Feedback(
        idempotency_key=f"bench-{number}",
        query=pb.QuerySubject(collection="films", text=f"query {mixed % _QUERIES}"),
        document_id=f"d{mixed % _DOCUMENTS}",
        signal=pb.SIGNAL_THUMBS_UP,
        actor=f"u{mixed % _ACTORS}",
        client="bench",
    )


if __name__ == "__main__":
    callers = Callers(sys.argv[1])
    serve({"submit": lambda **given: callers.play(callers.submit(**given))})
