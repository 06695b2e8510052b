"""The demo, step by step."""

import itertools
import json as json_module
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from diapason.cli import content, training
from diapason.cli.demo import measuring, report, samples
from diapason.cli.demo.measuring import BackgroundSearcher, Ranking, Sample
from diapason.cli.demo.samples import Query, Samples
from diapason.cli.options import DEFAULT_DATA, AsJson, Data
from diapason.cli.output import Failure, as_json, console, counting_bar, remarks, table
from diapason.cli.stack import Stack
from diapason.cli.up import BASE_MODEL, BASE_PORT, BASE_SOURCE, BasePort, ensure_base_model, import_model, running
from diapason.client import Client
from diapason.feedback.v1.feedback_pb2 import SIGNAL_THUMBS_DOWN, SIGNAL_THUMBS_UP, Feedback
from diapason.trainer.v1.rollout_pb2 import Rollout
from diapason.trainer.v1.training_pb2 import RUN_STAGE_EXPORT, RUN_STATE_SUCCEEDED, Run, Verdict

COLLECTION = "movies"
SMALL = 64
_SHOWN = 5
# So many share the queries that none of them says more than a person would in a minute.
_READERS = 100
_RETENTION_SECONDS = 3600.0
_BACKGROUND_QUERIES = 60
_BATCH = 250


@dataclass
class Outcome:
    """What the demo found. ``seconds`` by stage."""

    before: dict[int, list[Ranking]] = field(default_factory=dict)
    after: dict[int, list[Ranking]] = field(default_factory=dict)
    thumbs: tuple[int, int] = (0, 0)
    liked: set[str] = field(default_factory=set)
    run: Run = field(default_factory=Run)
    rollout: Rollout = field(default_factory=Rollout)
    swap: list[Sample] = field(default_factory=list)
    mismatched: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 1)


def demo(
    data: Data = DEFAULT_DATA,
    base_port: BasePort = BASE_PORT,
    folder: Annotated[Path | None, typer.Option("--samples", help="Folder with films.jsonl and queries.jsonl.")] = None,
    json: AsJson = False,
) -> None:
    """Watch a search engine get better from its users' thumbs, while searches go on.

    Starts a stack, indexes the sample films, plays readers' thumbs, trains, swaps, measures.

    Example: diapason demo
    """
    chosen = samples.load(folder)
    outcome = Outcome()
    remarks.print("[bold]1. Starting the stack[/bold]")
    began = time.perf_counter()
    with running(data, base_port) as stack, Client(stack.addresses) as client:
        outcome.seconds["start"] = round(time.perf_counter() - began, 1)
        with outcome.timed("model"):
            collection, model = _fresh(client)
            if model not in [known.name for known in client.models() if known.HasField("latest")]:
                import_model(client, model, BASE_SOURCE)
            ensure_base_model(client, BASE_SOURCE)
        _play(client, collection, model, chosen, outcome)
        summary = _summary(outcome, stack)
        stack.data.joinpath("demo.json").write_text(json_module.dumps(summary, indent=2, ensure_ascii=False))
        report.write(stack.data / "demo.html", summary, outcome.run, outcome.swap, outcome.rollout)
    as_json(summary) if json else _print(summary)
    if not training.switched(outcome.rollout):
        raise Failure(f"the candidate did not take over: {outcome.run.message}")


def _fresh(client: Client) -> tuple[str, str]:
    """A collection that does not exist yet, and a model that is not tuned yet: a second demo begins anew."""
    collections = {known.name for known in client.collections()}
    tuned = {model.name for model in client.models() if len(client.versions(model.name)) > 1}
    names = (("" if number == 1 else f"-{number}") for number in itertools.count(1))
    return next(
        (COLLECTION + suffix, BASE_MODEL + suffix)
        for suffix in names
        if COLLECTION + suffix not in collections and BASE_MODEL + suffix not in tuned
    )


def _play(client: Client, collection: str, model: str, chosen: Samples, outcome: Outcome) -> None:
    """The loop, once."""
    remarks.print("[bold]2. Indexing the films[/bold]")
    with outcome.timed("index"):
        client.create_collection(collection, model, [SMALL], _RETENTION_SECONDS)
        content.write(client, collection, chosen.films)
    remarks.print("[bold]3. Held-out queries, before[/bold]")
    with outcome.timed("before"):
        outcome.before = _measure(client, collection, chosen.held_out)
    remarks.print("[bold]4. Readers look at five results of each train query and thumb what is shown[/bold]")
    with outcome.timed("feedback"):
        items = _read_and_thumb(client, collection, chosen.train)
        outcome.liked = {item.document_id for item in items if item.signal == SIGNAL_THUMBS_UP}
        ups = sum(item.signal == SIGNAL_THUMBS_UP for item in items)
        outcome.thumbs = (ups, len(items) - ups)
    remarks.print("[bold]5. Training, gate, and the swap while a client keeps searching[/bold]")
    searcher = BackgroundSearcher(client, collection, chosen.held_out[:_BACKGROUND_QUERIES])
    try:
        with outcome.timed("train"):
            run = client.train(collection)

            def begin(seen: Run) -> None:
                if seen.stage >= RUN_STAGE_EXPORT and not searcher.started:
                    searcher.start()

            outcome.run = training.follow_run(client, run.id, begin)
        if outcome.run.state != RUN_STATE_SUCCEEDED or not outcome.run.rollout_id:
            raise Failure(f"the run did not lead to a new version: {outcome.run.message}")
        with outcome.timed("swap"):
            outcome.rollout = training.follow_rollout(client, outcome.run.rollout_id)
    finally:
        searcher.stop()
    outcome.swap = _during(searcher.samples, outcome.rollout)
    with outcome.timed("check"):
        outcome.mismatched = measuring.mismatched(client, outcome.swap)
    remarks.print("[bold]6. Held-out queries, after[/bold]")
    with outcome.timed("after"):
        outcome.after = _measure(client, collection, chosen.held_out)


def _measure(client: Client, collection: str, queries: Sequence[Query]) -> dict[int, list[Ranking]]:
    with counting_bar() as bar:
        task = bar.add_task("searching", total=2 * len(queries))
        return {
            size: measuring.rank_all(client, collection, queries, size, lambda: bar.update(task, advance=1))
            for size in (0, SMALL)
        }


def _read_and_thumb(client: Client, collection: str, queries: Sequence[Query]) -> list[Feedback]:
    """Thumbs up for the film that was meant, down for the others, and only for what was shown."""
    items: list[Feedback] = []
    with counting_bar() as bar:
        task = bar.add_task("reading", total=len(queries))
        for number, query in enumerate(queries):
            reader = f"reader-{number % _READERS}"
            answer = client.search(collection, query.text, _SHOWN, actor=reader)
            items += [
                Feedback(
                    idempotency_key=uuid.uuid4().hex,
                    search_id=answer.search_id,
                    document_id=result.id,
                    signal=SIGNAL_THUMBS_UP if result.id == query.document else SIGNAL_THUMBS_DOWN,
                    actor=reader,
                )
                for result in answer.results
            ]
            bar.update(task, advance=1)
    for start in range(0, len(items), _BATCH):
        client.submit(items[start : start + _BATCH])
    return items


def _during(all_samples: Sequence[Sample], rollout: Rollout) -> list[Sample]:
    """The searches made from the rollout's beginning to the end of its watch."""
    begin, end = (
        rollout.history[0].time.ToMilliseconds() / 1e3,
        rollout.history[-1].time.ToMilliseconds() / 1e3,
    )
    return [sample for sample in all_samples if begin <= sample.at <= end + 1]


def _summary(outcome: Outcome, stack: Stack) -> dict[str, Any]:
    def measured(rankings: dict[int, list[Ranking]]) -> dict[str, Any]:
        return {**measuring.means(rankings[0]), "dims": {str(SMALL): measuring.means(rankings[SMALL])}}

    latencies = sorted(sample.seconds * 1e3 for sample in outcome.swap)
    return {
        "held_out_queries": len(outcome.before[0]),
        "thumbs": {"up": outcome.thumbs[0], "down": outcome.thumbs[1]},
        "before": measured(outcome.before),
        "after": measured(outcome.after),
        "by_film": _by_film(outcome),
        "difference": measuring.difference(outcome.before[0], outcome.after[0]),
        "gate": {
            "verdict": Verdict.Name(outcome.run.gate.verdict).removeprefix("VERDICT_").lower(),
            "reason": outcome.run.gate.reason,
            "queries": outcome.run.gate.queries,
        },
        "swap": {
            "searches": len(outcome.swap),
            "failed": sum(bool(sample.error) for sample in outcome.swap),
            "mismatched": outcome.mismatched,
            "p50_ms": round(latencies[len(latencies) // 2], 1),
            "p99_ms": round(latencies[int(len(latencies) * 0.99)], 1),
        },
        "better": _better(outcome.before[0], outcome.after[0]),
        "seconds": {**outcome.seconds, "total": round(sum(outcome.seconds.values()), 1)},
        "collection": outcome.rollout.collection,
        "data": str(stack.data),
    }


def _by_film(outcome: Outcome) -> dict[str, dict[str, float]]:
    """nDCG@10 apart for films that got a thumb up for another query, and for those that never did."""
    found = {}
    for name, wanted in (("liked_before", True), ("never_liked", False)):
        chosen = [i for i, r in enumerate(outcome.before[0]) if (r.query.document in outcome.liked) is wanted]
        before, after = ([rankings[0][i] for i in chosen] for rankings in (outcome.before, outcome.after))
        scores = {
            key: float(measuring.per_query("ndcg@10", part).mean()) if chosen else 0.0
            for key, part in (("before", before), ("after", after))
        }
        found[name] = {"queries": len(chosen), **scores}
    return found


def _better(before: Sequence[Ranking], after: Sequence[Ranking]) -> list[dict[str, Any]]:
    """Three queries whose answer got better the most, of different films."""
    gains = measuring.per_query("ndcg@10", after) - measuring.per_query("ndcg@10", before)
    chosen: list[dict[str, Any]] = []
    for i in sorted(range(len(gains)), key=lambda i: -gains[i]):
        if all(before[i].query.document != other["document"] for other in chosen):
            chosen.append(
                {
                    "query": before[i].query.text,
                    "document": before[i].query.document,
                    "before": list(before[i].titles[:3]),
                    "after": list(after[i].titles[:3]),
                    "rank_before": before[i].rank,
                    "rank_after": after[i].rank,
                }
            )
        if len(chosen) == 3:
            break
    return chosen


def _print(summary: dict[str, Any]) -> None:
    rows = []
    for metric in measuring.METRICS:
        for label, size in (("full", None), (str(SMALL), str(SMALL))):
            b = summary["before"] if size is None else summary["before"]["dims"][size]
            a = summary["after"] if size is None else summary["after"]["dims"][size]
            rows.append((metric, label, f"{b[metric]:.3f}", f"{a[metric]:.3f}", f"{a[metric] - b[metric]:+.3f}"))
    title = f"{summary['held_out_queries']} held-out queries, before and after {summary['thumbs']['up']} thumbs up"
    table(title, ["metric", ">dimensions", ">before", ">after", ">difference"], rows)
    gap, swap = summary["difference"], summary["swap"]
    console.print(
        f"nDCG@10 {gap['ndcg@10']:+.3f}, 95 % interval {gap['low']:+.3f} to {gap['high']:+.3f}. "
        f"Gate: {summary['gate']['verdict']} on {summary['gate']['queries']} judged queries it held out itself."
    )
    for name, words in (("liked_before", "got a thumb up for another query"), ("never_liked", "never did")):
        part = summary["by_film"][name]
        console.print(
            f"  {part['queries']} of the queries ask for films that {words}: "
            f"nDCG@10 {part['before']:.3f} → {part['after']:.3f}"
        )
    for better in summary["better"]:
        table(
            f"“{better['query']}”",
            [">#", "before", "after"],
            [(i + 1, b, a) for i, (b, a) in enumerate(zip(better["before"], better["after"], strict=True))],
        )
    console.print(
        f"During the swap: {swap['searches']} searches, {swap['failed']} failed, {swap['mismatched']} answered with "
        f"mismatched versions (p50 {swap['p50_ms']} ms, p99 {swap['p99_ms']} ms)."
    )
    console.print(f"It took {summary['seconds']['total']:.0f} s. Report: {summary['data']}/demo.html")
    console.print(f'Now try it yourself: diapason up, and then: diapason search -c {summary["collection"]} "…"')
