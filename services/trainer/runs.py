"""Driving one run: collect, train in a process of its own, gate, publish, start the rollout.

Each step leaves what it made in the run's folder, so that a run taken up again after a crash
does not repeat what was finished (I7).
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import structlog
from obstore.store import ObjectStore

from diapason.artifact.v1.manifest_pb2 import Lineage
from services.kit.errors import ServiceError
from services.trainer import artifacts, brought, room, tracking
from services.trainer.brought import Wanted
from services.trainer.collecting import TooLittle, collect
from services.trainer.domain import gate
from services.trainer.domain.model import Kind, PublishedVersion, RunKind, RunState, Stage, TrainingConfig
from services.trainer.jobs import Jobs, LostJob, worn_out
from services.trainer.pacing import Every, Interrupted, Shutdown, StopRequested
from services.trainer.peers import Exported, Peers
from services.trainer.process import WORKER_PID
from services.trainer.process import spec as files
from services.trainer.process.spec import Spec
from services.trainer.registry import Registry
from services.trainer.reporting import keeping
from services.trainer.tables import RunRow

log = structlog.get_logger()

# How often a silent job's row is looked at for a request to stop.
_LOOK_SECONDS = 2.0
_KILL_AFTER_SECONDS = 5.0
# torch and OpenVINO take a while to let go of everything once the job has said its last word.
_TEARDOWN_SECONDS = 60.0


class JobFailed(Exception):
    """The job process ended without a result; the message is for people."""


class Runner:
    """Executes runs. One object serves all threads of a worker."""

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
        self._work_dir = work_dir
        self._shutdown = shutdown
        self._processes = processes
        self._trackers = list(trackers)

    def execute(self, run_id: str) -> str:
        """Do a run if nobody else does. Returns the id of the rollout it started, or an empty string."""
        run = self._jobs.claim(RunRow, run_id)
        if run is None:
            return ""
        folder = self._work_dir / "runs" / run.id
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
                shutil.rmtree(folder, ignore_errors=True)
                return rollout
        return ""

    def _note(self, run: RunRow, **changes: Any) -> None:
        """Write to the run. Raises ``StopRequested`` if a person cancelled it, ``LostJob`` if it is no longer ours."""
        if self._jobs.update(run, **changes).stop_requested:
            raise StopRequested

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
        # Its parent is of the same model: what served, or else the base.
        parent = self._registry.version(run.current_digest) if run.current_digest else None
        if parent is None or parent.model != run.model:
            parent = self._registry.version(model=run.model, number=1)
        lineage = Lineage(source=run.model, parent_digest=parent.digest, run_id=run.id)
        # Leased from the first moment, so that nothing lets it go before its rollout has begun.
        version = self._publish(run, folder, lineage, lease=f"run:{run.id}")
        # Before anything is done with it: whoever has a person erased must be told of it.
        if not Wanted.read(run.request).without_feedback:
            self._peers.record_training(run.id, version)
        rollout = self._jobs.add_rollout(run.collection, run.current_digest, version.digest, run.id)
        self._jobs.end(
            run,
            RunState.SUCCEEDED,
            f"promoted as version {version.number}: {decision.reason}",
            published_digest=version.digest,
            rollout_id=rollout.id,
        )
        return rollout.id

    def _collect(self, run: RunRow, folder: Path, config: TrainingConfig) -> None:
        """Judgments and texts, into the run's folder."""
        if (folder / files.HELD_OUT).exists():
            return
        self._note(run, stage=Stage.COLLECT.value, progress=0.0, message="fetching judgments")
        wanted = Wanted.read(run.request)
        nothing = Exported([], {})
        exported = nothing if wanted.without_feedback else self._peers.judgments(run.collection, run.id, config.policy)
        self._note(run, progress=0.5, message="fetching documents")
        documents = dict(self._peers.passages(run.collection))
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
        # The last, since with it all is there.
        files.write_lines(folder / files.HELD_OUT, (asdict(judged) for judged in dataset.held_out))
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
        self._note(run, progress=1.0)  # still ours? else the next line is another's to do
        self._registry.publish(version, lease)
        return version

    def _job(self, run: RunRow, folder: Path) -> None:
        """Run the job process to its end, passing on its progress. Raises ``JobFailed``."""
        if (folder / files.RESULT).exists():
            return
        shutil.rmtree(folder / files.CANDIDATE, ignore_errors=True)
        with (folder / "job.log").open("w") as job_log:
            process = subprocess.Popen(
                job_command(folder, self._processes),
                stdout=subprocess.PIPE,
                stderr=job_log,
                stdin=subprocess.DEVNULL,
                text=True,
                env=os.environ | {WORKER_PID: str(os.getpid())} | tracking.environment(self._work_dir, run.id),
            )
            try:
                failure = self._follow(run, process)
                process.wait(_TEARDOWN_SECONDS)
            finally:
                _end(process)
        if process.returncode != 0 or not (folder / files.RESULT).exists():
            tail = (folder / "job.log").read_text()[-4000:]
            log.error("job process failed", status=process.returncode, log=tail)
            raise JobFailed(failure or _how_it_ended(process.returncode, tail))

    def _follow(self, run: RunRow, process: subprocess.Popen[str]) -> str:
        """Write the job's progress to the row until it ends; returns the error it named, if any."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        assert process.stdout is not None
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
        look, failure = Every(_LOOK_SECONDS), ""
        losses: list[Any] = []
        while True:
            self._shutdown.check()
            changes: dict[str, Any] = {}
            try:
                line = lines.get(timeout=0.25)
            except queue.Empty:
                line = ""
            if line is None:
                return failure
            if line:
                said = json.loads(line)
                failure = said.pop("error", failure)
                if point := said.pop("loss", None):
                    losses.append(point)
                    changes["losses"] = list(losses)
                changes |= {"seconds_left": 0.0} | said if "stage" in said else said
            if changes or look.due():
                self._note(run, **changes)


def job_command(folder: Path, processes: int) -> list[str]:
    """What starts the job process; above one, so many that train together, through what accelerate builds on."""
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return [sys.executable, *together, "-m", "services.trainer.process", str(folder)]


def _pump(stream: TextIO, lines: "queue.SimpleQueue[str | None]") -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """Make sure that it has ended, however we came here."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_KILL_AFTER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _how_it_ended(status: int, tail: str) -> str:
    if status < 0:
        hint = "; out of memory is the usual reason" if -status == signal.SIGKILL else ""
        return f"the training process was killed by signal {-status}{hint}"
    last = next((line for line in reversed(tail.splitlines()) if line.strip()), "no message")
    return f"the training process failed: {last.strip()}"


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
