"""What is read of feedback: lists, counts and judgments, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from diapason.feedback.v1 import feedback_pb2 as pb
from tests.support.feedback import (
    Stub,
    exported,
    exported_whole,
    keys,
    listed,
    refused,
    said,
    serving,
    shown,
    submit,
    thumb,
)


@pytest.fixture
async def stub(catalog_url: str) -> AsyncIterator[Stub]:
    async with serving(catalog_url) as made:
        yield made


def ago(**time: float) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(datetime.now(UTC) - timedelta(**time))
    return made


# Lists


async def test_lists_are_filtered_newest_first_page_by_page(stub: Stub) -> None:
    await shown(stub)
    await submit(
        stub,
        said("k1", "d1", actor="u1", tenant="t1", time=ago(days=3)),
        said("k2", "d2", pb.SIGNAL_CLICK, actor="u1", time=ago(days=2)),
        said("k3", "d1", pb.SIGNAL_THUMBS_DOWN, query="another  query", actor="u2"),
        said("k4", "d1", collection="books", actor="u1"),
        thumb("k5", "d3"),
    )
    assert keys(await listed(stub)) == ["k5", "k4", "k3", "k2", "k1"]
    assert keys(await listed(stub, page_size=2)) == ["k5", "k4", "k3", "k2", "k1"]
    page = await stub.ListFeedback(pb.ListFeedbackRequest(page_size=2))
    assert (keys(page.feedback), bool(page.next_page_token)) == (["k5", "k4"], True)
    for filters, found in (
        ({"collection": "books"}, ["k4"]),
        ({"actor": "u1"}, ["k4", "k2", "k1"]),
        ({"actor": "u1", "tenant": "t1"}, ["k1"]),
        ({"actor": "u1", "tenant": ""}, ["k4", "k2"]),
        ({"query": " another query "}, ["k3"]),
        ({"document_id": "d1", "collection": "films"}, ["k3", "k1"]),
        ({"signals": [pb.SIGNAL_CLICK, pb.SIGNAL_THUMBS_DOWN]}, ["k3", "k2"]),
        ({"search_id": "s1"}, ["k5"]),
        ({"since": ago(days=2.5)}, ["k5", "k4", "k3", "k2"]),
        ({"until": ago(days=1)}, ["k2", "k1"]),
        ({"since": ago(days=2.5), "until": ago(days=1)}, ["k2"]),
        ({"actor": "nobody"}, []),
    ):
        assert keys(await listed(stub, **filters)) == found, filters


async def test_only_opinions_that_stand_are_listed_if_that_is_asked(stub: Stub) -> None:
    await submit(
        stub,
        said("changed", "d1", actor="u1"),
        said("stands", "d1", pb.SIGNAL_THUMBS_DOWN, actor="u1"),
        said("taken back", "d2", actor="u1"),
        said("withdrawal", "d2", pb.SIGNAL_WITHDRAWAL, actor="u1"),
        said("outranked", "d3", pb.SIGNAL_CLICK, actor="u1"),
        said("explicit", "d3", pb.SIGNAL_GRADE, value=0.5, actor="u1"),
        said("implicit", "d3", pb.SIGNAL_CLICK, actor="u2"),
        said("no opinion", "d3", pb.SIGNAL_COMMENT, actor="u2", reason="hm"),
        said("nameless", "d1"),
    )
    wanted = ["nameless", "implicit", "explicit", "stands"]
    for size in (0, 1, 2):
        assert keys(await listed(stub, current=True, page_size=size)) == wanted
    assert keys(await listed(stub, current=True, actor="u1")) == ["explicit", "stands"]
    assert keys(await listed(stub, current=True, signals=[pb.SIGNAL_THUMBS_UP])) == ["nameless"]


async def test_i10_a_page_of_long_texts_is_cut_to_what_a_message_takes(stub: Stub) -> None:
    texts = [f"{i} " + "x" * 3_990 for i in range(500)]
    await submit(stub, *(said(f"k{i}", query=text, reason="y" * 2_000) for i, text in enumerate(texts)))
    assert len((await stub.ListFeedback(pb.ListFeedbackRequest(page_size=1_000))).feedback) == 200
    found = await listed(stub, page_size=1_000)
    assert keys(found) == [f"k{i}" for i in reversed(range(500))]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (pb.ListFeedbackRequest(page_size=1001), "page_size"),
        (pb.ListFeedbackRequest(page_token="x"), "page_token"),
        (pb.ListFeedbackRequest(actor="a\0"), "actor"),
        (pb.ListFeedbackRequest(query="a\0"), "query"),
        (pb.ListFeedbackRequest(signals=[pb.SIGNAL_CLICK, pb.SIGNAL_UNSPECIFIED]), "signals[1]"),
    ],
)
async def test_lists_that_can_not_be_are_refused(stub: Stub, wrong: pb.ListFeedbackRequest, field: str) -> None:
    code, _, fields = await refused(lambda: stub.ListFeedback(wrong))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


# Counts


async def test_a_summary_counts_signals_people_and_days(stub: Stub) -> None:
    await shown(stub)
    await submit(
        stub,
        said("k1", actor="u1", time=ago(days=2)),
        said("k2", "d2", actor="u1", time=ago(days=2)),
        said("k3", signal=pb.SIGNAL_CLICK, actor="u2", query="other"),
        said("k4", actor="u1", tenant="t"),
        said("k5", collection="books", time=ago(days=40)),
    )
    await submit(stub, *(said(f"b{i}", f"b{i}", actor="robot", time=ago(days=1)) for i in range(150)))
    films = await stub.GetSummary(pb.GetSummaryRequest(collection="films"))
    assert (films.impressions, films.queries, films.actors, films.flagged_actors) == (1, 2, 4, 1)
    assert [(c.signal, c.count) for c in films.signals] == [(pb.SIGNAL_THUMBS_UP, 153), (pb.SIGNAL_CLICK, 1)]
    assert len(films.days) == 30
    assert [day.date for day in films.days] == sorted(day.date for day in films.days)
    assert {day.date: sum(c.count for c in day.signals) for day in films.days if day.signals} == {
        str((datetime.now(UTC) - timedelta(days=days)).date()): count for days, count in ((2, 2), (1, 150), (0, 2))
    }
    everything = await stub.GetSummary(pb.GetSummaryRequest())
    assert (everything.queries, everything.flagged_actors) == (3, 1)
    assert sum(c.count for day in everything.days for c in day.signals) == 154
    empty = await stub.GetSummary(pb.GetSummaryRequest(collection="none"))
    assert (empty.actors, len(empty.days), empty.HasField("last_feedback_time")) == (0, 30, False)


# Judgments


async def test_an_export_goes_on_where_it_stopped_whatever_was_added(stub: Stub) -> None:
    await shown(stub)
    await submit(stub, thumb("k1"), thumb("k2", "d2"), thumb("k3", "d3"))
    whole = await exported(stub)
    await shown(stub, "s0", "a first query")
    await submit(stub, thumb("k4", search_id="s0"))
    rest = await exported(stub, whole[0].cursor)
    assert [a.judgment.document_id for a in rest] == ["d2", "d3"]
    assert len(await exported(stub)) == 4


async def test_a_cursor_that_is_none_is_refused(stub: Stub) -> None:
    code, _, fields = await refused(lambda: exported(stub, "nonsense"))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["cursor"])


async def test_the_header_says_the_policy_with_all_its_numbers(stub: Stub) -> None:
    header = (await exported_whole(stub))[0].header
    assert (header.policy.name, header.policy.version, header.policy.changed) == ("thumbs", 1, False)
    assert [(t.signal, t.target, t.weight) for t in header.policy.targets] == [
        (pb.SIGNAL_THUMBS_UP, 1, 1), (pb.SIGNAL_THUMBS_DOWN, 0, 1), (pb.SIGNAL_GRADE, 0, 1)
    ]  # fmt: skip
    assert (header.policy.crowd.burst_events, header.policy.crowd.flood_opinions, header.up_to) == (60, 200, 0)


@pytest.mark.parametrize("name", ["thumbs", "distances", "clicks"])
async def test_a_resolved_policy_sent_back_gives_the_same(stub: Stub, name: str) -> None:
    await shown(stub)
    await submit(stub, thumb("k1"), thumb("k2", "d2", up=False), said("k3", "d3", pb.SIGNAL_CLICK, search_id="s1"))
    first, *judgments = await exported_whole(stub, policy=pb.JudgmentPolicy(name=name))
    again, *same = await exported_whole(stub, policy=first.header.policy)
    assert again == first
    assert same == judgments
    assert judgments


async def test_numbers_of_a_policy_may_be_changed(stub: Stub) -> None:
    await submit(stub, said("k1", actor="u1"), said("k2", signal=pb.SIGNAL_GRADE, value=1, actor="u2"))
    targets = [pb.SignalTarget(signal=pb.SIGNAL_THUMBS_UP, target=0.5, weight=3)]
    policy = pb.JudgmentPolicy(name="distances", targets=targets)
    first, answer = await exported_whole(stub, policy=policy)
    assert first.header.policy.changed
    assert first.header.policy.grades.best == 0.8
    assert (answer.judgment.target, answer.judgment.weight, answer.judgment.actors) == (0.5, 3, 1)


async def test_distances_aim_at_similarities(stub: Stub) -> None:
    await submit(
        stub,
        said("k1", "d1"),
        said("k2", "d2", pb.SIGNAL_THUMBS_DOWN),
        said("k3", "d3", pb.SIGNAL_GRADE, value=0.5),
        said("k4", "d4", pb.SIGNAL_CLICK),
    )
    found = await exported(stub, policy=pb.JudgmentPolicy(name="distances"))
    assert [a.judgment.target for a in found] == [0.8, -0.5, pytest.approx(0.15)]


async def test_clicks_speak_only_if_asked_and_weigh_by_where_they_fell(stub: Stub) -> None:
    await shown(stub, documents=10)
    await submit(stub, said("k1", "d3", pb.SIGNAL_CLICK, search_id="s1", actor="u1"))
    assert await exported(stub) == []
    found = await exported(stub, policy=pb.JudgmentPolicy(name="clicks"))
    assert [(a.judgment.document_id, a.judgment.target) for a in found] == [("d1", 0), ("d2", 0), ("d3", 1)]
    assert [a.judgment.weight for a in found] == [0.02, 0.02, pytest.approx(3 * 0.05)]


@pytest.mark.parametrize(
    ("policy", "field", "said_of_it"),
    [
        (pb.JudgmentPolicy(name="likes"), "policy.name", "'likes'; the known policies are clicks, distances, thumbs"),
        (pb.JudgmentPolicy(name="clicks", version=7), "policy.version", "is 7; of clicks there is 1"),
        (pb.JudgmentPolicy(targets=[pb.SignalTarget(weight=1)]), "policy.targets[0].signal", "missing or unknown"),
        (
            pb.JudgmentPolicy(targets=[pb.SignalTarget(signal=pb.SIGNAL_COMMENT, weight=1)]),
            "policy.targets",
            "COMMENT, which is no opinion",
        ),
        (
            pb.JudgmentPolicy(targets=[pb.SignalTarget(signal=pb.SIGNAL_CLICK, weight=-1)]),
            "policy.targets[CLICK].weight",
            "is -1; give 0 to 1000",
        ),
        (pb.JudgmentPolicy(grades=pb.GradeRange(best=float("nan"))), "policy.grades.best", "give -1 to 1"),
        (pb.JudgmentPolicy(crowd=pb.CrowdRules(burst_events=1)), "policy.crowd.flood_opinions", "is 0; give 1 to"),
    ],
)
async def test_policies_that_can_not_be_are_refused(
    stub: Stub, policy: pb.JudgmentPolicy, field: str, said_of_it: str
) -> None:
    code, message, fields = await refused(lambda: exported(stub, policy=policy))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert said_of_it in message


async def test_a_flood_is_flagged_and_weighs_as_much_as_all_others(stub: Stub) -> None:
    crowd = pb.CrowdRules(burst_events=1000, burst_weight=1, flood_opinions=5)
    policy = pb.JudgmentPolicy(crowd=crowd)
    await submit(stub, *(said(f"f{i}", f"d{i}", pb.SIGNAL_THUMBS_DOWN, actor="flooder") for i in range(40)))
    # Whoever is alone floods nobody.
    assert {a.judgment.weight for a in await exported(stub, policy=policy)} == {1.0}
    await submit(stub, *(said(f"h{i}", f"d{i}", actor=f"u{i}") for i in range(10)))
    first, *found = await exported_whole(stub, policy=policy)
    assert first.header.flagged_actors == 1
    assert sum(a.judgment.weight for a in found) == pytest.approx(10 + 10)
    assert all(a.judgment.flagged for a in found)
    assert all(a.judgment.target == pytest.approx(0.8) for a in found if a.judgment.actors == 2)


async def test_who_does_much_that_says_nothing_counts_as_much_as_anybody(stub: Stub) -> None:
    crowd = pb.CrowdRules(burst_events=20, burst_weight=0.1, flood_opinions=5)
    clicks = [said(f"c{i}", f"d{i}", pb.SIGNAL_CLICK, actor="busy") for i in range(40)]
    await submit(stub, *clicks, said("up", "d1", actor="busy"), said("also", "d2", actor="other"))
    first, *found = await exported_whole(stub, policy=pb.JudgmentPolicy(crowd=crowd))
    assert first.header.flagged_actors == 0
    assert {a.judgment.weight for a in found} == {1.0}
    first, *_ = await exported_whole(stub, policy=pb.JudgmentPolicy(name="clicks", crowd=crowd))
    assert first.header.flagged_actors == 1


@pytest.mark.parametrize("field", ["since", "until"])
async def test_a_time_that_is_none_is_refused(stub: Stub, field: str) -> None:
    for seconds in (-1, 10**17):
        moment = {field: Timestamp(seconds=seconds)}
        code, message, fields = await refused(partial(listed, stub, **moment))
        assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
        assert "is no time since 1970" in message


async def test_an_export_is_whole_over_many_pages_and_from_every_cursor(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.feedback.exporting._QUERIES", 2)
    texts = ["ä", "z", "Z", "a b", "1", "中", "-", "z z"]
    items = [said(f"{text}{i}", f"d{i}", query=text) for text in texts for i in range(3)]
    await submit(stub, *items)
    whole = await exported_whole(stub)
    pairs = [(a.judgment.query, a.judgment.document_id) for a in whole[1:]]
    assert sorted(pairs) == sorted((text, f"d{i}") for text in texts for i in range(3))
    for i, answer in enumerate(whole):
        assert await exported(stub, answer.cursor) == whole[i + 1 :]
    assert [a.judgment.query for a in await exported(stub)] == [query for query, _ in pairs]


async def test_a_cursor_is_of_its_policy_and_collection(stub: Stub) -> None:
    await submit(stub, said("k1"))
    [answer] = await exported(stub)
    code, message, fields = await refused(
        lambda: exported(stub, answer.cursor, policy=pb.JudgmentPolicy(name="clicks"))
    )
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["cursor"])
    assert "another collection or policy" in message
