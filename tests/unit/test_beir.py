"""Reading BEIR folders, and what is said of those that are none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diapason.evaluation.beir import DataError, Entry, read
from tests.support.judged import CORPUS, write_folder


def appended(name: str, line: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        with folder.joinpath(name).open("a") as file:
            file.write(line + "\n")

    return change


def test_a_split_has_its_judged_queries_and_the_corpus(tmp_path: Path) -> None:
    data = read(write_folder(tmp_path / "farm"))
    assert (data.name, data.split) == ("farm", "test")
    assert list(data.queries) == ["q1", "q2", "q4"]
    assert data.judgments == {"q1": {"d1": 2, "d3": 1}, "q2": {"d2": 1, "d4": 0}, "q4": {"d4": 1}}
    assert data.document_ids == {"d1", "d2", "d3", "d4"}
    assert list(data.entries()) == [Entry(*each) for each in CORPUS]
    assert data.answer_bytes == sum(len(title) + len(text) for _, title, text in CORPUS)


def test_the_hundred_longest_documents_bound_an_answer(tmp_path: Path) -> None:
    corpus = [(f"d{i}", "", "x" * i) for i in range(1, 151)]
    assert read(write_folder(tmp_path, corpus)).answer_bytes == sum(range(51, 151))


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    one, same = read(write_folder(tmp_path / "a")), read(write_folder(tmp_path / "b"))
    assert one.digest == same.digest
    appended("qrels/test.tsv", "q3\td1\t1")(tmp_path / "b")
    assert read(tmp_path / "b").digest != one.digest


def test_what_is_usual_elsewhere_is_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    folder.joinpath("corpus.jsonl").write_bytes(b'\xef\xbb\xbf{"_id": "d1", "title": null, "text": ""}\r\n\n')
    folder.joinpath("qrels/test.tsv").write_bytes(b"query-id\tcorpus-id\tscore\r\nq1\td1\t1\r\nq1\td1\t1\r\n")
    data = read(folder)
    assert list(data.entries()) == [Entry("d1", "", "")]
    assert data.judgments == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (appended("corpus.jsonl", "{oops"), "corpus.jsonl, line 5: not JSON"),
        (appended("corpus.jsonl", "[" * 100_000), "corpus.jsonl, line 5: "),
        (appended("corpus.jsonl", '["a"]'), "corpus.jsonl, line 5: a list, not an object with _id and text"),
        (appended("corpus.jsonl", '{"text": "a"}'), "corpus.jsonl, line 5: _id is missing; give a text"),
        (appended("corpus.jsonl", '{"_id": "", "text": "a"}'), "corpus.jsonl, line 5: _id is empty; give a text"),
        (appended("corpus.jsonl", '{"_id": 7, "text": "a"}'), "corpus.jsonl, line 5: _id is 7; give a text"),
        (appended("corpus.jsonl", '{"_id": "a", "text": "\\ud800"}'), "line 5: text has half of a surrogate pair"),
        (appended("corpus.jsonl", '{"_id": "d1", "text": "a"}'), "line 5: the _id 'd1' is an earlier document's"),
        (appended("queries.jsonl", '{"_id": "q1", "text": "a"}'), "line 5: the _id 'q1' is an earlier query's"),
        (appended("queries.jsonl", '{"_id": "q9", "text": " "}'), "line 5: the text of query 'q9' is empty"),
        (appended("qrels/test.tsv", "q9\td1\t1"), "test.tsv, line 7: there is no query 'q9' in queries.jsonl"),
        (appended("qrels/test.tsv", "q1 d1 1"), "test.tsv, line 7: 1 cells between tabs"),
        (appended("qrels/test.tsv", "q1\td1\tyes"), "test.tsv, line 7: the score 'yes' is not a whole number"),
        (appended("qrels/test.tsv", "q1\td1\t1"), "line 7: document 'd1' has another score for query 'q1' above"),
        (lambda f: (f / "qrels/test.tsv").write_text("q1\td1\t1\n"), "test.tsv, line 1: a judgment; the first line"),
        (lambda f: (f / "qrels/test.tsv").write_text("a\tb\tc\n"), "test.tsv judges no query; choose another split"),
        (lambda f: (f / "qrels/test.tsv").rename(f / "qrels/dev.tsv"), "there is no qrels/test.tsv in "),
        (lambda f: (f / "corpus.jsonl").unlink(), "there is no corpus.jsonl in "),
        (lambda f: (f / "corpus.jsonl").write_text("\n"), "corpus.jsonl has no documents"),
        (lambda f: (f / "corpus.jsonl").write_bytes(b'{"_id": "caf\xe9"}'), "corpus.jsonl, line 1: not UTF-8"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    change(write_folder(tmp_path))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert said in str(caught.value)


def test_a_missing_split_names_those_there_are_and_a_missing_folder_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its splits: test"):
        read(write_folder(tmp_path), "train")
    with pytest.raises(DataError, match="nowhere is not a folder"):
        read(tmp_path / "nowhere")
