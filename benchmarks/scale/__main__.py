"""Measures how the embedded engine grows: time to build and to query, recall, disk and memory, as stored in four ways.

    python -m benchmarks.scale            # 10k, 100k and 1M vectors; writes benchmarks/results/scale.json and .svg
    python -m benchmarks.scale --sizes 2000,10000 --queries 200 --rounds 2 --out /tmp/scale.json    # shows that it runs
    python -m benchmarks.scale --keep FOLDER    # shards stay there, and are used by the next run

Shards are laid out and asked as the search service does it. One caller asks all queries once, right after a fresh
process opened the shard with none of its files in memory, and then in rounds, in each of which all sizes have their
turn; a ratio is of two of the same round. The p99 of fastest rounds takes of each query only its fastest: what else
the machine does makes the p99 of small and large shards alike, and ratios better than they are. Recall is against
exact search.

Memory is what that process holds after the queries, above what it held before it opened the shard: its own, which
can't be evicted, and pages of the shard's files, which can. Of the latter up to 64 MB are the write-ahead log,
whatever the size of the shard, so bytes per vector mean something for large ones only. Where vectors are compressed,
most others are originals that were read for rescoring: they grow with the number of different queries until all
originals are in memory or other uses want it, and the first pass shows what it costs when they are not there.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.reporting import RESULTS, write
from benchmarks.scale import report
from benchmarks.scale.contestants import CONTESTANTS
from benchmarks.scale.measure import Measured, measure
from benchmarks.scale.shards import Shelf


def run(
    contestants: Sequence[str], sizes: Sequence[int], queries: int, rounds: int, folder: Path, *, keep: bool
) -> list[Measured]:
    """All contestants. Shards that are not kept go when their contestant is done, for they are large."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    measured: list[Measured] = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        shelf = Shelf(folder, queries, progress)
        for contestant in contestants:
            found = measure(contestant, sizes, rounds, shelf, progress)
            measured += found
            for each in found if not keep else ():
                shutil.rmtree(each.shard.folder)
    return measured


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=_numbers, default=[10_000, 100_000, 1_000_000], help="numbers of vectors")
    parser.add_argument("--stored", nargs="+", choices=CONTESTANTS, default=CONTESTANTS, help="ways to compare")
    parser.add_argument("--queries", type=int, default=2000, help="different queries in each round")
    parser.add_argument("--rounds", type=int, default=5, help="after the first pass")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json", help="results")
    parser.add_argument("--plot", type=Path, help="the plot; beside the results if not given")
    parser.add_argument("--keep", type=Path, help="folder in which shards stay, to be used again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        sizes, keep = sorted(given.sizes), given.keep is not None
        measured = run(given.stored, sizes, given.queries, given.rounds, folder, keep=keep)
    write(given.out.stem, report.rows(measured), given.out.parent)
    report.plot(measured, given.plot or given.out.with_suffix(".svg"))
    Console(file=sys.stdout, width=130).print(report.table(measured))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
