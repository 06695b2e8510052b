"""`diapason eval` and `eval-compare` against a stack in this process that finds by words."""

import json
import signal
import threading
from collections.abc import Iterator
from math import log2
from pathlib import Path
from typing import Any

import pytest

from diapason.evaluation import measuring
from diapason.search.v1.collection_pb2 import Collection, CollectionSettings, Route
from diapason.search.v1.document_pb2 import Document
from tests.support.judged import CORPUS, ENCODER, QRELS, QUERIES, WordStack, serving, write_folder
from tests.support.terminal import Command, signalled


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[WordStack]:
    made = WordStack()  # type: ignore[abstract]  # what it lacks answers UNIMPLEMENTED
    with serving(made) as address:
        for name in ("SEARCH", "EMBEDDER", "TRAINER", "FEEDBACK"):
            monkeypatch.setenv(f"DIAPASON_{name}_ADDRESS", address)
        monkeypatch.setattr(measuring, "_FIRST_WAIT_SECONDS", 0.001)
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "Farm Life")


def ways(record: dict[str, Any]) -> list[tuple[str, int]]:
    return [(way["mode"], way["dimensions"]) for way in record["ways"]]


def test_every_way_is_measured_and_the_collection_is_gone_afterwards(
    command: Command, stack: WordStack, folder: Path, tmp_path: Path
) -> None:
    file, drawn = tmp_path / "run.json", tmp_path / "run.svg"
    code, out, err = command("eval", str(folder), "--json", "--output", str(file), "--plot", str(drawn))
    assert code == 0, err
    shown, record = json.loads(out), json.loads(file.read_text())
    both = [(mode, size) for mode in ("dense", "exact", "hybrid", "hybrid-rrf") for size in (32, 16)]
    assert ways(record) == ways(shown) == [*both, ("words", 0)]
    assert "queries" not in shown["ways"][0]
    assert shown["ways"][0]["metrics"] == record["ways"][0]["metrics"]
    assert stack.deleted == ["eval-farm-life-1"]
    assert not stack.collections
    assert record["data"]["name"] == "Farm Life"
    assert (record["data"]["documents"], record["data"]["queries"], record["data"]["judgments"]) == (4, 3, 5)
    assert record["route"]["encoder"] == {"model": "words", "number": 2, "digest": ENCODER.digest}
    assert record["collection"]["settings"]["dimensions"] == [16]
    assert "bm25" in record["collection"]["settings"]
    assert drawn.read_text().startswith("<?xml")
    assert "dense" in drawn.read_text()


def test_the_metrics_are_those_of_the_answers(command: Command, stack: WordStack, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    command("eval", str(folder), "--mode", "dense", "--dimensions", "32", "--output", str(file))
    [way] = json.loads(file.read_text())["ways"]
    # q1 finds d1 and d3 by four and two words; q2 finds d2 and d4 by two and one.
    assert way["queries"]["q1"]["results"] == [["d1", 4.0], ["d3", 2.0]]
    assert way["queries"]["q1"]["ndcg@10"] == 1
    # q4 finds d4, d3 and d2 by a word each: the greatest id first, whatever the service says.
    assert [name for name, _ in way["queries"]["q4"]["results"]] == ["d4", "d3", "d2"]
    assert way["metrics"]["ndcg@10"]["mean"] == way["metrics"]["mrr@10"]["mean"] == 1
    assert way["metrics"]["recall@100"] == {"mean": 1, "low": 1, "high": 1}


def test_requests_ask_for_what_the_modes_mean(command: Command, stack: WordStack, folder: Path) -> None:
    code, out, err = command("eval", str(folder), "--reranker", "judge", "--encoder", "words@1", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert ways(record)[-3:] == [("words", 0), ("reranked", 32), ("hybrid-reranked", 32)]
    assert record["route"]["encoder"]["number"] == 1
    assert record["route"]["reranker"]["model"] == "judge"
    asked = [request for request in stack.asked if request.query == QUERIES[0][1]]
    assert all(request.unrecorded for request in asked)
    told = [
        (r.limit, r.dimensions, r.exact, r.hybrid.fusion if r.HasField("hybrid") else None, r.rerank.candidates)
        for r in asked
    ]
    assert told == [
        (1, 0, False, None, 0),
        (100, 0, False, None, 0), (100, 16, False, None, 0),
        (100, 0, True, None, 0), (100, 16, True, None, 0),
        (100, 0, False, 2, 0), (100, 16, False, 2, 0),
        (100, 0, False, 1, 0), (100, 16, False, 1, 0),
        (100, 0, False, 3, 0),
        (100, 0, False, None, 100), (100, 0, False, 2, 100),
    ]  # fmt: skip


def test_a_table_for_people(command: Command, stack: WordStack, folder: Path) -> None:
    code, out, err = command("eval", str(folder), "--mode", "words", "--limit-queries", "2", "--keep")
    assert code == 0, err
    assert "Farm Life, split test: 2 queries, 4 documents, words version 2" in out
    assert "1.000 1.000–1.000" in out
    assert "eval-farm-life-1 is kept" in err
    assert list(stack.collections) == ["eval-farm-life-1"]
    assert [request.query for request in stack.asked] == [QUERIES[0][1], QUERIES[1][1]]
    command("eval", str(folder), "--mode", "words")
    assert stack.deleted == ["eval-farm-life-2"]


def test_documents_come_as_the_service_takes_them(command: Command, stack: WordStack, tmp_path: Path) -> None:
    corpus = [
        *CORPUS, ("titled", "owls", " "), ("empty", "", ""), ("long", "t", "x" * 200_000), ("wordy", "y" * 2_001, "z"),
    ]  # fmt: skip
    _, _, err = command("eval", str(write_folder(tmp_path, corpus)), "--mode", "words", "--keep")
    assert "1 documents have neither title nor text" in err
    [stored] = stack.stored.values()
    assert list(stored) == ["d1", "d2", "d3", "d4", "titled", "long", "wordy"]
    assert (stored["titled"].title, stored["titled"].text) == ("", "owls")
    assert len(stored["long"].text) + len("t\n") == 100_000
    assert (stored["wordy"].title, stored["wordy"].text) == ("", "y" * 2_001 + "\nz")


def test_a_document_with_the_querys_own_id_is_left_out(command: Command, stack: WordStack, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, corpus=[*CORPUS, ("q1", "", QUERIES[0][1])])
    file = tmp_path / "run.json"
    command("eval", str(folder), "--mode", "words", "--output", str(file))
    [way] = json.loads(file.read_text())["ways"]
    assert [name for name, _ in way["queries"]["q1"]["results"]] == ["d1", "d3"]


def existing(stack: WordStack, ids: list[str], bm25: bool = True) -> None:
    settings = CollectionSettings(dimensions=[16])
    if bm25:
        settings.bm25.SetInParent()
    route = Route(collection="mine", generation=3, encoder=ENCODER, index="i")
    stack.collections["mine"] = Collection(name="mine", settings=settings, route=route)
    texts = {name: (title, text) for name, title, text in CORPUS}
    stack.stored["mine"] = {
        name: Document(id=name, title=texts.get(name, ("", ""))[0], text=texts.get(name, ("", "other"))[1])
        for name in ids
    }


def test_a_collection_that_is_there_is_measured_and_left(command: Command, stack: WordStack, folder: Path) -> None:
    existing(stack, ["d1", "d2", "d4"])
    code, out, err = command("eval", str(folder), "--collection", "mine", "--json")
    assert code == 0, err
    assert "1 of 4 judged documents are missing, for example d3; they count as not found" in err
    record = json.loads(out)
    assert (record["collection"]["judged_missing"], record["collection"]["made_for_this"]) == (1, False)
    # Of q1 the second document is missing: 2 / (2 + 1 / log2(3)); the other two queries are answered.
    first = 2 / (2 + 1 / log2(3))
    assert record["ways"][0]["metrics"]["ndcg@10"]["mean"] == pytest.approx((first + 2) / 3)
    assert list(stack.collections) == ["mine"]


def test_without_bm25_only_meaning_is_measured(command: Command, stack: WordStack, folder: Path) -> None:
    existing(stack, ["d1"], bm25=False)
    _, out, _ = command("eval", str(folder), "-c", "mine", "--json")
    assert ways(json.loads(out)) == [("dense", 32), ("dense", 16), ("exact", 32), ("exact", 16)]
    code, _, err = command("eval", str(folder), "-c", "mine", "--mode", "hybrid")
    assert (code, "--mode hybrid can't be measured" in err, "without BM25" in err) == (2, True, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["FOLDER", "--split", "dev"], "there is no qrels/dev.tsv in"),
        (["FOLDER", "--encoder", "other"], "no encoder 'other' loaded; it has words@1, words@2"),
        (["FOLDER", "--encoder", "words@9"], "no encoder 'words@9' loaded; it has words@1, words@2"),
        (["FOLDER", "--encoder", "words@two"], "'words@two' names no version; give MODEL or MODEL@NUMBER"),
        (["FOLDER", "--reranker", "words"], "no reranker 'words' loaded; it has judge@1"),
        (["FOLDER", "--dimensions", "32,17"], "'17' is not a size of words version 2; it has 32, 16"),
        (["FOLDER", "--dimensions", "small"], "'small' is not a size of words version 2"),
        (["FOLDER", "--mode", "reranked"], "no reranker serves; name one with --reranker"),
        (["FOLDER", "--mode", "sideways"], "sideways"),
        (["FOLDER", "--collection", "none"], "there is no collection 'none'"),
        (["FOLDER", "--collection", "none", "--encoder", "words"], "--encoder and --reranker are for a new collection"),
        (["FOLDER", "--output", "no/where/run.json"], "there is no folder no/where to write run.json to"),
        (["FOLDER", "--plot", "FOLDER"], "is a folder; name a file in it"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    command: Command, stack: WordStack, folder: Path, arguments: list[str], said: str
) -> None:
    code, out, err = command("eval", *(str(folder) if each == "FOLDER" else each for each in arguments))
    assert (code, out) == (2, "")
    assert said in err
    assert not stack.collections


def test_a_collection_or_corpus_without_any_judged_document_is_refused(
    command: Command, stack: WordStack, folder: Path, tmp_path: Path
) -> None:
    existing(stack, ["other"])
    code, _, err = command("eval", str(folder), "-c", "mine")
    assert code == 2
    assert "collection 'mine' has none of the 4 documents that Farm Life judges, for example 'd1'" in err
    strange = write_folder(tmp_path / "strange", corpus=[("z", "", "zebras")])
    code, _, err = command("eval", str(strange))
    assert (code, "has none of the documents" in err) == (2, True)
    assert not stack.deleted


def test_no_stack_is_said_with_its_address(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIAPASON_SEARCH_ADDRESS", "127.0.0.1:9")
    code, _, err = command("eval", str(folder))
    assert code == 2
    assert "search does not answer at 127.0.0.1:9 (unavailable); start a stack with `diapason up`" in err


def test_who_is_busy_is_asked_again(command: Command, stack: WordStack, folder: Path) -> None:
    stack.busy = 4
    code, out, err = command("eval", str(folder), "--mode", "dense", "--json")
    assert code == 0, err
    assert json.loads(out)["ways"][0]["metrics"]["mrr@10"]["mean"] == 1
    stack.busy = 10_000
    code, _, err = command("eval", str(folder), "--mode", "dense")
    assert (code, "search was too busy to answer" in err) == (1, True)
    assert stack.deleted == ["eval-farm-life-1"] * 2


def test_what_can_not_be_measured_is_said_and_cleaned_up(command: Command, stack: WordStack, folder: Path) -> None:
    stack.refused = "owls"
    code, _, err = command("eval", str(folder))
    assert (code, "query 'q1' was refused: query: is refused" in err) == (1, True)
    stack.refused, stack.reranks = "", False
    code, _, err = command("eval", str(folder), "--reranker", "judge@1", "--mode", "reranked")
    assert (code, "was not reranked: the reranker is away" in err) == (1, True)
    stack.switches_after = len(stack.asked) + 5
    code, _, err = command("eval", str(folder))
    assert (code, "went from generation 1 to 2 while it was measured" in err) == (1, True)
    assert len(stack.deleted) == 3
    assert not stack.collections


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_leaving_the_collection(
    stack: WordStack, folder: Path, number: signal.Signals
) -> None:
    stack.hold = threading.Event()
    try:
        code, out, _ = signalled(number, lambda: stack.searching.wait(30), "eval", str(folder))
    finally:
        stack.hold.set()
    assert (code, out) == (130, "")
    assert stack.deleted == ["eval-farm-life-1"]
    assert not stack.collections


@pytest.fixture
def runs(command: Command, stack: WordStack, tmp_path: Path) -> tuple[str, str]:
    """One run of a corpus in which two queries miss their documents, and one of the whole corpus."""
    first, second = str(tmp_path / "first.json"), str(tmp_path / "second.json")
    folder = write_folder(tmp_path / "Farm Life")
    existing(stack, ["d1", "d3"])
    command("eval", str(folder), "-c", "mine", "--output", first)
    command("eval", str(folder), "--output", second)
    return first, second


def test_two_runs_are_compared_query_by_query(command: Command, runs: tuple[str, str]) -> None:
    code, out, err = command("eval-compare", *runs, "--json")
    assert code == 0, err
    found = json.loads(out)
    ndcg = found["metrics"]["ndcg@10"]
    assert (ndcg["queries"], ndcg["better"], ndcg["same"], ndcg["worse"]) == (3, 2, 1, 0)
    assert ndcg["interval"]["mean"] == pytest.approx(2 / 3)
    assert 0.2 < ndcg["p"] < 0.8
    assert [(gain["query"], gain["first"], gain["second"]) for gain in found["gains"]] == [("q2", 0, 1), ("q4", 0, 1)]
    assert found["gains"][0]["text"] == QUERIES[1][1]
    assert found["losses"] == []
    back = json.loads(command("eval-compare", *reversed(runs), "--json")[1])
    assert [loss["query"] for loss in back["losses"]] == ["q2", "q4"]


def test_a_comparison_for_people_and_of_two_modes(command: Command, runs: tuple[str, str]) -> None:
    code, out, err = command("eval-compare", *runs, "--mode", "dense@16", "--second-mode", "words")
    assert code == 0, err
    assert "first: first.json: words version 2, dense at 16" in out
    assert "second: second.json: words version 2, words" in out
    assert "Farm Life, split test: 3 queries of both" in out
    assert "Largest gains in nDCG@10" in out
    assert "Largest losses" not in out


def test_runs_that_do_not_go_together_are_refused(
    command: Command, stack: WordStack, runs: tuple[str, str], tmp_path: Path
) -> None:
    first = runs[0]
    other = str(tmp_path / "other.json")
    barn = write_folder(tmp_path / "barn", qrels=QRELS[:1])
    command("eval", str(barn), "--output", other)
    broken = tmp_path / "broken.json"
    broken.write_text('{"format": 1, "ways": [{}]}')
    part, rest = tmp_path / "part.json", json.loads(Path(first).read_text())
    for way in rest["ways"]:
        del way["queries"]["q1"]
    part.write_text(json.dumps(rest))
    only_one = str(tmp_path / "one.json")
    command("eval", str(tmp_path / "Farm Life"), "--limit-queries", "1", "--output", only_one)
    for arguments, said in (
        ((first, other), "are of different data (Farm Life, split test and barn, split test)"),
        ((first, str(tmp_path / "none.json")), "there is no"),
        ((first, str(broken)), "is no record of an evaluation"),
        ((first, str(tmp_path)), "can't be read as JSON"),
        ((only_one, str(part)), "the two runs share no query"),
        ((first, first, "--mode", "reranked"), "has no reranked; it has dense at 32, dense at 16"),
        ((first, first, "--mode", "dense@64"), "has no dense at 64"),
        ((first, first, "--mode", "dense@x"), "--mode 'dense@x' is no way to search"),
        ((first, first, "--second-mode", "up"), "--second-mode 'up' is no way to search"),
    ):
        code, out, err = command("eval-compare", *arguments)
        assert (code, out) == (2, ""), arguments
        assert said in err
