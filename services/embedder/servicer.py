"""The contract, translated to and from `embedding.py`."""

from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import grpc

from diapason import vectors
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.embedder.v1 import embedder_pb2_grpc as rpc
from services.embedder import wire
from services.embedder.domain.batching import Lane
from services.embedder.embedding import Embedding, rows
from services.embedder.requests import Checks
from services.embedder.residents import Residents
from services.embedder.scheduler import Answer, Result, Uncomputable
from services.embedder.settings import EmbedderSettings
from services.embedder.streaming import Stream
from services.embedder.worker.runtime import Cut, Description, Passages
from services.kit.admission import Admission
from services.kit.channels import MAX_MESSAGE_BYTES
from services.kit.errors import InvalidArgument, ServiceError, Violation

Answered = TypeVar("Answered", Answer, Passages)
Context = grpc.aio.ServicerContext[object, object]


class EmbedderServicer(rpc.EmbedderServiceServicer):
    """Embed, EmbedStream, Rerank, Split and GetInfo."""

    def __init__(
        self,
        residents: Residents,
        embedding: Embedding,
        settings: EmbedderSettings,
        description: Description,
        replica_id: str,
    ) -> None:
        self._residents = residents
        self._embedding = embedding
        limits = pb.Limits(
            max_texts=settings.max_texts,
            max_text_characters=settings.max_text_characters,
            max_queued_texts=settings.max_queued_texts,
            max_queued_tokens=settings.max_queued_tokens,
            max_message_bytes=MAX_MESSAGE_BYTES,
        )
        self._requests, self._streams = Admission(settings.max_requests), Admission(settings.max_streams)
        self._checks = Checks(residents, limits)
        self._info = pb.GetInfoResponse(
            replica_id=replica_id,
            device=description.device,
            runtime=description.text,
            limits=limits,
            inference_threads=settings.inference_threads,
        )

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Embed a batch with exactly the version asked for."""
        with self._requests.admitted():
            return await self._embed(request)

    async def _embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        resident = self._checks.embed(request)
        prompt = wire.prompt(resident, request.role)
        texts = [prompt + text for text in request.texts]
        lane = wire.lane(request.lane, Lane.INTERACTIVE)
        with resident.usage.held():
            if lane is Lane.INTERACTIVE and request.role == pb.ROLE_QUERY:
                results = await self._embedding.queries(resident, texts)
            else:
                results = await self._embedding.compute(resident, lane, texts)
        answers = _all_answered(results, Answer)
        return pb.EmbedResponse(
            version=wire.ref_of(resident),
            dimensions=request.dimensions or resident.manifest.dimension,
            vectors=vectors.to_bytes(rows(answers, resident, request.dimensions)),
            token_counts=[answer.tokens for answer in answers],
            truncated=[answer.truncated for answer in answers],
            timings=wire.timings(answers),
        )

    async def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        """Embed as many as the caller sends, in order."""
        with self._streams.admitted():
            async for answer in Stream(self._checks, self._embedding).answers(request_iterator):
                yield answer

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        """Score texts for a query with exactly the version asked for."""
        with self._requests.admitted():
            return await self._rerank(request)

    async def _rerank(self, request: pb.RerankRequest) -> pb.RerankResponse:
        resident = self._checks.rerank(request)
        lane = wire.lane(request.lane, Lane.INTERACTIVE)
        with resident.usage.held():
            pairs = [(request.query, text) for text in request.texts]
            answers = _all_answered(await self._embedding.compute(resident, lane, pairs), Answer)
        return pb.RerankResponse(
            version=wire.ref_of(resident),
            scores=[float(answer.row[0]) for answer in answers],
            token_counts=[answer.tokens for answer in answers],
            truncated=[answer.truncated for answer in answers],
            timings=wire.timings(answers),
            first_stage_share=resident.manifest.first_stage_share,
        )

    async def Split(self, request: pb.SplitRequest, context: Context) -> pb.SplitResponse:
        """Cut texts into passages, by the tokens of exactly the version asked for."""
        with self._requests.admitted():
            return await self._split(request)

    async def _split(self, request: pb.SplitRequest) -> pb.SplitResponse:
        resident, most = self._checks.split(request)
        prompt = wire.prompt(resident, pb.ROLE_DOCUMENT)
        with resident.usage.held():
            cuts = [Cut(prompt, text, most, request.overlap_tokens) for text in request.texts]
            texts = _all_answered(await self._embedding.compute(resident, Lane.BULK, cuts), Passages)
        if not all(text.spans for text in texts):
            fault = f"is {most}, and the version's prompt and special tokens leave too little of that; give more"
            raise InvalidArgument(Violation("max_tokens", fault))
        return pb.SplitResponse(version=wire.ref_of(resident), texts=[wire.passages(text) for text in texts])

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoResponse:
        """Limits, device and versions."""
        info = pb.GetInfoResponse(versions=wire.statuses(self._residents.all()))
        info.MergeFrom(self._info)
        return info


def _all_answered(results: Sequence[Result], kind: type[Answered]) -> list[Answered]:
    """The answers. Raises the first failure, with the name of its text."""
    answers = []
    for index, result in enumerate(results):
        if isinstance(result, Uncomputable):
            raise InvalidArgument(Violation(f"texts[{index}]", result.fault))
        if isinstance(result, ServiceError):
            raise result
        assert isinstance(result, kind)  # as it was asked for
        answers.append(result)
    return answers
