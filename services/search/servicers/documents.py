"""DocumentService."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence

import grpc
from google.protobuf.json_format import MessageToDict

from diapason.search.v1 import document_pb2 as pb
from diapason.search.v1 import document_pb2_grpc as rpc
from services.kit.errors import InvalidArgument, Violation
from services.search import wire
from services.search.bounds import MESSAGE_BYTES, fitting
from services.search.domain import filters, rules
from services.search.domain.model import Document
from services.search.writing import Receipt, Writing

Context = grpc.aio.ServicerContext[object, object]

# Documents of one stream that may be on their way at once: enough to fill batches, and a bound.
_WINDOW = 128
_WRITE_BATCH = 64
_MAX_DOCUMENT_BYTES = 1024 * 1024
_PAGE, _MAX_PAGE = 100, 1_000
_PAGE_TOKEN = re.compile(r"\d{1,18}")
_FILTER_TOKEN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAX_IDS = 1_000


class DocumentServicer(rpc.DocumentServiceServicer):
    """Documents in and out."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing

    async def UpsertDocuments(
        self, request_iterator: AsyncIterator[pb.UpsertDocumentsRequest], context: Context
    ) -> AsyncIterator[pb.UpsertDocumentsResponse]:
        """Write what arrives in batches; acknowledge each document."""
        arrived: asyncio.Queue[pb.UpsertDocumentsRequest | None] = asyncio.Queue(_WINDOW)

        async def read() -> None:
            try:
                async for request in request_iterator:
                    await arrived.put(_bounded(request))
            except Exception:
                await arrived.put(None)
                raise
            await arrived.put(None)

        reader = asyncio.create_task(read())
        collection = ""
        try:
            ended = False
            while not ended:
                batch = [await arrived.get()]
                while batch[-1] is not None and len(batch) < _WRITE_BATCH and not arrived.empty():
                    batch.append(arrived.get_nowait())
                if batch[-1] is None:
                    ended = True
                    batch.pop()
                requests = [request for request in batch if request is not None]
                if not requests:
                    continue
                collection = collection or requests[0].collection
                if any(request.collection not in ("", collection) for request in requests):
                    raise InvalidArgument(
                        Violation("collection", "changes within the stream; open one stream for each collection")
                    )
                for receipt in await self._write(collection, requests):
                    yield receipt
            await reader
        finally:
            reader.cancel()

    async def _write(
        self, collection: str, requests: Sequence[pb.UpsertDocumentsRequest]
    ) -> list[pb.UpsertDocumentsResponse]:
        """Receipts in the order of the requests; what can't be read as a document gets its error."""
        read = [_document(request.document) for request in requests]
        written = iter(await self._writing.write(collection, [d for d in read if isinstance(d, Document)]))
        return [_receipt(next(written) if isinstance(item, Document) else item) for item in read]

    async def GetDocuments(self, request: pb.GetDocumentsRequest, context: Context) -> pb.GetDocumentsResponse:
        """By ids, or page by page."""
        filtered = request.HasField("filter")
        if request.ids:
            if filtered:
                raise InvalidArgument(Violation("filter", "does not go with ids; give one of them"))
            return await self._named(request)
        size = request.page_size or _PAGE
        if size > _MAX_PAGE:
            raise InvalidArgument(Violation("page_size", f"is {size}; the most is {_MAX_PAGE}"))
        token = request.page_token
        if token and not (_FILTER_TOKEN if filtered else _PAGE_TOKEN).fullmatch(token):
            raise InvalidArgument(Violation("page_token", "is not one; give back next_page_token as it came"))
        if filtered:
            where = wire.filter_of(request.filter)
            passed, following = await self._writing.page_where(request.collection, where, token, size)
            while len(page := _page(passed)) < len(passed):  # a shorter one, so that the next begins where it ends
                passed, following = await self._writing.page_where(request.collection, where, token, len(page))
            return pb.GetDocumentsResponse(documents=page, next_page_token=following)
        listed = await self._writing.page(request.collection, int(token or 0), size)
        page = _page(listed)
        more = len(listed) == size or len(page) < len(listed)
        return pb.GetDocumentsResponse(
            documents=page, next_page_token=str(listed[len(page) - 1].sequence) if more else ""
        )

    async def _named(self, request: pb.GetDocumentsRequest) -> pb.GetDocumentsResponse:
        """Documents by ids; a page token says how many of the ids were answered before."""
        _check_ids(list(request.ids))
        token = request.page_token
        if token and not (_PAGE_TOKEN.fullmatch(token) and int(token) < len(request.ids)):
            raise InvalidArgument(Violation("page_token", "is not one; give back next_page_token as it came"))
        ids = request.ids[int(token or 0) :]
        found = await self._writing.documents(request.collection, ids)
        there = [i for i in ids if i in found]
        page = _page([found[i] for i in there])
        answered = ids.index(there[len(page)]) if len(page) < len(there) else len(ids)
        return pb.GetDocumentsResponse(
            documents=page,
            missing_ids=[i for i in ids[:answered] if i not in found],
            next_page_token=str(len(request.ids) - len(ids) + answered) if answered < len(ids) else "",
        )

    async def CountDocuments(self, request: pb.CountDocumentsRequest, context: Context) -> pb.CountDocumentsResponse:
        """All, or those that pass."""
        where = wire.filter_of(request.filter) if request.HasField("filter") else None
        return pb.CountDocumentsResponse(documents=await self._writing.count(request.collection, where))

    async def DeleteDocuments(self, request: pb.DeleteDocumentsRequest, context: Context) -> pb.DeleteDocumentsResponse:
        """Delete by ids or by filter."""
        if request.HasField("filter"):
            if request.ids:
                raise InvalidArgument(Violation("filter", "does not go with ids; give one of them"))
            where = wire.filter_of(request.filter)
            if not filters.used(where):
                raise InvalidArgument(Violation("filter", "has no condition and would delete everything; add one"))
            return pb.DeleteDocumentsResponse(deleted=await self._writing.delete_where(request.collection, where))
        ids = list(dict.fromkeys(request.ids))
        _check_ids(ids)
        deleted = await self._writing.delete(request.collection, ids)
        return pb.DeleteDocumentsResponse(deleted=deleted, unknown=len(ids) - deleted)


def _document(message: pb.Document) -> Document | Receipt:
    """The document, or what is wrong with its message."""
    try:
        payload = MessageToDict(message.payload) if message.HasField("payload") else {}
    except ValueError as error:
        return Receipt(message.id, error=f"payload: {error}; give what JSON can hold")
    return Document(message.id, message.text, message.title, payload, min(message.revision, rules.MAX_REVISION + 1))


def _bounded(request: pb.UpsertDocumentsRequest) -> pb.UpsertDocumentsRequest:
    """The request, without its content if that is more than any document may have."""
    if request.ByteSize() <= _MAX_DOCUMENT_BYTES:
        return request
    # Still too long by the rules, which will say so, but no longer held in memory.
    cut = pb.Document(id=request.document.id[:1000], text="x" * (rules.MAX_TEXT_CHARACTERS + 1))
    return pb.UpsertDocumentsRequest(collection=request.collection, document=cut)


def _page(documents: Sequence[Document]) -> list[pb.Document]:
    """As many of the first as one message holds."""
    messages: list[pb.Document] = []

    def sizes() -> Iterator[int]:
        for document in documents:
            messages.append(wire.document_to_pb(document))
            yield messages[-1].ByteSize()

    return messages[: fitting(sizes(), MESSAGE_BYTES)]


def _receipt(receipt: Receipt) -> pb.UpsertDocumentsResponse:
    return pb.UpsertDocumentsResponse(
        id=receipt.id,
        revision=receipt.revision,
        indexed=receipt.indexed,
        truncated=receipt.truncated,
        error=receipt.error,
        unchanged=receipt.unchanged,
    )


def _check_ids(ids: list[str]) -> None:
    if any("\0" in name for name in ids):
        raise InvalidArgument(Violation("ids", "has an id with a NUL character; no document has such"))
    if not 1 <= len(ids) <= _MAX_IDS:
        raise InvalidArgument(Violation("ids", f"has {len(ids)} ids; give 1 to {_MAX_IDS}"))
