"""Conditions on payloads: what they are, and which make sense for which fields."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from services.kit.errors import InvalidArgument, Violation
from services.search.domain.model import FieldType

MAX_CONDITIONS = 100
MAX_DEPTH = 5


@dataclass(frozen=True)
class Equals:
    """The field, or one of its elements, is this."""

    field: str
    value: str | int | bool


@dataclass(frozen=True)
class AnyOf:
    """The field, or one of its elements, is one of these: all strings or all whole numbers."""

    field: str
    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True)
class Range:
    """Bounds of a number; None where there is none."""

    field: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True)
class TimeRange:
    """Bounds of a moment; None where there is none."""

    field: str
    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None


@dataclass(frozen=True)
class Exists:
    """The field has a value that is neither null nor an empty list."""

    field: str


@dataclass(frozen=True)
class Prefix:
    """The string begins so."""

    field: str
    value: str


@dataclass(frozen=True)
class Words:
    """All of these words occur."""

    field: str
    value: str


@dataclass(frozen=True)
class Filter:
    """Meets every ``must``, no ``must_not``, and, where there are any, one ``should``."""

    must: tuple["Condition", ...] = ()
    should: tuple["Condition", ...] = ()
    must_not: tuple["Condition", ...] = ()


FieldCondition = Equals | AnyOf | Range | TimeRange | Exists | Prefix | Words
Condition = FieldCondition | Filter

_NAMES = {
    Equals: "equals",
    AnyOf: "any_of",
    Range: "range",
    TimeRange: "time_range",
    Prefix: "prefix",
    Words: "text",
}
_ALLOWED: dict[FieldType, tuple[type, ...]] = {
    FieldType.KEYWORD: (Equals, AnyOf, Prefix),
    FieldType.INTEGER: (Equals, AnyOf, Range),
    FieldType.FLOAT: (Range,),
    FieldType.BOOL: (Equals,),
    FieldType.DATETIME: (TimeRange,),
    FieldType.TEXT: (Words,),
}
_VALUES: dict[FieldType, type] = {FieldType.KEYWORD: str, FieldType.INTEGER: int, FieldType.BOOL: bool}


def check(given: Filter, fields: Mapping[str, FieldType]) -> None:
    """Raise ``InvalidArgument`` with all that is wrong with a filter for these declared fields."""
    conditions = list(_walk(given, 1))
    if len(conditions) > MAX_CONDITIONS:
        raise InvalidArgument(Violation("filter", f"has {len(conditions)} conditions; the most is {MAX_CONDITIONS}"))
    wrong = [violation for condition in conditions if (violation := _wrong(condition, fields))]
    if wrong:
        raise InvalidArgument(*wrong)


def used(given: Filter | None) -> set[str]:
    """The fields that a filter reads."""
    return {condition.field for condition in _walk(given, 1)} if given else set()


def _walk(given: Filter, depth: int) -> Iterator[FieldCondition]:
    if depth > MAX_DEPTH:
        raise InvalidArgument(Violation("filter", f"is nested more than {MAX_DEPTH} deep; write it flatter"))
    for condition in (*given.must, *given.should, *given.must_not):
        if isinstance(condition, Filter):
            yield from _walk(condition, depth + 1)
        else:
            yield condition


def _wrong(condition: FieldCondition, fields: Mapping[str, FieldType]) -> Violation | None:
    name = condition.field
    kind = fields.get(name)
    if kind is None:
        declared = ", ".join(sorted(fields)) or "none"
        remedy = f"the collection declares {declared}; declare it by UpdateCollection"
        return Violation("filter", f"names the field {name!r}; {remedy}")
    if isinstance(condition, Exists):
        return None
    if not isinstance(condition, _ALLOWED[kind]):
        allowed = ", ".join(_NAMES[test] for test in _ALLOWED[kind])
        return Violation(
            "filter", f"tests the {kind.value} field {name!r} by {_NAMES[type(condition)]}; use {allowed} or exists"
        )
    if isinstance(condition, Range | TimeRange):
        bounds = (condition.gt, condition.gte, condition.lt, condition.lte)
        if all(bound is None for bound in bounds):
            return Violation("filter", f"has a range without bounds for {name!r}; give gt, gte, lt or lte")
        if any(isinstance(bound, float) and not math.isfinite(bound) for bound in bounds):
            return Violation("filter", f"has a bound for {name!r} that is not a finite number; leave it out")
        return None
    values = condition.values if isinstance(condition, AnyOf) else (condition.value,)
    if not values:
        return Violation("filter", f"has an empty any_of for {name!r}; give at least one value")
    # bool is an int to Python, but not to a caller
    expected = _VALUES.get(kind, str)
    bad = next((value for value in values if type(value) is not expected), None)
    if bad is not None:
        return Violation("filter", f"compares the {kind.value} field {name!r} with {bad!r}; give a {expected.__name__}")
    if any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in values):
        return Violation("filter", f"compares {name!r} with a number of more than 64 bits; use a range")
    if isinstance(condition, Words | Prefix) and not condition.value.strip():
        return Violation("filter", f"has an empty {_NAMES[type(condition)]} for {name!r}")
    return None
