"""Reading documents from files people bring."""

from pathlib import Path

import pytest

from diapason.cli.output import Problem
from diapason.cli.reading import documents

GOOD = '{"id": "a", "text": "one", "title": "T", "payload": {"year": 1999}}\n'


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_json_lines_with_everything(tmp_path: Path) -> None:
    [document] = documents(write(tmp_path, "x.jsonl", GOOD + "\n"))
    assert (document.id, document.text, document.title, document.payload["year"]) == ("a", "one", "T", 1999)


def test_csv_puts_other_columns_into_the_payload(tmp_path: Path) -> None:
    content = 'id,text,genre,payload\na,"one, two",noir,"{""year"": 1950}"\n'
    [document] = documents(write(tmp_path, "x.csv", content))
    assert document.text == "one, two"
    assert dict(document.payload) == {"genre": "noir", "year": 1950}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{oops", "line 2: not JSON"),
        ("[1]", "line 2: a list, not an object"),
        ('{"text": "x"}', "line 2: id is missing"),
        ('{"id": 7, "text": "x"}', "line 2: id is 7"),
        ('{"id": "b", "text": "  "}', "line 2: text is '  '"),
        ('{"id": "b", "text": "x", "payload": []}', "line 2: payload is []"),
        ('{"id": "b", "text": "x", "payload": {"n": NaN}}', "line 2: NaN is not a number"),
        ('{"id": "b", "text": "x", "payload": {"n": 1' + "0" * 400 + "}}", "line 2: int too large"),
        ('{"id": "b", "text": "\\ud800"}', "line 2: "),
        ("[" * 100_000, "line 2: "),
    ],
)
def test_a_bad_line_is_named_after_the_good_ones_before_it(tmp_path: Path, bad: str, said: str) -> None:
    found = documents(write(tmp_path, "x.jsonl", GOOD + bad + "\n"))
    assert next(found).id == "a"
    with pytest.raises(Problem, match="line 2") as problem:
        next(found)
    assert said in str(problem.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,text\na,b\n", "line 1: no column named id"),
        ("id,text\na\n", "line 2: not as many cells"),
        ("id,text\na,b,c\n", "line 2: not as many cells"),
        ("id,text,payload\na,b,nope\n", "line 2: payload is not JSON"),
    ],
)
def test_bad_csv_is_named_by_line(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(Problem) as problem:
        list(documents(write(tmp_path, "x.csv", content)))
    assert said in str(problem.value)


def test_text_that_is_not_utf_8_is_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"id": "a", "text": "café"}'.encode("latin-1"))
    with pytest.raises(Problem, match="line 1: not UTF-8"):
        list(documents(tmp_path / "latin.jsonl"))
    (tmp_path / "latin.csv").write_bytes("id,text\na,café\n".encode("latin-1"))
    with pytest.raises(Problem, match="not UTF-8"):
        list(documents(tmp_path / "latin.csv"))
    (tmp_path / "marked.jsonl").write_bytes(GOOD.encode("utf-8-sig"))
    assert next(documents(tmp_path / "marked.jsonl")).id == "a"


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"\.jsonl or a \.csv"):
        list(documents(write(tmp_path, "x.txt", "")))
    with pytest.raises(Problem, match="not a file"):
        list(documents(tmp_path / "none.jsonl"))
