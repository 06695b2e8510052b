"""Filters as people write them."""

import re
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from diapason.cli.filters import escape, parse
from diapason.cli.output import Problem
from diapason.search.v1 import collection_pb2 as pb
from diapason.search.v1.filter_pb2 import Condition, Filter

FIELDS = {
    "genre": pb.FIELD_TYPE_KEYWORD,
    "year": pb.FIELD_TYPE_INTEGER,
    "rating": pb.FIELD_TYPE_FLOAT,
    "seen": pb.FIELD_TYPE_BOOL,
    "shown": pb.FIELD_TYPE_DATETIME,
    "plot": pb.FIELD_TYPE_TEXT,
}


def one(written: str) -> Condition:
    found = parse([written], "films", FIELDS)
    assert found is not None
    [condition] = found.must
    return condition


def without(condition: dict[str, Any]) -> dict[str, Any]:
    return {"filter": {"must_not": [condition]}}


DAY = {"gte": "1990-12-31T00:00:00Z", "lt": "1991-01-01T00:00:00Z"}
NOON = "1990-12-31T12:00:00Z"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("genre=comedy", {"field": "genre", "equals": "comedy"}),
        ("  genre =  dark comedy ", {"field": "genre", "equals": "dark comedy"}),
        ("genre=", None),
        ("genre!=horror", without({"field": "genre", "equals": "horror"})),
        ("!genre=horror", without({"field": "genre", "equals": "horror"})),
        ("!genre!=horror", {"field": "genre", "equals": "horror"}),
        ("genre=comedy|drama", {"field": "genre", "any_of": ["comedy", "drama"]}),
        ("genre!=comedy | drama", without({"field": "genre", "any_of": ["comedy", "drama"]})),
        (r"genre=a\|b|c\\", {"field": "genre", "any_of": ["a|b", "c\\"]}),
        ("genre==x", {"field": "genre", "equals": "=x"}),
        ("genre=true", {"field": "genre", "equals": "true"}),
        ("genre=1990", {"field": "genre", "equals": "1990"}),
        ("genre^=the", {"field": "genre", "prefix": "the"}),
        (
            "genre^=a|b",
            {"filter": {"should": [{"field": "genre", "prefix": "a"}, {"field": "genre", "prefix": "b"}]}},
        ),
        ("genre?", {"field": "genre", "exists": True}),
        ("!genre?", {"field": "genre", "exists": False}),
        ("year=1990", {"field": "year", "equals": 1990}),
        ("year=-5", {"field": "year", "equals": -5}),
        ("year=1990|1991", {"field": "year", "any_of": [1990, 1991]}),
        ("year>=1990", {"field": "year", "range": {"gte": 1990}}),
        ("year>1990.5", {"field": "year", "range": {"gt": 1990.5}}),
        ("year<2000", {"field": "year", "range": {"lt": 2000}}),
        ("!year<=2000", without({"field": "year", "range": {"lte": 2000}})),
        ("rating=7.5", {"field": "rating", "range": {"gte": 7.5, "lte": 7.5}}),
        ("rating!=7.5", without({"field": "rating", "range": {"gte": 7.5, "lte": 7.5}})),
        ("rating>1e3", {"field": "rating", "range": {"gt": 1000}}),
        ("seen=true", {"field": "seen", "equals": True}),
        ("seen!=false", without({"field": "seen", "equals": False})),
        (
            "seen=true|false",
            {"filter": {"should": [{"field": "seen", "equals": True}, {"field": "seen", "equals": False}]}},
        ),
        (f"shown>={NOON}", {"field": "shown", "time_range": {"gte": NOON}}),
        ("shown<1990-12-31T13:00:00+01:00", {"field": "shown", "time_range": {"lt": NOON}}),
        (f"shown={NOON}", {"field": "shown", "time_range": {"gte": NOON, "lte": NOON}}),
        ("shown=1990-12-31", {"field": "shown", "time_range": DAY}),
        ("shown>1990-12-31", {"field": "shown", "time_range": {"gte": DAY["lt"]}}),
        ("shown>=1990-12-31", {"field": "shown", "time_range": {"gte": DAY["gte"]}}),
        ("shown<1990-12-31", {"field": "shown", "time_range": {"lt": DAY["gte"]}}),
        ("shown<=1990-12-31", {"field": "shown", "time_range": {"lt": DAY["lt"]}}),
        ("plot~last train", {"field": "plot", "text": "last train"}),
        ("!plot~war", without({"field": "plot", "text": "war"})),
    ],
)
def test_what_is_written_means_this(written: str, meant: dict[str, Any] | None) -> None:
    if meant is None:
        with pytest.raises(Problem, match="empty value"):
            one(written)
    else:
        assert one(written) == ParseDict(meant, Condition())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("comedy", "is not understood; write FIELD=VALUE"),
        ("", "is not understood"),
        ("9=x", "is not understood"),
        ("genre?x", "is not understood"),
        ("colour=red", "films declares no field 'colour' but genre (keyword), plot (text)"),
        ("colour=red", "declare it with `diapason collections update films --field colour:TYPE`"),
        ("genre>=a", "genre is keyword, which >= does not test; use genre=, genre!=, genre^=, genre?"),
        ("plot=war", "plot is text, which = does not test; use plot~, plot?"),
        ("seen^=t", "seen is bool, which ^= does not test"),
        ("genre=a||b", "has an empty value; give one after = and each |"),
        ("genre^=", "has an empty value; give one after ^="),
        ("year=1990.5", "year is integer, which '1990.5' is not; give a whole number"),
        ("year=9007199254740993", "give a whole number, at most 2^53"),
        ("year>=soon", "year is a number, which 'soon' is not"),
        ("year>=1|2", "has 2 values; give one after >="),
        ("rating<nan", "rating is a number, which 'nan' is not"),
        ("rating<1_0", "rating is a number, which '1_0' is not"),
        ("seen=yes", "seen is bool, which 'yes' is not; give true or false"),
        ("shown>1990", "shown is datetime, which '1990' is not; give a day such as 1990-12-31"),
        ("shown>1990-13-01", "shown is datetime, which '1990-13-01' is not"),
        ("shown>9999-12-31", "shown is datetime, which '9999-12-31' is not"),
        ("shown>1990-12-31T12:00:00", "shown is datetime"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_possible(written: str, said: str) -> None:
    with pytest.raises(Problem, match=re.escape(said)) as problem:
        parse(["genre=fine", written], "films", FIELDS)
    assert str(problem.value).startswith(f"--filter {written!r}: ")


def test_all_must_hold_and_none_is_no_filter() -> None:
    assert parse([], "films", FIELDS) is None
    found = parse(["year>=1990", "year<2000", "genre!=war"], "films", FIELDS)
    assert found is not None
    assert found == Filter(must=[one("year>=1990"), one("year<2000"), one("genre!=war")])


values = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


@given(st.lists(values, min_size=1, max_size=4))
def test_any_texts_come_through_when_escaped(texts: list[str]) -> None:
    found = one("genre=" + "|".join(map(escape, texts)))
    if len(texts) == 1:
        assert found.equals.string_value == texts[0]
    else:
        assert [value.string_value for value in found.any_of.values] == texts


@given(st.integers(-(2**53), 2**53))
def test_any_whole_number_comes_through(number: int) -> None:
    assert one(f"year={number}").equals.number_value == number


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["<", "<=", ">", ">="]))
def test_any_number_comes_through(number: float, test: str) -> None:
    [(_, bound)] = one(f"rating {test} {number!r}").range.ListFields()
    assert bound == number


def understood_or_refused(written: str) -> None:
    with suppress(Problem):
        parse([written], "films", FIELDS)


@given(st.text())
def test_whatever_is_written_is_a_filter_or_a_problem(written: str) -> None:
    understood_or_refused(written)


@given(st.sampled_from(list(FIELDS)), st.sampled_from(["=", "!=", ">", "<=", "^=", "~", "?"]), st.text(max_size=30))
def test_whatever_a_field_is_compared_with_is_a_filter_or_a_problem(field: str, test: str, value: str) -> None:
    understood_or_refused(field + test + value)
