"""Judged queries and the documents they are about, from a folder in the layout of BEIR.

corpus.jsonl       {"_id": "d1", "title": "…", "text": "…"}
queries.jsonl      {"_id": "q1", "text": "…"}
qrels/test.tsv     query-id, corpus-id and score between tabs, below a line that names the columns
"""

import hashlib
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diapason.evaluation.metrics import DEPTH

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"


class DataError(ValueError):
    """A folder does not hold what it should; the sentence names file, line, value and remedy."""


@dataclass(frozen=True)
class Entry:
    """One document of the corpus. ``title`` may be empty, and so may ``text``."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Dataset:
    """One split. ``queries`` are those with judgments in it, in the order of their file.

    ``judgments`` maps queries to documents to grades, and may name documents that the corpus lacks. ``digest`` is
    the sha-256 of the three files with their names. ``answer_bytes`` is the most that 100 documents can weigh.
    """

    folder: Path
    name: str
    split: str
    digest: str
    queries: dict[str, str]
    judgments: dict[str, dict[str, int]]
    document_ids: frozenset[str]
    answer_bytes: int

    def entries(self) -> Iterator[Entry]:
        """The corpus, in the order of its file."""
        return (entry for _, entry in _entries(self.folder / CORPUS, hashlib.sha256()))

    @property
    def judged(self) -> set[str]:
        """The ids of all documents with a judgment in the split."""
        return {document for grades in self.judgments.values() for document in grades}


def read(folder: Path, split: str = "test") -> Dataset:
    """Read a split and look through the corpus once. Raises ``DataError``."""
    try:
        return _read(folder, split)
    except OSError as error:
        raise DataError(f"{error.filename} can't be read: {error.strerror}") from error


def _read(folder: Path, split: str) -> Dataset:
    qrels = folder / QRELS / f"{split}.tsv"
    _check_files(folder, qrels)
    seen = hashlib.sha256()
    ids, answer_bytes = _corpus(folder / CORPUS, seen)
    queries = _queries(folder / QUERIES, seen)
    judgments = _judgments(qrels, queries, seen)
    chosen = {name: text for name, text in queries.items() if name in judgments}
    if not chosen:
        raise DataError(f"{qrels} judges no query; choose another split ({_splits(folder)})")
    return Dataset(folder, folder.resolve().name, split, seen.hexdigest(), chosen, judgments, ids, answer_bytes)


def _corpus(path: Path, seen: "hashlib._Hash") -> tuple[frozenset[str], int]:
    """All ids, and the bytes of the longest documents together, as many as an answer can have."""
    ids: set[str] = set()
    longest: list[int] = []
    for where, entry in _entries(path, seen):
        if entry.id in ids:
            raise DataError(f"{where}: the _id {entry.id!r} is an earlier document's; each needs its own")
        ids.add(entry.id)
        size = len(entry.title.encode()) + len(entry.text.encode())
        if len(longest) < DEPTH:
            heapq.heappush(longest, size)
        else:
            heapq.heappushpop(longest, size)
    if not ids:
        raise DataError(f"{path} has no documents; a line of it is an object with _id, title and text")
    return frozenset(ids), sum(longest)


def _check_files(folder: Path, qrels: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give one with {CORPUS}, {QUERIES} and {QRELS}/")
    for path in (folder / CORPUS, folder / QUERIES):
        if not path.is_file():
            raise DataError(f"there is no {path.name} in {folder}; a BEIR folder has {CORPUS}, {QUERIES} and {QRELS}/")
    if not qrels.is_file():
        raise DataError(f"there is no {QRELS}/{qrels.name} in {folder}; its splits: {_splits(folder)}")


def _splits(folder: Path) -> str:
    return ", ".join(sorted(path.stem for path in (folder / QRELS).glob("*.tsv"))) or "none"


def _lines(path: Path, seen: "hashlib._Hash") -> Iterator[tuple[str, str]]:
    """Where a line is and what it says, without those that are blank."""
    seen.update(path.name.encode())
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            seen.update(line)
            where = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8; convert the file") from error
            if text.strip():
                yield where, text


def _objects(path: Path, seen: "hashlib._Hash") -> Iterator[tuple[str, dict[str, Any]]]:
    for where, line in _lines(path, seen):
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: {error}") from error
        if not isinstance(fields, dict):
            raise DataError(f"{where}: a {type(fields).__name__}, not an object with _id and text")
        yield where, fields


def _entries(path: Path, seen: "hashlib._Hash") -> Iterator[tuple[str, Entry]]:
    for where, fields in _objects(path, seen):
        fields["title"] = fields.get("title") or ""
        yield where, Entry(*(_text(fields, name, where) for name in ("_id", "title", "text")))


def _queries(path: Path, seen: "hashlib._Hash") -> dict[str, str]:
    queries: dict[str, str] = {}
    for where, fields in _objects(path, seen):
        name, text = _text(fields, "_id", where), _text(fields, "text", where)
        if name in queries:
            raise DataError(f"{where}: the _id {name!r} is an earlier query's; each needs its own")
        if not text.strip():
            raise DataError(f"{where}: the text of query {name!r} is empty; give one, or leave the query out")
        queries[name] = text
    return queries


def _text(fields: dict[str, Any], field: str, where: str) -> str:
    value = fields.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: {field} is {'missing' if value is None else repr(value)}; give a text")
    if field == "_id" and not value:
        raise DataError(f"{where}: _id is empty; give a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {field} has half of a surrogate pair; repair the text") from error
    return value


def _judgments(path: Path, queries: dict[str, str], seen: "hashlib._Hash") -> dict[str, dict[str, int]]:
    judgments: dict[str, dict[str, int]] = {}
    header = True
    for where, line in _lines(path, seen):
        cells = line.split("\t")
        if len(cells) != 3:
            raise DataError(f"{where}: {len(cells)} cells between tabs; give query-id, corpus-id and score")
        query, document, score = (cell.strip() for cell in cells)
        if header:
            header = False
            if _whole(score) is not None:
                raise DataError(
                    f"{where}: a judgment; the first line must name the columns: query-id, corpus-id, score"
                )
            continue
        grade = _whole(score)
        if grade is None:
            raise DataError(f"{where}: the score {score!r} is not a whole number")
        if query not in queries:
            raise DataError(f"{where}: there is no query {query!r} in {QUERIES}; add it, or leave the line out")
        if judgments.setdefault(query, {}).setdefault(document, grade) != grade:
            raise DataError(f"{where}: document {document!r} has another score for query {query!r} above; keep one")
    return judgments


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
