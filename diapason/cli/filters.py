"""What `--filter` means: conditions on a collection's declared fields, as people write them.

| written            | passes where                                          | fields                        |
| ------------------ | ----------------------------------------------------- | ----------------------------- |
| `genre=comedy`     | the value is this                                     | all but text                  |
| `genre!=horror`    | it is not this, or there is none                      | all but text                  |
| `year>=1990`       | it is as great, likewise `>`, `<=`, `<`               | integer, float, datetime      |
| `name^=the`        | it begins so                                          | keyword                       |
| `plot~last train`  | all of these words occur                              | text                          |
| `colour?`          | there is a value                                      | all                           |
| `!colour?`         | not; `!` goes before every one of these               | all                           |
| `genre=comedy|war` | one of several                                        | with `=`, `!=`, `^=` and `~`  |

A field that holds a list passes if one of its elements does. A date alone means the whole day, in UTC. A bar
within a value is written with a backslash before it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import NoReturn

from google.protobuf.timestamp_pb2 import Timestamp

from diapason.cli.output import Problem
from diapason.search.v1 import collection_pb2
from diapason.search.v1.collection_pb2 import FieldType
from diapason.search.v1.filter_pb2 import Condition, Filter, Range, TimeRange

_FORMS = "FIELD=VALUE, FIELD!=VALUE, FIELD>=VALUE, FIELD<VALUE, FIELD^=PREFIX, FIELD~WORDS, FIELD? or !FIELD?"
_WRITTEN = re.compile(
    r"\s*(?P<no>!?)\s*(?P<field>[A-Za-z_]\w*)\s*(?P<test>>=|<=|!=|\^=|[=><~?])\s*(?P<value>.*?)\s*",
    re.DOTALL | re.ASCII,
)
# An escaped character, or any other.
_PIECE = re.compile(r"\\[\\|]|.", re.DOTALL)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_TESTS = {
    collection_pb2.FIELD_TYPE_KEYWORD: ("=", "!=", "^=", "?"),
    collection_pb2.FIELD_TYPE_INTEGER: ("=", "!=", *_BOUNDS, "?"),
    collection_pb2.FIELD_TYPE_FLOAT: ("=", "!=", *_BOUNDS, "?"),
    collection_pb2.FIELD_TYPE_BOOL: ("=", "!=", "?"),
    collection_pb2.FIELD_TYPE_DATETIME: ("=", "!=", *_BOUNDS, "?"),
    collection_pb2.FIELD_TYPE_TEXT: ("~", "?"),
}
# Beyond it not every whole number has a double of its own, which is what the contract carries.
_MOST_WHOLE = 2**53

Fields = Mapping[str, FieldType.ValueType]


class _Bad(ValueError):
    """What is wrong with a filter, without its beginning."""


def parse(written: Sequence[str], collection: str, fields: Fields) -> Filter | None:
    """A filter that holds where each one written does; None for none. Raises ``Problem``."""
    conditions = []
    for one in written:
        try:
            conditions.append(_condition(one, collection, fields))
        except _Bad as bad:
            raise Problem(f"--filter {one!r}: {bad}") from bad
    return Filter(must=conditions) if conditions else None


def escape(value: str) -> str:
    """A value as it is written in a filter, where a bar parts alternatives."""
    return value.replace("\\", "\\\\").replace("|", "\\|")


def word(kind: FieldType.ValueType) -> str:
    """A field's type as people write it."""
    return FieldType.Name(kind).removeprefix("FIELD_TYPE_").lower()


def _condition(written: str, collection: str, fields: Fields) -> Condition:
    found = _WRITTEN.fullmatch(written)
    if not found or (found["test"] == "?" and found["value"]):
        raise _Bad(f"is not understood; write {_FORMS}")
    field, test = found["field"], found["test"]
    kind = _kind(field, test, collection, fields)
    if test == "?":
        return Condition(field=field, exists=not found["no"])
    values = _values(found["value"], test)
    made = [_TO_CONDITION[kind](field, "=" if test == "!=" else test, value) for value in values]
    meant = made[0] if len(made) == 1 else _any_of(field, made)
    if bool(found["no"]) != (test == "!="):
        return Condition(filter=Filter(must_not=[meant]))
    return meant


def _kind(field: str, test: str, collection: str, fields: Fields) -> FieldType.ValueType:
    """The field's type, which must know the test."""
    if field not in fields:
        there = ", ".join(f"{name} ({word(kind)})" for name, kind in sorted(fields.items())) or "none"
        raise _Bad(
            f"{collection} declares no field {field!r} but {there}; "
            f"declare it with `diapason collections update {collection} --field {field}:TYPE`"
        )
    kind = fields[field]
    if test not in _TESTS[kind]:
        known = ", ".join(f"{field}{each}" for each in _TESTS[kind])
        raise _Bad(f"{field} is {word(kind)}, which {test} does not test; use {known}")
    return kind


def _values(written: str, test: str) -> list[str]:
    """The alternatives, without their escapes; a bound has one value."""
    parts = [""]
    for piece in _PIECE.findall(written):
        if piece == "|":
            parts.append("")
        else:
            parts[-1] += piece[-1]
    values = [part.strip() for part in parts]
    if not all(values):
        raise _Bad(f"has an empty value; give one after {test}" + (" and each |" if len(values) > 1 else ""))
    if test in _BOUNDS and len(values) > 1:
        raise _Bad(f"has {len(values)} values; give one after {test}")
    return values


def _any_of(field: str, conditions: Sequence[Condition]) -> Condition:
    """Where one of them holds; as one test where the contract has one."""
    values = [condition.equals for condition in conditions]
    if all(value.WhichOneof("kind") in ("string_value", "number_value") for value in values):
        made = Condition(field=field)
        made.any_of.values.extend(values)
        return made
    return Condition(filter=Filter(should=conditions))


def _keyword(field: str, test: str, value: str) -> Condition:
    made = Condition(field=field)
    if test == "^=":
        made.prefix = value
    else:
        made.equals.string_value = value
    return made


def _text(field: str, _: str, value: str) -> Condition:
    return Condition(field=field, text=value)


def _bool(field: str, _: str, value: str) -> Condition:
    if value not in ("true", "false"):
        _wrong(field, "bool", value, "true or false")
    made = Condition(field=field)
    made.equals.bool_value = value == "true"
    return made


def _integer(field: str, test: str, value: str) -> Condition:
    if test in _BOUNDS:
        return _float(field, test, value)
    if not _WHOLE.fullmatch(value) or abs(int(value)) > _MOST_WHOLE:
        _wrong(field, "integer", value, "a whole number, at most 2^53")
    made = Condition(field=field)
    made.equals.number_value = int(value)
    return made


def _float(field: str, test: str, value: str) -> Condition:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not isfinite(number) or "_" in value:
        _wrong(field, "a number", value, "one such as 7 or 7.5")
    bounds = {"gte": number, "lte": number} if test == "=" else {_BOUNDS[test]: number}
    return Condition(field=field, range=Range(**bounds))


def _datetime(field: str, test: str, value: str) -> Condition:
    if _DATE.fullmatch(value):
        first, after = _day(field, value)
        # The whole day: later than it is from the next one on, up to it includes all of it.
        bounds = {
            "=": {"gte": first, "lt": after},
            ">": {"gte": after},
            ">=": {"gte": first},
            "<": {"lt": first},
            "<=": {"lt": after},
        }[test]
        return Condition(field=field, time_range=TimeRange(**bounds))
    moment = Timestamp()
    try:
        moment.FromJsonString(value)
    except ValueError:
        _wrong_time(field, value)
    return Condition(
        field=field,
        time_range=TimeRange(gte=moment, lte=moment) if test == "=" else TimeRange(**{_BOUNDS[test]: moment}),
    )


def _day(field: str, value: str) -> tuple[Timestamp, Timestamp]:
    ends = (Timestamp(), Timestamp())
    try:
        first = datetime.fromisoformat(value).replace(tzinfo=UTC)
        ends[0].FromDatetime(first)
        ends[1].FromDatetime(first + timedelta(days=1))
    except (ValueError, OverflowError):
        _wrong_time(field, value)
    return ends


def _wrong_time(field: str, value: str) -> NoReturn:
    _wrong(field, "datetime", value, "a day such as 1990-12-31, or a time such as 1990-12-31T12:00:00Z")


def _wrong(field: str, kind: str, value: str, remedy: str) -> NoReturn:
    raise _Bad(f"{field} is {kind}, which {value!r} is not; give {remedy}")


_TO_CONDITION: dict[FieldType.ValueType, Callable[[str, str, str], Condition]] = {
    collection_pb2.FIELD_TYPE_KEYWORD: _keyword,
    collection_pb2.FIELD_TYPE_INTEGER: _integer,
    collection_pb2.FIELD_TYPE_FLOAT: _float,
    collection_pb2.FIELD_TYPE_BOOL: _bool,
    collection_pb2.FIELD_TYPE_DATETIME: _datetime,
    collection_pb2.FIELD_TYPE_TEXT: _text,
}
