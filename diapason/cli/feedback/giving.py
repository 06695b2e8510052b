"""`diapason feedback up`, `down` and `withdraw`."""

from pathlib import Path
from typing import Annotated

import typer

from diapason.cli.options import (
    DEFAULT_COLLECTION,
    DEFAULT_DATA,
    AsJson,
    Collection,
    Data,
    connect,
    read_json,
)
from diapason.cli.output import Problem, as_json, console
from diapason.cli.searching import LAST_SEARCH
from diapason.feedback.v1.feedback_pb2 import (
    SIGNAL_THUMBS_DOWN,
    SIGNAL_THUMBS_UP,
    SIGNAL_WITHDRAWAL,
    Feedback,
    QuerySubject,
    Signal,
)

Result = Annotated[str, typer.Argument(help="A number from the last search, or a document's id.")]
SearchId = Annotated[str, typer.Option(help="Which search; the last one here if not given.")]
Query = Annotated[str, typer.Option(help="The query itself, for a search made elsewhere.")]
Reason = Annotated[str, typer.Option(help="Why, in your own words.")]
Actor = Annotated[str, typer.Option(help="A pseudonymous id of whoever says it.")]
_WORDS = {SIGNAL_THUMBS_UP: "thumbs up", SIGNAL_THUMBS_DOWN: "thumbs down", SIGNAL_WITHDRAWAL: "withdrawal"}


def up(
    result: Result,
    search_id: SearchId = "",
    query: Query = "",
    collection: Collection = DEFAULT_COLLECTION,
    reason: Reason = "",
    actor: Actor = "",
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Say that a result helped.

    Example: diapason feedback up 1
    """
    item = Feedback(signal=SIGNAL_THUMBS_UP, reason=reason, actor=actor)
    _say(item, result, search_id, query, collection, data, json)


def down(
    result: Result,
    search_id: SearchId = "",
    query: Query = "",
    collection: Collection = DEFAULT_COLLECTION,
    reason: Reason = "",
    actor: Actor = "",
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Say that a result did not help.

    Example: diapason feedback down 2 --reason "about another hotel"
    """
    item = Feedback(signal=SIGNAL_THUMBS_DOWN, reason=reason, actor=actor)
    _say(item, result, search_id, query, collection, data, json)


def withdraw(
    result: Result,
    search_id: SearchId = "",
    query: Query = "",
    collection: Collection = DEFAULT_COLLECTION,
    actor: Actor = "",
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Take back what was said of a result.

    Example: diapason feedback withdraw 2
    """
    _say(Feedback(signal=SIGNAL_WITHDRAWAL, actor=actor), result, search_id, query, collection, data, json)


def _say(item: Feedback, result: str, search_id: str, query: str, collection: str, data: Path, json: bool) -> None:
    """Complete an item by the last search, store it, and tell."""
    last = data / LAST_SEARCH
    known = read_json(last) if last.exists() else {"search_id": "", "documents": []}
    item.document_id = result
    if result.isdecimal() and not search_id and not query:
        if not 1 <= int(result) <= len(known["documents"]):
            raise Problem(f"the last search shows {len(known['documents'])} results; {result} is not one of them")
        item.document_id = known["documents"][int(result) - 1]
    if query:
        item.query.CopyFrom(QuerySubject(collection=collection, text=query))
    elif search_id or known["search_id"]:
        item.search_id = search_id or str(known["search_id"])
    else:
        raise Problem("there was no search here yet; search first, or give --search-id or --query")
    item.client = "diapason"
    with connect(data) as client:
        stored = client.say(item)
    if json:
        as_json({"document_id": item.document_id, "signal": Signal.Name(item.signal), "duplicate": not stored})
    else:
        word = _WORDS[item.signal]
        console.print(f"{word} for {item.document_id!r} {'stored' if stored else 'was stored before'}")
