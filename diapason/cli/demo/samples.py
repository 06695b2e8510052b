"""The sample films and the queries that people might ask for them."""

import json
from dataclasses import dataclass
from pathlib import Path

import diapason
from diapason.cli.output import Problem

FILMS, QUERIES = "films.jsonl", "queries.jsonl"


@dataclass(frozen=True)
class Query:
    """A query and the one film that it asks for."""

    text: str
    document: str


@dataclass(frozen=True)
class Samples:
    """The films' file, and the queries as split once and for all."""

    films: Path
    train: tuple[Query, ...]
    held_out: tuple[Query, ...]


def load(folder: Path | None) -> Samples:
    """Read a folder of samples; the checkout's own if none is given. Raises ``Problem``."""
    folder = folder or Path(diapason.__file__).resolve().parents[1] / "samples" / "movies"
    if not (folder / FILMS).is_file() or not (folder / QUERIES).is_file():
        raise Problem(f"there is no {FILMS} and {QUERIES} in {folder}; give --samples")
    rows = [json.loads(line) for line in (folder / QUERIES).read_text(encoding="utf-8").splitlines()]

    def split(name: str) -> tuple[Query, ...]:
        return tuple(Query(row["text"], row["document"]) for row in rows if row["split"] == name)

    return Samples(folder / FILMS, split("train"), split("held-out"))
