"""Search's things in the contract's form, and back."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from diapason import vectors
from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1 import collection_pb2 as collections
from diapason.search.v1 import document_pb2 as documents
from diapason.search.v1 import filter_pb2
from services.kit.errors import InvalidArgument, Violation
from services.search.collections import View
from services.search.domain import filters
from services.search.domain.model import (
    Bm25,
    Distance,
    Document,
    FieldType,
    Index,
    IndexState,
    Passages,
    Quantization,
    Reindex,
    ReindexState,
    Route,
    Settings,
    Span,
    Version,
)
from services.search.ports import Stored

# Versions and routes whose messages are kept: every search needs them.
_KNOWN = 1_024


def seconds(given: Duration) -> float:
    """A duration as a number."""
    return given.ToNanoseconds() / 1e9


def duration(given: float) -> Duration:
    """A number of seconds as a duration."""
    made = Duration()
    made.FromNanoseconds(int(given * 1e9))
    return made


@lru_cache(_KNOWN)
def version_to_pb(version: Version) -> VersionRef:
    """All three parts of a version's name. One message for all who ask: not to be changed."""
    return VersionRef(model=version.model, number=version.number, digest=version.digest)


def version_of(ref: VersionRef) -> Version:
    """The same, back."""
    return Version(ref.model, ref.number, ref.digest)


@lru_cache(_KNOWN)
def route_to_pb(route: Route) -> collections.Route:
    """The record as callers see it. One message for all who ask: not to be changed."""
    since = Timestamp()
    since.FromDatetime(route.since)
    return collections.Route(
        collection=route.collection,
        generation=route.generation,
        encoder=version_to_pb(route.version),
        index=route.index,
        since=since,
        reranker=version_to_pb(route.reranker) if route.reranker else None,
    )


# Settings


def _chosen(kind: type[Enum], values: Any, number: int, field: str) -> Any:
    """The member that an enum's number means; None for the unspecified one."""
    names = {value: name for name, value in values.items()}
    if number not in names:
        raise InvalidArgument(Violation(field, f"is {number}, which is none of {', '.join(names.values())}"))
    name = names[number].removeprefix(f"{names[0].removesuffix('_UNSPECIFIED')}_")
    return kind[name] if number else None


def settings_of(given: collections.CollectionSettings) -> Settings:
    """A collection's settings; what is left out is as the contract says. Raises ``InvalidArgument``."""
    distance = _chosen(Distance, collections.Distance, given.distance, "settings.distance")
    quantization = _chosen(Quantization, collections.Quantization, given.quantization, "settings.quantization")
    words, split = given.bm25, given.passages
    return Settings(
        dimensions=tuple(given.dimensions),
        retention=seconds(given.retention) if given.HasField("retention") else Settings.retention,
        distance=distance or Settings.distance,
        quantization=quantization or Settings.quantization,
        bm25=Bm25(words.language or Bm25.language, words.average_words or Bm25.average_words)
        if given.HasField("bm25")
        else None,
        passages=Passages(split.max_tokens, split.overlap_tokens) if given.HasField("passages") else None,
        fields=fields_of(given.fields, "settings.fields"),
    )


def fields_of(given: Mapping[str, collections.FieldType.ValueType], field: str) -> dict[str, FieldType]:
    """Declared fields. Raises ``InvalidArgument``."""
    found = {name: _chosen(FieldType, collections.FieldType, kind, f"{field}.{name}") for name, kind in given.items()}
    if missing := [name for name, kind in found.items() if kind is None]:
        raise InvalidArgument(Violation(f"{field}.{missing[0]}", "has no type; give one, such as FIELD_TYPE_KEYWORD"))
    return found


def settings_to_pb(settings: Settings) -> collections.CollectionSettings:
    """The same, back, with nothing left out."""
    bm25, passages = settings.bm25, settings.passages
    return collections.CollectionSettings(
        dimensions=settings.dimensions,
        retention=duration(settings.retention),
        distance=collections.Distance.Value(f"DISTANCE_{settings.distance.name}"),
        quantization=collections.Quantization.Value(f"QUANTIZATION_{settings.quantization.name}"),
        bm25=collections.Bm25(language=bm25.language, average_words=bm25.average_words) if bm25 else None,
        passages=collections.Passages(max_tokens=passages.max_tokens, overlap_tokens=passages.overlap_tokens)
        if passages
        else None,
        fields={name: collections.FieldType.Value(f"FIELD_TYPE_{kind.name}") for name, kind in settings.fields.items()},
    )


# Collections

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


def view_to_pb(view: View) -> collections.Collection:
    """A collection as it stands."""
    return collections.Collection(
        name=view.name,
        settings=settings_to_pb(view.settings),
        route=route_to_pb(view.route),
        documents=view.documents,
        indexes=[index_to_pb(index, points) for index, points in view.indexes],
    )


def reindex_to_pb(reindex: Reindex, reason: str) -> collections.Reindex:
    """A reindex with its progress."""
    left = (reindex.total - reindex.done) / reindex.rate if reindex.rate else None
    return collections.Reindex(
        id=reindex.id,
        collection=reindex.collection,
        index=reindex.index,
        encoder=version_to_pb(reindex.version),
        state=_REINDEX_STATES[reindex.state],
        total=reindex.total,
        done=reindex.done,
        reason=reason,
        documents_per_second=reindex.rate,
        time_left=None if left is None else duration(max(0.0, left)),
    )


# Documents


def document_to_pb(document: Document) -> documents.Document:
    """A document with what search adds to it."""
    payload = Struct()
    payload.update(dict(document.payload))
    return documents.Document(
        id=document.id,
        text=document.text,
        title=document.title,
        payload=payload,
        revision=document.revision,
        passage=document.passage,
    )


def parcel_to_pb(document: Document, passages: Sequence[Stored]) -> collections.ExportedDocument:
    """A document with its vectors."""
    made = [
        collections.ExportedPassage(
            vector=vectors.to_bytes(stored.vector[None]),
            start=stored.span.start if stored.span else 0,
            end=stored.span.end if stored.span else 0,
        )
        for stored in passages
    ]
    return collections.ExportedDocument(document=document_to_pb(document), passages=made)


def parcel_of(given: collections.ExportedDocument) -> tuple[Document, list[Stored]]:
    """The same, back. Raises ``InvalidArgument``."""
    message = given.document
    try:
        payload = MessageToDict(message.payload)
    except ValueError as error:
        raise InvalidArgument(
            Violation("document.payload", f"of {message.id!r}: {error}; give what JSON can hold")
        ) from error
    document = Document(message.id, message.text, message.title, payload, message.revision)
    stored = []
    for number, passage in enumerate(given.passages):
        if len(passage.vector) % 4:
            given_bytes = f"has {len(passage.vector)} bytes; give float32"
            raise InvalidArgument(Violation("document.passages.vector", given_bytes))
        span = Span(passage.start, passage.end) if passage.end else None
        stored.append(Stored(number, span, np.frombuffer(passage.vector, dtype="<f4")))
    return document, stored


# Filters


def filter_of(given: filter_pb2.Filter) -> filters.Filter:
    """A filter. Raises ``InvalidArgument`` for what no collection could answer."""
    return _filter(given, 1)


def _filter(given: filter_pb2.Filter, depth: int) -> filters.Filter:
    if depth > filters.MAX_DEPTH:
        raise InvalidArgument(Violation("filter", f"is nested more than {filters.MAX_DEPTH} deep; write it flatter"))
    parts = (given.must, given.should, given.must_not)
    return filters.Filter(*(tuple(_condition(condition, depth) for condition in part) for part in parts))


def _condition(given: filter_pb2.Condition, depth: int) -> filters.Condition:
    name = given.field
    match given.WhichOneof("test"):
        case "equals":
            return filters.Equals(name, _value(given.equals, name))
        case "any_of":
            values: Any = tuple(_value(value, name) for value in given.any_of.values)
            return filters.AnyOf(name, values)
        case "range":
            return filters.Range(name, **{bound.name: value for bound, value in given.range.ListFields()})
        case "time_range":
            bounds = {bound.name: _moment(value) for bound, value in given.time_range.ListFields()}
            return filters.TimeRange(name, **bounds)
        case "exists":
            exists = filters.Exists(name)
            return exists if given.exists else filters.Filter(must_not=(exists,))
        case "prefix":
            return filters.Prefix(name, given.prefix)
        case "text":
            return filters.Words(name, given.text)
        case "filter":
            if name:
                raise InvalidArgument(Violation("filter", f"has both a field, {name!r}, and a filter within"))
            return _filter(given.filter, depth + 1)
    raise InvalidArgument(Violation("filter", f"says nothing of {name!r}; give equals, any_of, range or another test"))


def _value(given: Value, name: str) -> str | int | bool:
    match given.WhichOneof("kind"):
        case "string_value":
            return given.string_value
        case "bool_value":
            return given.bool_value
        case "number_value" if given.number_value.is_integer():
            return int(given.number_value)
    raise InvalidArgument(
        Violation("filter", f"compares {name!r} with what is neither a string, a whole number nor a bool; use a range")
    )


def _moment(given: Timestamp) -> datetime:
    try:
        return given.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(Violation("filter", f"has a time out of range: {error}")) from error
