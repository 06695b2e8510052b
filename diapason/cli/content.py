"""`index`, `search`, `feedback` and `status`."""

import json as json_module
import uuid
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from diapason.cli import reading
from diapason.cli.options import (
    DEFAULT_COLLECTION,
    DEFAULT_DATA,
    AsJson,
    Collection,
    Data,
    connect,
    read_json,
    write_json,
)
from diapason.cli.output import Problem, as_json, console, counting_bar, plain, table
from diapason.client import Addresses, Client
from diapason.errors import DiapasonError, NotFound
from diapason.feedback.v1.feedback_pb2 import SIGNAL_THUMBS_DOWN, SIGNAL_THUMBS_UP, Feedback, QuerySubject
from diapason.search.v1.document_pb2 import Document

_LAST_SEARCH = "last-search.json"
_SNIPPET = 100


def index(
    file: Annotated[Path, typer.Argument(help="A .jsonl or .csv file with id, text, title, payload.")],
    collection: Collection = DEFAULT_COLLECTION,
    model: Annotated[str, typer.Option(help="Encoder of a new collection; the only one there is if not given.")] = "",
    dimensions: Annotated[list[int] | None, typer.Option(help="Smaller sizes to search a new collection at.")] = None,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Write the documents of a file into a collection, which is created if need be.

    Example: diapason index samples/movies/films.jsonl --collection movies
    """
    with connect(data) as client:
        ensure_collection(client, collection, model, dimensions or [])
        counts = write(client, collection, file)
    if json:
        as_json({"collection": collection, **counts})
    else:
        waiting = f", {counts['waiting']} wait for the embedder" if counts["waiting"] else ""
        cut = f", {counts['truncated']} longer than the encoder reads" if counts["truncated"] else ""
        console.print(f"{counts['written']} documents in {collection!r}{waiting}{cut}")


def ensure_collection(
    client: Client, name: str, model: str, dimensions: list[int], retention: float | None = None
) -> None:
    """Create a collection unless it exists."""
    try:
        client.collection(name)
    except NotFound:
        names = [known.name for known in client.models()]
        if not model and len(names) != 1:
            choice = ", ".join(names) or "none; register one with `diapason models register`"
            raise Problem(f"say which --model encodes the new collection {name!r}: there is {choice}") from None
        client.create_collection(name, model or names[0], dimensions, retention)


def write(client: Client, collection: str, file: Path) -> dict[str, int]:
    """Upsert a file's documents; what precedes a bad line is kept and counted in the error."""
    counts = {"written": 0, "waiting": 0, "truncated": 0}
    wrong: list[str] = []

    def good() -> Iterator[Document]:
        try:
            yield from reading.documents(file)
        except Problem as problem:
            wrong.append(str(problem))

    with counting_bar() as bar:
        task = bar.add_task("indexing", total=None)
        for receipt in client.upsert(collection, good()):
            if receipt.error:
                wrong.append(f"document {receipt.id!r}: {receipt.error}")
                continue
            counts["written"] += 1
            counts["waiting"] += not receipt.indexed
            counts["truncated"] += receipt.truncated
            bar.update(task, advance=1)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise Problem(f"{wrong[0]}{more}; {counts['written']} good documents were written")
    return counts


def search(
    query: Annotated[str, typer.Argument(help="What to look for, in your own words.")],
    collection: Collection = DEFAULT_COLLECTION,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many results.")] = 5,
    dimensions: Annotated[int, typer.Option(help="Search at a smaller size.")] = 0,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Search a collection.

    Example: diapason search "a quirky comedy set in a hotel" --collection movies
    """
    with connect(data) as client:
        answer = client.search(collection, query, limit, dimensions)
    if data.is_dir():
        shown = {"search_id": answer.search_id, "documents": [result.id for result in answer.results]}
        write_json(data / _LAST_SEARCH, shown)
    if json:
        as_json(plain(answer))
        return
    version = answer.route.encoder
    rows = [(r.rank, f"{r.score:.3f}", r.title or r.id, _snippet(r.text)) for r in answer.results]
    table("", [">#", ">score", "title", "text"], rows)
    console.print(
        f"search {answer.search_id} · {version.model} version {version.number} · "
        f"{answer.timings.total.ToMicroseconds() / 1000:.1f} ms · diapason feedback up 1"
    )


def _snippet(text: str) -> str:
    return text if len(text) <= _SNIPPET else text[: _SNIPPET - 1] + "…"


class Thumb(StrEnum):
    """Which way."""

    UP = "up"
    DOWN = "down"


def feedback(
    thumb: Annotated[Thumb, typer.Argument(help="up or down.")],
    result: Annotated[str, typer.Argument(help="A number from the last search, or a document's id.")],
    search_id: Annotated[str, typer.Option(help="Which search; the last one here if not given.")] = "",
    query: Annotated[str, typer.Option(help="The query itself, for a search made elsewhere.")] = "",
    collection: Collection = DEFAULT_COLLECTION,
    reason: Annotated[str, typer.Option(help="Why, in your own words.")] = "",
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Say that a result helped or did not.

    Example: diapason feedback up 1
    """
    last = data / _LAST_SEARCH
    known = read_json(last) if last.exists() else {"search_id": "", "documents": []}
    document = result
    if result.isdecimal() and not search_id and not query:
        if not 1 <= int(result) <= len(known["documents"]):
            raise Problem(f"the last search shows {len(known['documents'])} results; {result} is not one of them")
        document = known["documents"][int(result) - 1]
    signal = SIGNAL_THUMBS_UP if thumb is Thumb.UP else SIGNAL_THUMBS_DOWN
    item = Feedback(document_id=document, signal=signal, reason=reason)
    if query:
        item.query.CopyFrom(QuerySubject(collection=collection, text=query))
    elif search_id or known["search_id"]:
        item.search_id = search_id or str(known["search_id"])
    else:
        raise Problem("there was no search here yet; search first, or give --search-id or --query")
    # The same thumb on the same result is one piece of feedback, however often it is given.
    said = (item.search_id, collection, query, document, thumb.value)
    item.idempotency_key = uuid.uuid5(uuid.NAMESPACE_OID, json_module.dumps(said)).hex
    with connect(data) as client:
        receipt = client.submit([item])[0]
    if json:
        as_json(plain(receipt))
    else:
        console.print(f"thumbs {thumb.value} for {document!r} {'was stored before' if receipt.duplicate else 'stored'}")


def status(data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """Show which parts answer, what they hold and what serves.

    Example: diapason status --json
    """
    with connect(data) as client:
        report = _report(client)
    if json:
        as_json(report)
    else:
        _print_report(report)


def _report(client: Client) -> dict[str, object]:
    services = {name: client.health(name) for name in vars(Addresses())}
    report: dict[str, object] = {"services": services}
    parts: dict[str, Callable[[], object]] = {
        "training": lambda: plain(client.trainer_status()),
        "versions": lambda: plain(client.embedder_info()).get("versions", []),
        "collections": lambda: [plain(collection) for collection in client.collections()],
        "feedback": lambda: plain(client.summary()),
    }
    for name, ask in parts.items():
        try:
            report[name] = ask()
        except DiapasonError as error:
            report[name] = {"error": error.message}
    return report


def _print_report(report: dict[str, object]) -> None:
    services = report["services"]
    assert isinstance(services, dict)
    rows: list[tuple[object, ...]] = [(name, state.lower().replace("_", " ")) for name, state in services.items()]
    training = report["training"]
    if isinstance(training, dict) and "error" not in training:
        rows.append(("broker", "answers" if training["broker_reachable"] else training["broker_reason"]))
        rows.append(("workers", len(training["workers"]) or "none"))
    table("Services", ["part", "state"], rows)
    versions = report["versions"]
    if isinstance(versions, list):
        states = [(v["version"]["model"], v["version"]["number"], v["state"], v["reason"]) for v in versions]
        prefix = len("VERSION_STATE_")
        table(
            "Versions in the embedder",
            ["model", ">version", "state", "reason"],
            [(model, number, state[prefix:].lower(), reason) for model, number, state, reason in states],
        )
    collections = report["collections"]
    if isinstance(collections, list):
        table(
            "Collections",
            ["collection", ">documents", "served by", ">generation", ">indexes"],
            [
                (
                    c["name"],
                    c["documents"],
                    f"{c['route']['encoder']['model']} version {c['route']['encoder']['number']}",
                    c["route"]["generation"],
                    len(c["indexes"]),
                )
                for c in collections
            ],
        )
    summary = report["feedback"]
    if isinstance(summary, dict) and "error" not in summary:
        counts = ", ".join(f"{s['count']} {s['signal'].removeprefix('SIGNAL_').lower()}" for s in summary["signals"])
        console.print(f"{summary['impressions']} searches noted, feedback: {counts or 'none yet'}")
