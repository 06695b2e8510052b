"""Contestant: callers of search over gRPC, in a process of their own. `… callers ADDRESS`."""

import statistics
import sys
import time
from typing import Any

import grpc

from benchmarks import calling, texts
from benchmarks.calling import Call, Caller
from benchmarks.players import serve
from diapason.search.v1 import search_pb2 as pb
from diapason.search.v1 import search_pb2_grpc as rpc

_SECONDS = 60.0


class Callers(Caller):
    """Searches over one channel."""

    def _searches(self, collection: str, count: int, seed: int) -> Call:
        stub: rpc.SearchServiceAsyncStub = rpc.SearchServiceStub(self.channel)
        queries = iter(texts.queries(count, seed))

        async def search() -> None:
            assert (await stub.Search(_search(collection, next(queries)), timeout=_SECONDS)).results

        return search

    async def together(self, collection: str, callers: int, each: int, seed: int) -> dict[str, float]:
        """Callers who each ask one search after the other: how many in all, from when to when."""
        return await calling.together(self._searches(collection, callers * each, seed), callers, each)

    async def steady(self, collection: str, rate: float, seconds: float, seed: int) -> dict[str, Any]:
        """Searches at random moments, whatever became of those before: seconds of those answered, and errors."""
        searches = self._searches(collection, int(rate * seconds * 2) + 100, seed)
        return await calling.steady(searches, rate, seconds, seed, lambda _: None)


def single(address: str, collection: str, count: int, seed: int) -> dict[str, float]:
    """Median seconds of one caller's searches, by the blocking stub, and of the parts that the service names."""
    with grpc.insecure_channel(address) as channel:
        stub = rpc.SearchServiceStub(channel)
        times, embed, query = [], [], []
        for text in texts.queries(count, seed):
            started = time.perf_counter()
            answer = stub.Search(_search(collection, text), timeout=_SECONDS)
            times.append(time.perf_counter() - started)
            embed.append(answer.timings.embed.ToNanoseconds() / 1e9)
            query.append(answer.timings.query.ToNanoseconds() / 1e9)
    return {name: statistics.median(v) for name, v in (("all", times), ("embed", embed), ("query", query))}


def _search(collection: str, text: str) -> pb.SearchRequest:
    return pb.SearchRequest(collection=collection, query=text)


def main(address: str) -> None:
    """Play."""
    callers = Callers(address)
    serve(
        {
            "together": lambda **given: callers.play(callers.together(**given)),
            "steady": lambda **given: callers.play(callers.steady(**given)),
            "single": lambda **given: single(address, **given),
        }
    )


if __name__ == "__main__":
    main(sys.argv[1])
