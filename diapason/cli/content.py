"""`index` and `status`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from diapason.cli import reading
from diapason.cli.collection.settings import Distance, Fields, Quantization, Wanted
from diapason.cli.options import (
    DEFAULT_COLLECTION,
    DEFAULT_DATA,
    AsJson,
    Collection,
    Data,
    connect,
    version,
)
from diapason.cli.output import Problem, as_json, console, counting_bar, plain, table
from diapason.client import Addresses, Client
from diapason.common.v1.version_pb2 import MODEL_KIND_ENCODER
from diapason.errors import DiapasonError, NotFound
from diapason.search.v1.document_pb2 import Document


def index(
    file: Annotated[Path, typer.Argument(help="A .jsonl or .csv file with id, text, title, payload.")],
    collection: Collection = DEFAULT_COLLECTION,
    model: Annotated[str, typer.Option(help="Encoder of a new collection; the only one there is if not given.")] = "",
    dimensions: Annotated[list[int] | None, typer.Option(help="Smaller sizes to search a new collection at.")] = None,
    bm25: Annotated[
        bool | None, typer.Option("--bm25/--no-bm25", help="Find documents by their words too; yes if not said.")
    ] = None,
    language: Annotated[str, typer.Option(help="Whose stop words and stems BM25 uses; english if not given.")] = "",
    distance: Annotated[Distance | None, typer.Option(help="Cosine if not given.")] = None,
    quantization: Annotated[
        Quantization | None, typer.Option(help="Compress vectors in memory; none if not given.")
    ] = None,
    passages: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS", min=0, help="Split longer documents into passages of so many; 0: as the encoder reads."
        ),
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(metavar="TOKENS", min=0, help="Shared by neighbouring passages.")
    ] = None,
    fields: Fields = None,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Write the documents of a file into a collection, which is created if need be.

    What describes a new collection may be said of one that exists, too; then it must be so.

    Example: diapason index samples/movies/films.jsonl -c movies --field year:integer --field genre:keyword
    """
    wanted = Wanted(dimensions or [], bm25, language, distance, quantization, passages, overlap, fields or [])
    with connect(data) as client:
        ensure_collection(client, collection, model, wanted)
        counts = write(client, collection, file)
    if json:
        as_json({"collection": collection, **counts})
    else:
        unchanged = f", {counts['unchanged']} unchanged" if counts["unchanged"] else ""
        waiting = f", {counts['waiting']} wait for the embedder" if counts["waiting"] else ""
        cut = f", {counts['truncated']} longer than the encoder reads" if counts["truncated"] else ""
        console.print(f"{counts['written']} documents in {collection!r}{unchanged}{waiting}{cut}")


def ensure_collection(client: Client, name: str, model: str, wanted: Wanted) -> None:
    """Create a collection; one that exists must be as it is wanted."""
    settings = wanted.settings()
    try:
        wanted.check(name, client.collection(name).settings)
    except NotFound:
        client.create_collection(name, version(model or _only_encoder(client, name)), settings=settings)


def _only_encoder(client: Client, collection: str) -> str:
    names = [known.name for known in client.models() if known.kind == MODEL_KIND_ENCODER]
    if len(names) == 1:
        return names[0]
    choice = ", ".join(names) or "none; register one with `diapason models register`"
    raise Problem(f"say which --model encodes the new collection {collection!r}: there is {choice}")


def write(client: Client, collection: str, file: Path) -> dict[str, int]:
    """Upsert a file's documents; what precedes a bad line is kept and counted in the error."""
    counts = {"written": 0, "unchanged": 0, "waiting": 0, "truncated": 0}
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
            counts["unchanged"] += receipt.unchanged
            counts["waiting"] += not receipt.indexed
            counts["truncated"] += receipt.truncated
            bar.update(task, advance=1)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise Problem(f"{wrong[0]}{more}; {counts['written']} good documents were written")
    return counts


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
