"""What a small reranker can learn: a few documents have a word that people like, whatever they ask for."""

from services.trainer.domain.data import Judgment
from tests.support.words import FILLERS, NAMES, TOPICS, query

LIKED, OTHER = FILLERS[0], FILLERS[1]
_GOOD_EVERY = 8
GOOD = tuple(range(0, TOPICS, _GOOD_EVERY))


def document(topic: int) -> str:
    """The text of a topic's document."""
    mark = LIKED if topic in GOOD else OTHER
    return f"{mark} {NAMES[topic]} {FILLERS[2 + topic]} {mark}"


def asked(number: int) -> str:
    """One of many queries; what they ask for does not matter."""
    return f"{query(number % TOPICS, number)} {FILLERS[number // TOPICS]}"


def opinions(number: int, graded: bool = False) -> dict[int, float]:
    """What people said for a query: of three of the good documents, and of three others."""
    good = [GOOD[(number + i) % len(GOOD)] for i in range(3)]
    bad = [(7 * number + 3 * i) % TOPICS for i in range(6)]
    poor = [topic for topic in bad if topic not in GOOD][:3]
    grades = (0.6, 0.8, 1.0) if graded else (1.0, 1.0, 1.0)
    return dict(zip(good, grades, strict=True)) | dict.fromkeys(poor, 0.0)


def judgments(queries: int, graded: bool = False) -> list[Judgment]:
    """All of so many queries; documents are called t0, t1 and so on."""
    return [
        Judgment(asked(number), f"t{topic}", target, 1.0)
        for number in range(queries)
        for topic, target in opinions(number, graded).items()
    ]
