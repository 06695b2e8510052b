"""SearchService."""

import asyncio

import grpc
import structlog

from diapason.search.v1 import search_pb2 as pb
from diapason.search.v1 import search_pb2_grpc as rpc
from services.kit.admission import Admission
from services.kit.context import request_id
from services.kit.errors import InvalidArgument, ServiceError, Violation
from services.kit.status import code_of, internal
from services.search import wire
from services.search.bounds import MESSAGE_BYTES, fitting
from services.search.domain.asking import DEFAULT_CANDIDATES, DEFAULT_LIMIT, Ask, Rerank, Words
from services.search.retrieval import Found, Reranking, Result, Retrieval

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[object, object]

_MAX_SEARCHES = 100
# Searches of one batch that are at work at the same time.
_AT_ONCE = 16
_WORDS = {
    pb.FUSION_UNSPECIFIED: Words.DISTRIBUTION_BASED,
    pb.FUSION_RECIPROCAL_RANK: Words.RECIPROCAL_RANK,
    pb.FUSION_DISTRIBUTION_BASED: Words.DISTRIBUTION_BASED,
    pb.FUSION_WORDS_ONLY: Words.ONLY,
}


class SearchServicer(rpc.SearchServiceServicer):
    """Queries."""

    def __init__(self, retrieval: Retrieval, admission: Admission) -> None:
        self._retrieval = retrieval
        self._admission = admission

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """Answer one query."""
        with self._admission.admitted():
            return _response(await self._retrieval.search(_ask(request)))

    async def BatchSearch(self, request: pb.BatchSearchRequest, context: Context) -> pb.BatchSearchResponse:
        """Answer several, a few at a time."""
        count = len(request.searches)
        if not 1 <= count <= _MAX_SEARCHES:
            raise InvalidArgument(Violation("searches", f"has {count} searches; give 1 to {_MAX_SEARCHES}"))
        turns = asyncio.Semaphore(_AT_ONCE)

        async def answer(search: pb.SearchRequest) -> pb.BatchSearchAnswer:
            async with turns:
                try:
                    return pb.BatchSearchAnswer(response=_response(await self._retrieval.search(_ask(search))))
                except ServiceError as error:
                    failed = pb.SearchError(code=code_of(error).value[0], message=error.message)
                    return pb.BatchSearchAnswer(error=failed)
                except Exception:
                    log.exception("a search of a batch failed")
                    status = internal(request_id())
                    failed = pb.SearchError(code=status.code.value[0], message=status.details)
                    return pb.BatchSearchAnswer(error=failed)

        # As many places as are at work at once.
        with self._admission.admitted(min(count, _AT_ONCE)):
            answers = await asyncio.gather(*map(answer, request.searches))
        number = fitting((one.ByteSize() for one in answers), MESSAGE_BYTES)
        large = f"the answers of {number} searches fill the message; ask the others again"
        error = pb.SearchError(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message=large)
        left_out = [pb.BatchSearchAnswer(error=error)] * (count - number)
        return pb.BatchSearchResponse(answers=[*answers[:number], *left_out])


def _ask(request: pb.SearchRequest) -> Ask:
    rerank = None
    if request.HasField("rerank"):
        given = request.rerank
        budget = wire.seconds(given.budget) if given.HasField("budget") else Rerank.budget
        rerank = Rerank(given.candidates or max(DEFAULT_CANDIDATES, request.limit), budget)
    return Ask(
        collection=request.collection,
        query=request.query,
        limit=request.limit or DEFAULT_LIMIT,
        dimensions=request.dimensions,
        actor=request.actor,
        filter=wire.filter_of(request.filter) if request.HasField("filter") else None,
        threshold=request.score_threshold if request.HasField("score_threshold") else None,
        page_token=request.page_token,
        words=_words(request),
        rerank=rerank,
        explain=request.explain,
        exact=request.exact,
        like=tuple(request.like),
        unlike=tuple(request.unlike),
        first_stage=request.first_stage_dimensions,
        unrecorded=request.unrecorded,
    )


def _words(request: pb.SearchRequest) -> Words:
    if not request.HasField("hybrid"):
        return Words.NONE
    found = _WORDS.get(request.hybrid.fusion)
    if found is None:
        raise InvalidArgument(Violation("hybrid.fusion", f"is {request.hybrid.fusion}, which is none; leave it out"))
    return found


def _response(found: Found) -> pb.SearchResponse:
    seconds = found.seconds
    return pb.SearchResponse(
        search_id=found.search_id,
        route=wire.route_to_pb(found.route),
        query_version=wire.version_to_pb(found.query_version) if found.query_version else None,
        results=[_result(rank, result) for rank, result in enumerate(found.results, found.first_rank)],
        query_truncated=found.query_truncated,
        timings=pb.Timings(
            embed=wire.duration(seconds.get("embed", 0)),
            query=wire.duration(seconds.get("query", 0)),
            rerank=wire.duration(seconds["rerank"]) if "rerank" in seconds else None,
            total=wire.duration(sum(seconds.values())),
        ),
        next_page_token=found.next_page_token,
        reranking=_reranking(found.reranking) if found.reranking else None,
    )


def _result(rank: int, result: Result) -> pb.Result:
    hit, document = result.hit, result.document
    message = pb.Result(id=hit.document_id, rank=rank, score=hit.score, title=document.title, text=document.text)
    if document.payload:
        message.payload.update(dict(document.payload))
    if result.span:
        message.passage.CopyFrom(pb.Passage(number=hit.passage, text=result.passage))
    if result.parts:
        message.parts.CopyFrom(pb.ScoreParts(**vars(result.parts)))
    return message


def _reranking(reranking: Reranking) -> pb.Reranking:
    return pb.Reranking(
        version=wire.version_to_pb(reranking.version) if reranking.version else None,
        applied=reranking.applied,
        reason=reranking.reason,
        candidates=reranking.candidates,
        first_stage_share=reranking.first_stage_share,
    )
