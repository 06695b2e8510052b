"""A collection with its vectors, out of one engine and into another."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from services.kit.errors import AlreadyExists, InvalidArgument, NotFound
from services.search.domain.asking import Words
from services.search.domain.model import Bm25, Document, Passages, Settings, Span
from services.search.moving import Header, Parcel
from services.search.ports import Stored
from tests.support.fakes import NEW, Bench


async def sent(parcels: list[Parcel]) -> AsyncIterator[Parcel]:
    for parcel in parcels:
        yield parcel


async def endless(parcels: list[Parcel]) -> AsyncIterator[Parcel]:
    for parcel in parcels:
        yield parcel
    await asyncio.Event().wait()


async def exported(bench: Bench, name: str) -> tuple[Header, list[Parcel]]:
    header, parcels = await bench.moving.export(name)
    return header, [parcel async for parcel in parcels]


async def test_a_collection_moves_without_being_embedded_again(tmp_path: Path) -> None:
    old, new = Bench(tmp_path / "old"), Bench(tmp_path / "new")
    await old.open()
    await new.open()
    settings = Settings((16,), bm25=Bm25(), passages=Passages(16, 0))
    await old.collections.create("books", ("tiny", 1, ""), settings)
    books = [Document(f"b{i}", f"whale {i}, a story of seas", "", {"n": i}, revision=5) for i in range(30)]
    await old.writing.write("books", books)
    await old.writing.delete("books", ["b3"])
    header, parcels = await exported(old, "books")
    done = await new.moving.take_in(header, sent(parcels))
    assert (done.documents, done.to_embed) == (29, 0)
    assert new.embedder.embedded == []
    assert done.view.settings == settings
    assert done.view.indexes[0][1] == 29 * 2
    for wishes in ({}, {"words": Words.ONLY}, {"dimensions": 16}):
        before = (await old.found("whale 7, a story", 29, "books", **wishes)).results
        after = (await new.found("whale 7, a story", 29, "books", **wishes)).results
        first, again = before[0].hit, after[0].hit
        assert (first.document_id, first.passage, first.span) == (again.document_id, again.passage, again.span)
        # How rare a word is, is counted with what was deleted and not yet vacuumed.
        assert first.score == pytest.approx(again.score, rel=0.02)
        assert {(r.hit.document_id, r.document.payload["n"]) for r in before} == {
            (r.hit.document_id, r.document.payload["n"]) for r in after
        }
    assert (await new.writing.documents("books", ["b7"]))["b7"].revision == 5
    await old.close()
    await new.close()


async def test_i1_vectors_of_a_version_that_the_embedder_lacks_are_refused(bench: Bench) -> None:
    header, parcels = await exported(bench, "films")
    bench.embedder.versions = [NEW]
    with pytest.raises(NotFound, match="encoder version"):
        await bench.moving.take_in(Header("copy", header.settings, header.version, header.dimension), sent(parcels))


async def test_i6_an_import_that_breaks_off_leaves_nothing(bench: Bench) -> None:
    header, parcels = await exported(bench, "films")
    broken = Parcel(Document("", "no id", "", {}), [])
    copy = Header("copy", header.settings, header.version, header.dimension)
    with pytest.raises(InvalidArgument, match=r"document\[50\]"):
        await bench.moving.take_in(copy, sent([*parcels, broken]))
    assert bench.state.names() == ["films"]
    assert len(bench.catalog.indexes()) == 1


async def test_a_document_without_vectors_is_embedded(bench: Bench) -> None:
    header, parcels = await exported(bench, "films")
    parcels[4] = Parcel(parcels[4].document, [])
    embedded = len(bench.embedder.embedded)
    done = await bench.moving.take_in(Header("copy", header.settings, header.version, header.dimension), sent(parcels))
    assert (done.documents, done.to_embed) == (50, 1)
    assert bench.embedder.embedded[embedded:] == ["text number 4"]
    assert await bench.ids("text number 4", 1, "copy") == ["d4"]


@pytest.mark.parametrize(
    ("passages", "named"),
    [
        ([(1, None)], "not in order"),
        ([(0, None), (1, None)], "don't split"),
        ([(0, Span(5, 2000))], "lie outside"),
        ([(0, Span(5, 5))], "lie outside"),
    ],
)
async def test_passages_that_can_not_be_the_document_s_are_refused(
    bench: Bench, passages: list[tuple[int, Span | None]], named: str
) -> None:
    header, parcels = await exported(bench, "films")
    vector = parcels[0].passages[0].vector
    wrong = Parcel(parcels[0].document, [Stored(number, span, vector) for number, span in passages])
    copy = Header("copy", header.settings, header.version, header.dimension)
    with pytest.raises(InvalidArgument, match=named):
        await bench.moving.take_in(copy, sent([wrong]))


async def test_a_document_that_comes_twice_is_what_it_was_last(bench: Bench) -> None:
    header, parcels = await exported(bench, "films")
    late = Document("d4", "text number 4", "", {"n": 44})
    copy = Header("copy", header.settings, header.version, header.dimension)
    done = await bench.moving.take_in(copy, sent([*parcels, Parcel(late, parcels[4].passages)]))
    assert done.view.documents == done.view.indexes[0][1] == 50
    assert (await bench.writing.documents("copy", ["d4"]))["d4"].payload == {"n": 44}


async def test_i10_what_is_read_and_written_at_once_is_bounded_by_size(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short passages of a long text make more vectors than a message holds: they are left to be embedded again."""
    monkeypatch.setattr("services.search.moving._BATCH_BYTES", 10 * 32 * 4)
    await bench.collections.create("books", ("tiny", 1, ""), Settings(passages=Passages(16, 0)))
    lengths = {"long": 16 * 11, "b1": 16 * 7, "b2": 16 * 7, "b3": 16, "b4": 16}
    await bench.writing.write("books", [Document(name, "x" * length, "", {}) for name, length in lengths.items()])
    indexer = (await bench.state.find("books")).indexer
    asked, stored = [], indexer.vectors.stored

    async def noted(ids: Sequence[str]) -> dict[str, list[Stored]]:
        asked.append(list(ids))
        return await stored(ids)

    monkeypatch.setattr(indexer.vectors, "stored", noted)
    header, parcels = await exported(bench, "books")
    assert {p.document.id: len(p.passages) for p in parcels} == {"long": 0, "b1": 7, "b2": 7, "b3": 1, "b4": 1}
    assert asked == [["b1"], ["b2", "b3", "b4"]]
    copy = Header("copy", header.settings, header.version, header.dimension)
    done = await bench.moving.take_in(copy, sent(parcels))
    assert (done.documents, done.to_embed, done.view.indexes[0][1]) == (5, 1, 27)


async def test_i6_an_import_whose_caller_goes_away_leaves_nothing(bench: Bench) -> None:
    header, parcels = await exported(bench, "films")
    copy = Header("copy", header.settings, header.version, header.dimension)
    for pauses in range(8):  # wherever it was when the caller went
        call = asyncio.create_task(bench.moving.take_in(copy, endless(parcels)))
        for _ in range(pauses):
            await asyncio.sleep(0.002)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.gather(*bench.state._finishing)
        assert bench.state.names() == [name for name, _ in bench.catalog.serving().items()] == ["films"]
        assert not bench.state.importing


async def test_i6_an_import_to_a_name_that_is_taken_leaves_what_has_it(bench: Bench) -> None:
    header, parcels = await exported(bench, "films")
    copy = Header("copy", header.settings, header.version, header.dimension)
    first = asyncio.create_task(bench.moving.take_in(copy, endless(parcels)))
    async with asyncio.timeout(10):
        while not bench.state.importing:
            await asyncio.sleep(0.002)
    for taken in (header, copy):
        with pytest.raises(AlreadyExists):
            await bench.moving.take_in(taken, sent(parcels))
    assert bench.state.importing == {"copy"}
    assert bench.state.names() == ["copy", "films"]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await bench.moving.take_in(copy, sent(parcels))).documents == 50
    assert bench.catalog.abandoned() == []


async def test_i6_what_an_import_left_that_was_killed_is_deleted_after_the_restart(tmp_path: Path) -> None:
    killed = Bench(tmp_path)
    await killed.open()
    settings, version = Settings(), await killed.embedder.resolve("tiny", 1, "")
    await killed.collections.create("films", ("tiny", 1, ""), settings)
    killed.catalog.create_collection("copy", settings, version, importing=0.1)
    killed.documents.write("copy", [Document("a", "what has come by then", "", {})])
    await killed.close()
    again = Bench(tmp_path)
    await again.open()
    async with asyncio.timeout(10):
        while again.state.names() != ["films"] or len(list((tmp_path / "indexes" / "shards").iterdir())) > 1:
            await asyncio.sleep(0.01)
    await again.collections.create("copy", ("tiny", 1, ""), settings)
    await again.close()
