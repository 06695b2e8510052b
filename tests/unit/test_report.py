"""A run's report: what it says, how much of it, and the page."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.domain.data import Judged
from services.trainer.domain.details import NDCG, Gate, read
from services.trainer.process.detailing import told
from services.trainer.process.evaluating import scores
from services.trainer.reporting.page import render
from services.trainer.reporting.report import (
    EXTREMES,
    MOST_POINTS,
    MOST_QUERIES,
    Report,
    build,
    label,
    sentence,
    thinned,
)
from tests.support import details as made

# gRPC's own limit, which is far below ours.
FOUR_MIB = 4 * 1024 * 1024
SECTIONS = {
    "data": "data",
    "config": "config",
    "training": "training",
    "mix": "mix",
    "blend": "blend",
    "held_out": "gains",
    "scores": "distributions",
    "guard": "guard",
    "pairs": "classification",
    "seconds": "seconds",
}


QUERIES = 120
ROW = made.row(made.encoder(QUERIES))


def everything(queries: int = QUERIES) -> dict[str, Any]:
    judged = {part: of for part, of in made.reranker().items() if part in ("pairs", "blend", "blend_chosen")}
    return {**made.encoder(queries), **judged}


def report(details: dict[str, Any] | None = None) -> Report:
    return build(made.FACTS, ROW, made.encoder(QUERIES) if details is None else details)


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.addresses.append(value or "")
            assert not name.startswith("on"), "a script in an attribute"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_sentence_has_the_verdict_with_its_numbers() -> None:
    gate = Gate.model_validate(ROW["gate"])
    said = sentence(made.FACTS, gate)
    assert re.fullmatch(
        r"Promoted \(better\): on 120 held-out queries nDCG@10 at 384 dimensions went from 0\.\d{3} to 0\.\d{3}, "
        r"a difference of \+0\.\d{3} \(95 % interval \+0\.\d{3} to \+0\.\d{3}\)\.",
        said,
    )
    assert sentence(replace(made.FACTS, dry_run=True), gate).startswith("Better, not published because it was a dry")
    worse = gate.model_copy(update={"verdict": "reject", "reason": "worse at 64 dimensions; and so on"})
    assert sentence(made.FACTS, worse).startswith("Rejected (worse at 64 dimensions): on 120")
    failed = replace(made.FACTS, state="failed", message="disk full")
    assert sentence(failed, gate).startswith("The gate said promote (better), then the run failed: on 120")
    assert sentence(failed, None) == "Failed without a verdict: disk full"
    bare = Gate(verdict="inconclusive", reason="too few", queries=3)
    assert sentence(made.FACTS, bare) == "Inconclusive (too few)."


def test_gains_are_the_best_and_the_worst_ten() -> None:
    details = made.encoder()
    before, after = (details["held_out"][when]["384"][NDCG] for when in ("before", "after"))
    differences = [b - a for a, b in zip(before, after, strict=True)]
    gains = report().gains
    assert gains is not None
    assert gains.differences == sorted(differences, reverse=True)
    assert (gains.better, gains.worse) == (sum(d > 0 for d in differences), sum(d < 0 for d in differences))
    assert [q.difference for q in gains.best] == sorted(differences, reverse=True)[:EXTREMES]
    assert [q.difference for q in gains.worst] == sorted(differences)[:EXTREMES]
    assert gains.best[0].shown.relevant == ["Owls"]


def test_of_equal_gains_those_with_texts_are_shown() -> None:
    judged = [Judged(f"q{i}", {"d": 1.0}) for i in range(60)]
    other = [f"x{i}" for i in range(10)]
    there, not_there = ["d", *other[:9]], other
    old = [not_there if i % 2 else there for i in range(60)]
    new = [there if i % 2 else not_there for i in range(60)]
    found = told(judged, old, new, {name: f"text of {name}" for name in ("d", *other)})
    asked = {one.query: one.relevant for one in judged}
    before, after = scores(asked, lambda _: old, [8]), scores(asked, lambda _: new, [8])
    held_out = {"queries": list(asked), "before": {"8": before[8]}, "after": {"8": after[8]}, **found}
    gains = report({**made.encoder(QUERIES), "held_out": held_out}).gains
    assert gains
    assert len(gains.best) == len(gains.worst) == EXTREMES
    assert all(one.shown.relevant for one in (*gains.best, *gains.worst))


def test_a_query_that_stayed_the_same_is_neither_gain_nor_loss() -> None:
    scores = {"32": {NDCG: [0.5, 0.1 + 0.2]}}, {"32": {NDCG: [0.6, 0.3]}}
    gains = report({"held_out": {"queries": ["a", "b"], "before": scores[0], "after": scores[1]}}).gains
    assert gains is not None
    assert (gains.better, gains.same, gains.worse) == (1, 1, 0)
    assert ([q.query for q in gains.best], gains.worst) == (["a"], [])


@given(st.lists(st.integers(), min_size=1, max_size=300), st.integers(2, 50))
def test_thinning_keeps_the_ends_and_the_order(items: list[int], most: int) -> None:
    places = thinned(range(len(items)), most)
    assert len(places) == min(most, len(items))
    assert (places[0], places[-1]) == (0, len(items) - 1)
    assert places == sorted(set(places))


def test_metrics_have_the_names_that_people_write() -> None:
    assert [label(name) for name in ("ndcg@10", "recall@5", "auc")] == ["nDCG@10", "Recall@5", "AUC"]


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("training", [{"step": 1, "epoch": 0.1, "loss": float("nan")}], "training.0.loss"),
        ("mix", "much", "mix: "),
        ("mix_chosen", 2, "mix_chosen"),
        ("guard", {"queries": 1, "before": {"8": {"ndcg@10": [1]}}, "after": {"8": {"ndcg@10": []}}}, "guard"),
        ("held_out", {"queries": ["a"], "before": {"8": {"ndcg@10": []}}, "after": {}}, "held_out"),
        ("pairs", {"labels": [1, 0], "before": [0.1], "after": [0.1, 0.2]}, "pairs"),
        ("pairs", {"labels": [1], "before": [-3.5], "after": [4.0]}, "pairs.before.0"),
        ("data", [], "data"),
        ("config", 3, "config"),
    ],
)
def test_a_part_that_does_not_hold_together_is_named_and_the_rest_is_told(part: str, value: Any, said: str) -> None:
    whole = everything()
    found, wrong = read(whole | {part: value})
    assert len(wrong) == 1
    assert wrong[0].startswith(said)
    assert found.seconds == whole["seconds"]
    assert not getattr(found, part)
    assert report(whole | {part: value}).notes[0].startswith(f"Left out, because it can't be read: {said}")


LEAVES = st.none() | st.floats() | st.text(max_size=5) | st.integers()
ANYTHING = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(max_size=5), LEAVES, max_size=3)


@given(st.dictionaries(st.sampled_from([*everything(), "other"]), ANYTHING, max_size=4))
def test_whatever_the_details_are_there_is_a_report(details: dict[str, Any]) -> None:
    json.loads(report(details).as_json())


@pytest.mark.parametrize("left_out", [*SECTIONS, None, "all"])
def test_a_section_is_there_exactly_when_its_part_is(left_out: str | None) -> None:
    details = everything(queries=12)
    if left_out == "training":
        del details["validation"]
    details = {} if left_out == "all" else {name: part for name, part in details.items() if name != left_out}
    page = Page(render(report(details)))
    expected = {"verdict", "run", "gate"} | {SECTIONS[part] for part in SECTIONS if part in details}
    there = {name for name in page.ids if name in {*SECTIONS.values(), "verdict", "run", "gate"}}
    assert there == expected
    assert ("judged" in page.ids) == ("held_out" in details)


def test_the_page_needs_nothing_and_shows_words_as_they_are() -> None:
    content = render(report(everything()))
    page = Page(content)
    assert page.addresses
    assert all(re.fullmatch(r"#[\w-]+", address) for address in page.addresses)
    assert not {"script", "link", "iframe", "img", "object", "embed", "form", "base", "b>"} & set(page.tags)
    assert not re.search(rb"url\((?!#)|@import", content)
    assert set(re.findall(rb"\w+://[\w.]+", content)) == {b"http://www.w3.org"}, "names of XML's, not addresses"
    assert "about <script>alert(" in page.text
    assert "<b>Mice</b> 0" in page.text
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("figure") == page.tags.count("figcaption") == page.tags.count("svg") == 11


def test_what_a_mix_had_forgotten_is_told_where_it_was_asked() -> None:
    whole = everything()
    assert "-0.012 with 1 of the new weights." in Page(render(report(whole))).text
    # By the guard set alone, without queries that steer.
    page = Page(render(report(whole | {"mix": [{"weight": 0.5, "guard": -0.2}, {"weight": 0.25, "guard": -0.1}]})))
    assert "-0.200 with 0.5 of the new weights; -0.100 with 0.25 of the new weights." in page.text
    assert page.tags.count("svg") == 10


def test_a_reranker_has_no_dimensions() -> None:
    details = made.reranker()
    page = Page(render(build(made.FACTS, made.row(details), details)))
    assert "on 120 held-out queries nDCG@10 went from" in page.text
    assert "75 queries got better, 0 stayed the same and 45 got worse." in page.text
    assert "score of a query and a document (0 to 1)" in page.text
    assert "reranked" in page.text
    assert "chosen was a share of 0.4." in page.text


def test_a_run_known_by_its_row_alone_has_a_page() -> None:
    failed = replace(made.FACTS, state="failed", message="<i>disk</i> full")
    page = Page(render(build(failed, {}, {"data": "<b>"}, ["a remark"])))
    assert "Failed without a verdict: <i>disk</i> full" in page.text
    assert "a remark" in page.text
    assert "it can't be read: data: " in page.text
    assert "figure" not in page.tags


def test_the_same_run_gives_the_same_bytes() -> None:
    assert render(report(everything())) == render(report(everything()))
    assert report(everything()).as_json() == report(everything()).as_json()


def grow(details: dict[str, Any]) -> dict[str, Any]:
    """Details of a run beyond all measure."""
    many, long = 20_000, "\N{PILE OF POO}\x00" * 5_000
    scores = {str(size): {NDCG: [0.5, 0.25] * (many // 2)} for size in range(1, 200)}
    details["held_out"] |= {
        "queries": [f"{n} {long[:400]}" for n in range(many)],
        "before": {"8": {NDCG: [0.5] * many}},
        "after": {"8": {NDCG: [n / many for n in range(many)]}},
        "shown": {f"{n} {long[:400]}": {"before": [long] * 50} for n in range(many - 5, many)},
    }
    details["guard"] |= {"name": long, "queries": 4, "before": {}, "after": {}}
    for size in scores:
        details["guard"]["before"][size] = details["guard"]["after"][size] = {NDCG: [0.1, 0.2]}
    details["training"] = [{"step": n, "epoch": n, "loss": 1.0} for n in range(50_000)]
    details["pairs"] = {
        "labels": [0, 1] * 20_000,
        "before": [n / 40_000 for n in range(40_000)],
        "after": [n / 40_000 for n in range(40_000)],
    }
    details["config"] = {f"{n} {long}": [long] for n in range(1_000)}
    details["seconds"] = {f"{n} {long}": 1.0 for n in range(1_000)}
    details["data"]["policy"] = details["config"]
    return details


@pytest.fixture(scope="module")
def huge() -> Report:
    return report(grow(everything()))


@pytest.mark.parametrize("form", [render, Report.as_json], ids=["page", "json"])
def test_i10_a_report_is_bounded_whatever_the_run_was(huge: Report, form: Callable[[Report], bytes]) -> None:
    assert len(form(huge)) < FOUR_MIB


def test_what_was_cut_is_said(huge: Report) -> None:
    assert len(huge.training) == MOST_POINTS
    assert (huge.training[0].step, huge.training[-1].step) == (0, 49_999)
    assert len(huge.queries) == MOST_QUERIES
    assert huge.gains is not None
    assert huge.gains.better + huge.gains.same + huge.gains.worse == 20_000
    assert f"Of 50,000 points of the loss {MOST_POINTS} are shown." in huge.notes
    assert f"Of 20,000 queries in the JSON form {MOST_QUERIES} are shown." in huge.notes


def test_the_json_form_has_what_the_page_has() -> None:
    content = json.loads(report(everything()).as_json())
    assert content["sentence"] == report().sentence
    assert content["gate"]["metrics"][0]["metric"] == NDCG
    assert content["validation"][0][NDCG] == pytest.approx(0.6)
    assert content["gains"]["best"][0]["shown"]["relevant"] == ["Owls"]
    assert (
        content["classification"]["after"]["rates"]["accuracy"]
        > content["classification"]["before"]["rates"]["accuracy"]
    )
    assert len(content["queries"]) == 120
