"""Erasing people, and what grows too old; and the schema that a database of before is brought to."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from google.protobuf.timestamp_pb2 import Timestamp

from diapason.common.v1.version_pb2 import VersionRef
from diapason.feedback.v1 import feedback_pb2 as pb
from services.feedback.__main__ import MIGRATIONS
from services.feedback.adapters.records import Records
from services.feedback.adapters.tables import Base, ErasureRow
from services.feedback.keeping import Keeping
from services.kit.sql import Database
from tests.support.feedback import Stub, exported, keys, listed, refused, said, serving, shown, submit, thumb

VERSION = VersionRef(model="tiny", number=2, digest="ab" * 32)


@pytest.fixture
async def stub(catalog_url: str) -> AsyncIterator[Stub]:
    async with serving(catalog_url) as made:
        yield made


async def erase(stub: Stub, actor: str, **more: Any) -> pb.EraseSubjectResponse:
    return await stub.EraseSubject(pb.EraseSubjectRequest(actor=actor, **more))


def counts(answer: pb.EraseSubjectResponse) -> dict[int, int]:
    return {each.signal: each.count for each in answer.signals}


async def test_a_person_is_erased_with_their_searches_and_what_hangs_on_them(stub: Stub) -> None:
    await shown(stub, "theirs", actor="u1")
    await shown(stub, "other's", actor="u2")
    await submit(
        stub,
        said("k1", actor="u1"),
        said("k2", "d2", pb.SIGNAL_CLICK, actor="u1", tenant="shop", collection="books"),
        thumb("k3", "d1", search_id="theirs"),
        thumb("k4", "d1", search_id="theirs", actor="u2"),
        thumb("k5", "d1", search_id="other's"),
        thumb("k6", "d2", search_id="other's", actor="u1"),
    )
    answer = await erase(stub, "u1")
    assert counts(answer) == {pb.SIGNAL_THUMBS_UP: 3, pb.SIGNAL_CLICK: 1}
    assert (answer.impressions, list(answer.consumers)) == (1, [])
    assert keys(await listed(stub)) == ["k5", "k4"]
    assert (await stub.GetSummary(pb.GetSummaryRequest())).impressions == 1
    again = await erase(stub, "u1")
    assert (counts(again), again.impressions) == ({}, 0)
    assert keys(await listed(stub)) == ["k5", "k4"]


async def test_a_tenants_person_is_no_other_tenants(stub: Stub) -> None:
    await shown(stub, "s1", actor="u1", tenant="a")
    await shown(stub, "s2", actor="u1", tenant="b")
    await shown(stub, "s3", actor="u1")
    await submit(
        stub,
        said("k1", actor="u1", tenant="a"),
        said("k2", actor="u1", tenant="b"),
        said("k3", actor="u1"),
        thumb("k4", search_id="s3"),
        said("k5", search_id="s3", tenant="b"),
    )
    answer = await erase(stub, "u1", tenant="a")
    # A search that names no tenant may have been theirs.
    assert answer.impressions == 2
    assert keys(await listed(stub)) == ["k5", "k3", "k2"]
    await erase(stub, "u1", tenant="")
    assert keys(await listed(stub)) == ["k5", "k2"]
    await erase(stub, "u1")
    assert keys(await listed(stub)) == ["k5"]


async def test_an_erasure_names_who_had_read_and_what_was_trained(stub: Stub) -> None:
    await submit(stub, said("k1", "d1", actor="early"))
    await exported(stub, consumer="run-1")
    await submit(stub, said("k2", "d2", actor="late"))
    await exported(stub, consumer="run-2")
    await exported(stub, consumer="run-2")
    await exported(stub)
    await submit(stub, said("k3", "d3", actor="unread"), said("k4", collection="books", actor="elsewhere"))
    for _ in range(2):
        await stub.RecordTraining(pb.RecordTrainingRequest(consumer="run-2", version=VERSION))
    for actor, consumers in (
        ("unread", {}), ("elsewhere", {}), ("late", {"run-2": [VERSION]}), ("early", {"run-1": [], "run-2": [VERSION]})
    ):  # fmt: skip
        answer = await erase(stub, actor)
        assert {each.consumer: list(each.versions) for each in answer.consumers} == consumers
        assert counts(answer) == {pb.SIGNAL_THUMBS_UP: 1}


async def test_an_erasure_whose_answer_was_lost_is_answered_again(stub: Stub) -> None:
    await shown(stub, actor="u1")
    await submit(stub, said("k1", actor="u1"))
    await exported(stub, consumer="run-1")
    first = await erase(stub, "u1", idempotency_key="request 7")
    assert await erase(stub, "u1", idempotency_key="request 7") == first
    # What came since is erased too, and what was learned since is told.
    await submit(stub, said("k2", signal=pb.SIGNAL_CLICK, actor="u1"))
    await stub.RecordTraining(pb.RecordTrainingRequest(consumer="run-1", version=VERSION))
    last = await erase(stub, "u1", idempotency_key="request 7")
    assert counts(last) == {pb.SIGNAL_THUMBS_UP: 1, pb.SIGNAL_CLICK: 1}
    assert [list(each.versions) for each in last.consumers] == [[VERSION]]
    assert await listed(stub) == []


async def test_a_record_without_the_name_remains(stub: Stub, catalog_url: str) -> None:
    await submit(stub, said("k1", actor="u-secret", query="a secret question"))
    await erase(stub, "u-secret")
    await erase(stub, "u-secret")
    database = Database(catalog_url)
    with database.reading() as session:
        [row] = session.scalars(sa.select(ErasureRow)).all()
        everything = [
            str(record) for table in Base.metadata.tables.values() for record in session.execute(table.select())
        ]
    database.close()
    assert {name: count for name, count in row.signals.items() if count} == {"thumbs_up": 1}
    assert "secret" not in "".join(everything)


def content(folder: Path) -> bytes:
    """All that is in the files of a folder."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_nothing_of_the_erased_remains_in_sqlites_files(tmp_path: Path) -> None:
    async with serving(f"sqlite:///{tmp_path / 'f.db'}") as stub:
        await shown(stub, query="question-of-theirs", actor="u-secret-1")
        for i in range(50):
            theirs = said(f"k{i}", f"d{i}", query=f"question-of-theirs {i}", actor="u-secret-1", reason="mine")
            await submit(stub, theirs, said(f"o{i}", f"d{i}", query=f"of others {i}", actor="u2"))
        assert b"u-secret-1" in content(tmp_path)
        await erase(stub, "u-secret-1")
        files = content(tmp_path)
        assert b"of others 49" in files
        for secret in (b"u-secret-1", b"question-of-theirs"):
            assert secret not in files


async def test_an_erasure_breaks_no_cursor_and_numbers_never_return(stub: Stub) -> None:
    await submit(stub, *(said(f"k{i}", f"d{i}", actor=f"u{i}") for i in range(6)))
    whole = await exported(stub)
    for i in (1, 3, 5):
        await erase(stub, f"u{i}")
    # The newest number was u5's; what comes now must not be taken for it.
    await submit(stub, said("new", "d9", actor="u9"))
    rest = await exported(stub, whole[1].cursor)
    assert [a.judgment.document_id for a in rest] == ["d2", "d4"]
    assert (await listed(stub))[0].number == 7


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.EraseSubjectRequest(), ["actor"]),
        (pb.EraseSubjectRequest(actor="a\0"), ["actor"]),
        (pb.EraseSubjectRequest(actor="a", tenant="\0"), ["tenant"]),
        (pb.EraseSubjectRequest(actor="a", idempotency_key="x" * 201), ["idempotency_key"]),
        (pb.RecordTrainingRequest(version=VERSION), ["consumer"]),
        (pb.RecordTrainingRequest(consumer="c"), ["version.model", "version.number", "version.digest"]),
        (pb.RecordTrainingRequest(consumer="c", version=VERSION), None),
    ],
)
async def test_requests_that_can_not_be_are_refused(stub: Stub, request_: Any, fields: list[str] | None) -> None:
    call = stub.EraseSubject if isinstance(request_, pb.EraseSubjectRequest) else stub.RecordTraining
    code, message, found = await refused(lambda: call(request_))
    if fields is None:
        assert code is grpc.StatusCode.NOT_FOUND
        assert "give the name under which it exported judgments" in message
    else:
        assert (code, found) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


def days_ago(days: float) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(datetime.now(UTC) - timedelta(days=days))
    return made


async def test_what_is_too_old_is_deleted_a_little_at_a_time(
    stub: Stub, catalog_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.feedback.keeping._MOST", 3)
    await shown(stub)
    await submit(
        stub, *(said(f"old{i}", f"d{i}", time=days_ago(10.5)) for i in range(8)), said("k", time=days_ago(9.5))
    )
    whole = await exported(stub)
    database = Database(catalog_url)
    now = int(datetime.now(UTC).timestamp() * 1000)
    assert await Keeping(Records(database), 0, 0).expire(now) == {"feedback": 0, "impressions": 0}
    keeping = Keeping(Records(database), 10, 10)
    assert await keeping.expire(now) == {"feedback": 8, "impressions": 0}
    assert await keeping.expire(now + 11 * 86_400_000) == {"feedback": 1, "impressions": 1}
    database.close()
    assert await listed(stub) == []
    assert await exported(stub, whole[0].cursor) == []


async def test_a_database_that_is_away_ends_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.feedback.keeping._SECONDS", 0.0)
    tried = asyncio.Semaphore(0)

    class Away:
        def expire_feedback(self, before: int, most: int) -> int:
            tried.release()
            raise sa.exc.OperationalError("DELETE", {}, Exception("the database restarts"))

        expire_impressions = expire_feedback

    keeping = asyncio.create_task(Keeping(Away(), 10, 10).run())  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        for _ in range(3):
            await tried.acquire()
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_what_would_be_deleted_at_once_is_refused(catalog_url: str) -> None:
    async with serving(catalog_url, feedback_retention_days=10) as stub:
        code, message, fields = await refused(lambda: submit(stub, said("k1", time=days_ago(11))))
        assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["feedback[0].time"])
        assert "feedback is kept for 10 days" in message
        assert await submit(stub, said("k2", time=days_ago(9))) == [False]


def migrated(url: str, revision: str, down: bool = False) -> None:
    database, config = Database(url), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)
    database.close()


async def test_a_database_of_before_is_brought_up_with_what_it_holds(catalog_url: str) -> None:
    migrated(catalog_url, "0001")
    database = Database(catalog_url)
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    names = "key", "collection", "query", "document_id", "signal", "actor", "reason"
    columns = [sa.column(name, sa.String()) for name in names]
    before = sa.table("feedback", *columns, sa.column("at", sa.DateTime(True)))
    with database.writing() as session:
        rows = [
            {"key": f"k{i}", "collection": "films", "query": f"q {i % 7}", "document_id": f"d{i}",
             "signal": "thumbs_up", "actor": "", "reason": "", "at": at} for i in range(2_500)
        ]  # fmt: skip
        session.execute(before.insert(), rows)
    database.close()
    async with serving(catalog_url) as stub:
        found = await listed(stub, query="q 3")
        assert len(found) == 2_500 // 7
        assert {stored.feedback.time.ToDatetime(tzinfo=UTC) for stored in found} == {at}
        assert len(await exported(stub)) == 2_500
        await submit(stub, said("new"))
        assert (await listed(stub, page_size=1))[0].number == 2_501
    migrated(catalog_url, "0001", down=True)
    migrated(catalog_url, "head")
    async with serving(catalog_url) as stub:
        assert len(await listed(stub, query="a query")) == 1


def test_the_migrations_make_what_the_code_expects(tmp_path: Path) -> None:
    migrated(f"sqlite:///{tmp_path / 'made.db'}", "head")
    database = Database(f"sqlite:///{tmp_path / 'made.db'}")
    inspector = sa.inspect(database.engine)
    for name, table in Base.metadata.tables.items():
        columns = {column["name"]: column["nullable"] for column in inspector.get_columns(name)}
        assert columns == {column.name: bool(column.nullable) for column in table.columns}, name
        assert {index["name"] for index in inspector.get_indexes(name)} >= {index.name for index in table.indexes}
    database.close()
    with sqlite3.connect(tmp_path / "made.db") as connection:
        [[made]] = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'feedback'")
    connection.close()
    assert "AUTOINCREMENT" in made
