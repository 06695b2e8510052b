"""What feedback must look like to be stored."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.feedback.domain.model import MINUTE_MS, Signal
from services.feedback.domain.policies import MOST_DWELL_SECONDS
from services.kit.errors import InvalidArgument, Violation

MAX_BATCH = 500
MAX_NAME_CHARACTERS = 200
# As search has them.
MAX_DOCUMENT_ID_CHARACTERS = 512
MAX_QUERY_CHARACTERS = 4_000
MAX_REASON_CHARACTERS = 2_000
# Clocks of phones and browsers go wrong by minutes; what is further ahead was never set.
MAX_AHEAD_MS = 5 * MINUTE_MS
DAY_MS = 24 * 60 * MINUTE_MS


@dataclass(frozen=True)
class Submission:
    """One item of a request. Either ``search_id``, or ``collection`` with ``query``, says about what.

    ``time`` in milliseconds since 1970; None: now.
    """

    key: str
    search_id: str
    collection: str
    query: str
    document_id: str
    signal: Signal | None
    value: float | None
    actor: str
    reason: str
    tenant: str = ""
    time: int | None = None
    client: str = ""


def check(batch: Sequence[Submission], now: int, kept_days: int) -> None:
    """Raise ``InvalidArgument`` with everything that is wrong with any item.

    ``now`` in milliseconds since 1970; feedback is kept for ``kept_days``, for ever if 0.
    """
    if not 1 <= len(batch) <= MAX_BATCH:
        raise InvalidArgument(Violation("feedback", f"has {len(batch)} items; send 1 to {MAX_BATCH}"))
    wrong = [
        Violation(f"feedback[{i}].{violation.field}", violation.description)
        for i, item in enumerate(batch)
        for violation in _violations(item, now, kept_days)
    ]
    if wrong:
        raise InvalidArgument(*wrong)


def check_texts(fields: Iterable[tuple[str, str, int]]) -> None:
    """Raise ``InvalidArgument`` for each field (its name, its text, the most characters) that can't be stored."""
    wrong = list(_texts(fields))
    if wrong:
        raise InvalidArgument(*wrong)


def _violations(item: Submission, now: int, kept_days: int) -> Iterator[Violation]:
    if not item.key:
        yield Violation("idempotency_key", f"is empty; give 1 to {MAX_NAME_CHARACTERS} characters")
    if not item.document_id:
        yield Violation("document_id", "is empty; name the document")
    if not item.search_id and (not item.query.strip() or not item.collection):
        yield Violation("subject", "is missing; give search_id, or query with collection and text")
    if item.signal is None:
        names = ", ".join(f"SIGNAL_{signal.name}" for signal in Signal)
        yield Violation("signal", f"is missing or unknown; say one of {names}")
    yield from _value(item)
    yield from _texts(
        (
            ("idempotency_key", item.key, MAX_NAME_CHARACTERS),
            ("search_id", item.search_id, MAX_NAME_CHARACTERS),
            ("query.collection", item.collection, MAX_NAME_CHARACTERS),
            ("query.text", item.query, MAX_QUERY_CHARACTERS),
            ("document_id", item.document_id, MAX_DOCUMENT_ID_CHARACTERS),
            ("actor", item.actor, MAX_NAME_CHARACTERS),
            ("tenant", item.tenant, MAX_NAME_CHARACTERS),
            ("client", item.client, MAX_NAME_CHARACTERS),
            ("reason", item.reason, MAX_REASON_CHARACTERS),
        )
    )
    if item.time is not None:
        yield from _time(item.time, now, kept_days)


def _texts(fields: Iterable[tuple[str, str, int]]) -> Iterator[Violation]:
    for name, text, most in fields:
        if len(text) > most:
            yield Violation(name, f"has {len(text)} characters; the most is {most}")
        if "\0" in text:
            yield Violation(name, "has a NUL character; leave it out")


def _value(item: Submission) -> Iterator[Violation]:
    if item.signal is Signal.GRADE and not _within(item.value, 1.0):
        yield Violation("value", f"is {_said(item.value)}; a grade is from 0 to 1")
    if item.signal is Signal.DWELL and not _within(item.value, MOST_DWELL_SECONDS):
        yield Violation("value", f"is {_said(item.value)}; a dwell is from 0 to {MOST_DWELL_SECONDS:,.0f} seconds")
    if item.signal is Signal.COMMENT and not item.reason.strip():
        yield Violation("reason", "is empty; a comment is nothing else")


def _said(value: float | None) -> str:
    return "missing" if value is None else str(value)


def _within(value: float | None, most: float) -> bool:
    return value is not None and math.isfinite(value) and 0 <= value <= most


def _time(time: int, now: int, kept_days: int) -> Iterator[Violation]:
    if time > now + MAX_AHEAD_MS:
        minutes = MAX_AHEAD_MS // MINUTE_MS
        yield Violation("time", f"is {_date(time)}, over {minutes} minutes ahead; set the clock, or leave it out")
    if time < 0:
        yield Violation("time", f"is {_date(time)}; give a time since 1970, or leave it out")
    elif kept_days and time < now - kept_days * DAY_MS:
        yield Violation("time", f"is {_date(time)}; feedback is kept for {kept_days} days, leave older out")


def _date(time: int) -> str:
    try:
        return datetime.fromtimestamp(time / 1000, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{time} ms"
