"""`train` and `runs`."""

from collections.abc import Callable, Iterable
from datetime import UTC
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from diapason.cli.options import DEFAULT_COLLECTION, DEFAULT_DATA, AsJson, Collection, Data, connect
from diapason.cli.output import Failure, Problem, as_json, console, plain, share_bar, table
from diapason.client import Client
from diapason.common.v1.version_pb2 import MODEL_KIND_RERANKER
from diapason.trainer.v1 import rollout_pb2
from diapason.trainer.v1.rollout_pb2 import Rollout, RolloutState
from diapason.trainer.v1.training_pb2 import (
    RUN_STATE_RUNNING,
    RUN_STATE_SUCCEEDED,
    Gate,
    GatePolicy,
    MetricComparison,
    Run,
    RunStage,
    RunState,
    TrainingConfig,
    Verdict,
)

_SWITCHED = (rollout_pb2.ROLLOUT_STATE_RETIRING, rollout_pb2.ROLLOUT_STATE_DONE)

# Of the newest runs an id's beginning is looked for in so many.
MANY = 200


def train(
    collection: Collection = DEFAULT_COLLECTION,
    epochs: Annotated[int, typer.Option(help="Passes over the judgments; 0 for the default.", min=0)] = 0,
    learning_rate: Annotated[float, typer.Option(help="0 for the default.", min=0)] = 0.0,
    recipe: Annotated[str, typer.Option(help="How to tune, as triplet; auto chooses by the judgments.")] = "auto",
    reranker: Annotated[str, typer.Option(metavar="NAME", help="Tune this reranker instead of the encoder.")] = "",
    policy: Annotated[str, typer.Option(help="How feedback becomes judgments: thumbs, distances, clicks.")] = "",
    negatives: Annotated[int, typer.Option(help="Others beside each relevant document; 0 for 3.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Rows of a step; 0 for 32.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="The same gives the same weights; 0 for 17.", min=0)] = 0,
    held_out: Annotated[float, typer.Option(help="Share of the queries that only the gate sees; 0 for 0.25.")] = 0.0,
    min_queries: Annotated[int, typer.Option(help="Held-out queries that the gate asks for; 0 for 75.", min=0)] = 0,
    dataset: Annotated[list[str] | None, typer.Option(help="Train on an uploaded dataset; repeat it for more.")] = None,
    without_feedback: Annotated[bool, typer.Option("--without-feedback", help="Train on datasets alone.")] = False,
    guard: Annotated[str, typer.Option(help="An uploaded evaluation on which the model may not get worse.")] = "",
    guard_margin: Annotated[float, typer.Option(help="By how much nDCG@10 may fall there; 0 for 0.01.", min=0)] = 0.0,
    dry_run: Annotated[bool, typer.Option(help="Stop after the gate.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the end.")] = True,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """Tune a collection's encoder, or a reranker, on feedback or datasets; a better version takes over.

    Example: diapason train --collection movies
    """
    config = TrainingConfig(
        epochs=epochs,
        learning_rate=learning_rate,
        recipe=recipe,
        policy=policy,
        negatives=negatives,
        batch_size=batch_size,
        seed=seed,
        held_out=held_out,
    )
    with connect(data) as client:
        gate = GatePolicy(min_queries=min_queries, guard=guard, guard_margin=guard_margin)
        run = client.train(collection, config, gate, dry_run, dataset or [], without_feedback, reranker)
        if wait:
            run = follow_run(client, run.id)
        rollout = follow_rollout(client, run.rollout_id) if wait and run.rollout_id else None
    if json:
        as_json({"run": plain(run), "rollout": plain(rollout) if rollout else None})
    else:
        print_run(run)
        if rollout:
            console.print(f"rollout {state_of(rollout)}: {rollout.message}")
    if wait and run.state != RUN_STATE_SUCCEEDED:
        raise Failure(f"run {run.id} is {_state(run)}: {run.message}")
    if rollout and not switched(rollout):
        raise Failure(f"the new version was not taken into service, rollout {state_of(rollout)}: {rollout.message}")


def follow_run(client: Client, run_id: str, seen: Callable[[Run], None] = lambda run: None) -> Run:
    """Show a run's progress until it ends."""
    with share_bar() as bar:
        task = bar.add_task("waiting", total=1.0, message="")
        stage = RunStage.RUN_STAGE_UNSPECIFIED
        for run in client.watch_run(run_id):
            seen(run)
            if run.stage != stage:
                bar.update(task, completed=1.0)
                stage = run.stage
                bar.reset(task, total=1.0)
            bar.update(task, description=_stage(run), completed=run.progress, message=_telling(run))
    return run


def follow_rollout(client: Client, rollout_id: str) -> Rollout:
    """Show a rollout's progress until the new version serves or it ended without."""
    with share_bar() as bar:
        task = bar.add_task("rollout", total=1.0, message="")
        for rollout in client.watch_rollout(rollout_id):
            bar.update(task, description=state_of(rollout), completed=rollout.progress, message=rollout.message)
    return rollout


def switched(rollout: Rollout) -> bool:
    """Whether the new version serves."""
    return rollout.state in _SWITCHED


def state_of(rollout: Rollout) -> str:
    """A rollout's state as a word."""
    return RolloutState.Name(rollout.state).removeprefix("ROLLOUT_STATE_").lower().replace("_", " ")


def runs(
    run_id: Annotated[str, typer.Argument(help="One run, by the first letters of its id; all if not given.")] = "",
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel that run.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show that run's progress until it ends.")] = False,
    data: Data = DEFAULT_DATA,
    json: AsJson = False,
) -> None:
    """List training runs, or show one.

    Example: diapason runs 3f --follow
    """
    if (cancel or follow) and not run_id:
        raise Problem("which run? Give the first letters of its id; `diapason runs` lists them")
    with connect(data) as client:
        if run_id:
            run_id = whole(client, run_id)
            if cancel:
                client.cancel_run(run_id)
            run = follow_run(client, run_id) if follow else client.run(run_id)
            as_json(plain(run)) if json else print_run(run)
            return
        found = client.runs()
    if json:
        as_json([plain(run) for run in found])
        return
    rows = [
        (run.id[:8], moment(run.created_time), run.collection, _model(run), _state(run), run.message) for run in found
    ]
    table("Runs", ["run", "created", "for", "model", "state", "message"], rows)


def whole(client: Client, beginning: str) -> str:
    """The id of the one run that begins so; what was given if there is none or more than one."""
    found = [run.id for run in client.runs(MANY) if run.id.startswith(beginning)]
    return found[0] if len(found) == 1 else beginning


def print_run(run: Run) -> None:
    """A run with its gate."""
    console.print(f"run {run.id} of {_model(run)} {_state(run)}: {run.message}")
    if run.state == RUN_STATE_RUNNING:
        console.print(f"{_stage(run)}, {run.progress:.0%} done{_left(run)}")
    if run.HasField("data") and run.data.judgments:
        d = run.data
        console.print(
            f"{d.judgments} judgments ({d.positives} for, {d.negatives} against), "
            f"{d.train_queries} queries to train on, {d.validation_queries} to steer by, "
            f"{d.held_out_queries} held out, {d.documents} documents"
        )
        if d.datasets:
            unknown = f"; {d.unknown_documents} judgments of documents it does not have" if d.unknown_documents else ""
            console.print(
                f"datasets: {', '.join(d.datasets)}, with {d.added_documents} documents of their own{unknown}"
            )
    if run.HasField("gate"):
        print_gate(run.gate)


def print_gate(gate: Gate) -> None:
    """The gate's numbers."""
    verdict = Verdict.Name(gate.verdict).removeprefix("VERDICT_").lower()
    _compared(f"Gate: {verdict} ({gate.queries} held-out queries)", gate.metrics)
    if gate.guard:
        _compared(f"Guard set ({gate.guard_queries} queries)", gate.guard)
    if gate.judged_before or gate.judged_after:
        console.print(
            f"of the first ten found, judged by anybody: {gate.judged_before:.0%} before, {gate.judged_after:.0%} after"
        )


def _compared(title: str, metrics: Iterable[MetricComparison]) -> None:
    rows = [
        (
            m.metric,
            m.dimensions or "",
            f"{m.before:.3f}",
            f"{m.after:.3f}",
            f"{m.after - m.before:+.3f}",
            f"[{m.low:+.3f}, {m.high:+.3f}]",
        )
        for m in metrics
    ]
    table(title, ["metric", ">dimensions", ">before", ">after", ">difference", ">95 % interval"], rows)


def _telling(run: Run) -> str:
    return (run.message + _left(run)).removeprefix(", ")


def _left(run: Run) -> str:
    """How long its stage will still take, after a comma; empty where that is not known."""
    if not run.seconds_left:
        return ""
    minutes = run.seconds_left / 60
    return f", {minutes:.0f} min left" if minutes >= 2 else f", {run.seconds_left:.0f} s left"


def _stage(run: Run) -> str:
    word = RunStage.Name(run.stage).removeprefix("RUN_STAGE_").lower()
    return "waiting" if word == "unspecified" else word


def _model(run: Run) -> str:
    return f"reranker {run.model}" if run.model_kind == MODEL_KIND_RERANKER else run.model


def _state(run: Run) -> str:
    return RunState.Name(run.state).removeprefix("RUN_STATE_").lower()


def moment(stamp: Timestamp) -> str:
    """Local time to the minute; empty for none."""
    return stamp.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M") if stamp.seconds else ""
