"""Documents on the real engine and a real catalog: written, rewritten, deleted, and there after a restart."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from diapason.search.v1 import document_pb2, document_pb2_grpc
from services.kit.errors import (
    Unavailable,
)
from services.kit.server import Host
from services.kit.settings import ServiceSettings
from services.search.__main__ import DOCUMENTS
from services.search.domain.model import Document, IndexState, Settings
from services.search.servicers import DocumentServicer
from tests.support.fakes import FILMS, Bench, best


async def test_a_rewritten_document_is_found_by_its_new_text_only(bench: Bench) -> None:
    [receipt] = await bench.search.write("films", [Document("d7", "fresh words", "", {})])
    assert (receipt.revision, receipt.indexed) == (2, True)
    assert await best(bench, "fresh words") == "d7"
    view = await bench.search.view("films")
    assert [points for _, points in view.indexes] == [50]


async def test_the_same_id_twice_in_one_batch_keeps_the_later(bench: Bench) -> None:
    receipts = await bench.search.write("films", [Document("x", "early", "", {}), Document("x", "late", "", {})])
    assert [r.revision for r in receipts] == [1, 2]
    assert (await bench.search.documents("films", ["x"]))["x"].text == "late"
    assert await best(bench, "late") == "x"


async def test_a_document_longer_than_the_encoder_reads_is_flagged(bench: Bench) -> None:
    receipts = await bench.search.write("films", [Document("a", "x" * 2000, "", {}), Document("b", "short", "", {})])
    assert [receipt.truncated for receipt in receipts] == [True, False]


async def test_bad_documents_are_refused_one_by_one(bench: Bench) -> None:
    batch = [
        Document("", "x", "", {}),
        Document("a", " ", "", {}),
        Document("b", "x" * 100_001, "", {}),
        Document("c", "ok", "", {}),
    ]
    receipts = await bench.search.write("films", batch)
    assert [bool(r.error) for r in receipts] == [True, True, True, False]
    assert "100000" in receipts[2].error
    assert receipts[3].indexed


async def test_i5_documents_are_taken_while_the_embedder_is_away_and_indexed_later(bench: Bench) -> None:
    bench.embedder.failure = Unavailable("away")
    writing = asyncio.create_task(bench.search.write("films", [Document("x", "patient words", "", {})]))
    async with asyncio.timeout(10):
        while "x" not in await bench.search.documents("films", ["x"]):
            await asyncio.sleep(0.02)
    bench.embedder.failure = None
    [receipt] = await writing
    assert receipt.indexed
    assert await best(bench, "patient words") == "x"


async def test_i5_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.search.open()
    await bench.search.create("films", ("tiny", 1, ""), Settings())
    await bench.search.write("films", FILMS)
    await bench.close()
    again = Bench(tmp_path)
    await again.search.open()
    assert await best(again, "text number 31") == "d31"
    await again.close()


async def test_i5_a_lost_index_is_built_again_from_the_documents(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.search.open()
    await bench.search.create("films", ("tiny", 1, ""), Settings())
    await bench.search.write("films", FILMS)
    await bench.close()
    bench.engine.drop("films-1-tiny-1")
    again = Bench(tmp_path)
    await again.search.open()
    newest = again.catalog.last_sequence("films")
    assert await again.search._indexers["films-1-tiny-1"].wait_for(newest, 20)
    assert await best(again, "text number 31") == "d31"
    assert (await again.search.view("films")).indexes[0][0].state is IndexState.SERVING
    await again.close()


async def test_i5_a_rebuild_that_is_interrupted_goes_on_from_the_beginning(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.search.open()
    await bench.search.create("films", ("tiny", 1, ""), Settings())
    await bench.search.write("films", FILMS)
    async with asyncio.timeout(10):
        while bench.catalog.index("films-1-tiny-1").applied < len(FILMS):
            await asyncio.sleep(0.02)
    await bench.close()
    bench.engine.drop("films-1-tiny-1")
    interrupted = Bench(tmp_path)
    interrupted.embedder.failure = Unavailable("away")
    await interrupted.search.open()
    await interrupted.close()
    again = Bench(tmp_path)
    await again.search.open()
    assert await again.search._indexers["films-1-tiny-1"].wait_for(again.catalog.last_sequence("films"), 20)
    assert [points for _, points in (await again.search.view("films")).indexes] == [50]
    await again.close()


async def test_i6_a_broken_shard_is_built_again_and_stops_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.search.open()
    for name in ("films", "other"):
        await bench.search.create(name, ("tiny", 1, ""), Settings())
        await bench.search.write(name, FILMS)
    await bench.close()
    for file in (tmp_path / "indexes" / "films-1-tiny-1").rglob("*"):
        if file.is_file():
            file.write_bytes(b"broken")
    (tmp_path / "indexes" / "left-over").mkdir()
    again = Bench(tmp_path)
    await again.search.open()
    assert (await again.search.search("other", "text number 3", 1, 0, "")).hits[0][0].document_id == "d3"
    assert await again.search._indexers["films-1-tiny-1"].wait_for(again.catalog.last_sequence("films"), 20)
    assert await best(again, "text number 31") == "d31"
    assert not (tmp_path / "indexes" / "left-over").exists()
    await again.close()


async def test_a_document_that_can_not_be_embedded_is_said_so_and_the_next_ones_are_indexed(bench: Bench) -> None:
    bench.embedder.refused = {"poison"}
    batch = [Document("p", "poison", "", {}), Document("q", "wholesome", "", {})]
    assert [receipt.indexed for receipt in await bench.search.write("films", batch)] == [False, True]
    assert await best(bench, "wholesome") == "q"


async def stream(bench: Bench, messages: list[bytes]) -> list[document_pb2.UpsertDocumentsResponse]:
    """Send raw messages through a real server, as a client of any make might."""
    host = Host(ServiceSettings(listen=""))
    host.serve(DOCUMENTS, document_pb2_grpc.add_DocumentServiceServicer_to_server, DocumentServicer(bench.search))
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
    assert "a" in await bench.search.documents("films", ["a"])


async def test_pages_end_before_they_grow_too_large(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.search.servicers._PAGE_CHARACTERS", 200)
    servicer, seen, token = DocumentServicer(bench.search), [], ""
    while True:
        request = document_pb2.GetDocumentsRequest(collection="films", page_token=token)
        page = await servicer.GetDocuments(request, None)  # type: ignore[arg-type]
        assert 1 <= len(page.documents) < 20
        seen += [document.id for document in page.documents]
        token = page.next_page_token
        if not token:
            break
    assert seen == [film.id for film in FILMS]
