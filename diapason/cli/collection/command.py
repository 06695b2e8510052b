"""`diapason collections`: list, show, update, delete."""

from datetime import UTC
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from diapason.cli.collection.settings import Fields, declared, described, duration, fields
from diapason.cli.options import DEFAULT_DATA, AsJson, Data, connect, version
from diapason.cli.output import Problem, as_json, console, plain, remarks, table
from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1.collection_pb2 import Index, IndexState, Route

collections_app = typer.Typer(no_args_is_help=False)

Named = Annotated[str, typer.Argument(metavar="COLLECTION", help="Which collection.")]


@collections_app.callback(invoke_without_command=True)
def collections(context: typer.Context, data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """List collections; show, update or delete one.

    Example: diapason collections
    """
    if context.invoked_subcommand:
        return
    with connect(data) as client:
        found = client.collections()
    if json:
        as_json([plain(one) for one in found])
        return
    rows = [(c.name, c.documents, of(c.route.encoder), c.route.generation, len(c.indexes)) for c in found]
    table("Collections", ["collection", ">documents", "served by", ">generation", ">indexes"], rows)


@collections_app.command()
def show(name: Named, data: Data = DEFAULT_DATA, json: AsJson = False) -> None:
    """Show a collection's settings, its indexes, and what served it when.

    Example: diapason collections show movies
    """
    with connect(data) as client:
        found, routes = client.collection(name), client.routes(name)
    if json:
        as_json({**plain(found), "routes": [plain(route) for route in routes]})
        return
    console.print(f"{name}: {found.documents:,} documents, served by {_served_by(found.route)}")
    table("Settings", ["setting", "value"], described(found.settings))
    table("Indexes", ["index", "of", "state", ">points", "dropped"], [_index(index) for index in found.indexes])
    rows = [(route.generation, _moment(route.since), _served_by(route), route.index) for route in routes]
    table("Routes", [">generation", "since", "served by", "index"], rows)


@collections_app.command()
def update(
    name: Named,
    declare: Fields = None,
    retention: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="How long an index is kept for rollback.")
    ] = None,
    reranker: Annotated[
        str, typer.Option(metavar="MODEL[@N]", help="Reorders results of `search --rerank`; none for no more.")
    ] = "",
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Change what can be changed without a reindex.

    Example: diapason collections update movies --field year:integer --reranker judge
    """
    new = declared(declare or [])
    if not new and retention is None and not reranker:
        raise Problem("there is nothing to change; give --field, --retention or --reranker")
    chosen = VersionRef() if reranker == "none" else version(reranker) if reranker else None
    with connect(data) as client:
        before = client.collection(name)
        if new or retention is not None:
            client.update_collection(name, retention, new)
        if chosen is not None and (reranker != "none" or before.route.reranker.digest):
            client.switch_route(name, "", before.route.generation, chosen)
        found = client.collection(name)
    if json:
        as_json(plain(found))
        return
    kept = duration(found.settings.retention.ToNanoseconds() / 1e9)
    console.print(
        f"{name}: served by {_served_by(found.route)}; fields {fields(found.settings.fields) or 'none'}; "
        f"indexes are kept {kept} for rollback"
    )


@collections_app.command()
def delete(
    name: Named,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Delete a collection with its documents, indexes and history.

    Example: diapason collections delete movies
    """
    with connect(data) as client:
        documents = client.collection(name).documents
        if not yes and not _agreed(f"Delete {name!r} with its {documents:,} documents?"):
            raise Problem("nothing was deleted; --yes deletes without asking")
        deleted = client.delete_collection(name)
    if json:
        as_json({"collection": name, "documents": deleted})
    else:
        console.print(f"{name!r} is deleted, with {deleted:,} documents")


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-C, or nobody is there to be asked
        remarks.print()
        return False


def of(ref: VersionRef) -> str:
    """A version's name."""
    return f"{ref.model} version {ref.number}"


def _served_by(route: Route) -> str:
    reranker = f", reranker {of(route.reranker)}" if route.reranker.digest else ""
    return f"{of(route.encoder)}{reranker}"


def _index(index: Index) -> tuple[object, ...]:
    state = IndexState.Name(index.state).removeprefix("INDEX_STATE_").lower().replace("_", " ")
    return index.id, of(index.encoder), state, f"{index.points:,}", _moment(index.drop_time)


def _moment(stamp: Timestamp) -> str:
    return stamp.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M") if stamp.seconds else ""
