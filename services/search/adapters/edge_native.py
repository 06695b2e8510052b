"""Settings, filters and queries in the embedded engine's own words."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import qdrant_edge as qdrant

from diapason.vectors import Matrix
from services.search.adapters import points as layout
from services.search.domain import filters
from services.search.domain.model import Distance, FieldType, Quantization, Settings
from services.search.ports import Fusion, Point, Query

_DISTANCES = {
    Distance.COSINE: qdrant.Distance.Cosine,
    Distance.DOT: qdrant.Distance.Dot,
    Distance.EUCLID: qdrant.Distance.Euclid,
}
# The defaults here and in `points.py` are what `make bench-scale` found best for recall and memory at a
# million vectors. In KiB: from here on a segment gets a graph, and so much one segment may hold.
_GRAPH_FROM, _SEGMENT = 10_000, 4_000_000
# The same in numbers of four bytes.
GRAPH_FROM_NUMBERS = _GRAPH_FROM * 1024 // 4


def config(dimension: int, settings: Settings) -> qdrant.EdgeConfig:
    """How a shard is laid out."""
    vectors = {
        name: qdrant.EdgeVectorParams(
            size=size,
            distance=_DISTANCES[settings.distance],
            quantization_config=_quantization(settings.quantization) if name == layout.FULL else None,
            # Compressed vectors are in memory instead; the originals are read for the last few candidates.
            memory=qdrant.Memory.Cached if settings.quantization is Quantization.NONE else qdrant.Memory.Cold,
        )
        for name, size in layout.sizes(dimension, settings).items()
    }
    words = {layout.WORDS: qdrant.EdgeSparseVectorParams(modifier=qdrant.Modifier.Idf)} if settings.bm25 else None
    return qdrant.EdgeConfig(
        vectors=vectors,
        sparse_vectors=words,
        hnsw_config=qdrant.HnswIndexConfig(
            m=layout.M, ef_construct=layout.EF_CONSTRUCT, full_scan_threshold=_GRAPH_FROM, memory=qdrant.Memory.Pinned
        ),
        optimizers=qdrant.EdgeOptimizersConfig(
            default_segment_number=1, max_segment_size=_SEGMENT, indexing_threshold=_GRAPH_FROM
        ),
        id_tracker_memory=qdrant.Memory.Pinned,
        payload_memory=qdrant.Memory.Cold,
        # Without the log a killed process loses every write since the last flush.
        wal_enabled=True,
    )


def _quantization(kind: Quantization) -> Any:
    memory = qdrant.Memory.Pinned
    if kind is Quantization.INT8:
        return qdrant.ScalarQuantizationConfig(type=qdrant.ScalarType.Int8, memory=memory)
    if kind is Quantization.BINARY:
        # One bit for each number is too coarse for a few hundred of them, however many candidates are rescored.
        return qdrant.BinaryQuantizationConfig(
            memory=memory,
            encoding=qdrant.BinaryQuantizationEncoding.TwoBits,
            query_encoding=qdrant.BinaryQuantizationQueryEncoding.Scalar8Bits,
        )
    if kind is Quantization.TURBO:
        return qdrant.TurboQuantQuantizationConfig(bits=qdrant.TurboQuantBitSize.Bits4, memory=memory)
    return None


def field_indexes(fields: Mapping[str, FieldType], *, split: bool) -> list[qdrant.UpdateOperation]:
    """What makes filters fast; with ``split``, the counting of documents too."""
    create = qdrant.UpdateOperation.create_field_index
    made = [create(f"{layout.FIELDS}.{name}", _schema(kind)) for name, kind in fields.items()]
    return [*made, create(layout.PASSAGE, qdrant.IntegerIndexParams())] if split else made


def _schema(kind: FieldType) -> Any:
    match kind:
        case FieldType.KEYWORD:
            return qdrant.KeywordIndexParams(prefix=True)
        case FieldType.INTEGER:
            return qdrant.IntegerIndexParams()
        case FieldType.FLOAT:
            return qdrant.FloatIndexParams()
        case FieldType.BOOL:
            return qdrant.BoolIndexParams()
        case FieldType.DATETIME:
            return qdrant.DatetimeIndexParams()
        case FieldType.TEXT:
            return qdrant.TextIndexParams(tokenizer=qdrant.TokenizerType.Word, lowercase=True)


def request(query: Query, dimension: int, settings: Settings) -> qdrant.QueryRequest:
    """One query, with its stages."""
    common: dict[str, Any] = {
        "limit": query.limit,
        "score_threshold": layout.threshold(settings.distance, query),
        "with_payload": layout.HIT,
        "filter": condition_filter(query.filter) if query.filter else None,
    }
    parts = _parts(query, dimension, settings)
    if len(parts) == 2:
        rrf = query.fusion is Fusion.RECIPROCAL_RANK
        # The engine's types say otherwise, but what it takes are these two classes.
        fusion: Any = qdrant.Fusion.Rrf(k=layout.RRF_K) if rrf else qdrant.Fusion.Dbsf()
        prefetches = [qdrant.Prefetch(limit=layout.CANDIDATES, filter=common["filter"], **part) for part in parts]
        return qdrant.QueryRequest(query=fusion, prefetches=prefetches, **common)
    return qdrant.QueryRequest(**common, **parts[0])


def _parts(query: Query, dimension: int, settings: Settings) -> list[dict[str, Any]]:
    """The lists that a query needs: by vector, by words, or both."""
    made: list[dict[str, Any]] = []
    given = condition_filter(query.filter) if query.filter else None
    if query.vector is not None:
        row, params = query.vector[0], _params(query, settings)
        name = layout.vector_name(query.dimensions, dimension)
        part: dict[str, Any] = {"query": _nearest(row, query.dimensions, name), "params": params}
        if query.first_stage:
            first = _nearest(row, query.first_stage, layout.vector_name(query.first_stage, dimension))
            part["prefetches"] = [qdrant.Prefetch(limit=layout.CANDIDATES, query=first, params=params, filter=given)]
        made.append(part)
    if query.words is not None:
        words = qdrant.SparseVector(query.words.indices, query.words.values)
        made.append({"query": qdrant.Query.Nearest(words, using=layout.WORDS)})
    return made


def _nearest(row: Matrix, size: int, name: str) -> qdrant.Query:
    return qdrant.Query.Nearest(layout.head(row, size), using=name)


def _params(query: Query, settings: Settings) -> qdrant.SearchParams:
    quantization = None
    if oversampling := layout.OVERSAMPLING.get(settings.quantization):
        # The candidates of a first stage are few enough for the originals.
        ignore = query.exact or bool(query.first_stage)
        quantization = qdrant.QuantizationSearchParams(ignore=ignore, rescore=True, oversampling=oversampling)
    return qdrant.SearchParams(hnsw_ef=layout.EF, exact=query.exact, quantization=quantization)


def documents(where: filters.Filter | None, settings: Settings) -> qdrant.Filter | None:
    """A filter that passes one point of each document that passes ``where``."""
    given = condition_filter(where) if where else None
    if settings.passages is None:
        return given
    first = qdrant.FieldCondition(key=layout.PASSAGE, match=qdrant.MatchValue(0))
    return qdrant.Filter(must=[first, given] if given else [first])


def not_newer(points: Sequence[Point]) -> qdrant.Filter:
    """A filter that passes a stored point unless it is newer than the one of these with its id.

    An operation has one condition for all its points, so this has a branch for each sequence.
    Points of the same sequence pass: to apply a write again after a crash must do no harm.
    """
    ids: dict[int, list[uuid.UUID]] = defaultdict(list)
    for point in points:
        ids[point.sequence].append(layout.point_id(point.document_id, point.passage))
    return qdrant.Filter(should=[up_to(sequence, those) for sequence, those in ids.items()])


def up_to(sequence: int, ids: Iterable[uuid.UUID]) -> qdrant.Filter:
    """Those of the points that are not newer than ``sequence``."""
    bound = qdrant.FieldCondition(key=layout.SEQUENCE, range=qdrant.RangeFloat(lte=sequence))
    return qdrant.Filter(must=[qdrant.HasIdCondition(set(ids)), bound])


def condition_filter(where: filters.Filter) -> qdrant.Filter:
    """A filter with all its conditions."""
    return qdrant.Filter(must=_all(where.must), should=_all(where.should), must_not=_all(where.must_not))


def _all(conditions: Iterable[filters.Condition]) -> list[Any] | None:
    return [_condition(condition) for condition in conditions] or None


def _condition(condition: filters.Condition) -> Any:
    if isinstance(condition, filters.Filter):
        return condition_filter(condition)
    key = f"{layout.FIELDS}.{condition.field}"
    match condition:
        case filters.Equals(_, value):
            # To the engine's binding Python's bool is an integer, numpy's is what it is.
            known: Any = np.bool_(value) if isinstance(value, bool) else value
            return qdrant.FieldCondition(key=key, match=qdrant.MatchValue(known))
        case filters.AnyOf(_, values):
            some: Any = list(values)
            return qdrant.FieldCondition(key=key, match=qdrant.MatchAny(some))
        case filters.Range(_, gt, gte, lt, lte):
            return qdrant.FieldCondition(key=key, range=qdrant.RangeFloat(gt=gt, gte=gte, lt=lt, lte=lte))
        case filters.TimeRange(_, gt, gte, lt, lte):
            bounds = qdrant.RangeDateTime(gt=_moment(gt), gte=_moment(gte), lt=_moment(lt), lte=_moment(lte))
            return qdrant.FieldCondition(key=key, range=bounds)
        case filters.Exists():
            return qdrant.Filter(must_not=[qdrant.IsEmptyCondition(key)])
        case filters.Prefix(_, value):
            return qdrant.FieldCondition(key=key, match=qdrant.MatchPrefix(value))
        case filters.Words(_, value):
            return qdrant.FieldCondition(key=key, match=qdrant.MatchText(value))


def _moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
