"""The sample films and queries keep their own rules."""

import json
import re
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "movies"
FILMS = [json.loads(line) for line in (SAMPLES / "films.jsonl").read_text().splitlines()]
QUERIES = [json.loads(line) for line in (SAMPLES / "queries.jsonl").read_text().splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}


def test_there_are_enough_films_of_many_kinds() -> None:
    assert len(FILMS) >= 250
    assert len({film["id"] for film in FILMS}) == len({(f["title"], f["payload"]["year"]) for f in FILMS}) == len(FILMS)
    assert len({film["payload"]["year"] // 10 for film in FILMS}) >= 10
    assert len({country for film in FILMS for country in film["payload"]["countries"]}) >= 30
    assert len({genre for film in FILMS for genre in film["payload"]["genres"]}) >= 18


def test_synopses_have_60_to_120_words() -> None:
    assert [f["id"] for f in FILMS if not 60 <= len(f["text"].split()) <= 120] == []


def test_every_film_has_at_least_three_queries_all_different() -> None:
    by_film = {film["id"]: [q["text"] for q in QUERIES if q["document"] == film["id"]] for film in FILMS}
    assert [film for film, texts in by_film.items() if len(set(texts)) < 3] == []
    assert len({query["text"] for query in QUERIES}) == len({query["id"] for query in QUERIES}) == len(QUERIES)


def test_no_query_names_its_film_or_parrots_its_synopsis() -> None:
    films = {film["id"]: film for film in FILMS}
    for query in QUERIES:
        film = films[query["document"]]
        title = words(film["title"])
        assert tuple(title) not in runs(query["text"], len(title)), query
        assert not runs(query["text"], 4) & runs(film["text"], 4), query


def test_the_split_is_70_to_30() -> None:
    train = sum(query["split"] == "train" for query in QUERIES)
    assert {query["split"] for query in QUERIES} == {"train", "held-out"}
    assert abs(train / len(QUERIES) - 0.7) < 0.001
