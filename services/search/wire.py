"""Search's things in the contract's form."""

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1 import collection_pb2 as collections
from diapason.search.v1 import document_pb2 as documents
from services.search.domain.model import Document, Index, IndexState, Reindex, ReindexState, Route, Version


def version_to_pb(version: Version) -> VersionRef:
    """All three parts of a version's name."""
    return VersionRef(model=version.model, number=version.number, digest=version.digest)


def route_to_pb(route: Route) -> collections.Route:
    """The record as callers see it."""
    since = Timestamp()
    since.FromDatetime(route.since)
    return collections.Route(
        collection=route.collection,
        generation=route.generation,
        encoder=version_to_pb(route.version),
        index=route.index,
        since=since,
    )


_INDEX_STATES: dict[IndexState, collections.IndexState.ValueType] = {
    state: collections.IndexState.Value(f"INDEX_STATE_{state.name}")
    for state in IndexState
    if state is not IndexState.DROPPED
}
_REINDEX_STATES = {state: collections.ReindexState.Value(f"REINDEX_STATE_{state.name}") for state in ReindexState}


def index_to_pb(index: Index, points: int) -> collections.Index:
    """An index that still exists."""
    message = collections.Index(
        id=index.id, encoder=version_to_pb(index.version), state=_INDEX_STATES[index.state], points=points
    )
    if index.drop_at:
        message.drop_time.FromDatetime(index.drop_at)
    return message


def reindex_to_pb(reindex: Reindex, reason: str) -> collections.Reindex:
    """A reindex with its progress."""
    return collections.Reindex(
        id=reindex.id,
        collection=reindex.collection,
        index=reindex.index,
        encoder=version_to_pb(reindex.version),
        state=_REINDEX_STATES[reindex.state],
        total=reindex.total,
        done=reindex.done,
        reason=reason,
    )


def payload_to_pb(document: Document) -> Struct:
    """The payload as a protobuf struct."""
    struct = Struct()
    struct.update(dict(document.payload))
    return struct


def document_to_pb(document: Document) -> documents.Document:
    """A document with what search adds to it."""
    return documents.Document(
        id=document.id,
        text=document.text,
        title=document.title,
        payload=payload_to_pb(document),
        revision=document.revision,
        passage=document.passage,
    )
