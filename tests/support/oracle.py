"""What filters mean, in plain Python after the words of `filter.proto`, and random ones to compare engines with."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from services.search.domain import filters
from services.search.domain.filters import Filter
from services.search.domain.model import FieldType

# One declared field of each kind.
FIELDS = {kind.value: kind for kind in FieldType}


def passes(payload: Mapping[str, Any], given: Filter) -> bool:
    """Whether the payload passes: every must, no must_not, and one should where there are any."""
    return (
        all(_meets(payload, condition) for condition in given.must)
        and not any(_meets(payload, condition) for condition in given.must_not)
        and (not given.should or any(_meets(payload, condition) for condition in given.should))
    )


def _meets(payload: Mapping[str, Any], condition: filters.Condition) -> bool:
    if isinstance(condition, Filter):
        return passes(payload, condition)
    value = payload.get(condition.field)
    if isinstance(condition, filters.Exists):
        return value is not None and value != []
    # A list meets a condition if one of its elements does.
    return any(_is(element, condition) for element in (value if isinstance(value, list) else [value]))


def _is(value: Any, condition: filters.FieldCondition) -> bool:
    match condition:
        case filters.Equals(_, wanted):
            return type(value) is type(wanted) and bool(value == wanted)
        case filters.AnyOf(_, wanted):
            return any(type(value) is type(one) and value == one for one in wanted)
        case filters.Range(_, gt, gte, lt, lte):
            return type(value) in (int, float) and _within(value, gt, gte, lt, lte)
        case filters.TimeRange(_, gt, gte, lt, lte):
            return isinstance(value, str) and _within(datetime.fromisoformat(value), gt, gte, lt, lte)
        case filters.Prefix(_, wanted):
            return isinstance(value, str) and value.startswith(wanted)
        case filters.Words(_, wanted):
            return isinstance(value, str) and set(wanted.lower().split()) <= set(value.lower().split())
        case _:
            raise AssertionError(condition)


def _within(value: Any, gt: Any, gte: Any, lt: Any, lte: Any) -> bool:
    return (
        (gt is None or value > gt)
        and (gte is None or value >= gte)
        and (lt is None or value < lt)
        and (lte is None or value <= lte)
    )


_STRINGS = st.text("ab", max_size=3)
_NAMES = st.text("ab", min_size=1, max_size=2)
_INTEGERS = st.integers(-3, 3)
_NUMBERS = st.integers(-2, 2) | st.sampled_from([-1.5, -0.5, 0.25, 1.5])
_SENTENCES = st.lists(st.sampled_from(["red", "Red", "FOX", "fox", "foxes", "café"]), max_size=3).map(" ".join)
_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=2)), timezone(-timedelta(hours=3, minutes=30))])
_MOMENTS = st.builds(
    lambda hours, micros, zone: (datetime(2024, 2, 29, tzinfo=UTC) + timedelta(hours=hours, microseconds=micros))
    .astimezone(zone),
    st.integers(-3, 3),
    st.sampled_from([0, 1, 500_000]),
    _ZONES,
)  # fmt: skip
_VALUES: dict[FieldType, st.SearchStrategy[Any]] = {
    FieldType.KEYWORD: _STRINGS,
    FieldType.INTEGER: _INTEGERS,
    FieldType.FLOAT: _NUMBERS,
    FieldType.BOOL: st.booleans(),
    FieldType.DATETIME: _MOMENTS.map(datetime.isoformat),
    FieldType.TEXT: _SENTENCES,
}


def _field(kind: FieldType) -> st.SearchStrategy[Any]:
    """A value, a list of values, some of them null, null, or one of quite another kind."""
    value = _VALUES[kind]
    other = st.sampled_from([{"a": 1}, {}, "x" if kind in (FieldType.INTEGER, FieldType.FLOAT, FieldType.BOOL) else 7])
    # Only servers and the embedded engine look for words in all texts of a list together: a test of its own.
    longest = 1 if kind is FieldType.TEXT else 3
    return st.one_of(value, value, st.lists(value | st.none() | other, max_size=longest), st.none(), other)


PAYLOADS = st.fixed_dictionaries({}, optional={name: _field(kind) for name, kind in FIELDS.items()})


def _bounds(of: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.fixed_dictionaries({}, optional=dict.fromkeys(("gt", "gte", "lt", "lte"), of))
    return bounds.filter(bool)


def _tests() -> Iterator[st.SearchStrategy[filters.Condition]]:
    yield st.sampled_from([*FIELDS]).map(filters.Exists)
    yield _STRINGS.map(lambda value: filters.Equals("keyword", value))
    yield st.lists(_STRINGS, min_size=1, max_size=3).map(lambda values: filters.AnyOf("keyword", tuple(values)))
    yield _NAMES.map(lambda value: filters.Prefix("keyword", value))
    yield _INTEGERS.map(lambda value: filters.Equals("integer", value))
    yield st.lists(_INTEGERS, min_size=1, max_size=3).map(lambda values: filters.AnyOf("integer", tuple(values)))
    yield st.booleans().map(lambda value: filters.Equals("bool", value))
    yield st.builds(
        lambda field, bounds: filters.Range(field, **bounds), st.sampled_from(["integer", "float"]), _bounds(_NUMBERS)
    )
    yield _bounds(_MOMENTS).map(lambda bounds: filters.TimeRange("datetime", **bounds))
    yield _SENTENCES.filter(bool).map(lambda value: filters.Words("text", value))


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, max_size=3).map(tuple)
    return st.builds(Filter, some, some, some)


FILTERS: st.SearchStrategy[Filter] = _nested(st.recursive(st.one_of(*_tests()), _nested, max_leaves=6))
