"""Driving one run: collect, train in a process of its own, gate, publish, start the rollout.

Each step leaves what it made in the run's folder, so that a run taken up again after a crash
does not repeat what was finished (I7).
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from obstore.store import ObjectStore

from diapason.artifact.v1.manifest_pb2 import Lineage
from services.kit.errors import Overloaded, ServiceError, Unavailable
from services.trainer import artifacts, brought, room, tracking
from services.trainer.brought import Wanted
from services.trainer.collecting import TooLittle, collect
from services.trainer.domain import gate
from services.trainer.domain.model import Kind, PublishedVersion, RunKind, RunState, Stage, TrainingConfig
from services.trainer.jobprocess import JobFailed, JobProcess
from services.trainer.jobs import Jobs, LostJob, worn_out
from services.trainer.pacing import Interrupted, Shutdown, StopRequested
from services.trainer.peers import Exported, Peers
from services.trainer.process import spec as files
from services.trainer.process.spec import Spec
from services.trainer.registry import Registry
from services.trainer.reporting import keeping
from services.trainer.rollouts import serving
from services.trainer.tables import RunRow

log = structlog.get_logger()

# Of another service: it is away for a while.
_PASSING = (Unavailable, Overloaded)
_AGAIN_SECONDS = 1.0

T = TypeVar("T")


class Runner:
    """Executes runs. One object serves all threads of a worker. Their folders are below ``work_dir``."""

    def __init__(
        self,
        jobs: Jobs,
        registry: Registry,
        objects: ObjectStore,
        peers: Peers,
        work_dir: Path,
        shutdown: Shutdown,
        processes: int = 1,
        trackers: Sequence[str] = (),
    ) -> None:
        self._jobs = jobs
        self._registry = registry
        self._objects = objects
        self._peers = peers
        self._work_dir, self._folders = work_dir, work_dir / "runs"
        self._shutdown = shutdown
        self._processes = processes
        self._trackers = list(trackers)

    def execute(self, run_id: str) -> str:
        """Do a run if nobody else does. Returns the id of the rollout it started, or an empty string."""
        run = self._jobs.claim(RunRow, run_id)
        if run is None:
            return ""
        folder = self._folders / run.id
        folder.mkdir(parents=True, exist_ok=True)
        with structlog.contextvars.bound_contextvars(run=run.id):
            try:
                if reason := worn_out(run):
                    raise JobFailed(reason)
                with self._jobs.held(run):
                    rollout = self._import(run, folder) if run.kind == RunKind.IMPORT.value else self._tune(run, folder)
            except Interrupted:
                self._jobs.let_go(run)
                return ""
            except StopRequested:
                self._jobs.end(run, RunState.CANCELLED, "cancelled")
            except LostJob:
                log.warning("another worker has taken the run over")
                return ""
            except (JobFailed, ServiceError, artifacts.BrokenArtifact) as error:
                log.warning("run failed", reason=str(error))
                self._jobs.end(run, RunState.FAILED, str(error))
            except Exception as error:
                log.exception("run failed")
                said = room.said(error, folder) or f"internal error ({type(error).__name__}); the worker's log has it"
                self._jobs.end(run, RunState.FAILED, said)
            else:
                self.clear()
                return rollout
            self.clear()
        return ""

    def clear(self) -> None:
        """Remove the folders of runs that have ended, however they did: texts, what people said, and checkpoints."""
        found = [folder for folder in self._folders.glob("*") if folder.is_dir()]
        unfinished = self._jobs.unfinished_runs([folder.name for folder in found])
        for folder in found:
            if folder.name not in unfinished:
                shutil.rmtree(folder, ignore_errors=True)

    def _note(self, run: RunRow, **changes: Any) -> None:
        """Write to the run. Raises ``StopRequested`` if a person cancelled it, ``LostJob`` if it is no longer ours."""
        if self._jobs.update(run, **changes).stop_requested:
            raise StopRequested

    def _answered(self, run: RunRow, ask: Callable[[], T]) -> T:
        """What another service answers; if it is away the run is given back, and others have its place meanwhile.

        Raises as `_note`, and ``Interrupted``.
        """
        try:
            return ask()
        except _PASSING as error:
            self._note(run, message=f"waiting: {error}")
            raise Interrupted from error

    def _patiently(self, run: RunRow, ask: Callable[[], T]) -> T:
        """The same, but waited for: what was trained lies here, and another worker might train it again."""
        while True:
            try:
                return ask()
            except _PASSING as error:
                self._note(run, message=f"waiting: {error}")
                self._shutdown.pause(_AGAIN_SECONDS)

    def _import(self, run: RunRow, folder: Path) -> str:
        source, sizes = run.request["source"], run.request["dimensions"]
        # Runs that were queued before there were rerankers do not say.
        kind = run.request.get("kind", Kind.ENCODER.value)
        self._note(run, stage=Stage.EXPORT.value, message=f"importing {source}")
        Spec(kind="import", source=source, model_kind=kind, dimensions=sizes).write(folder)
        self._job(run, folder)
        version = self._publish(run, folder, Lineage(source=source, run_id=run.id), lease="import")
        self._jobs.end(
            run, RunState.SUCCEEDED, f"published as version {version.number}", published_digest=version.digest
        )
        return ""

    def _tune(self, run: RunRow, folder: Path) -> str:
        config = TrainingConfig(**run.request["config"])
        self._collect(run, folder, config)
        self._prepare(run, folder, config)
        self._check_current(run)
        self._job(run, folder)
        self._note(run, stage=Stage.GATE.value, progress=0.0, message="comparing")
        keeping.keep(self._objects, run.id, folder)
        result = json.loads((folder / files.RESULT).read_text())
        policy = gate.GatePolicy(**run.request["gate"])
        before, after = _scores(result["before"]), _scores(result["after"])
        guard = result.get("guard")
        guards = (_scores(guard["before"]), _scores(guard["after"])) if guard else None
        decision = gate.decide(before, after, policy, guards)
        stored = _stored(decision) | {"judged": result.get("judged@10", {})}
        stored["metrics"] += result.get("comparisons", [])
        self._note(run, gate=stored, progress=1.0, message=decision.reason)
        log.info("gate", verdict=decision.verdict.value, reason=decision.reason)
        if decision.verdict is not gate.Verdict.PROMOTE or run.request["dry_run"]:
            self._jobs.end(run, RunState.SUCCEEDED, f"{decision.verdict.value}: {decision.reason}")
            return ""
        self._check_current(run)
        # Its parent is of the same model: what served, or else the base.
        parent = self._registry.version(run.current_digest) if run.current_digest else None
        if parent is None or parent.model != run.model:
            parent = self._registry.version(model=run.model, number=1)
        lineage = Lineage(source=run.model, parent_digest=parent.digest, run_id=run.id)
        # Leased from the first moment, so that nothing lets it go before its rollout has begun.
        version = self._publish(run, folder, lineage, lease=f"run:{run.id}")
        rollout = self._jobs.add_rollout(run.collection, run.current_digest, version.digest, run.id)
        self._jobs.end(
            run,
            RunState.SUCCEEDED,
            f"promoted as version {version.number}: {decision.reason}",
            published_digest=version.digest,
            rollout_id=rollout.id,
        )
        return rollout.id

    def _check_current(self, run: RunRow) -> None:
        """Raises ``JobFailed`` if what the gate compares with serves no longer, unless this run's own version does."""
        if self._jobs.rollout_of(run.id):
            return
        kind = self._registry.version(model=run.model, number=1).kind
        route = self._patiently(run, lambda: self._peers.collection(run.collection)).route
        needed = {kind: run.current_digest}
        if kind is Kind.RERANKER:  # it was taught and compared over what this one brings
            needed[Kind.ENCODER] = run.request["encoder"]
        for one, digest in needed.items():
            if serving(route, one) != digest:
                changed = f"another {one.value} serves {run.collection!r} now than when the run was asked for"
                raise JobFailed(f"{changed}; nothing was published, start the run again")

    def _collect(self, run: RunRow, folder: Path, config: TrainingConfig) -> None:
        """Judgments and texts, into the run's folder."""
        if (folder / files.HELD_OUT).exists():
            return
        self._note(run, stage=Stage.COLLECT.value, progress=0.0, message="fetching judgments")
        wanted = Wanted.read(run.request)
        nothing = Exported([], {})
        ask = partial(self._peers.judgments, run.collection, run.id, config.policy)
        exported = nothing if wanted.without_feedback else self._answered(run, ask)
        self._note(run, progress=0.5, message="fetching documents")
        documents = self._answered(run, lambda: dict(self._peers.passages(run.collection)))
        try:
            found = collect(self._objects, wanted, exported.judgments, documents, config.held_out)
        except TooLittle as error:
            raise JobFailed(str(error)) from error
        dataset, corpus = found.dataset, found.corpus
        if wanted.guard:
            brought.write_guard(self._objects, wanted.guard, folder)
        files.write_lines(folder / files.CORPUS, ({"id": i, "text": text} for i, text in corpus.items()))
        for name, some in ((files.TRAIN, dataset.train), (files.VALIDATION, dataset.validation)):
            files.write_lines(folder / name, (asdict(judged) for judged in some))
        files.write_json(folder / files.POLICY, exported.policy)
        summary = {
            "judgments": dataset.judgments,
            "positives": dataset.positives,
            "negatives": dataset.judgments - dataset.positives,
            "train_queries": dataset.train_queries,
            "validation_queries": len(dataset.validation),
            "held_out_queries": len(dataset.held_out),
            "documents": len(corpus),
            "policy": f"{exported.policy.get('name', '')} {exported.policy.get('version', '')}".strip(),
        } | brought.summary(wanted, found.brought, found.added)
        self._note(run, data=summary, progress=1.0)
        # The last, since with it all is there.
        files.write_lines(folder / files.HELD_OUT, (asdict(judged) for judged in dataset.held_out))

    def _prepare(self, run: RunRow, folder: Path, config: TrainingConfig) -> None:
        """The spec, with the frozen base's weights: training begins there, on the whole log, every time."""
        base = self._registry.version(model=run.model, number=1)
        # Of a reranker's run there may be none.
        current = self._registry.version(run.current_digest) if run.current_digest else None
        encoder = self._registry.version(run.request["encoder"]) if base.kind is Kind.RERANKER else None
        sizes = current.dimensions if current else ()

        def weights(version: PublishedVersion | None) -> str:
            return str(artifacts.fetch_weights(self._objects, version, self._work_dir / "weights")) if version else ""

        reranks = current and current.kind is Kind.RERANKER
        share = artifacts.manifest_of(self._objects, current).first_stage_share if current and reranks else 0.0
        Spec(
            kind="fine-tune",
            model_kind=base.kind.value,
            base=weights(base),
            current=weights(current),
            current_share=share,
            encoder=weights(encoder),
            dimensions=list(config.dimensions or [size for size in sizes if size != base.dimension]),
            recipe=config.recipe,
            negatives=config.negatives,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            guard=run.request["gate"].get("guard", ""),
            guard_margin=run.request["gate"].get("guard_margin", gate.GatePolicy.guard_margin),
            trackers=self._trackers,
        ).write(folder)

    def _publish(self, run: RunRow, folder: Path, lineage: Lineage, lease: str) -> PublishedVersion:
        self._note(run, stage=Stage.PUBLISH.value, progress=0.0, message="publishing")
        number = self._registry.next_number(run.model)
        version = artifacts.publish(
            self._objects, folder / files.CANDIDATE, model=run.model, number=number, lineage=lineage
        )
        self._note(run)
        # Before anybody can do anything with it: whoever has a person erased must be told of it.
        if run.kind == RunKind.FINE_TUNE.value and not Wanted.read(run.request).without_feedback:
            self._patiently(run, lambda: self._peers.record_training(run.id, version))
        self._note(run, progress=1.0)  # still ours? else the next line is another's to do
        self._registry.publish(version, lease)
        return version

    def _job(self, run: RunRow, folder: Path) -> None:
        """Have the job process make the result, unless it is there. Raises ``JobFailed``."""
        if (folder / files.RESULT).exists():
            return
        shutil.rmtree(folder / files.CANDIDATE, ignore_errors=True)
        job = JobProcess(folder, partial(self._note, run), self._shutdown, run.losses or ())
        job.run(self._processes, tracking.environment(self._work_dir, run.id))


def _scores(stored: dict[str, dict[str, list[float]]]) -> gate.Scores:
    return {int(size): metrics for size, metrics in stored.items()}


def _stored(decision: gate.GateResult) -> dict[str, Any]:
    return {
        "verdict": decision.verdict.value,
        "reason": decision.reason,
        "queries": decision.queries,
        "metrics": [vars(comparison) for comparison in decision.comparisons],
        "guard": [vars(comparison) for comparison in decision.guard],
        "guard_queries": decision.guard_queries,
    }
