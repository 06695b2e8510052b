"""What feedback must look like to be stored."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.feedback.domain.model import Signal
from services.kit.errors import InvalidArgument, Violation

MAX_BATCH = 500
MAX_KEY_CHARACTERS = 200
MAX_QUERY_CHARACTERS = 4_000
MAX_REASON_CHARACTERS = 2_000
MAX_ACTOR_CHARACTERS = 200


@dataclass(frozen=True)
class Submission:
    """One item of a request. Either ``search_id``, or ``collection`` with ``query``, says about what."""

    key: str
    search_id: str
    collection: str
    query: str
    document_id: str
    signal: Signal | None
    value: float | None
    actor: str
    reason: str


def check(batch: Sequence[Submission]) -> None:
    """Raise ``InvalidArgument`` with everything that is wrong with any item."""
    if not 1 <= len(batch) <= MAX_BATCH:
        raise InvalidArgument(Violation("feedback", f"has {len(batch)} items; send 1 to {MAX_BATCH}"))
    wrong = [
        Violation(f"feedback[{i}].{violation.field}", violation.description)
        for i, item in enumerate(batch)
        for violation in _violations(item)
    ]
    if wrong:
        raise InvalidArgument(*wrong)


def _violations(item: Submission) -> list[Violation]:
    wrong: list[Violation] = []
    if not 1 <= len(item.key) <= MAX_KEY_CHARACTERS:
        wrong.append(Violation("idempotency_key", f"has {len(item.key)} characters; give 1 to {MAX_KEY_CHARACTERS}"))
    if not item.document_id:
        wrong.append(Violation("document_id", "is empty; name the document"))
    if not item.search_id:
        if not item.query.strip() or not item.collection:
            wrong.append(Violation("subject", "is missing; give search_id, or query with collection and text"))
        elif len(item.query) > MAX_QUERY_CHARACTERS:
            wrong.append(
                Violation("query.text", f"has {len(item.query)} characters; the most is {MAX_QUERY_CHARACTERS}")
            )
    if item.signal is None:
        names = ", ".join(f"SIGNAL_{signal.name}" for signal in Signal)
        wrong.append(Violation("signal", f"is missing or unknown; say one of {names}"))
    if item.signal is Signal.GRADE and (
        item.value is None or not math.isfinite(item.value) or not 0 <= item.value <= 1
    ):
        wrong.append(Violation("value", f"is {item.value}; a grade is from 0 to 1"))
    if len(item.actor) > MAX_ACTOR_CHARACTERS:
        wrong.append(Violation("actor", f"has {len(item.actor)} characters; the most is {MAX_ACTOR_CHARACTERS}"))
    if len(item.reason) > MAX_REASON_CHARACTERS:
        wrong.append(Violation("reason", f"has {len(item.reason)} characters; the most is {MAX_REASON_CHARACTERS}"))
    return wrong
