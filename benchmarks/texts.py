"""Documents of about 100 words and short queries, cut from the sample films' synopses."""

import json
import random
from pathlib import Path

_FILMS = Path(__file__).resolve().parents[1] / "samples" / "movies" / "films.jsonl"


def documents(count: int, seed: int) -> list[str]:
    """70 to 130 words each."""
    chance = random.Random(seed)  # noqa: S311
    words = _words()
    return [" ".join(_cut(chance, words, chance.randint(70, 130))) for _ in range(count)]


def queries(count: int, seed: int) -> list[str]:
    """4 to 9 words each, all different: each ends with a number."""
    chance = random.Random(seed)  # noqa: S311
    words = _words()
    return [" ".join([*_cut(chance, words, chance.randint(3, 8)), str(i)]) for i in range(count)]


def _words() -> list[str]:
    lines = _FILMS.read_text(encoding="utf-8").splitlines()
    return [word for line in lines for word in json.loads(line)["text"].split()]


def _cut(chance: random.Random, words: list[str], count: int) -> list[str]:
    start = chance.randrange(len(words) - count)
    return words[start : start + count]
