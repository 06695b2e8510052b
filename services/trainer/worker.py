"""The Celery worker: `python -m services.trainer.worker`. Composition root of the trainer's other process.

Threads, not forks: a task only watches over a job process or waits for other services, and
nothing that must not be forked (torch, gRPC channels) is.
"""

import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

import structlog
from celery import signals
from obstore.store import from_url

from services.kit import logs
from services.kit.channels import open_blocking_channel
from services.kit.server import CannotStart
from services.kit.settings import load
from services.kit.sql import Database
from services.trainer import tracking
from services.trainer.broker import ROLLOUT_TASK, RUN_TASK, celery_app
from services.trainer.jobs import Jobs
from services.trainer.pacing import Interrupted, Shutdown
from services.trainer.peers import Peers
from services.trainer.registry import Registry
from services.trainer.rollouts import Roller
from services.trainer.runs import Runner
from services.trainer.settings import TrainerSettings

log = structlog.get_logger()

_HEARTBEAT_SECONDS = 2.0
# One training at a time per worker, with rollouts beside it.
_THREADS = 4
MIGRATIONS = Path(__file__).parent / "migrations"


def main() -> int:
    """Work until SIGTERM; unfinished jobs are given back. The exit status is 2 if it can't start."""
    settings = load(TrainerSettings, "services.trainer.worker", sys.argv[1:])
    logs.configure("worker", settings.log_level, settings.log_format)
    try:
        trackers = tracking.chosen(settings.trackers)
    except CannotStart as error:
        sys.stderr.write(f"worker: {error}\n")
        return 2
    database = Database(settings.database_url)
    database.migrate(MIGRATIONS)
    jobs, registry, shutdown = Jobs(database), Registry(database), Shutdown()
    peers = Peers(open_blocking_channel(settings.search_address), open_blocking_channel(settings.feedback_address))
    work_dir = settings.work_dir.resolve()
    objects, processes = from_url(settings.artifacts_url), settings.training_processes
    runner = Runner(jobs, registry, objects, peers, work_dir, shutdown, processes, trackers)
    roller = Roller(jobs, registry, peers, shutdown, settings.watch_seconds, settings.load_timeout_seconds)
    runner.clear()
    app = celery_app(settings.broker_url)
    training = threading.Lock()

    @app.task(name=RUN_TASK)  # type: ignore[untyped-decorator]
    def run(run_id: str) -> None:
        # A run that finds the place taken stays queued and is nudged again.
        if not training.acquire(blocking=False):
            return
        try:
            rollout_id = runner.execute(run_id)
        finally:
            training.release()
        if rollout_id:
            roller.execute(rollout_id)

    @app.task(name=ROLLOUT_TASK)  # type: ignore[untyped-decorator]
    def roll_out(rollout_id: str) -> None:
        roller.execute(rollout_id)

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def stop(**_: object) -> None:
        shutdown.set()

    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
    def keep_logging(**_: object) -> None:
        """Celery configures logging unless someone listens here; ours is configured already."""

    threading.Thread(target=_beat, args=(registry, shutdown), daemon=True).start()
    app.worker_main(["worker", "--pool=threads", f"--concurrency={_THREADS}", "--without-gossip", "--without-mingle"])
    return 0


def _beat(registry: Registry, shutdown: Shutdown) -> None:
    """Say that this worker lives, until it stops."""
    name = f"{socket.gethostname()}-{os.getpid()}"
    with contextlib.suppress(Interrupted):
        while True:
            try:
                registry.worker_alive(name)
            except Exception:
                log.exception("heartbeat failed")
            shutdown.pause(_HEARTBEAT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
