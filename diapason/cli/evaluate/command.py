"""`diapason eval`."""

import json as json_module
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from diapason.cli.evaluate import plotting, printing, subjects
from diapason.cli.evaluate.subjects import Subject, Wanted
from diapason.cli.options import DEFAULT_DATA, AsJson, Data, addresses
from diapason.cli.output import Failure, Problem, as_json, counting_bar, plain, remarks
from diapason.client import Client
from diapason.evaluation import beir, records
from diapason.evaluation.beir import DataError, Dataset
from diapason.evaluation.measuring import Measurement, NotMeasured, Searcher
from diapason.evaluation.metrics import DEPTH
from diapason.evaluation.modes import Mode, ways

# Of one call; a batch of reranked queries takes longest.
_TIMEOUT_SECONDS = 300.0


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A BEIR folder: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.")],
    split: Annotated[str, typer.Option(help="Which judgments.")] = "test",
    collection: Annotated[
        str, typer.Option("--collection", "-c", help="Measure this one, which has the corpus already.")
    ] = "",
    encoder: Annotated[str, typer.Option(help="MODEL or MODEL@NUMBER; the newest one if not given.")] = "",
    reranker: Annotated[str, typer.Option(help="MODEL or MODEL@NUMBER, to measure reranking too.")] = "",
    dimensions: Annotated[str, typer.Option(help="Sizes, such as 384,128,64; all there are if not given.")] = "",
    mode: Annotated[
        list[Mode] | None, typer.Option(help="How to search, as often as you like; all ways if not given.")
    ] = None,
    limit_queries: Annotated[int, typer.Option(help="Only the first so many queries; 0 for all.", min=0)] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the collection that was made.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write all that was found to this .json file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this .svg file.")] = None,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Measure how well the running stack answers judged queries.

    Makes a collection of the corpus, asks every judged query in every way, and deletes it again.

    Example: diapason eval ./scifact --split test --output before.json
    """
    for path in (output, plot):
        if path:
            _check_writable(path)
    if plot:
        plotting.check()
    if collection and (encoder or reranker):
        raise Problem("--encoder and --reranker are for a new collection; leave them out, or --collection")
    try:
        judged = beir.read(folder, split)
    except DataError as error:
        raise Problem(str(error)) from error
    wanted = Wanted(collection, encoder, reranker, dimensions, mode or [], keep)
    with _connected(data) as client, subjects.subject(client, judged, wanted) as subject:
        record = _measure(client, judged, subject, limit_queries)
    as_json(records.summary(record)) if json else printing.show(record)
    try:
        if output:
            output.write_text(json_module.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
        if plot:
            plotting.draw(record, plot)
    except OSError as error:
        raise Failure(f"{error.filename} can't be written: {error.strerror}") from error


def _check_writable(path: Path) -> None:
    """Raise ``Problem`` if it can be seen now that the file can't be written at the end."""
    if path.is_dir():
        raise Problem(f"{path} is a folder; name a file in it")
    if not path.resolve().parent.is_dir():
        raise Problem(f"there is no folder {path.parent} to write {path.name} to; make it first")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise Problem(f"{path} can't be written; choose another place")


def _connected(data: Path) -> Client:
    """A client of services that answer now."""
    where = addresses(data)
    client = Client(where, _TIMEOUT_SECONDS)
    for name in ("search", "embedder"):
        if (state := client.health(name)) != "SERVING":
            client.close()
            raise Problem(
                f"{name} does not answer at {getattr(where, name)} ({state.lower().replace('_', ' ')}); start a stack "
                f"with `diapason up`, or say where it is with --data or DIAPASON_{name.upper()}_ADDRESS"
            )
    return client


def _measure(client: Client, judged: Dataset, subject: Subject, limit: int) -> dict[str, Any]:
    """Search for every query in every way; returns the record."""
    names = list(judged.queries)[: limit or None]
    missing = sorted(judged.judged - subject.present)
    if missing:
        remarks.print(
            f"{len(missing)} of {len(judged.judged)} judged documents are missing, for example {escape(missing[0])}; "
            "they count as not found."
        )
    searcher = Searcher(client, judged, subject.collection.route, subject.full)
    planned = ways(subject.modes, subject.sizes)
    found: list[Measurement] = []
    first_seconds = 0.0
    try:
        with counting_bar() as bar:
            task = bar.add_task("asking once", total=len(names))
            if any(way.dimensions for way in planned):
                first_seconds = searcher.warm(names, lambda answered: bar.update(task, advance=answered))
            for way in planned:
                bar.reset(task, total=len(names), description=str(way))
                found.append(searcher.measure(way, names, lambda answered: bar.update(task, advance=answered)))
    except NotMeasured as error:
        raise Failure(str(error)) from error
    return records.record(
        judged,
        names,
        found,
        {
            "settings": {
                "modes": subject.modes,
                "dimensions": subject.sizes,
                "limit_queries": limit,
                "results": DEPTH,
            },
            "collection": {
                "name": subject.collection.name,
                "made_for_this": subject.made,
                "documents": subject.collection.documents,
                "judged_missing": len(missing),
                "settings": plain(subject.collection.settings),
            },
            "route": plain(subject.collection.route),
            "first_seconds": round(first_seconds, 4),
        },
    )
