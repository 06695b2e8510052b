"""What rows must be like, and what files are read as rows."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from diapason.datasets.checking import FEWEST, NAMED, BadData, Checker, Summary
from diapason.datasets.columns import guess
from diapason.datasets.files import Source
from diapason.trainer.v1 import dataset_pb2 as pb

J, P, T = pb.DATASET_FORM_JUDGMENTS, pb.DATASET_FORM_PAIRS, pb.DATASET_FORM_TRIPLETS
S, C, E = pb.DATASET_FORM_SCORED_PAIRS, pb.DATASET_FORM_CLASSES, pb.DATASET_FORM_EVALUATION
Rows = Sequence[Mapping[str, Any]]

GOOD: dict[pb.DatasetForm.ValueType, Rows] = {
    J: [{"query": f"q{i}", "document": f"d{i}", "grade": i % 2} for i in range(12)],
    P: [{"query": f"q{i}", "positive": f"d{i}"} for i in range(12)],
    T: [{"query": f"q{i}", "positive": f"d{i}", "negative": f"d{i + 1}"} for i in range(12)],
    S: [{"query": f"q{i}", "document": f"d{i}", "score": i / 6 - 1} for i in range(12)],
    C: [{"text": f"t{i}", "class": "ab"[i % 2]} for i in range(12)],
}


def lines(folder: Path, rows: Iterable[Any], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def table(folder: Path, rows: Rows) -> Path:
    path = folder / "rows.csv"
    with path.open("w", newline="") as content:
        writer = csv.DictWriter(content, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def checked(path: Path, form: pb.DatasetForm.ValueType = pb.DATASET_FORM_UNSPECIFIED, split: str = "") -> Summary:
    *_, last = Source.open(path, form, split).checked()
    assert last is not None
    return last


def refused(path: Path, form: pb.DatasetForm.ValueType = pb.DATASET_FORM_UNSPECIFIED) -> str:
    with pytest.raises(BadData) as refusal:
        checked(path, form)
    return str(refusal.value)


@pytest.mark.parametrize("form", GOOD)
def test_the_same_rows_are_read_from_lines_and_from_a_table(tmp_path: Path, form: pb.DatasetForm.ValueType) -> None:
    paths = lines(tmp_path, GOOD[form]), table(tmp_path, GOOD[form])
    read = [list(Source.open(path, form).good_rows()) for path in paths]
    assert read[0] == read[1]
    assert len(read[0]) == 12
    summary = checked(paths[0], form)
    assert (summary.rows, summary.queries, summary.remarks) == (12, 12, [])
    assert summary.rankable_queries == {J: 6, S: 3}.get(form, 12)
    assert Source.open(paths[0]).form == form


@pytest.mark.parametrize("saved", ["save_to_disk", "splits", "parquet"])
def test_a_folder_of_datasets_is_read_offline(tmp_path: Path, saved: str) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["sea", "land"])})
    columns = {"text": [f"t{i}" for i in range(12)], "label": [i % 2 for i in range(12)]}
    made, folder = Dataset.from_dict(columns, features=features), tmp_path / "data"
    if saved == "save_to_disk":
        made.save_to_disk(str(folder))
    elif saved == "splits":
        DatasetDict(train=made, test=made.select(range(2))).save_to_disk(str(folder))
    else:
        folder.mkdir()
        made.to_parquet(str(folder / "train.parquet"))
    source = Source.open(folder)
    assert source.form == C
    rows = list(source.good_rows())
    assert [row.labelled.text for row in rows] == columns["text"]
    assert {row.labelled.label for row in rows} == {"sea", "land"}
    if saved == "splits":
        assert "there are only 2 texts" in refused_split(folder, "test")
        assert "has the splits train, test; say which" in refused_split(folder, "dev")


def refused_split(folder: Path, split: str) -> str:
    with pytest.raises(BadData) as refusal:
        checked(folder, C, split)
    return str(refusal.value)


def with_row(form: pb.DatasetForm.ValueType, row: Any) -> list[Any]:
    """Good rows, and one more as the thirteenth line."""
    return [*GOOD[form], row]


@pytest.mark.parametrize(
    ("form", "row", "said"),
    [
        (J, {"query": "q", "document": "d", "grade": 1.5}, "line 13: grade is 1.5; give a number from 0 to 1"),
        (J, {"query": "q", "document": "d", "grade": math.nan}, "line 13: grade is nan"),
        (J, {"query": "q", "document": "d", "grade": "much"}, "line 13: grade is 'much'; give a number"),
        (J, {"query": "q", "document": "d", "grade": None}, "line 13: grade is missing"),
        (J, {"query": " ", "document": "d", "grade": 1}, "line 13: query is empty"),
        (J, {"query": 3, "document": "d", "grade": 1}, "line 13: query is '3'; give a text"),
        (J, {"query": "q0", "document": "d0", "grade": 1}, "line 13: grade is 1, but 0 for the document in line 1"),
        (J, {"query": "q", "document": "d", "document_id": "7", "grade": 1}, "line 13: document stands beside"),
        (J, {"query": "q", "document": "d", "grade": 1, "weight": 0}, "line 13: weight is 0.0; give more than 0"),
        (P, {"query": "q", "positive": "x" * 100_001}, "line 13: positive has 100,001 characters; the most is 100,000"),
        (P, {"question": "q"}, "line 13: has the columns 'question' and none for positive; pairs need query, positive"),
        (P, '{"query": "q", "positive": "\\ud800"}', "line 13: a text has half of a surrogate pair"),
        (J, {"query": " q0  ", "document": "d0", "grade": 1}, "line 13: grade is 1, but 0 for the document in line 1"),
        (P, "{oops", "line 13: not JSON"),
        (P, "[1]", "line 13: a list, not an object"),
        (T, {"query": "q", "positive": "p", "negative": "p"}, "line 13: negative is the positive"),
        (T, {"query": "q", "positive": "p", "negative": "q"}, "line 13: negative is the query itself"),
        (T, {"query": "q3", "positive": "d4", "negative": "z"}, "positive is the negative of the same query in line 4"),
        (S, {"query": "q", "document": "d", "score": -1.01}, "line 13: score is -1.01; give a number from -1 to 1"),
        (C, {"text": "t0", "class": "b"}, "line 13: class is 'b', but 'a' for the text in line 1"),
        (C, {"text": "t", "class": ""}, "line 13: class is empty"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, form: pb.DatasetForm.ValueType, row: Any, said: str) -> None:
    assert said in refused(lines(tmp_path, with_row(form, row)), form)


def test_bad_rows_are_named_up_to_a_bound_and_then_counted(tmp_path: Path) -> None:
    rows = [{"query": "", "positive": "p"} for _ in range(NAMED + 7)]
    with pytest.raises(BadData) as refusal:
        checked(lines(tmp_path, [*GOOD[P], *rows]), P)
    assert (len(refusal.value.problems), refusal.value.total) == (NAMED, NAMED + 7)
    assert f"line {12 + NAMED}: " in str(refusal.value)
    assert str(refusal.value).endswith("; and 7 more")


@pytest.mark.parametrize(
    ("form", "rows", "said"),
    [
        (P, GOOD[P][: FEWEST - 1], "there are only 9 rows; 10 are the least"),
        (P, [GOOD[P][0]] * 12, "there are only 1 row; 10 are the least"),
        (J, [{**row, "grade": 0} for row in GOOD[J]], "none of the 12 rows says that a document is relevant"),
        (S, [{**row, "score": 0.4} for row in GOOD[S]], "none of the 12 rows says that a document is relevant"),
        (C, [{**row, "class": "a"} for row in GOOD[C]], "there is only one class, 'a'"),
        (C, [{"text": f"t{i}", "class": str(i)} for i in range(12)], "0 of 12 classes have two texts or more"),
        (P, [{"anchor": "a", "question": "b", "positive": "c"}] * 12, "'anchor', 'question' may all be the query"),
        (T, GOOD[P], "has the columns 'positive', 'query' and none for negative; triplets need query, positive or"),
    ],
)
def test_what_can_not_be_learned_from_is_refused(
    tmp_path: Path, form: pb.DatasetForm.ValueType, rows: Rows, said: str
) -> None:
    assert said in refused(lines(tmp_path, rows), form)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    assert checked(lines(tmp_path, [*GOOD[J], *GOOD[J][:3]]), J).remarks == ["3 exact duplicates left out"]
    favourable = [{**row, "grade": 1} for row in GOOD[J]]
    assert checked(lines(tmp_path, favourable), J).remarks == [
        "every judgment is in favour: they teach what positive pairs teach"
    ]
    summary = checked(lines(tmp_path, with_row(C, {"text": "alone", "class": "c"})), C)
    assert summary.remarks == ["1 text left out: no other is of the same class"]
    assert (summary.rows, summary.rankable_queries, summary.classes) == (13, 12, 2)


def test_what_the_columns_are_not_read_for_is_known(tmp_path: Path) -> None:
    source = Source.open(lines(tmp_path, [{**row, "source": "x", "id": 1} for row in GOOD[P]]))
    assert source.form == P
    list(source.good_rows())
    assert source.unread == {"source", "id"}


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        ("anchor positive", P),
        ("question answer", P),
        ("query document_id", P),
        ("anchor positive negative", T),
        ("query document_id score", J),
        ("query document label", J),
        ("sentence1 sentence2 label", S),
        ("query document score", S),
        ("text label", C),
    ],
)
def test_the_form_is_told_by_the_columns(columns: str, form: pb.DatasetForm.ValueType) -> None:
    assert guess(columns.split()) == form


def test_columns_that_fit_nothing_are_told_what_fits() -> None:
    with pytest.raises(
        BadData, match=r"the columns 'foo', 'text' fit no form .* pairs: query, positive or positive_id"
    ):
        guess(["text", "foo"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", b"", "is empty"),
        ("rows.csv", b"", "is empty"),
        ("rows.csv", b"query,positive\n", "is empty"),
        ("rows.csv", b"query,positive\na,b,c\n", "line 2: not as many cells"),
        ("rows.csv", b'query,positive\n"a,b\n', "not CSV"),
        ("rows.csv", b"query,positive\na," + b"x" * 140_000, "line 1: a cell has more than 100,000 characters"),
        ("rows.csv", b"query,positive\n\xff,b\n", "not UTF-8; convert the file"),
        ("rows.jsonl", b'{"query": "\xff"}\n', "line 1: not UTF-8; convert the file"),
        ("rows.txt", b"a", "ends in .txt"),
    ],
)
def test_a_file_that_can_not_be_read_says_why(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert said in refused(path)


def evaluation(folder: Path, **changes: str) -> Path:
    """A folder in BEIR's layout, of twelve queries."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": "T", "text": f"text {i}"} for i in range(12)]
    lines(folder, [*documents, {"_id": "void", "title": "", "text": ""}], "corpus.jsonl")
    lines(folder, [{"_id": f"q{i}", "text": f"query {i}"} for i in range(12)], "queries.jsonl")
    judged = [f"q{i}\td{i}\t1" for i in range(12)] + ["q0\tgone\t1", "q1\td2\t0"]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return folder


def test_an_evaluation_brings_its_documents(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "set")
    source = Source.open(folder)
    assert source.form == E
    rows = list(source.good_rows())
    assert rows[0].evaluation_document.text == "T\ntext 0"
    summary = checked(folder)
    assert (summary.documents, summary.queries, summary.rankable_queries) == (12, 12, 12)
    assert summary.remarks == [
        "1 document without any text left out",
        "1 judgment of documents that are not in it left out",
    ]
    assert "its form is evaluation" in refused(folder, J)
    assert "is none" in refused(lines(tmp_path, GOOD[J]), E)
    with pytest.raises(BadData, match=r"no qrels/dev\.tsv .*; its splits: test"):
        checked(folder, E, "dev")


def test_grades_of_an_evaluation_are_whole_numbers() -> None:
    checker = Checker(E)
    for grade in (2, 0.3, math.inf):
        judgment = pb.EvaluationJudgment(query="q", document_id=f"d{grade}", grade=grade)
        checker.add(f"rows[{grade}]", pb.DatasetRow(evaluation_judgment=judgment))
    with pytest.raises(
        BadData, match=r"^rows\[0.3\]: grade is 0.3; give a whole .*; rows\[inf\]: grade is inf; give a"
    ):
        checker.finish()


def test_a_row_of_another_form_is_refused() -> None:
    checker = Checker(P)
    assert not checker.add("rows[0]", pb.DatasetRow())
    assert not checker.add("rows[1]", pb.DatasetRow(labelled=pb.ClassRow(text="t", label="l")))
    with pytest.raises(BadData, match=r"rows\[0\]: row is empty; pairs have pair; rows\[1\]: row is labelled"):
        checker.finish()


def test_the_examples_of_the_docs_are_what_the_docs_say(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text()
    blocks = [part.partition("\n")[2] for part in text.split("```")[1::2] if part.startswith("\n")]
    found = []
    for number, block in enumerate(blocks):
        if block.startswith("diapason"):
            continue
        path = tmp_path / f"{number}.{'jsonl' if block.startswith('{') else 'csv'}"
        path.write_text(block)
        source = Source.open(path)
        assert len(list(source.good_rows())) == 3
        found.append(source.form)
    assert found == [J, P, T, S, C]
