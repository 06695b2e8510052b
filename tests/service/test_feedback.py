"""Taking feedback in, through a real server, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from prometheus_client import REGISTRY

from diapason.feedback.v1 import feedback_pb2 as pb
from diapason.search.v1.collection_pb2 import Route
from tests.support.feedback import Stub, details, exported, keys, listed, refused, said, serving, shown, submit, thumb


@pytest.fixture
async def stub(catalog_url: str) -> AsyncIterator[Stub]:
    async with serving(catalog_url) as made:
        yield made


def stamp(ahead: timedelta) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(datetime.now(UTC) + ahead)
    return made


async def test_a_thumb_becomes_a_judgment(stub: Stub) -> None:
    await shown(stub)
    assert await submit(stub, thumb("k1"), thumb("k2", "d2", up=False)) == [False, False]
    found = [(a.judgment.query, a.judgment.document_id, a.judgment.target) for a in await exported(stub)]
    assert found == [("a query", "d1", 1.0), ("a query", "d2", 0.0)]


async def test_the_same_key_is_stored_once_and_said_so(stub: Stub) -> None:
    await shown(stub)
    assert await submit(stub, thumb("k1")) == [False]
    assert await submit(stub, thumb("k1"), thumb("k2")) == [True, False]
    assert await submit(stub, thumb("k3"), thumb("k3")) == [False, True]
    summary = await stub.GetSummary(pb.GetSummaryRequest(collection="films"))
    assert [(c.signal, c.count) for c in summary.signals] == [(pb.SIGNAL_THUMBS_UP, 3)]
    assert (summary.impressions, summary.queries) == (1, 1)


async def test_a_document_that_was_not_shown_is_refused_and_nothing_stored(stub: Stub) -> None:
    await shown(stub)
    code, message, _ = await refused(lambda: submit(stub, thumb("k1"), thumb("k2", "d9")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "feedback[1].document_id" in message
    assert not await exported(stub)


async def test_an_unknown_search_is_refused_with_the_remedy(stub: Stub) -> None:
    code, message, _ = await refused(lambda: submit(stub, thumb("k1", search_id="none")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "'none'" in message
    assert "the id that Search returned" in message


async def test_feedback_that_comes_before_its_impression_waits_for_it(stub: Stub) -> None:
    early = asyncio.create_task(submit(stub, thumb("k1", search_id="soon")))
    await asyncio.sleep(0.1)
    await shown(stub, "soon")
    assert await early == [False]


async def test_feedback_on_a_query_needs_no_search(stub: Stub) -> None:
    item = pb.Feedback(idempotency_key="k", document_id="x", signal=pb.SIGNAL_GRADE, value=0.25)
    item.query.CopyFrom(pb.QuerySubject(collection="films", text="  spaced   out "))
    await submit(stub, item)
    [answer] = await exported(stub)
    assert (answer.judgment.query, answer.judgment.target) == ("spaced out", 0.25)


async def test_every_broken_rule_of_a_batch_is_listed(stub: Stub) -> None:
    grade = pb.Feedback(idempotency_key="k", search_id="s1", document_id="d1", signal=pb.SIGNAL_GRADE, value=2)
    code, _, fields = await refused(lambda: submit(stub, pb.Feedback(), grade, thumb("x" * 201)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert fields == [
        "feedback[0].idempotency_key",
        "feedback[0].document_id",
        "feedback[0].subject",
        "feedback[0].signal",
        "feedback[1].value",
        "feedback[2].idempotency_key",
    ]


@pytest.mark.parametrize("count", [0, 501])
async def test_i10_batches_are_bounded(stub: Stub, count: int) -> None:
    code, _, fields = await refused(lambda: submit(stub, *(thumb(str(i)) for i in range(count))))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["feedback"])


async def test_impressions_are_stored_once(stub: Stub) -> None:
    await shown(stub)
    await shown(stub)
    assert (await stub.GetSummary(pb.GetSummaryRequest())).impressions == 1


async def test_all_that_was_said_is_kept(stub: Stub) -> None:
    await shown(stub)
    when = stamp(-timedelta(hours=1))
    more: dict[str, Any] = {"actor": "u1", "tenant": "shop", "client": "web", "reason": "just so", "time": when}
    await submit(
        stub,
        said("k1", "d1", pb.SIGNAL_DWELL, value=42.5, search_id="s1", **more),
        said("k2", "d2", pb.SIGNAL_COMMENT, reason="wrong film"),
        said("k3", "d2", pb.SIGNAL_CLICK, value=7),
    )
    third, second, first = await listed(stub)
    assert (first.collection, first.query, first.feedback.search_id) == ("films", "a query", "s1")
    assert (first.feedback.value, first.feedback.signal, first.feedback.reason) == (42.5, pb.SIGNAL_DWELL, "just so")
    assert (first.feedback.actor, first.feedback.tenant, first.feedback.client) == ("u1", "shop", "web")
    assert abs(first.feedback.time.ToMilliseconds() - when.ToMilliseconds()) <= 1
    assert first.arrival_time.seconds >= when.seconds + 3500
    assert second.feedback.query.text == "a query"
    assert second.feedback.time.ToMilliseconds() == second.arrival_time.ToMilliseconds()
    assert not third.feedback.HasField("value")
    assert [stored.number for stored in (first, second, third)] == sorted(s.number for s in (first, second, third))


async def test_what_can_not_be_stored_is_refused_by_name(stub: Stub) -> None:
    nul = "a\0b"
    items = [
        said(nul, nul, query=nul, collection=nul, actor=nul, tenant=nul, client=nul, reason=nul),
        said("k1", search_id=nul),
        said("k2", signal=pb.SIGNAL_DWELL),
        said("k3", signal=pb.SIGNAL_DWELL, value=float("nan")),
        said("k4", signal=pb.SIGNAL_COMMENT, reason=" "),
        said("k5", time=stamp(timedelta(minutes=6))),
        said("k6", time=Timestamp(seconds=-1)),
        said("k7", time=Timestamp(seconds=2**62)),
        said("k8", "x" * 513, tenant="x" * 201),
    ]
    code, message, fields = await refused(lambda: submit(stub, *items[:1]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "NUL" in message
    names = ["idempotency_key", "query.collection", "query.text", "document_id", "actor", "tenant", "client", "reason"]
    assert fields == [f"feedback[0].{name}" for name in names]
    code, message, fields = await refused(lambda: submit(stub, *items[1:]))
    assert fields == [
        "feedback[0].search_id", "feedback[1].value", "feedback[2].value", "feedback[3].reason", "feedback[4].time",
        "feedback[5].time", "feedback[6].time", "feedback[7].document_id", "feedback[7].tenant",
    ]  # fmt: skip
    assert "over 5 minutes ahead; set the clock" in message


async def test_a_clock_that_is_ahead_outranks_nothing(stub: Stub) -> None:
    await submit(stub, said("k1", actor="u1", time=stamp(timedelta(minutes=4))))
    await submit(stub, said("k2", signal=pb.SIGNAL_THUMBS_DOWN, actor="u1"))
    assert [a.judgment.target for a in await exported(stub)] == [0.0]
    late, ahead = await listed(stub)
    assert ahead.feedback.time.ToMilliseconds() <= ahead.arrival_time.ToMilliseconds()
    assert late.feedback.time.ToMilliseconds() >= ahead.feedback.time.ToMilliseconds()


@pytest.mark.parametrize("field", ["search_id", "query", "actor", "tenant"])
async def test_impressions_that_can_not_be_stored_are_refused_by_name(stub: Stub, field: str) -> None:
    good: dict[str, Any] = {"search_id": "s", "query": "q", "route": Route(collection="films")}
    bad = pb.Impression(**{**good, field: "a\0b"})
    request = pb.RecordImpressionsRequest(impressions=[pb.Impression(**good), bad])
    code, _, fields = await refused(lambda: stub.RecordImpressions(request))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [f"impressions[1].{field}"])
    shows_nul = pb.Impression(**good, shown=[pb.ShownDocument(document_id="\0")])
    request = pb.RecordImpressionsRequest(impressions=[shows_nul])
    assert (await refused(lambda: stub.RecordImpressions(request)))[2] == ["impressions[0].shown[0].document_id"]
    badly_timed = pb.Impression(**good, time=Timestamp(seconds=2**60))
    request = pb.RecordImpressionsRequest(impressions=[badly_timed])
    assert (await refused(lambda: stub.RecordImpressions(request)))[2] == ["impressions[0].time"]


async def test_i5_the_same_key_from_many_at_once_is_stored_once(catalog_url: str) -> None:
    """Two replicas, many callers, keys in every order: no error, and each key is fresh for one caller alone."""
    async with serving(catalog_url) as one, serving(catalog_url) as other:
        names = [f"k{i}" for i in range(40)]

        async def caller(i: int) -> list[tuple[str, bool]]:
            mine = names[i % 7 :] + names[: i % 7] if i % 2 else list(reversed(names))
            answers = await submit((one, other)[i % 2], *(said(key, f"d{key}") for key in mine))
            return list(zip(mine, answers, strict=True))

        answers = await asyncio.gather(*(caller(i) for i in range(12)))
        fresh = [key for answer in answers for key, duplicate in answer if not duplicate]
        assert sorted(fresh) == sorted(names)
        assert sorted(keys(await listed(one))) == sorted(names)


async def test_one_bad_batch_does_not_hinder_those_that_come_with_it(stub: Stub) -> None:
    async def caller(i: int) -> list[bool]:
        return await submit(stub, said(f"k{i}", "d" if i % 3 else ""))

    answers = await asyncio.gather(*(caller(i) for i in range(30)), return_exceptions=True)
    assert [isinstance(answer, grpc.aio.AioRpcError) for answer in answers] == [i % 3 == 0 for i in range(30)]
    assert len(await listed(stub)) == 20


async def test_what_was_stored_is_a_duplicate_also_without_its_impression(catalog_url: str) -> None:
    async with serving(catalog_url) as stub:
        await shown(stub, actor="searcher")
        await submit(stub, thumb("k1", actor="other"))
        await stub.EraseSubject(pb.EraseSubjectRequest(actor="searcher"))
        assert await submit(stub, thumb("k1", actor="other")) == [True]


async def test_i10_an_actor_who_sends_too_much_is_told_when_to_come_back(catalog_url: str) -> None:
    async with serving(catalog_url, actor_events_per_minute=60) as stub:
        assert not any(await submit(stub, *(said(f"a{i}", f"d{i}", actor="u1") for i in range(50))))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(stub, *(said(f"b{i}", f"d{i}", actor="u1") for i in range(30)), said("c", actor="u2"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        [retry] = details(caught.value, error_details_pb2.RetryInfo)
        assert 10 < retry.retry_delay.ToMilliseconds() / 1000 <= 20
        assert "u1" not in (caught.value.details() or "")
        # Nothing of it is stored; others, the same name elsewhere, and the nameless are not bounded by it.
        assert len(await listed(stub)) == 50
        await submit(stub, said("c", actor="u2"), said("d", actor="u1", tenant="t"))
        await submit(stub, *(said(f"e{i}", f"d{i}") for i in range(200)))
        # What was stored before costs nothing, or a caller could not make sure of it.
        for _ in range(3):
            assert all(await submit(stub, *(said(f"a{i}", f"d{i}", actor="u1") for i in range(8))))


async def test_what_happens_is_counted(stub: Stub) -> None:
    def count(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"diapason_feedback_{name}_total", labels) or 0.0

    before = count("events", signal="click"), count("duplicates"), count("impressions")
    await shown(stub)
    await shown(stub)
    await submit(stub, said("k1", signal=pb.SIGNAL_CLICK), said("k1", signal=pb.SIGNAL_CLICK))
    after = count("events", signal="click"), count("duplicates"), count("impressions")
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1]
