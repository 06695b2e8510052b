"""A search as it was asked for, what is wrong with it, and where a page begins."""

import re
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b

from services.kit.errors import InvalidArgument, Violation
from services.search.domain.filters import Filter
from services.search.domain.model import Route, Settings

MAX_QUERY_CHARACTERS = 4_000
MAX_LIMIT = 100
DEFAULT_LIMIT = 10
# How far paging goes.
MAX_DEPTH = 1_000
MAX_ACTOR_CHARACTERS = 200
MAX_EXAMPLES = 20
DEFAULT_CANDIDATES, MAX_CANDIDATES = 50, 200
MAX_BUDGET_SECONDS = 60.0

_TOKEN = re.compile(r"(\d{1,9})\.(\d{1,4})\.([0-9a-f]{16})")


class Words(Enum):
    """What part the words of the query play."""

    NONE = "none"
    RECIPROCAL_RANK = "reciprocal_rank"
    DISTRIBUTION_BASED = "distribution_based"
    ONLY = "only"


@dataclass(frozen=True)
class Rerank:
    """How many results are put in a new order, within how many seconds."""

    candidates: int = DEFAULT_CANDIDATES
    budget: float = 1.0


@dataclass(frozen=True)
class Ask:
    """One search. Zeros and empty strings mean what the contract says."""

    collection: str
    query: str = ""
    limit: int = DEFAULT_LIMIT
    dimensions: int = 0
    actor: str = ""
    filter: Filter | None = None
    threshold: float | None = None
    page_token: str = ""
    words: Words = Words.NONE
    rerank: Rerank | None = None
    explain: bool = False
    exact: bool = False
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    first_stage: int = 0
    unrecorded: bool = False

    @property
    def depth(self) -> int:
        """Results that the first stage must give for the first page."""
        return max(self.limit, self.rerank.candidates if self.rerank else 0)


@dataclass(frozen=True)
class Page:
    """Where a page begins, and the generation of the route that gave the pages before (zero: none did)."""

    offset: int = 0
    generation: int = 0


def check(ask: Ask, settings: Settings) -> None:
    """Raise ``InvalidArgument`` with all that is wrong with a search of a collection with these settings."""
    wrong = [*_query(ask), *_sizes(ask, settings), *_rest(ask)]
    if ask.words is not Words.NONE and settings.bm25 is None:
        wrong.append(Violation("hybrid", "is asked for, but the collection was made without settings.bm25"))
    if wrong:
        raise InvalidArgument(*wrong)


def _query(ask: Ask) -> list[Violation]:
    wrong = []
    if len(ask.query) > MAX_QUERY_CHARACTERS:
        wrong.append(Violation("query", f"has {len(ask.query)} characters; the most is {MAX_QUERY_CHARACTERS}"))
    if "\0" in ask.query or "\0" in ask.actor:
        wrong.append(Violation("query", "or the actor has a NUL character; leave it out"))
    if not ask.query.strip():
        if not ask.like:
            wrong.append(Violation("query", "is empty; say what to look for, or give `like`"))
        elif ask.words is not Words.NONE or ask.rerank:
            wrong.append(Violation("query", "is empty; hybrid search and reranking need its words"))
    for name, ids in (("like", ask.like), ("unlike", ask.unlike)):
        if len(ids) > MAX_EXAMPLES:
            wrong.append(Violation(name, f"has {len(ids)} ids; the most is {MAX_EXAMPLES}"))
    if ask.words is Words.ONLY and (ask.like or ask.unlike):
        wrong.append(Violation("like", "does not go with words alone; choose another fusion"))
    return wrong


def _sizes(ask: Ask, settings: Settings) -> list[Violation]:
    offered = list(settings.dimensions)
    wrong = [
        Violation(name, f"is {size}; this collection has {offered}")
        for name, size in (("dimensions", ask.dimensions), ("first_stage_dimensions", ask.first_stage))
        if size and size not in offered
    ]
    if ask.first_stage and ask.dimensions and ask.first_stage >= ask.dimensions:
        wrong.append(Violation("first_stage_dimensions", f"is {ask.first_stage}; give less than {ask.dimensions}"))
    return wrong


def _rest(ask: Ask) -> list[Violation]:
    wrong = []
    if not 0 < ask.limit <= MAX_LIMIT:
        wrong.append(Violation("limit", f"is {ask.limit}; give 1 to {MAX_LIMIT}, or 0 for {DEFAULT_LIMIT}"))
    if len(ask.actor) > MAX_ACTOR_CHARACTERS:
        wrong.append(Violation("actor", f"has {len(ask.actor)} characters; the most is {MAX_ACTOR_CHARACTERS}"))
    if ask.threshold is not None and not abs(ask.threshold) < float("inf"):
        wrong.append(Violation("score_threshold", f"is {ask.threshold}; give a number"))
    if ask.rerank:
        if not ask.limit <= ask.rerank.candidates <= MAX_CANDIDATES:
            bounds = f"{ask.limit} (the limit) to {MAX_CANDIDATES}, or 0 for {DEFAULT_CANDIDATES}"
            wrong.append(Violation("rerank.candidates", f"is {ask.rerank.candidates}; give {bounds}"))
        if not 0 < ask.rerank.budget <= MAX_BUDGET_SECONDS:
            given = f"is {ask.rerank.budget:g} s; give more than 0 and at most {MAX_BUDGET_SECONDS:g} s"
            wrong.append(Violation("rerank.budget", given))
    return wrong


def page(ask: Ask) -> Page:
    """Where the page asked for begins. Raises ``InvalidArgument`` for a token of another search."""
    if not ask.page_token:
        return Page()
    found = _TOKEN.fullmatch(ask.page_token)
    if not found or found[3] != _fingerprint(ask) or int(found[2]) + ask.limit > MAX_DEPTH:
        raise InvalidArgument(
            Violation("page_token", "is not of this search; give back next_page_token, with all else unchanged")
        )
    return Page(int(found[2]), int(found[1]))


def next_token(ask: Ask, route: Route, offset: int) -> str:
    """The token of the page that begins at ``offset``; empty where paging ends."""
    return f"{route.generation}.{offset}.{_fingerprint(ask)}" if offset + ask.limit <= MAX_DEPTH else ""


def _fingerprint(ask: Ask) -> str:
    return blake2b(repr(replace(ask, page_token="", actor="")).encode(), digest_size=8).hexdigest()
