"""One evaluation as a table."""

from typing import Any

from diapason.cli.output import console, table
from diapason.evaluation.metrics import METRICS

LABELS = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@100": "Recall@100"}


def show(record: dict[str, Any]) -> None:
    """Print it."""
    data, encoder = record["data"], record["route"]["encoder"]
    rows = [
        (
            way["mode"],
            way["dimensions"] or "",
            *(_interval(way["metrics"][metric]) for metric in METRICS),
            f"{way['queries_per_second']:.0f}",
        )
        for way in record["ways"]
    ]
    table(
        f"{data['name']}, split {data['split']}: {record['queries']:,} queries, {data['documents']:,} documents, "
        f"{encoder['model']} version {encoder['number']} ({encoder['digest'][:12]})",
        ["mode", ">size", *(f">{LABELS[metric]}" for metric in METRICS), ">queries/s"],
        rows,
    )
    rate = record["queries"] / record["first_seconds"] if record["first_seconds"] else 0.0
    before = f" of an earlier pass ({rate:.0f} queries/s for one result each)" if rate else ""
    console.print(
        "Beside each mean its 95 % bootstrap interval over queries. Queries per second are of one batch after another, "
        f"with the embedder remembering the queries{before}."
    )


def _interval(found: dict[str, float]) -> str:
    return f"{found['mean']:.3f} {found['low']:.3f}–{found['high']:.3f}"
