"""Settings, filters and queries in the words of a Qdrant server's client."""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qdrant_client import models

from diapason.vectors import Matrix
from services.search.adapters import points as layout
from services.search.domain import filters
from services.search.domain.model import Distance, FieldType, Quantization, Settings
from services.search.ports import Fusion, Point, Query

_DISTANCES = {
    Distance.COSINE: models.Distance.COSINE,
    Distance.DOT: models.Distance.DOT,
    Distance.EUCLID: models.Distance.EUCLID,
}


def vectors(dimension: int, settings: Settings) -> dict[str, models.VectorParams]:
    """The named vectors of an index."""
    return {
        name: models.VectorParams(
            size=size,
            distance=_DISTANCES[settings.distance],
            hnsw_config=models.HnswConfigDiff(m=layout.M, ef_construct=layout.EF_CONSTRUCT),
            quantization_config=_quantization(settings.quantization) if name == layout.FULL else None,
            # Compressed vectors are in memory instead; the originals are read for the last few candidates.
            memory=models.Memory.CACHED if settings.quantization is Quantization.NONE else models.Memory.COLD,
        )
        for name, size in layout.sizes(dimension, settings).items()
    }


def words(settings: Settings) -> dict[str, models.SparseVectorParams] | None:
    """The sparse vectors of an index."""
    return {layout.WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)} if settings.bm25 else None


def _quantization(kind: Quantization) -> models.QuantizationConfig | None:
    memory = models.Memory.PINNED
    match kind:
        case Quantization.INT8:
            scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, memory=memory)
            return models.ScalarQuantization(scalar=scalar)
        case Quantization.BINARY:
            # One bit for each number is too coarse for a few hundred of them, however many candidates are rescored.
            binary = models.BinaryQuantizationConfig(
                memory=memory,
                encoding=models.BinaryQuantizationEncoding.TWO_BITS,
                query_encoding=models.BinaryQuantizationQueryEncoding.SCALAR8BITS,
            )
            return models.BinaryQuantization(binary=binary)
        case Quantization.TURBO:
            turbo = models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS4, memory=memory)
            return models.TurboQuantization(turbo=turbo)
        case Quantization.NONE:
            return None


def field_indexes(fields: Mapping[str, FieldType]) -> dict[str, models.PayloadSchemaParams]:
    """What makes filters fast, by the path of each field."""
    return {f"{layout.FIELDS}.{name}": _schema(kind) for name, kind in fields.items()}


def own_indexes() -> dict[str, models.PayloadSchemaParams]:
    """The same for what the layout itself is asked by: a server may be set to refuse filters without an index."""
    number = models.IntegerIndexType.INTEGER
    return {
        layout.ID: models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
        layout.PASSAGE: models.IntegerIndexParams(type=number, range=False, lookup=True),
        layout.SEQUENCE: models.IntegerIndexParams(type=number, range=True, lookup=False),
    }


def _schema(kind: FieldType) -> models.PayloadSchemaParams:
    match kind:
        case FieldType.KEYWORD:
            return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, prefix=True)
        case FieldType.INTEGER:
            return models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, range=True, lookup=True)
        case FieldType.FLOAT:
            return models.FloatIndexParams(type=models.FloatIndexType.FLOAT)
        case FieldType.BOOL:
            return models.BoolIndexParams(type=models.BoolIndexType.BOOL)
        case FieldType.DATETIME:
            return models.DatetimeIndexParams(type=models.DatetimeIndexType.DATETIME)
        case FieldType.TEXT:
            word = models.TokenizerType.WORD
            return models.TextIndexParams(type=models.TextIndexType.TEXT, tokenizer=word, lowercase=True)


def point(given: Point, row: Matrix, sizes: Mapping[str, int]) -> models.PointStruct:
    """A point with its vector at every size of the index."""
    named: dict[str, Any] = {name: layout.head(row, size) for name, size in sizes.items()}
    if given.words:
        named[layout.WORDS] = models.SparseVector(indices=given.words.indices, values=given.words.values)
    number = str(layout.point_id(given.document_id, given.passage))
    return models.PointStruct(id=number, vector=named, payload=layout.payload(given))


def request(query: Query, dimension: int, settings: Settings) -> models.QueryRequest:
    """One query, with its stages."""
    given = condition_filter(query.filter) if query.filter else None
    common: dict[str, Any] = {
        "limit": query.limit,
        "score_threshold": layout.threshold(settings.distance, query),
        "with_payload": layout.HIT,
        "filter": given,
    }
    parts = _parts(query, dimension, settings, given)
    if len(parts) == 2:
        prefetch = [models.Prefetch(limit=layout.CANDIDATES, filter=given, **part) for part in parts]
        return models.QueryRequest(query=_fusion(query.fusion), prefetch=prefetch, **common)
    return models.QueryRequest(**common, **parts[0])


def _fusion(kind: Fusion) -> models.RrfQuery | models.FusionQuery:
    if kind is Fusion.RECIPROCAL_RANK:
        return models.RrfQuery(rrf=models.Rrf(k=layout.RRF_K))
    return models.FusionQuery(fusion=models.Fusion.DBSF)


def _parts(query: Query, dimension: int, settings: Settings, given: models.Filter | None) -> list[dict[str, Any]]:
    """The lists that a query needs: by vector, by words, or both."""
    made: list[dict[str, Any]] = []
    if query.vector is not None:
        row, params = query.vector[0], _params(query, settings)
        part = _nearest(row, query.dimensions, dimension) | {"params": params}
        if query.first_stage:
            first = _nearest(row, query.first_stage, dimension) | {"params": params}
            part["prefetch"] = [models.Prefetch(limit=layout.CANDIDATES, filter=given, **first)]
        made.append(part)
    if query.words is not None:
        sparse = models.SparseVector(indices=query.words.indices, values=query.words.values)
        made.append({"query": models.NearestQuery(nearest=sparse), "using": layout.WORDS})
    return made


def _nearest(row: Matrix, size: int, full: int) -> dict[str, Any]:
    return {"query": models.NearestQuery(nearest=layout.head(row, size)), "using": layout.vector_name(size, full)}


def _params(query: Query, settings: Settings) -> models.SearchParams:
    quantization = None
    if oversampling := layout.OVERSAMPLING.get(settings.quantization):
        # The candidates of a first stage are few enough for the originals.
        ignore = query.exact or bool(query.first_stage)
        quantization = models.QuantizationSearchParams(ignore=ignore, rescore=True, oversampling=oversampling)
    return models.SearchParams(hnsw_ef=layout.EF, exact=query.exact, quantization=quantization)


def documents(where: filters.Filter | None, settings: Settings) -> models.Filter | None:
    """A filter that passes one point of each document that passes ``where``."""
    given = condition_filter(where) if where else None
    if settings.passages is None:
        return given
    first = models.FieldCondition(key=layout.PASSAGE, match=models.MatchValue(value=0))
    return models.Filter(must=[first, given] if given else [first])


def not_newer(points: Sequence[Point]) -> models.Filter:
    """A filter that passes a stored point unless it is newer than the one of these with its id.

    A request has one filter for all its points, so this has a branch for each sequence. Points
    of the same sequence pass: to apply a write again after a crash must do no harm.
    """
    ids: dict[int, list[uuid.UUID]] = defaultdict(list)
    for one in points:
        ids[one.sequence].append(layout.point_id(one.document_id, one.passage))
    return models.Filter(should=[up_to(sequence, those) for sequence, those in ids.items()])


def up_to(sequence: int, ids: Iterable[uuid.UUID]) -> models.Filter:
    """Those of the points that are not newer than ``sequence``."""
    bound = models.FieldCondition(key=layout.SEQUENCE, range=models.Range(lte=sequence))
    return models.Filter(must=[models.HasIdCondition(has_id=[str(one) for one in ids]), bound])


def condition_filter(where: filters.Filter) -> models.Filter:
    """A filter with all its conditions."""
    return models.Filter(must=_all(where.must), should=_all(where.should), must_not=_all(where.must_not))


def _all(conditions: Iterable[filters.Condition]) -> list[models.Condition] | None:
    return [_condition(condition) for condition in conditions] or None


def _condition(condition: filters.Condition) -> models.Condition:
    if isinstance(condition, filters.Filter):
        return condition_filter(condition)
    key = f"{layout.FIELDS}.{condition.field}"
    match condition:
        case filters.Equals(_, value):
            return models.FieldCondition(key=key, match=models.MatchValue(value=value))
        case filters.AnyOf(_, values):
            some: Any = list(values)
            return models.FieldCondition(key=key, match=models.MatchAny(any=some))
        case filters.Range(_, gt, gte, lt, lte):
            return models.FieldCondition(key=key, range=models.Range(gt=gt, gte=gte, lt=lt, lte=lte))
        case filters.TimeRange(_, gt, gte, lt, lte):
            return models.FieldCondition(key=key, range=models.DatetimeRange(gt=gt, gte=gte, lt=lt, lte=lte))
        case filters.Exists():
            return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key))])
        case filters.Prefix(_, value):
            return models.FieldCondition(key=key, match=models.MatchPrefix(prefix=value))
        case filters.Words(_, value):
            return models.FieldCondition(key=key, match=models.MatchText(text=value))
