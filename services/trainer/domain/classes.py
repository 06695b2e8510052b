"""Texts with classes as judged queries: a text asks for the others of its class."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.trainer.domain.data import MIN_VALIDATION, Dataset, Judged, is_held_out, is_steering

# Of each class so many texts are documents. More would only make the first ten easier to fill.
DOCUMENTS = 10


@dataclass(frozen=True)
class Classed:
    """The split, and the texts that are documents, by their ids. ``trained`` are classes with two texts to train on."""

    dataset: Dataset
    documents: Mapping[str, str]
    trained: int


def prepare(labels: Mapping[str, str], share: float, name: Callable[[str], str]) -> Classed:
    """Split texts by themselves (I9). ``labels`` maps a text to its class, ``name`` a text to a document's id.

    Documents are of the texts to train on, up to ten of each class, chosen by a hash. What is held out, and what
    steers, only asks. A class without a text to train on is left out.
    """
    held_out = [text for text in sorted(labels) if is_held_out(text, share)]
    rest = [text for text in sorted(labels) if not is_held_out(text, share)]
    steering = [text for text in rest if is_steering(text)]
    if len(steering) < MIN_VALIDATION:
        steering = []
    aside = set(steering)
    train = [text for text in rest if text not in aside]
    members: dict[str, list[str]] = {}
    for text in sorted(train, key=_order):
        members.setdefault(labels[text], []).append(text)
    documents = {label: {name(text): text for text in some[:DOCUMENTS]} for label, some in members.items()}

    def judged(text: str) -> Judged:
        others = (found for found, other in documents.get(labels[text], {}).items() if other != text)
        return Judged(text, dict.fromkeys(others, 1.0), label=labels[text])

    def asking(texts: list[str]) -> tuple[Judged, ...]:
        return tuple(one for one in map(judged, texts) if one.relevant)

    split = Dataset(tuple(map(judged, train)), asking(steering), asking(held_out), len(labels), len(labels))
    every = {found: text for some in documents.values() for found, text in some.items()}
    return Classed(split, every, sum(len(some) > 1 for some in members.values()))


def _order(text: str) -> bytes:
    return hashlib.sha256(f"diapason class\0{text}".encode()).digest()
