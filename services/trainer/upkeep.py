"""What the trainer's API does by itself: nudge jobs that nobody works on, and keep leases true.

Every API replica does both; doing them twice is harmless.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog

from diapason.search.v1.collection_pb2 import Collection
from services.kit.errors import ServiceError
from services.trainer.broker import ROLLOUT_TASK, RUN_TASK, Nudger
from services.trainer.domain.model import Kind
from services.trainer.jobs import Jobs
from services.trainer.pacing import Every
from services.trainer.peers import Peers
from services.trainer.registry import Registry
from services.trainer.rollouts import serving
from services.trainer.tables import RolloutRow, RunRow, now

log = structlog.get_logger()

_EVERY_SECONDS = 1.0
# A nudge is not repeated sooner than this, so that a long queue stays short.
_NUDGE_AGAIN_SECONDS = 5.0


async def sweep(jobs: Jobs, nudger: Nudger) -> None:
    """Nudge waiting jobs again and again, for ever: after a crash, a full worker, a lost message."""
    pacing: dict[str, Every] = {}

    async def once() -> None:
        nonlocal pacing
        runs, rollouts = await asyncio.to_thread(jobs.waiting)
        pacing = {job: pacing.get(job, Every(_NUDGE_AGAIN_SECONDS)) for job in (*runs, *rollouts)}
        kinds: tuple[tuple[type[RunRow] | type[RolloutRow], str, list[str]], ...]
        kinds = ((RunRow, RUN_TASK, runs), (RolloutRow, ROLLOUT_TASK, rollouts))
        for kind, task, waiting in kinds:
            for job in waiting:
                if pacing[job].due() and not await asyncio.to_thread(nudger.nudge, task, job):
                    waits = "waits for the message broker, which does not answer; goes on by itself once it does"
                    await asyncio.to_thread(jobs.note, kind, job, waits)

    await _for_ever("sweep", once)


async def keep_leases(jobs: Jobs, registry: Registry, peers: Peers) -> None:
    """Hold the leases that search gives reason for, and end rollouts whose old index is gone, for ever.

    While search does not answer, nothing is let go.
    """

    async def once() -> None:
        # Before search is asked, so that what ends meanwhile is seen to with the next pass.
        ended, retiring = await asyncio.to_thread(jobs.kept_beyond_the_end), await asyncio.to_thread(jobs.retiring)
        collections = await asyncio.to_thread(peers.collections)
        await asyncio.to_thread(registry.sync_index_leases, leases(collections))
        await asyncio.to_thread(jobs.release, ended)
        for rollout in retiring:
            version = await asyncio.to_thread(registry.version, rollout.to_digest)
            if not settled(rollout, version.kind, collections, now()):
                continue
            if taken_back(rollout, version.kind, collections):
                await asyncio.to_thread(jobs.roll_back, rollout.id, "the collection was switched back")
            else:
                await asyncio.to_thread(jobs.end_retired, rollout.id)

    await _for_ever("leases", once)


def settled(rollout: RolloutRow, kind: Kind, collections: Sequence[Collection], at: datetime) -> bool:
    """Whether there is no way left between what a rollout brought and what it replaced, there or back.

    Of encoders there is one while both have an index. A reranker has none: it is kept as long as an index would be.
    """
    collection = next((each for each in collections if each.name == rollout.collection), None)
    if collection is None:
        return True
    if kind is Kind.ENCODER:
        return not {rollout.from_digest, rollout.to_digest} <= {index.encoder.digest for index in collection.indexes}
    _, since = rollout.history[-1]
    return at >= datetime.fromisoformat(since) + collection.settings.retention.ToTimedelta()


def taken_back(rollout: RolloutRow, kind: Kind, collections: Sequence[Collection]) -> bool:
    """Whether search was told by itself to serve again what a rollout had replaced."""
    served = {each.name: serving(each.route, kind) for each in collections}
    return served.get(rollout.collection) == rollout.from_digest


def leases(collections: Sequence[Collection]) -> dict[str, str]:
    """Holder → digest: one for every index that search keeps, and for every reranker that a route names."""
    held = {f"index:{index.id}": index.encoder.digest for c in collections for index in c.indexes}
    routes = [c.route for c in collections if c.route.HasField("reranker")]
    return held | {f"index:{route.index}:reranker": route.reranker.digest for route in routes}


async def _for_ever(name: str, once: Callable[[], Awaitable[None]]) -> None:
    """One pass after another; a pass that fails, be it for the database, is followed by the next."""
    while True:
        try:
            await once()
        except ServiceError as error:
            log.debug("upkeep waits", work=name, reason=str(error))
        except Exception:
            log.exception("upkeep failed, trying again", work=name)
        await asyncio.sleep(_EVERY_SECONDS)
