"""`diapason eval-compare`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from diapason.cli.evaluate.printing import LABELS
from diapason.cli.options import AsJson
from diapason.cli.output import Problem, as_json, console, table
from diapason.evaluation import records
from diapason.evaluation.comparing import Difference
from diapason.evaluation.metrics import DECIDING
from diapason.evaluation.modes import Mode
from diapason.evaluation.records import Comparison, Record, RecordError

_SHOWN = 10


def eval_compare(
    first: Annotated[Path, typer.Argument(help="What `diapason eval --output` wrote.")],
    second: Annotated[Path, typer.Argument(help="The same of another run, or the same file.")],
    mode: Annotated[str, typer.Option(help="A mode, or MODE@SIZE; the greatest size if not given.")] = "dense",
    second_mode: Annotated[str, typer.Option(help="Of the second file, if it is another one.")] = "",
    json: AsJson = False,
) -> None:
    """Say whether one evaluation is better than another beyond chance, query by query.

    Example: diapason eval-compare before.json after.json --mode dense
    """
    one, other = _way(mode, "--mode"), _way(second_mode or mode, "--second-mode")
    try:
        a, b = Record.read(first), Record.read(second)
        records.check_same_data(a, b)
        ways = a.way(*one), b.way(*other)
        pair = _Pair((a, b), ways, records.compare_ways(*ways))
    except RecordError as error:
        raise Problem(str(error)) from error
    if json:
        as_json(_plain(pair))
    else:
        _print(pair)


def _way(given: str, option: str) -> tuple[str, int]:
    mode, at, size = given.partition("@")
    if mode not in list(Mode) or (at and not size.isdecimal()):
        raise Problem(
            f"{option} {given!r} is no way to search; give {', '.join(Mode)}, or with a size such as dense@64"
        )
    return mode, int(size or 0)


@dataclass(frozen=True)
class _Pair:
    """Two ways of two runs, and what sets them apart."""

    runs: tuple[Record, Record]
    ways: tuple[dict[str, Any], dict[str, Any]]
    found: Comparison

    def gains(self, sign: int) -> list[dict[str, Any]]:
        """The ten queries that gained most in nDCG@10, or with -1 those that lost most."""
        gains = self.found.gains
        names = sorted((name for name in gains if sign * gains[name] > 0), key=lambda name: -sign * gains[name])
        first, second = (way["queries"] for way in self.ways)
        texts = self.runs[0].content["texts"]
        return [
            {"query": n, "text": texts[n], "first": first[n][DECIDING], "second": second[n][DECIDING]}
            for n in names[:_SHOWN]
        ]


def _plain(pair: _Pair) -> dict[str, Any]:
    return {
        "runs": [
            {"file": str(run.path), "mode": way["mode"], "dimensions": way["dimensions"], "route": run.content["route"]}
            for run, way in zip(pair.runs, pair.ways, strict=True)
        ],
        "data": pair.runs[0].content["data"],
        "metrics": {metric: asdict(difference) for metric, difference in pair.found.differences.items()},
        "gains": pair.gains(1),
        "losses": pair.gains(-1),
    }


def _print(pair: _Pair) -> None:
    for word, run, way in zip(("first", "second"), pair.runs, pair.ways, strict=True):
        console.print(f"{word}: {run.title}, {records.named(way)}")
    data = pair.runs[0].content["data"]
    columns = ["metric", ">first", ">second", ">difference", ">95 % interval", ">p", ">better", ">same", ">worse"]
    rows = [_row(LABELS[metric], difference) for metric, difference in pair.found.differences.items()]
    table(f"{data['name']}, split {data['split']}: {len(pair.found.gains):,} queries of both", columns, rows)
    for title, sign in (("Largest gains in nDCG@10", 1), ("Largest losses in nDCG@10", -1)):
        if queries := pair.gains(sign):
            shown = [(q["query"], q["text"], f"{q['first']:.3f}", f"{q['second']:.3f}") for q in queries]
            table(title, ["query", "text", ">first", ">second"], shown)


def _row(label: str, found: Difference) -> tuple[object, ...]:
    interval = found.interval
    return (
        label,
        f"{found.first:.3f}",
        f"{found.second:.3f}",
        f"{interval.mean:+.3f}",
        f"[{interval.low:+.3f}, {interval.high:+.3f}]",
        f"{found.p:.4f}",
        found.better,
        found.same,
        found.worse,
    )
