"""Documents on the real engine and a real catalog: written, rewritten, deleted, and there after a restart."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from diapason.search.v1 import document_pb2, document_pb2_grpc, filter_pb2
from services.kit.errors import NotFound, ServiceError, Unavailable
from services.kit.server import CannotStart, Host
from services.kit.settings import ServiceSettings
from services.search.__main__ import DOCUMENTS
from services.search.adapters.documents import Paused
from services.search.adapters.edge import EdgeEngine
from services.search.domain.model import Document, FieldType, IndexState, Settings, Version
from services.search.ports import EmbeddedDocuments
from services.search.servicers.documents import DocumentServicer
from tests.support.fakes import FILMS, Bench, best


async def test_a_rewritten_document_is_found_by_its_new_text_only(bench: Bench) -> None:
    [receipt] = await bench.writing.write("films", [Document("d7", "fresh words", "", {})])
    assert (receipt.revision, receipt.indexed) == (2, True)
    assert await best(bench, "fresh words") == "d7"
    view = await bench.collections.view("films")
    assert [points for _, points in view.indexes] == [50]


async def test_the_same_id_twice_in_one_batch_keeps_the_later(bench: Bench) -> None:
    receipts = await bench.writing.write("films", [Document("x", "early", "", {}), Document("x", "late", "", {})])
    assert [r.revision for r in receipts] == [1, 2]
    assert (await bench.writing.documents("films", ["x"]))["x"].text == "late"
    assert await best(bench, "late") == "x"


async def test_a_document_longer_than_the_encoder_reads_is_flagged(bench: Bench) -> None:
    receipts = await bench.writing.write("films", [Document("a", "x" * 2000, "", {}), Document("b", "short", "", {})])
    assert [receipt.truncated for receipt in receipts] == [True, False]


async def test_bad_documents_are_refused_one_by_one(bench: Bench) -> None:
    batch = [
        Document("", "x", "", {}),
        Document("a", " ", "", {}),
        Document("b", "x" * 100_001, "", {}),
        Document("c", "ok", "", {}),
    ]
    receipts = await bench.writing.write("films", batch)
    assert [bool(r.error) for r in receipts] == [True, True, True, False]
    assert "100000" in receipts[2].error
    assert receipts[3].indexed


async def test_i5_documents_are_taken_while_the_embedder_is_away_and_indexed_later(bench: Bench) -> None:
    bench.embedder.failure = Unavailable("away")
    writing = asyncio.create_task(bench.writing.write("films", [Document("x", "patient words", "", {})]))
    async with asyncio.timeout(10):
        while "x" not in await bench.writing.documents("films", ["x"]):
            await asyncio.sleep(0.02)
    bench.embedder.failure = None
    [receipt] = await writing
    assert receipt.indexed
    assert await best(bench, "patient words") == "x"


async def test_i5_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    await bench.collections.create("films", ("tiny", 1, ""), Settings())
    await bench.writing.write("films", FILMS)
    await bench.close()
    again = Bench(tmp_path)
    await again.open()
    assert await best(again, "text number 31") == "d31"
    await again.close()


async def test_i5_a_lost_index_is_built_again_from_the_documents(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    await bench.collections.create("films", ("tiny", 1, ""), Settings())
    await bench.writing.write("films", FILMS)
    index = bench.index()
    await bench.close()
    await bench.engine.drop(index)
    again = Bench(tmp_path)
    await again.open()
    newest = again.documents.last_sequence("films")
    assert await again.state.indexers[index].wait_for(newest, 20)
    assert await best(again, "text number 31") == "d31"
    assert (await again.collections.view("films")).indexes[0][0].state is IndexState.SERVING
    await again.close()


async def test_i5_a_rebuild_that_is_interrupted_goes_on_from_the_beginning(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    await bench.collections.create("films", ("tiny", 1, ""), Settings())
    await bench.writing.write("films", FILMS)
    index = bench.index()
    async with asyncio.timeout(10):
        while bench.catalog.index(index).applied < len(FILMS):
            await asyncio.sleep(0.02)
    await bench.close()
    await bench.engine.drop(index)
    interrupted = Bench(tmp_path)
    interrupted.embedder.failure = Unavailable("away")
    await interrupted.open()
    await interrupted.close()
    again = Bench(tmp_path)
    await again.open()
    assert await again.state.indexers[index].wait_for(again.documents.last_sequence("films"), 20)
    assert [points for _, points in (await again.collections.view("films")).indexes] == [50]
    await again.close()


async def test_i6_a_broken_shard_is_built_again_and_stops_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    for name in ("films", "other"):
        await bench.collections.create(name, ("tiny", 1, ""), Settings())
        await bench.writing.write(name, FILMS)
    index = bench.index()
    await bench.close()
    for file in (tmp_path / "indexes" / "shards" / index).rglob("*"):
        if file.is_file():
            file.write_bytes(b"broken")
    (tmp_path / "indexes" / "shards" / "left-over").mkdir()
    again = Bench(tmp_path)
    await again.open()
    assert await again.ids("text number 3", 1, "other") == ["d3"]
    assert await again.state.indexers[index].wait_for(again.documents.last_sequence("films"), 20)
    assert await best(again, "text number 31") == "d31"
    assert not (tmp_path / "indexes" / "shards" / "left-over").exists()
    await again.close()


async def test_a_document_that_can_not_be_embedded_is_said_so_and_the_next_ones_are_indexed(bench: Bench) -> None:
    bench.embedder.refused = {"poison"}
    batch = [Document("p", "poison", "", {}), Document("q", "wholesome", "", {})]
    assert [receipt.indexed for receipt in await bench.writing.write("films", batch)] == [False, True]
    assert await best(bench, "wholesome") == "q"


async def stream(bench: Bench, messages: list[bytes]) -> list[document_pb2.UpsertDocumentsResponse]:
    """Send raw messages through a real server, as a client of any make might."""
    host = Host(ServiceSettings(listen=""))
    host.serve(DOCUMENTS, document_pb2_grpc.add_DocumentServiceServicer_to_server, DocumentServicer(bench.writing))
    port = await host.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = "/diapason.search.v1.DocumentService/UpsertDocuments"
            parse = document_pb2.UpsertDocumentsResponse.FromString
            call = channel.stream_stream(method, request_serializer=bytes, response_deserializer=parse)
            return [response async for response in call(iter(messages), timeout=20)]
    finally:
        await host.stop(5)


def upsert(**fields: Any) -> bytes:
    document = document_pb2.Document(id=fields["id"], text=fields.get("text", "words"))
    document.payload.update(fields.get("payload", {}))
    return document_pb2.UpsertDocumentsRequest(collection="films", document=document).SerializeToString()


async def test_i10_a_bad_document_in_a_stream_gets_its_error_and_the_stream_goes_on(bench: Bench) -> None:
    messages = [
        upsert(id="a"),
        upsert(id="nan", payload={"n": float("nan")}),
        upsert(id="long", text="x" * 2_000_000),
        upsert(id="heavy", payload={"n": "x" * 70_000}),
        upsert(id="b"),
    ]
    found = {response.id: response for response in await stream(bench, messages)}
    assert {name for name, response in found.items() if response.indexed} == {"a", "b"}
    assert found["nan"].error.startswith("payload")
    assert found["long"].error.startswith("text")
    assert found["heavy"].error.startswith("payload")


async def test_a_stream_with_a_message_that_is_none_ends_at_once(bench: Bench) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await stream(bench, [upsert(id="a"), b"\xff\xff\xff"])
    assert "a" in await bench.writing.documents("films", ["a"])


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ({}, [film.id for film in FILMS]),
        (
            {"ids": ["d9", "nobody", "d2", *(f"d{i}" for i in range(20, 50)), "no one"]},
            ["d9", "d2", *(f"d{i}" for i in range(20, 50))],
        ),
        (
            {"filter": filter_pb2.Filter(must=[filter_pb2.Condition(field="n", range=filter_pb2.Range(lt=30))])},
            [f"d{i}" for i in range(30)],
        ),
    ],
)
async def test_i10_pages_end_before_they_grow_too_large(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, by: dict[str, Any], expected: list[str]
) -> None:
    """A payload counts like a text."""
    monkeypatch.setattr("services.search.servicers.documents.MESSAGE_BYTES", 10_000)
    await bench.collections.update("films", None, {"n": FieldType.INTEGER})
    await bench.writing.write("films", [replace(film, payload={**film.payload, "much": "x" * 2_000}) for film in FILMS])
    serving = bench.state.indexers[bench.index()]
    async with asyncio.timeout(10):
        while not serving.has_fields({"n"}):
            await asyncio.sleep(0.01)
    servicer, token = DocumentServicer(bench.writing), ""
    seen: list[str] = []
    missing: list[str] = []
    while True:
        request = document_pb2.GetDocumentsRequest(collection="films", page_token=token, **by)
        page = await servicer.GetDocuments(request, None)  # type: ignore[arg-type]
        assert page.ByteSize() < 12_000
        seen += [document.id for document in page.documents]
        missing += page.missing_ids
        token = page.next_page_token
        if not token:
            break
    assert (sorted(seen), len(seen)) == (sorted(expected), len(expected))
    assert missing == [i for i in by.get("ids", []) if i not in expected]


async def test_i10_a_batch_of_long_documents_is_a_short_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.search.indexer._BATCH_CHARACTERS", 1_000)
    asked = bench.embedder.documents
    sizes: list[int] = []

    async def noted(version: Version, texts: Sequence[str]) -> EmbeddedDocuments:
        sizes.append(sum(map(len, texts)))
        return await asked(version, texts)

    monkeypatch.setattr(bench.embedder, "documents", noted)
    long = [Document(f"long{i}", f"{i} " + "x" * 600, "", {}) for i in range(10)]
    assert all(receipt.indexed for receipt in await bench.writing.write("films", long))
    assert max(sizes) < 1_000


async def test_unchanged_text_is_not_embedded_again(bench: Bench) -> None:
    before = list(bench.embedder.embedded)
    [receipt] = await bench.writing.write("films", [Document("d7", "text number 7", "", {"n": 700})])
    assert (receipt.revision, receipt.indexed, receipt.unchanged) == (2, True, False)
    assert bench.embedder.embedded == before
    assert (await bench.writing.documents("films", ["d7"]))["d7"].payload == {"n": 700}
    [receipt] = await bench.writing.write("films", [Document("d7", "text number 7", "", {"n": 700})])
    assert (receipt.revision, receipt.indexed, receipt.unchanged) == (2, True, True)


async def test_a_text_changed_and_changed_back_is_embedded_each_time(bench: Bench) -> None:
    states = [Document("d7", text, "", {}) for text in ("other words", "text number 7", "third words")]
    await asyncio.gather(*(bench.writing.write("films", [state]) for state in states))
    await bench.writing.write("films", [Document("d7", "text number 7", "", {})])
    assert await best(bench, "text number 7") == "d7"


async def test_i5_a_write_of_an_older_revision_changes_nothing(bench: Bench) -> None:
    async def write(text: str, revision: int) -> tuple[int, bool]:
        [receipt] = await bench.writing.write("films", [Document("r", text, "", {}, revision)])
        return receipt.revision, receipt.unchanged

    assert await write("newer", 40) == (40, False)
    assert await write("older", 39) == (40, True)
    assert await write("same again", 40) == (40, True)
    assert (await bench.writing.documents("films", ["r"]))["r"].text == "newer"
    assert await bench.writing.delete("films", ["r"]) == 1
    assert await write("a late copy", 40) == (41, True)
    assert await bench.writing.documents("films", ["r"]) == {}
    assert await write("written anew", 42) == (42, False)
    assert await best(bench, "written anew") == "r"


async def test_a_text_that_fails_alone_leaves_the_others_of_its_batch(bench: Bench) -> None:
    bench.embedder.failing = {"poison"}
    batch = [Document("p", "poison", "", {}), Document("d3", "poison", "", {}), Document("q", "wholesome", "", {})]
    assert [receipt.indexed for receipt in await bench.writing.write("films", batch)] == [False, False, True]
    assert "d3" not in await bench.ids("text number 3", 60), "its old text's vector is not its own any more"
    bench.embedder.failing = set()
    assert (await bench.writing.write("films", [Document("p", "cured", "", {})]))[0].indexed
    assert await best(bench, "cured") == "p"


async def test_i5_a_second_process_over_the_same_folder_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="in use by another process"):
        Bench(tmp_path)


async def test_i5_a_second_process_over_the_same_catalog_is_refused_on_the_embedded_engine(
    bench: Bench, tmp_path: Path
) -> None:
    other = Bench(tmp_path, engine=EdgeEngine(tmp_path / "elsewhere"))
    with pytest.raises(CannotStart, match="kept by another process"):
        await other.open()
    other.database.close()


async def test_a_deleted_collection_leaves_nothing_and_its_name_is_free(bench: Bench, tmp_path: Path) -> None:
    assert await bench.collections.delete("films") == 50
    with pytest.raises(NotFound):
        await bench.found("x")
    assert [p for p in (tmp_path / "indexes" / "shards").iterdir() if p.is_dir()] == []
    await bench.collections.create("films", ("tiny", 2, ""), Settings())
    assert await bench.ids("text number 7") == []
    assert await bench.writing.count("films", None) == 0


async def test_i5_writes_go_on_at_once_after_a_kill_in_the_middle_of_a_switch(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    await bench.collections.create("films", ("tiny", 1, ""), Settings())
    bench.catalog.pause("films", 3600, bench.engine.owner)
    with pytest.raises(Paused):
        bench.documents.write("films", FILMS)
    await bench.close()
    again = Bench(tmp_path)
    await again.open()
    assert len(await again.writing.write("films", FILMS)) == 50
    await again.close()


async def test_i5_a_broken_embedder_makes_no_document_be_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text fails, for longer than it takes to try texts one by one: it is not the texts' fault."""
    # To print a dozen tracebacks takes a slow machine as long as a write waits.
    monkeypatch.setattr("services.search.writing.INDEXED_WITHIN_SECONDS", 60.0)
    bench.embedder.failure = ServiceError("broken")
    tries = 0
    original = bench.embedder.documents

    async def counted(version: Version, texts: Sequence[str]) -> EmbeddedDocuments:
        nonlocal tries
        tries += 1
        return await original(version, texts)

    bench.embedder.documents = counted  # type: ignore[method-assign]
    batch = [Document("x", "patient words", "", {}), Document("y", "other words", "", {})]
    writing = asyncio.create_task(bench.writing.write("films", batch))
    async with asyncio.timeout(60):
        while tries < 12:
            await asyncio.sleep(0.02)
    bench.embedder.failure = None
    assert all(receipt.indexed for receipt in await writing)
    assert await best(bench, "patient words") == "x"


async def test_i5_the_folder_of_another_catalog_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    engine = EdgeEngine(tmp_path / "indexes", "one catalog")
    (tmp_path / "indexes" / "shards" / "precious").mkdir()
    await engine.close()
    with pytest.raises(CannotStart, match="another catalog"):
        EdgeEngine(tmp_path / "indexes", "some other catalog")
    assert (tmp_path / "indexes" / "shards" / "precious").exists()
    again = EdgeEngine(tmp_path / "indexes", "one catalog")
    assert again.owner == engine.owner
    await again.close()
