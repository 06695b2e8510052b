"""EmbedStream: messages in, answers out in their order, read ahead only as far as there is room."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from diapason import vectors
from diapason.embedder.v1 import embedder_pb2 as pb
from services.embedder import wire
from services.embedder.domain.batching import Lane
from services.embedder.embedding import Embedding, rows
from services.embedder.requests import Checks
from services.embedder.residents import Resident
from services.embedder.scheduler import Answer, Result
from services.kit import status
from services.kit.errors import InvalidArgument, ServiceError, Violation

# Messages of one stream at work at once: while one is computed the next ones wait in the queue.
_AHEAD = 4


@dataclass
class _Message:
    """One request message: the faults of some texts by index, and the others at work."""

    faults: dict[int, ServiceError]
    resident: Resident
    computing: "asyncio.Task[list[Result]]"


class Stream:
    """One call of EmbedStream."""

    def __init__(self, checks: Checks, embedding: Embedding) -> None:
        self._checks = checks
        self._embedding = embedding
        # None: the caller has sent everything. An error ends the stream after what came before it.
        self._messages: asyncio.Queue[_Message | Exception | None] = asyncio.Queue()
        self._ahead = asyncio.Semaphore(_AHEAD)
        self._config = pb.EmbedStreamConfig()

    async def answers(self, requests: AsyncIterator[pb.EmbedStreamRequest]) -> AsyncIterator[pb.EmbedStreamResponse]:
        """The responses, one for each message. Raises ``ServiceError`` where the contract is broken."""
        reader = asyncio.create_task(self._read(requests))
        try:
            while (message := await self._messages.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                yield await self._answer(message)
                self._ahead.release()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            while not self._messages.empty():
                if isinstance(message := self._messages.get_nowait(), _Message):
                    message.computing.cancel()

    async def _read(self, requests: AsyncIterator[pb.EmbedStreamRequest]) -> None:
        first = True
        try:
            async for request in requests:
                await self._ahead.acquire()
                self._messages.put_nowait(self._begin(request, first))
                first = False
        except Exception as error:  # whatever it is, the caller must hear of it
            self._messages.put_nowait(error)
        else:
            self._messages.put_nowait(None)

    def _begin(self, request: pb.EmbedStreamRequest, first: bool) -> _Message:
        if request.HasField("config") != first:
            fault = (
                "is missing; the first message must bring it" if first else "came again; only the first may bring it"
            )
            raise InvalidArgument(Violation("config", fault))
        if first:
            self._config = request.config
        # Looked for each time: a version that leaves takes no more, however long the stream goes on.
        resident = self._checks.stream(self._config)
        if violations := self._checks.count(request.texts):
            raise InvalidArgument(*violations)
        faults: dict[int, ServiceError] = {
            i: InvalidArgument(Violation(f"texts[{i}]", wrong))
            for i, text in enumerate(request.texts)
            if (wrong := self._checks.text(text))
        }
        prompt = wire.prompt(resident, self._config.role)
        inputs = [prompt + text for i, text in enumerate(request.texts) if i not in faults]
        lane = wire.lane(self._config.lane, Lane.BULK)
        hold = resident.usage.held()
        hold.__enter__()  # now, not when the task begins: the version may be asked to leave in between
        computing = asyncio.create_task(self._embedding.compute_when_there_is_room(resident, lane, inputs))
        computing.add_done_callback(lambda _: hold.__exit__(None, None, None))
        return _Message(faults, resident, computing)

    async def _answer(self, message: _Message) -> pb.EmbedStreamResponse:
        computed = iter(await message.computing)
        total = len(message.faults) + len(message.computing.result())
        results = [message.faults.get(i) or next(computed) for i in range(total)]
        answers = [result for result in results if isinstance(result, Answer)]
        dimensions = self._config.dimensions
        return pb.EmbedStreamResponse(
            version=wire.ref_of(message.resident),
            dimensions=dimensions or message.resident.manifest.dimension,
            vectors=vectors.to_bytes(rows(answers, message.resident, dimensions)) if answers else b"",
            token_counts=[answer.tokens for answer in answers],
            truncated=[answer.truncated for answer in answers],
            failures=[
                pb.TextFailure(index=i, code=status.code_of(result).value[0], message=result.message)
                for i, result in enumerate(results)
                if isinstance(result, ServiceError)
            ],
            timings=wire.timings(results),
        )
