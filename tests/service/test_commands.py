"""`diapason` on collections, against a search service in this process: real engine, a planted embedder."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from diapason.client import Addresses, Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1 import collection_pb2 as pb
from diapason.search.v1.document_pb2 import Document
from tests.support.fakes import Bench
from tests.support.serving import serving
from tests.support.terminal import Command, signalled

FILMS = [
    {"id": "owls", "title": "Owls", "text": "owls hunt mice at night", "payload": {"year": 1990, "genre": "drama"}},
    {"id": "mice", "text": "mice eat grain in the barn", "payload": {"year": 1995, "genre": ["comedy", "family"]}},
    {"id": "barn", "text": "the barn burns at night", "payload": {"year": 2001, "genre": "horror", "seen": True}},
    {"id": "grain", "text": "grain grows in summer", "payload": {"year": 2010, "shown": "2010-05-01T20:00:00Z"}},
]
FIELDS = ("--field", "year:integer", "--field", "genre:keyword", "--field", "seen:bool", "--field", "shown:datetime")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, str]]:
    with serving(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture(autouse=True)
def bench(served: tuple[Bench, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """The service, for whoever runs a command in a data folder of their own."""
    bench, address = served
    monkeypatch.setenv("DIAPASON_SEARCH_ADDRESS", address)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("DIAPASON_DATA", str(tmp_path / "data"))
    return bench


@pytest.fixture
def client(served: tuple[Bench, str]) -> Iterator[Client]:
    with Client(Addresses(search=served[1])) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The four documents."""
    path = tmp_path / "films.jsonl"
    path.write_text("".join(json.dumps(film) + "\n" for film in FILMS))
    return path


@pytest.fixture
def films(client: Client, command: Command, file: Path) -> None:
    """A collection `films` of the four, for whoever leaves it as it is."""
    if "films" not in names(client):
        indexed(command, file, "films")


def indexed(command: Command, file: Path, collection: str) -> None:
    code, out, err = command("index", str(file), "-c", collection, "--model", "tiny@1", *FIELDS)
    assert (code, out) == (0, f"4 documents in '{collection}'\n"), err


def names(client: Client) -> set[str]:
    return {known.name for known in client.collections()}


def ids(command: Command, *arguments: str) -> list[str]:
    code, out, err = command("search", *arguments, "-c", "films", "--json")
    assert code == 0, err
    return [result["id"] for result in json.loads(out).get("results", [])]


def test_a_new_collection_has_what_was_asked_for(command: Command, client: Client, films: None, file: Path) -> None:
    settings = client.collection("films").settings
    assert settings.bm25.language == "english"
    assert dict(settings.fields)["shown"] == pb.FIELD_TYPE_DATETIME
    options = ["--no-bm25", "--distance", "dot", "--quantization", "int8", "--dimensions", "16"]
    options += ["--passages", "20", "--overlap", "5"]
    assert command("index", str(file), "-c", "other", "--model", "tiny@1", *options)[0] == 0
    settings = client.collection("other").settings
    assert not settings.HasField("bm25")
    assert (settings.distance, settings.quantization) == (pb.DISTANCE_DOT, pb.QUANTIZATION_INT8)
    assert list(settings.dimensions) == [16]
    assert (settings.passages.max_tokens, settings.passages.overlap_tokens) == (20, 5)
    # The same again is no contradiction, and neither is leaving it out.
    assert command("index", str(file), "-c", "other", *options)[1] == "4 documents in 'other', 4 unchanged\n"
    file.write_text(json.dumps(FILMS[0]) + "\n" + json.dumps({"id": "long", "text": "a" * 20 + "b" * 20}))
    assert command("index", str(file), "-c", "other")[1] == "2 documents in 'other', 1 unchanged\n"
    # The embedder's tokens are characters; the second passage is what is found.
    assert "… " + "b" * 20 in command("search", "b" * 20, "-c", "other")[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--distance", "dot"], "collection 'films' exists with other settings than --distance; leave it out"),
        (["--no-bm25", "--field", "n:float"], "exists with other settings than --bm25, --field"),
        (["--field", "n:float"], "`diapason collections update` declares fields"),
        (["--field", "n"], "--field 'n': give NAME:TYPE, the type one of keyword, integer, float"),
        (["--field", "n:number"], "--field 'n:number'"),
        (["--no-bm25", "--language", "german"], "--language is BM25's"),
        (["--overlap", "3"], "give --passages too"),
        (["-c", "new", "--model", "tiny@one"], "'tiny@one' names no version"),
        (["-c", "new", "--model", "tiny", "--language", "klingon"], "is 'klingon'; use one such as"),
        (["-c", "new", "--model", "other"], "there is no encoder version 'other'"),
    ],
)
def test_settings_that_can_not_be_are_refused(
    command: Command, client: Client, films: None, file: Path, options: list[str], said: str
) -> None:
    code, _, err = command("index", str(file), "-c", "films", *options)
    assert code == 2
    assert said in err
    assert "new" not in names(client)


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        (["year>=1995"], {"mice", "barn", "grain"}),
        (["year>=1995", "year<2005"], {"mice", "barn"}),
        (["genre=comedy|drama"], {"owls", "mice"}),
        (["genre!=horror"], {"owls", "mice", "grain"}),
        (["genre^=fam"], {"mice"}),
        (["!genre?"], {"grain"}),
        (["seen=true"], {"barn"}),
        (["shown=2010-05-01"], {"grain"}),
        (["shown>2010-05-01"], set()),
    ],
)
def test_filters_hold(command: Command, films: None, conditions: list[str], found: set[str]) -> None:
    options = [part for condition in conditions for part in ("--filter", condition)]
    assert set(ids(command, "anything", "-n", "10", *options)) == found


def test_a_search_asks_for_all_it_can(command: Command, films: None) -> None:
    assert ids(command, "barn", "--fusion", "words") in (["barn", "mice"], ["mice", "barn"])
    assert set(ids(command, "barn", "--hybrid")) == {film["id"] for film in FILMS}
    assert ids(command, "grain grows in summer", "--threshold", "0.99") == ["grain"]
    assert "owls" not in ids(command, "--like", "owls", "--unlike", "barn", "--exact")
    code, out, err = command("search", "grain grows in summer", "-c", "films", "--fusion", "rrf", "--explain")
    assert code == 0, err
    assert all(heading in out for heading in ("meaning", "words", "fused"))
    assert "1.000 #1" in out
    assert "diapason feedback up 1" in out
    assert "meaning" not in command("search", "grain", "-c", "films")[1]


def test_pages_follow_one_another(command: Command, films: None) -> None:
    code, out, err = command("search", "night", "-c", "films", "-n", "3", "--filter", "year>0")
    assert (code, "diapason search --next" in out) == (0, True), err
    first = json.loads(command("search", "night", "-c", "films", "-n", "3", "--json")[1])
    second = json.loads(command("search", "--next", "--json")[1])
    assert {result["id"] for result in (*first["results"], *second["results"])} == {film["id"] for film in FILMS}
    assert command("search", "--next")[::2] == (2, "diapason: the last search has no further page; ask anew")
    code, _, err = command("search", "--next", "-n", "3")
    assert (code, "leave everything else out" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is nothing to look for"),
        (["--next"], "no search is kept in"),
        (["x", "-n", "0"], "Invalid value for '--limit'"),
        (["x", "-f", "yaer=1"], "--filter 'yaer=1': films declares no field 'yaer' but genre (keyword), seen (bool)"),
        (["x", "--dimensions", "7"], "dimensions: is 7"),
        (["--like", "owls", "--rerank"], "query: is empty; hybrid search and reranking need its words"),
        (["--like", "nobody"], "nobody"),
        (["x", "--fusion", "best"], "'best' is not one of"),
        (["x", "-c", "none", "-f", "a=b"], "there is no collection 'none'"),
    ],
)
def test_searches_that_can_not_be_are_refused(command: Command, films: None, arguments: list[str], said: str) -> None:
    where = [] if "--next" in arguments or "-c" in arguments else ["-c", "films"]
    code, out, err = command("search", *arguments, *where)
    assert (code, out) == (2, "")
    assert said in err


def test_collections_are_listed_and_shown(command: Command, films: None, client: Client) -> None:
    out = command("collections")[1]
    assert all(part in out for part in ("films", "tiny version 1", "4"))
    assert "films" in [listed["name"] for listed in json.loads(command("collections", "--json")[1])]
    out = command("collections", "show", "films")[1]
    for part in ("4 documents", "serving", "genre:keyword", "english", "1 h", "cosine"):
        assert part in out
    shown = json.loads(command("collections", "show", "films", "--json")[1])
    assert [route["generation"] for route in shown["routes"]] == ["1"]
    assert command("collections", "show", "none")[0] == 2


def test_a_collection_is_updated_and_then_reranks(command: Command, client: Client, file: Path) -> None:
    indexed(command, file, "changing")
    out = command("search", "barn", "-c", "changing", "--rerank")[1]
    assert "Not reranked: the route of 'changing' has no reranker" in out
    changes = ["--field", "plot:text", "--retention", "90", "--reranker", "judge@1"]
    code, out, err = command("collections", "update", "changing", *changes)
    assert code == 0, err
    assert out.startswith("changing: served by tiny version 1, reranker judge version 1; fields genre:keyword, plot:te")
    assert "kept 1 min 30 s" in " ".join(out.split())
    assert client.collection("changing").settings.retention.seconds == 90
    # The shortest is the judge's best.
    out = command("search", "barn", "-c", "changing", "--rerank", "--explain")[1]
    assert all(part in out for part in ("reranker", "# before"))
    assert "Not reranked" not in out
    assert out.index("grain grows") < out.index("barn burns") < out.index("mice eat")
    for arguments, said in (
        ((), "there is nothing to change"),
        (("--field", "year:text"), "declares 'year' as text; it is integer and stays so"),
        (("--reranker", "tiny"), "there is no reranker version 'tiny'"),
    ):
        code, _, err = command("collections", "update", "changing", *arguments)
        assert (code, said in err) == (2, True), err
    for _ in range(2):
        code, out, err = command("collections", "update", "changing", "--reranker", "none")
        assert (code, "version 1; fields" in out) == (0, True), err


def test_deleting_asks(command: Command, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client.create_collection("doomed", "tiny")
    for answer in ("n\n", ""):
        with answering(answer, tmp_path) as given:
            monkeypatch.setattr("sys.stdin", given)
            code, out, err = command("collections", "delete", "doomed")
        assert (code, out.strip()) == (2, "")
        assert "Delete 'doomed' with its 0 documents?" in err
        assert "nothing was deleted; --yes deletes without asking" in err
    with answering("y\n", tmp_path) as given:
        monkeypatch.setattr("sys.stdin", given)
        assert command("collections", "delete", "doomed")[1].strip() == "'doomed' is deleted, with 0 documents"
    assert "doomed" not in names(client)
    client.create_collection("doomed", "tiny")
    assert json.loads(command("collections", "delete", "doomed", "--yes", "--json")[1])["documents"] == 0


def answering(answer: str, folder: Path) -> TextIO:
    (folder / "answer").write_text(answer)
    return (folder / "answer").open()


def test_a_collection_comes_back_from_its_file(
    command: Command, films: None, client: Client, bench: Bench, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.jsonl"
    code, out, err = command("export", "films", str(moved))
    assert (code, "4 documents of 'films', under tiny version 1, in" in out) == (0, True), err
    assert sorted(path.name for path in tmp_path.glob("moved*")) == ["moved.jsonl"]
    header, *documents = map(json.loads, moved.read_text().splitlines())
    assert (header["diapason_export"], header["documents"], header["encoder"]["model"]) == (1, 4, "tiny")
    assert [(line["id"], line["payload"]) for line in documents] == [(f["id"], f["payload"]) for f in FILMS]
    embedded = len(bench.embedder.embedded)
    code, out, err = command("import", str(moved), "--collection", "copy")
    assert (code, out) == (0, "4 documents in 'copy', under tiny version 1\n"), err
    assert len(bench.embedder.embedded) == embedded
    assert client.collection("copy").settings == client.collection("films").settings
    found = [client.search(name, "the barn burns at night", 4).results for name in ("films", "copy")]
    assert found[0] == found[1]
    assert json.loads(command("export", "copy", str(tmp_path / "again.jsonl"), "--json")[1])["documents"] == 4
    again = (tmp_path / "again.jsonl").read_text()
    assert again.splitlines()[1:] == moved.read_text().splitlines()[1:]
    # Without its header it is a file of documents.
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(f"{line}\n" for line in again.splitlines()[1:]))
    assert command("index", str(plain), "-c", "films")[1] == "4 documents in 'films', 4 unchanged\n"


def test_an_export_takes_no_file_that_is_there(command: Command, films: None, file: Path, tmp_path: Path) -> None:
    for named, said in (
        (file, "is there already; move it away, or name another file"),
        (tmp_path / "no" / "where.jsonl", "there is no folder"),
    ):
        code, _, err = command("export", "films", str(named))
        assert (code, said in err) == (2, True), err
    assert command("export", "none", str(tmp_path / "none.jsonl"))[0] == 2
    assert not list(tmp_path.glob("none*"))


def test_a_broken_file_is_named_by_line_and_leaves_nothing(
    command: Command, films: None, client: Client, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.jsonl"
    command("export", "films", str(moved))
    lines = moved.read_text().splitlines()
    third = json.loads(lines[2])
    short = {**third, "passages": [{"vector": "AAAA", "start": 0, "end": 0}]}
    for changed, said in (
        ([*lines[:3], "{broken", *lines[4:]], "line 4: not JSON"),
        ([*lines[:3], json.dumps(short), *lines[4:]], "vector"),
        (lines[:-1], "has 3 documents where its first line says 4; copy it again"),
        ([lines[0].replace('"digest": "a', '"digest": "f'), *lines[1:]], "there is no encoder version"),
    ):
        moved.write_text("\n".join(changed) + "\n")
        code, out, err = command("import", str(moved), "-c", "broken")
        assert (code, out) == (2, ""), said
        assert said in err
        assert "Exception" not in err
        assert "broken" not in names(client)
    moved.write_text("\n".join(lines) + "\n")
    code, _, err = command("import", str(moved))
    assert (code, "collection 'films' exists already" in err) == (2, True)


def test_i8_a_reindex_serves_and_is_rolled_back(command: Command, client: Client, file: Path) -> None:
    indexed(command, file, "going")
    code, out, err = command("reindex", "going", "tiny@2")
    assert code == 0, err
    assert "4 documents of 'going' under tiny@2: about" in err
    assert "`diapason reindex going tiny@2 --switch` lets it serve" in out
    assert client.collection("going").route.generation == 1
    assert "caught up" in command("collections", "show", "going")[1]
    done = json.loads(command("reindex", "going", "tiny@2", "--switch", "--rate", "1000", "--json")[1])
    assert done["route"]["encoder"]["number"] == 2
    assert done["estimate"]["documents"] == "4"
    assert client.search("going", "the barn burns at night", 1).results[0].id == "barn"
    code, _, err = command("reindex", "going", "tiny")
    assert (code, "is served by that version already" in err) == (2, True)
    assert "retained" in command("collections", "show", "going")[1]
    code, out, err = command("rollback", "going")
    assert (code, out) == (0, "'going' is served by tiny version 1 again, generation 3\n"), err
    assert client.search("going", "the barn burns at night", 1).results[0].id == "barn"
    assert command("reindex", "going", "nobody")[0] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_a_reindex(command: Command, client: Client, number: signal.Signals) -> None:
    name = f"stopped-{number}"
    client.create_collection(name, VersionRef(model="tiny", number=1))
    list(client.upsert(name, (Document(id=f"n{i}", text=f"text number {i}") for i in range(300))))

    def building() -> None:
        ends = time.monotonic() + 30
        while len(client.collection(name).indexes) < 2 and time.monotonic() < ends:
            time.sleep(0.02)

    code, out, err = signalled(number, building, "reindex", name, "tiny@2", "--rate", "1", "--switch")
    assert (code, out) == (130, "")
    assert "Cancelled: the new index is dropped, what served serves." in err
    assert client.collection(name).route.generation == 1
    assert pb.INDEX_STATE_BUILDING not in [index.state for index in client.collection(name).indexes]
    code, _, err = command("rollback", name)
    assert (code, f"no earlier index of '{name}' is retained" in err) == (2, True), err
