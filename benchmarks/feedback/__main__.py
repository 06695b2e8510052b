"""Measures how fast feedback becomes durable, against SQLite alone, in one run.

    python -m benchmarks.feedback            # writes benchmarks/results/feedback.json and .svg
    python -m benchmarks.feedback --short    # few calls: shows that it runs, no figures

A process of the service, one of callers and one that writes the same rows to a database of its own take turns in
each round, so that what else the machine does falls on all of them; the median of the rounds is what counts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import free_port, ratios, say
from benchmarks.players import Player, player
from benchmarks.reporting import RESULTS, Row, row, write
from diapason.client import Addresses, Client

BATCHES = (1, 10, 100, 500)
CALLERS = (1, 8)
# What feedback must reach, in batches.
GOAL = 2_000.0
_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Size:
    """How much of everything: rounds, and events of each measurement, or calls where that is fewer."""

    rounds: int
    events: int
    calls: int


FULL = Size(5, 10_000, 400)
SHORT = Size(1, 100, 16)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a feedback service of its own."""
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "DIAPASON_LISTEN": address,
        "DIAPASON_DATABASE_URL": f"sqlite:///{folder / 'feedback.db'}",
        "DIAPASON_ACTOR_EVENTS_PER_MINUTE": "0",
        "DIAPASON_LOG_LEVEL": "ERROR",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.feedback"], env=environment)
    try:
        with Client(Addresses(feedback=address)) as client:
            ends = time.monotonic() + _WAIT_SECONDS
            while client.health("feedback") != "SERVING":
                if process.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError("the feedback service did not start")
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(_WAIT_SECONDS)


def measure(size: Size) -> list[Row]:
    """All rows."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder)) as address,
        player("benchmarks.feedback.callers", address) as callers,
        player("benchmarks.feedback.bare") as bare,
    ):
        return compare(callers, bare, size)


def compare(callers: Player, bare: Player, size: Size) -> list[Row]:
    """Each size of batch, by one caller and by several, beside SQLite alone."""
    alone: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    ours: dict[tuple[int, int], list[float]] = {(batch, count): [] for batch in BATCHES for count in CALLERS}
    for number in range(size.rounds):
        say(f"round {number + 1} of {size.rounds}")
        for batch in BATCHES:
            calls = max(8, min(size.calls, size.events // batch))
            alone[batch].append(bare.play("insert", batch=batch, batches=calls))
            for count in CALLERS:
                each = max(1, calls // count)
                ours[batch, count].append(callers.play("submit", callers=count, batch=batch, each=each))
    rows = []
    for batch in BATCHES:
        rows.append(row(f"SQLite alone, batches of {batch}", alone[batch], "events/s"))
        for count in CALLERS:
            runs = ours[batch, count]
            name = f"{count} caller{'s' if count > 1 else ''}, batches of {batch}"
            rows.append(row(f"{name}, to SQLite alone", runs, "events/s", ratios(runs, alone[batch])))
    rows += [
        row(f"{count} caller{'s' if count > 1 else ''}, batches of 100, to {GOAL:,.0f}", ours[100, count], "events/s",
            [value / GOAL for value in ours[100, count]], ">= 1")
        for count in CALLERS
    ]  # fmt: skip
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Events a second by the size of batches, on scales of tens; what is asked is a line."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    found = {each.name: each.value for each in rows}
    lines = {
        "SQLite alone": [found[f"SQLite alone, batches of {batch}"] for batch in BATCHES],
        "8 callers": [found[f"8 callers, batches of {batch}, to SQLite alone"] for batch in BATCHES],
        "1 caller": [found[f"1 caller, batches of {batch}, to SQLite alone"] for batch in BATCHES],
    }
    colours, places = ("#6b7785", "#2a7f62", "#1f6f8b"), (6, 6, -12)
    for (name, values), colour, below in zip(lines.items(), colours, places, strict=True):
        axes.plot(BATCHES, values, marker="o", label=name, color=colour)
        for batch, value in zip(BATCHES, values, strict=True):
            axes.annotate(f"{value:,.0f}", (batch, value), textcoords="offset points", xytext=(0, below), fontsize=7)
    axes.axhline(GOAL, color="#c0563b", linewidth=1, label=f"goal in batches: {GOAL:,.0f}")
    axes.set(xscale="log", yscale="log", xlabel="events in a batch", ylabel="durable events per second")
    axes.set_xticks(BATCHES, [str(batch) for batch in BATCHES])
    axes.set_title("Feedback on SQLite")
    axes.margins(x=0.1, y=0.1)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feedback", description=__doc__)
    parser.add_argument("--short", action="store_true", help="few calls; shows that all parts run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for feedback.json and feedback.svg")
    given = parser.parse_args()
    rows = measure(SHORT if given.short else FULL)
    write("feedback", rows, given.results)
    draw(rows, given.results / "feedback.svg")


if __name__ == "__main__":
    main()
