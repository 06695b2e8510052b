"""Random reindexes, switches and rollbacks, and what must be true of their answers."""

import random
import time
from collections.abc import Callable

from diapason.errors import Conflict, FailedPrecondition, NotFound
from diapason.search.v1 import collection_pb2 as pb
from tests.chaos import planted, routes
from tests.chaos.oracle import Violation
from tests.chaos.world import COLLECTION, World

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.02


class Mover:
    """Moves the collection from index to index. The only one to do so."""

    def __init__(self, seed: str, world: World, indexes: routes.Indexes, kept: bool) -> None:
        self._random = random.Random(f"{seed} mover")
        self._world = world
        self._kept = kept
        self.indexes = indexes

    def step(self) -> None:
        """One random call. Raises ``Died``, ``Violation``."""
        open_builds = self.indexes.open_builds()
        kinds: dict[Callable[[], None], int] = {self.start: 4 if len(open_builds) < 2 else 0, self.roll_back: 2}
        if open_builds:
            kinds |= {self.switch: 4, self.wait: 2, self.cancel: 1, self.switch_on_a_stale_generation: 2}
        self._random.choices(list(kinds), list(kinds.values()))[0]()

    def start(self) -> None:
        """Begin to build under another version than the one that serves."""
        serving = self.route().encoder.number
        number = self._random.choice([n for n in range(1, planted.VERSIONS + 1) if n != serving])
        self.indexes.doubtful.add(number)
        with self._world.asking(f"reindex to {number}") as client:
            reindex = client.start_reindex(COLLECTION, planted.version(number))
        self._note(f"reindex to {number}: {reindex.id[:8]} builds {reindex.index}")
        self.indexes.started(reindex)
        self.indexes.doubtful.discard(number)
        self._world.count("reindexes")

    def wait(self) -> None:
        """Wait until one of the builds has caught up."""
        self.wait_for(self._random.choice(self.indexes.open_builds()))

    def wait_for(self, reindex_id: str) -> None:
        """Wait until a build has caught up."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with self._world.asking(f"wait for {reindex_id[:8]}") as client:
                reindex = client.reindex(reindex_id)
            self.indexes.started(reindex)
            if reindex.done > reindex.total:
                raise Violation(f"{reindex.done} of {reindex.total} documents are indexed: {reindex}")
            if reindex.state == pb.REINDEX_STATE_CAUGHT_UP:
                self.indexes.builds[reindex_id].caught_up = True
                return self._note(f"wait for {reindex_id[:8]}: caught up")
            if reindex.state != pb.REINDEX_STATE_RUNNING:
                raise Violation(f"nobody switched to it or cancelled it: {reindex}")
            if time.monotonic() > deadline:
                raise Violation(f"it has not caught up in {_PATIENCE_SECONDS:.0f} s: {reindex}")
            time.sleep(_POLL_SECONDS)

    def cancel(self) -> None:
        """Cancel a build."""
        reindex_id = self._random.choice(self.indexes.open_builds())
        build = self.indexes.builds[reindex_id]
        build.doubtful = True
        with self._world.asking(f"cancel {reindex_id[:8]}") as client:
            reindex = client.cancel_reindex(reindex_id)
        if reindex.state != pb.REINDEX_STATE_CANCELLED:
            raise Violation(f"it was cancelled and is not: {reindex}")
        build.doubtful, build.cancelled = False, True
        self._note(f"cancel {reindex_id[:8]}: cancelled")
        self._world.count("cancels")

    def look_after_doubts(self) -> None:
        """Ask for what became of cancellations that were not answered."""
        for reindex_id, build in self.indexes.builds.items():
            if build.doubtful:
                with self._world.asking(f"look at {reindex_id[:8]}") as client:
                    build.cancelled = client.reindex(reindex_id).state == pb.REINDEX_STATE_CANCELLED
                build.doubtful = False

    def switch(self) -> None:
        """Switch to a build, caught up or not; and perhaps say so twice."""
        build = self.indexes.builds[self._random.choice(self.indexes.open_builds())]
        try:
            self.switch_to(build.index, twice=self._random.random() < 0.2)
        except FailedPrecondition as refusal:
            if build.caught_up or "try again soon" not in refusal.message:
                raise Violation(f"switch to {build} was refused: {refusal}") from refusal

    def switch_when_ready(self, reindex_id: str) -> None:
        """Switch to a build once it has caught up; then nothing may stand in the way."""
        self.wait_for(reindex_id)
        try:
            self.switch_to(self.indexes.builds[reindex_id].index)
        except FailedPrecondition as refusal:
            raise Violation(f"switch to {reindex_id} was refused: {refusal}") from refusal

    def switch_to(self, index: str, twice: bool = False) -> None:
        """Switch from the generation that serves. Raises ``FailedPrecondition`` if the index can't serve."""
        generation = self.route().generation
        what = f"switch to {index} from {generation}"
        self._world.routes.asked(generation + 1, index)
        for _ in range(1 + twice):
            with self._world.asking(what, FailedPrecondition) as client:
                route = client.switch_route(COLLECTION, index, generation)
            if (route.generation, route.index) != (generation + 1, index):
                raise Violation(f"{what} gave {route}")
            self._world.routes.seen(route, generation + 1)
        self.indexes.serves(index)
        self._note(f"{what}: done")
        self._world.count("switches")

    def switch_on_a_stale_generation(self) -> None:
        """Try what must be refused."""
        index = self.indexes.builds[self._random.choice(self.indexes.open_builds())].index
        stale = self.route().generation + self._random.choice([-1, 1, 2])
        what = f"switch to {index} from generation {stale}, which is stale"
        try:
            with self._world.asking(what, Conflict) as client:
                client.switch_route(COLLECTION, index, stale)
        except Conflict:
            return
        raise Violation(f"{what} was done")

    def roll_back(self) -> None:
        """Switch to what served before, if that is retained."""
        route = self.route()
        what = f"roll back from {route.generation}"
        self._world.routes.asked(route.generation + 1, routes.EARLIER)
        try:
            with self._world.asking(what, FailedPrecondition, NotFound) as client:
                back = client.roll_back_route(COLLECTION, route.generation)
        except (FailedPrecondition, NotFound) as refusal:
            # NotFound: its time was over between the look and the switch.
            if self._kept and (route.generation > 1 or isinstance(refusal, NotFound)):
                raise Violation(f"{what} was refused: {refusal}") from refusal
            return
        if back.generation != route.generation + 1 or back.index == route.index:
            raise Violation(f"{what} gave {back}; before it was {route}")
        self._world.routes.seen(back, back.generation)
        self.indexes.serves(back.index)
        self._note(f"{what}: {back.index} serves as {back.generation}")
        self._world.count("rollbacks")

    def route(self) -> pb.Route:
        """What serves now."""
        floor = self._world.routes.floor
        with self._world.asking("look at the route") as client:
            route = client.collection(COLLECTION).route
        self._world.routes.seen(route, floor)
        return route

    def list_routes(self) -> None:
        """Look at the history."""
        floor = self._world.routes.floor
        with self._world.asking("list routes") as client:
            self._world.routes.listed(client.routes(COLLECTION), floor)

    def _note(self, text: str) -> None:
        self._world.history.note(text)
