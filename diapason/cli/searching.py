"""`diapason search`."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import ParseDict, ParseError

from diapason.cli import filters
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
from diapason.cli.output import Problem, as_json, console, plain, table
from diapason.client import Client
from diapason.search.v1 import search_pb2
from diapason.search.v1.filter_pb2 import Filter
from diapason.search.v1.search_pb2 import Hybrid, Rerank, Result, ScoreParts, SearchRequest, SearchResponse

LAST_SEARCH = "last-search.json"
_SNIPPET = 100
# Score parts by their names in the contract, and the headings of their columns.
_PARTS = {"dense": "meaning", "bm25": "words", "fused": "fused", "rerank": "reranker", "first_stage_rank": "# before"}
# Besides these, `--next` takes what the last search was asked.
_OWN = ("following", "data", "json")


class Fusion(StrEnum):
    """How what was found by meaning and by words becomes one list."""

    DISTRIBUTION = "distribution"
    RRF = "rrf"
    WORDS = "words"


_FUSIONS = {
    Fusion.DISTRIBUTION: search_pb2.FUSION_DISTRIBUTION_BASED,
    Fusion.RRF: search_pb2.FUSION_RECIPROCAL_RANK,
    Fusion.WORDS: search_pb2.FUSION_WORDS_ONLY,
}


def search(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="What to look for, in your own words; optional with --like.")] = "",
    collection: Collection = DEFAULT_COLLECTION,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many results.", min=1)] = 5,
    conditions: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            metavar="FIELD=VALUE",
            help="Only documents where this holds; repeat it for more. Also !=, >=, <, ^= (begins so), ~ (words), "
            "FIELD? (there is one), a|b (one of them), and ! before any of these.",
        ),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Find by words (BM25) as well as by meaning.")] = False,
    fusion: Annotated[
        Fusion | None, typer.Option(help="The same, and how to fuse the two; `words` for words alone.")
    ] = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="Put the first results in the reranker's order.")] = False,
    like: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Find what resembles this document; repeat it for more.")
    ] = None,
    unlike: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="And does not resemble this one; repeat it for more.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Leave results out whose score is below.")] = None,
    dimensions: Annotated[int, typer.Option(help="Search at a smaller size.", min=0)] = 0,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every vector, without the index.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show how each score came about.")] = False,
    following: Annotated[bool, typer.Option("--next", help="The next page of the last search.")] = False,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Search a collection.

    Example: diapason search "a quirky comedy set in a hotel" -c movies --hybrid --filter 'year>=1990'
    """
    with connect(data) as client:
        if following:
            request = _following(context, data)
        else:
            request = SearchRequest(
                collection=collection,
                query=query,
                limit=limit,
                filter=_filter(client, collection, conditions or []),
                hybrid=Hybrid(fusion=_FUSIONS[fusion or Fusion.DISTRIBUTION]) if hybrid or fusion else None,
                rerank=Rerank() if rerank else None,
                like=like or [],
                unlike=unlike or [],
                score_threshold=threshold,
                dimensions=dimensions,
                exact=exact,
                explain=explain,
            )
            if not query.strip() and not like:
                raise Problem("there is nothing to look for; give a query, --like, or --next for the next page")
        answer = client.search(**{field.name: value for field, value in request.ListFields()})
    if data.is_dir():
        _keep(data, request, answer)
    as_json(plain(answer)) if json else _show(answer, request.explain, data.is_dir())


def _filter(client: Client, collection: str, written: Sequence[str]) -> Filter | None:
    """The filter; a collection is asked for its fields only if there is one."""
    return filters.parse(written, collection, client.collection(collection).settings.fields) if written else None


def _following(context: typer.Context, data: Path) -> SearchRequest:
    """The last search, asked for its next page."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in _OWN and source and source.name == "COMMANDLINE":
            raise Problem("--next goes on with the last search as it was; leave everything else out")
    file = data / LAST_SEARCH
    if not file.exists():
        raise Problem(f"no search is kept in {data}; search first, then go on with --next")
    known = read_json(file)
    if not known.get("next_page_token"):
        raise Problem("the last search has no further page; ask anew")
    try:
        request = ParseDict(known["request"], SearchRequest())
    except (KeyError, ParseError) as error:
        raise Problem(f"{file} does not hold what it should; delete it") from error
    request.page_token = known["next_page_token"]
    return request


def _keep(data: Path, request: SearchRequest, answer: SearchResponse) -> None:
    """Note what was shown, for feedback and for the next page."""
    write_json(
        data / LAST_SEARCH,
        {
            "search_id": answer.search_id,
            "documents": [result.id for result in answer.results],
            "request": plain(request),
            "next_page_token": answer.next_page_token,
        },
    )


def _show(answer: SearchResponse, explain: bool, more: bool) -> None:
    shown = [name for name in _PARTS if explain and any(_part(result.parts, name) for result in answer.results)]
    rows = [
        (r.rank, f"{r.score:.3f}", *(_part(r.parts, name) for name in shown), r.title or r.id, _snippet(r))
        for r in answer.results
    ]
    table("", [">#", ">score", *(f">{_PARTS[name]}" for name in shown), "title", "text"], rows)
    if answer.HasField("reranking") and not answer.reranking.applied:
        console.print(f"Not reranked: {answer.reranking.reason}. This is the order of the first stage.")
    version = answer.route.encoder
    said = [
        f"search {answer.search_id}" if answer.search_id else "",
        f"{version.model} version {version.number}",
        f"{answer.timings.total.ToMicroseconds() / 1000:.1f} ms",
        "diapason feedback up 1" if answer.search_id and answer.results else "",
        "diapason search --next" if answer.next_page_token and more else "",
    ]
    console.print(" · ".join(part for part in said if part))


def _part(parts: ScoreParts, name: str) -> str:
    if not parts.HasField(name):  # type: ignore[arg-type]
        return ""
    value = getattr(parts, name)
    if name == "first_stage_rank":
        return str(value)
    rank = f"{name}_rank"
    place = f" #{getattr(parts, rank)}" if rank in parts.DESCRIPTOR.fields_by_name and parts.HasField(rank) else ""  # type: ignore[arg-type]
    return f"{value:.3f}{place}"


def _snippet(result: Result) -> str:
    """What was found of a document: its best passage, or its beginning."""
    passage = result.HasField("passage")
    text = result.passage.text if passage else result.text
    text = f"… {text}" if passage and result.passage.number else text
    return text if len(text) <= _SNIPPET else text[: _SNIPPET - 1] + "…"
