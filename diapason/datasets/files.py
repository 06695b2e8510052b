"""Rows from what people have: JSON Lines, CSV, a `datasets` folder, a folder in BEIR's layout."""

import csv
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diapason.datasets.checking import BadData, Checker, Problem, Summary
from diapason.datasets.columns import Columns, Fields, guess
from diapason.datasets.rows import MAX_CHARACTERS
from diapason.evaluation import beir
from diapason.trainer.v1 import dataset_pb2 as pb

_UNSPECIFIED = pb.DATASET_FORM_UNSPECIFIED
# How a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote is known.
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
_SPLIT, _TEST = "train", "test"

# A row with where it stands, or why there is none.
Placed = tuple[str, pb.DatasetRow] | Problem


@dataclass
class Source:
    """A file or a folder with rows of one form, which may be read several times.

    ``unread`` are columns that mean nothing to the form; they are known once rows were read.
    """

    path: Path
    form: pb.DatasetForm.ValueType
    split: str = ""
    unread: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, path: Path, form: pb.DatasetForm.ValueType = _UNSPECIFIED, split: str = "") -> "Source":
        """Look at what there is; the form is guessed if it is not given. Raises ``BadData``."""
        if not path.exists():
            raise BadData(f"{path} is not there; name a .jsonl or .csv file, or a folder")
        judged = _is_beir(path)
        if not form:
            form = pb.DATASET_FORM_EVALUATION if judged else _guessed(path, split)
        if (form == pb.DATASET_FORM_EVALUATION) != judged:
            layout = f"a folder with {beir.CORPUS}, {beir.QUERIES} and {beir.QRELS}/"
            wrong = "is one; its form is evaluation" if judged else "is none"
            raise BadData(f"an evaluation is brought as {layout}, and {path} {wrong}")
        return cls(path, form, split)

    def rows(self) -> Iterator[Placed]:
        """Each row with its place, or what is wrong with it. Raises ``BadData`` where nothing can be read."""
        if self.form == pb.DATASET_FORM_EVALUATION:
            yield from _evaluation(self.path, self.split)
            return
        known: dict[tuple[str, ...], Columns] = {}
        for given in _fields(self.path, self.split, self.form):
            if isinstance(given, Problem):
                yield given
                continue
            place, fields = given
            names = tuple(fields)
            if names not in known:
                try:
                    known[names] = Columns.fit(self.form, names)
                except BadData as error:
                    if not known:  # the first row speaks for the file
                        raise BadData(f"{self.path} {error}" if str(error).startswith("has") else str(error)) from None
                    yield Problem(place, "", str(error))
                    continue
                self.unread |= set(known[names].unread)
            made = known[names].row(place, fields)
            yield made if isinstance(made, Problem) else (place, made)

    def checked(self) -> Iterator[Summary | None]:
        """Check every row, yielding None after each, and what there is at the end. Raises ``BadData``."""
        checker = Checker(self.form)
        for placed in self.rows():
            if isinstance(placed, Problem):
                checker.bad(placed)
            else:
                checker.add(*placed)
            yield None
        yield checker.finish()

    def good_rows(self) -> Iterator[pb.DatasetRow]:
        """The rows of a source that was checked. Raises ``BadData`` if it has changed since."""
        for placed in self.rows():
            if isinstance(placed, Problem):
                raise BadData(f"{self.path} has changed while it was read; {placed}")
            yield placed[1]


def _guessed(path: Path, split: str) -> pb.DatasetForm.ValueType:
    for given in _fields(path, split, _UNSPECIFIED):
        if isinstance(given, Problem):
            raise BadData(f"the form can't be told from the first row: {given}; say which it is")
        return guess(given[1])
    raise BadData(f"{path} is empty; there is nothing to learn from")


def _fields(path: Path, split: str, form: pb.DatasetForm.ValueType) -> Iterator[tuple[str, Fields] | Problem]:
    """The fields of each row, by the names of their columns, with the place."""
    if path.is_dir():
        yield from _dataset_folder(path, split, form)
        return
    if split:
        raise BadData(f"{path} is a file and has no splits; leave the split out")
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            yield from _json_lines(path)
        case ".csv":
            yield from _csv(path)
        case other:
            raise BadData(f"{path} ends in {other or 'nothing'}; give a .jsonl or .csv file, or a folder")


def _json_lines(path: Path) -> Iterator[tuple[str, Fields] | Problem]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"line {number}"
            try:
                fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except json.JSONDecodeError as error:
                yield Problem(place, "", f"not JSON: {error.msg} at column {error.colno}")
            except UnicodeDecodeError:
                yield Problem(place, "", "not UTF-8; convert the file")
            except (ValueError, RecursionError) as error:
                yield Problem(place, "", str(error))
            else:
                if isinstance(fields, dict):
                    yield place, fields
                else:
                    yield Problem(place, "", f"a {type(fields).__name__}, not an object with named fields")


def _csv(path: Path) -> Iterator[tuple[str, Fields] | Problem]:
    with path.open(encoding="utf-8-sig", newline="") as content:
        rows = csv.DictReader(content, strict=True)
        try:
            for row in rows:
                place = f"line {rows.line_num}"
                if None in row or None in row.values():
                    yield Problem(place, "", "not as many cells as the first line has columns")
                else:
                    yield place, row
        except csv.Error as error:
            if "field larger" in str(error):
                raise BadData(
                    f"{path}, line {rows.line_num}: a cell has more than {MAX_CHARACTERS:,} characters"
                ) from error
            raise BadData(f"{path}, line {rows.line_num}: not CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise BadData(f"{path}, after line {rows.line_num}: not UTF-8; convert the file") from error


def _dataset_folder(path: Path, split: str, form: pb.DatasetForm.ValueType) -> Iterator[tuple[str, Fields] | Problem]:
    """What `Dataset.save_to_disk` wrote, or files that `datasets.load_dataset` reads."""
    try:
        import datasets
    except ImportError as error:
        raise BadData(f"{path} is a folder, which needs `pip install datasets` to be read") from error
    # What `load_dataset` converts is kept beside nothing of the user's, and for the time of the reading only.
    with tempfile.TemporaryDirectory() as cache:
        try:
            if (path / _SAVED).exists() or (path / _SAVED_SPLITS).exists():
                loaded = datasets.load_from_disk(str(path))
            else:
                loaded = datasets.load_dataset(str(path), cache_dir=cache)
        except Exception as error:  # of many kinds, by the file's format
            said = str(error).strip().partition("\n")[0][:300]
            raise BadData(f"{path} can't be read as a `datasets` folder: {said or type(error).__name__}") from error
        chosen = _split_of(loaded, split, path) if isinstance(loaded, dict) else loaded
        names = {
            name: feature.names
            for name, feature in chosen.features.items()
            if isinstance(feature, datasets.ClassLabel) and form == pb.DATASET_FORM_CLASSES
        }
        for number, row in enumerate(chosen, 1):
            yield f"row {number}", {name: _named(value, names.get(name)) for name, value in row.items()}


def _split_of(loaded: Any, split: str, path: Path) -> Any:
    wanted = split or (_SPLIT if _SPLIT in loaded else next(iter(loaded)) if len(loaded) == 1 else "")
    if wanted not in loaded:
        raise BadData(f"{path} has the splits {', '.join(loaded)}; say which one")
    return loaded[wanted]


def _named(value: Any, names: list[str] | None) -> Any:
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value


def _is_beir(path: Path) -> bool:
    return path.is_dir() and (path / beir.QRELS).is_dir()


def _evaluation(path: Path, split: str) -> Iterator[Placed]:
    """The documents first, then the judgments."""
    try:
        data = beir.read(path, split or _TEST)
        for number, entry in enumerate(data.entries(), 1):
            text = f"{entry.title}\n{entry.text}" if entry.title else entry.text
            document = pb.EvaluationDocument(id=entry.id, text=text)
            yield f"document {number}", pb.DatasetRow(evaluation_document=document)
    except beir.DataError as error:
        raise BadData(str(error)) from error
    for query, grades in data.judgments.items():
        for name, grade in grades.items():
            judgment = pb.EvaluationJudgment(query=data.queries[query], document_id=name, grade=grade)
            yield f"query {query!r}, document {name!r}", pb.DatasetRow(evaluation_judgment=judgment)
