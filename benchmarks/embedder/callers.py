"""Contestant: callers of the embedder over gRPC, in a process of their own. `… callers ADDRESS`."""

import asyncio
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc

from benchmarks import calling, texts
from benchmarks.calling import Caller
from benchmarks.players import serve
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.embedder.v1 import embedder_pb2_grpc as rpc

_MESSAGE_TEXTS = 32
_SECONDS = 60.0


class Callers(Caller):
    """All parts, over one channel."""

    @property
    def _stub(self) -> "rpc.EmbedderServiceAsyncStub":
        return rpc.EmbedderServiceStub(self.channel)

    async def stream(self, digest: str, count: int, seed: int) -> float:
        """Documents per second by EmbedStream."""
        given = texts.documents(count, seed)
        config = pb.EmbedStreamConfig(version=VersionRef(digest=digest), role=pb.ROLE_DOCUMENT)

        async def messages() -> AsyncIterator[pb.EmbedStreamRequest]:
            for start in range(0, len(given), _MESSAGE_TEXTS):
                part = given[start : start + _MESSAGE_TEXTS]
                yield pb.EmbedStreamRequest(config=None if start else config, texts=part)

        started, embedded = time.perf_counter(), 0
        async for answer in self._stub.EmbedStream(messages()):
            assert not answer.failures
            embedded += len(answer.token_counts)
        assert embedded == count
        return count / (time.perf_counter() - started)

    async def stream_for(self, digest: str, seconds: float, seed: int) -> float:
        """Documents per second of a stream that goes on for so long, from its first answer to its last."""
        given = texts.documents(1024, seed)
        config = pb.EmbedStreamConfig(version=VersionRef(digest=digest), role=pb.ROLE_DOCUMENT)
        begun = time.perf_counter()

        async def messages() -> AsyncIterator[pb.EmbedStreamRequest]:
            number = 0
            while time.perf_counter() - begun < seconds:
                start = number * _MESSAGE_TEXTS % len(given)
                part = given[start : start + _MESSAGE_TEXTS]
                yield pb.EmbedStreamRequest(config=None if number else config, texts=part)
                number += 1

        first, embedded, last = 0.0, 0, 0.0
        call = self._stub.EmbedStream(messages())
        async for answer in call:
            last = time.perf_counter()
            if last - begun > seconds:
                break
            embedded += len(answer.token_counts) if first else 0
            first = first or last
        call.cancel()  # what it has sent ahead must not be computed beside the next part
        return embedded / (last - first)

    async def together(self, digest: str, callers: int, each: int, seed: int) -> dict[str, float]:
        """Callers who each ask one query after the other: how many in all, from when to when."""
        queries = iter(texts.queries(callers * each, seed))
        stub = self._stub
        return await calling.together(
            lambda: stub.Embed(_query(digest, next(queries)), timeout=_SECONDS), callers, each
        )

    async def steady(self, digests: list[str], rate: float, seconds: float, seed: int) -> dict[str, Any]:
        """Queries at random moments, whatever became of those before: seconds of those answered, and errors.

        ``digests``: the version to ask for, and those to go over to as soon as they answer.
        """
        queries = iter(texts.queries(int(rate * seconds * 2) + 100, seed))
        stub, asked = self._stub, list(digests)

        def due(part: float) -> None:
            if len(asked) > 1 and int(part * len(digests)) > len(digests) - len(asked):
                asked.pop(0)

        return await calling.steady(
            lambda: stub.Embed(_query(asked[0], next(queries)), timeout=_SECONDS), rate, seconds, seed, due
        )

    async def overload(self, digest: str, rate: float, texts_each: int, seconds: float, seed: int) -> dict[str, Any]:
        """Requests of several documents at a steady rate; times of refusals, and documents embedded per second."""
        given = texts.documents(texts_each * 8, seed)
        requests = [
            pb.EmbedRequest(
                version=VersionRef(digest=digest), texts=given[i::8], role=pb.ROLE_DOCUMENT, lane=pb.LANE_BULK
            )
            for i in range(8)
        ]
        stub, refused, others = self._stub, list[float](), Counter[str]()
        embedded = 0

        async def call(request: pb.EmbedRequest) -> None:
            nonlocal embedded
            started = time.perf_counter()
            try:
                await stub.Embed(request, timeout=_SECONDS)
                embedded += texts_each if time.perf_counter() < end else 0
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    refused.append(time.perf_counter() - started)
                else:
                    others[f"{error.code().name}: {error.details()}"] += 1

        begun = time.perf_counter()
        end, tasks, number = begun + seconds, [], 0
        while (now := time.perf_counter()) < end:
            while number < (now - begun) * rate:
                tasks.append(asyncio.create_task(call(requests[number % 8])))
                number += 1
            await asyncio.sleep(0.002)
        goodput = embedded / seconds
        await asyncio.gather(*tasks)
        return {"refused": refused, "goodput": goodput, "others": others}


def single(address: str, digest: str, count: int, seed: int) -> float:
    """Median seconds of one caller's queries, by the blocking stub."""
    with grpc.insecure_channel(address) as channel:
        stub = rpc.EmbedderServiceStub(channel)
        times = []
        for query in texts.queries(count, seed):
            started = time.perf_counter()
            stub.Embed(_query(digest, query), timeout=_SECONDS)
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def _query(digest: str, text: str) -> pb.EmbedRequest:
    return pb.EmbedRequest(version=VersionRef(digest=digest), texts=[text], role=pb.ROLE_QUERY)


def main(address: str) -> None:
    """Play."""
    callers = Callers(address)
    serve(
        {
            "stream": lambda **given: callers.play(callers.stream(**given)),
            "stream_for": lambda **given: callers.play(callers.stream_for(**given)),
            "together": lambda **given: callers.play(callers.together(**given)),
            "steady": lambda **given: callers.play(callers.steady(**given)),
            "overload": lambda **given: callers.play(callers.overload(**given)),
            "single": lambda **given: single(address, **given),
        }
    )


if __name__ == "__main__":
    main(sys.argv[1])
