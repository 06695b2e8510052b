"""The long form: `python -m tests.killing --kills 20 --seed 0`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.killing.feedback import run


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Kill, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.killing", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), given.kills, given.seed, _tell)
    sys.stdout.write(
        f"{outcome.kills} kills in {time.monotonic() - began:.0f} s: {outcome.acknowledged} events acknowledged, all "
        f"there once; {outcome.broken_calls} calls broken off, {outcome.late} events stored though unacknowledged\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
