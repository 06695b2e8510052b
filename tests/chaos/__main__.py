"""Many seeds of the crash test of search.

python -m tests.chaos --seeds 200 --from 0          # a line for each seed
python -m tests.chaos --seed 17                     # one again, with what was asked and answered
python -m tests.chaos --seeds 50 --catalog postgresql+psycopg://user@host/postgres
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.chaos.catalogs import Catalog
from tests.chaos.seeds import Outcome, run

_SHOWN_LINES = 60
_COUNTS = ("lives", "writes", "deletes", "reads", "searches", "found", "reindexes", "cancels", "switches", "rollbacks")


def _outcomes(seeds: Sequence[int], jobs: int, folder: Path | None, catalog: Catalog) -> Iterator[Outcome]:
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(partial(run, folder, catalog), seeds)


def _show(outcome: Outcome, with_history: bool) -> None:
    counts = "".join(f"{outcome.counts.get(name, 0):>10}" for name in _COUNTS)
    sys.stdout.write(f"{outcome.seed:>6}{outcome.seconds:>8.1f}{counts}  {'FAILED' if outcome.failure else 'ok'}\n")
    if outcome.failure:
        sys.stdout.write(f"\n{outcome.failure}\n")
    if with_history or outcome.failure:
        sys.stdout.write("\n".join(outcome.history if with_history else outcome.history[-_SHOWN_LINES:]) + "\n")
        sys.stdout.write(f"\nAgain: python -m tests.chaos --seed {outcome.seed}\n\n")
    sys.stdout.flush()


def main() -> int:
    """Run seeds; the exit status says whether all went well."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description="The crash test of search, with many seeds.")
    parser.add_argument("--seeds", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first (default 0)")
    parser.add_argument("--seed", type=int, help="only this one, with its history")
    parser.add_argument("--jobs", type=int, default=1, help="so many at once (default 1)")
    parser.add_argument("--catalog", default="", help="URL of a PostgreSQL server; a database is made for each seed")
    parser.add_argument(
        "--folder", type=Path, help="where data goes (default: memory, or the system's temporary folder)"
    )
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds) if given.seed is None else [given.seed]
    sys.stdout.write(f"{'seed':>6}{'seconds':>8}" + "".join(f"{name:>10}" for name in _COUNTS) + "\n")
    failed = []
    for outcome in _outcomes(seeds, given.jobs, given.folder, Catalog(given.catalog)):
        _show(outcome, given.seed is not None)
        if outcome.failure:
            failed.append(outcome.seed)
    sys.stdout.write(f"{len(seeds)} seeds, {len(failed)} failed{f': {failed}' if failed else ''}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
