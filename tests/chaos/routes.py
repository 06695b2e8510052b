"""What must be true of routes and indexes: the part of the oracle about switching. Pure: no I/O."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from diapason.search.v1 import collection_pb2 as pb
from tests.chaos.oracle import Violation

# Stands for: whatever served before.
EARLIER = "an earlier index"


@dataclass(frozen=True)
class Named:
    """What a generation stands for."""

    index: str
    digest: str
    since: int


class Routes:
    """Generations that were seen or asked for. Used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, Named] = {}
        self._asked: dict[int, set[str]] = defaultdict(set)
        self._floor = 0

    @property
    def floor(self) -> int:
        """The lowest generation that an answer to a call begun now may name."""
        with self._lock:
            return self._floor

    def created(self, route: pb.Route) -> None:
        """The first route."""
        with self._lock:
            self._asked[1].add(route.index)
            self._learn(route)

    def asked(self, generation: int, index: str) -> None:
        """A switch was asked for that would lead to this generation."""
        with self._lock:
            self._asked[generation].add(index)

    def seen(self, route: pb.Route, floor: int) -> None:
        """A call that began at ``floor`` was told of this route."""
        with self._lock:
            if route.generation < floor:
                raise Violation(f"the route went back from generation {floor} to {route.generation}")
            self._learn(route)
            self._floor = max(self._floor, route.generation)

    def listed(self, routes: Sequence[pb.Route], floor: int) -> None:
        """ListRoutes said this, newest first."""
        generations = [route.generation for route in routes]
        if generations != list(range(len(routes), 0, -1)) or len(routes) < floor:
            raise Violation(f"routes are listed with generations {generations}; {floor} was reached")
        for route in routes:
            with self._lock:
                self._learn(route)
        # What is committed may serve a moment later: the floor is left where answers put it.

    def quiet(self, routes: Sequence[pb.Route]) -> None:
        """The same, at a moment without calls: what was asked for and is not listed did not happen."""
        self.listed(routes, self.floor)
        with self._lock:
            self._floor = len(routes)
            for generation in [g for g in self._asked if g > self._floor]:
                del self._asked[generation]

    def _learn(self, route: pb.Route) -> None:
        named = Named(route.index, route.encoder.digest, route.since.ToNanoseconds())
        known = self._known.get(route.generation)
        if known is not None and known != named:
            raise Violation(f"generation {route.generation} was {known} and is {named}")
        if known is None:
            asked = self._asked[route.generation]
            earlier = {n.index for g, n in self._known.items() if g < route.generation}
            if route.index not in asked and not (EARLIER in asked and route.index in earlier):
                raise Violation(f"generation {route.generation} is {named}; asked for was {asked or 'nothing'}")
            self._known[route.generation] = named


@dataclass
class Build:
    """A reindex as far as its answers tell."""

    index: str
    version: int
    caught_up: bool = False
    cancelled: bool = False
    # Its cancellation was asked for and never answered.
    doubtful: bool = False


class Indexes:
    """Which indexes there may be, and which there must be. Used by the driver alone."""

    def __init__(self, first: str, version: int, kept: bool) -> None:
        self._versions = {first: version}
        self._kept = kept
        self._served = {first}
        self.builds: dict[str, Build] = {}
        # Versions whose reindex was asked for and never answered.
        self.doubtful: set[int] = set()

    def started(self, reindex: pb.Reindex) -> None:
        """A reindex was acknowledged."""
        build = self.builds.setdefault(reindex.id, Build(reindex.index, reindex.encoder.number))
        if (build.index, build.version) != (reindex.index, reindex.encoder.number):
            raise Violation(f"reindex {reindex.id} was {build} and is {reindex}")
        self._versions[reindex.index] = reindex.encoder.number

    def serves(self, index: str) -> None:
        """The index serves, so it is no more to be cancelled."""
        self._served.add(index)

    def open_builds(self) -> list[str]:
        """Reindexes that may still be waited for and switched to."""
        return [i for i, b in self.builds.items() if not b.cancelled and not b.doubtful and b.index not in self._served]

    def quiet(self, collection: pb.Collection) -> None:
        """Check what GetCollection lists at a moment without calls. Raises ``Violation``."""
        listed = {index.id: index for index in collection.indexes}
        self.serves(collection.route.index)
        for index in collection.indexes:
            self._explain(index)
        serving = [index.id for index in collection.indexes if index.state == pb.INDEX_STATE_SERVING]
        if serving != [collection.route.index]:
            raise Violation(f"{serving} say that they serve; the route names {collection.route.index}")
        if missing := self._must_exist(collection.route.index) - set(listed):
            raise Violation(f"indexes {missing} are gone; listed are {sorted(listed)}")
        self.doubtful.clear()

    def gone(self) -> set[str]:
        """Indexes that must vanish: their reindex was cancelled before they ever served."""
        return {b.index for b in self.builds.values() if b.cancelled} - self._served

    def _explain(self, index: pb.Index) -> None:
        if index.id not in self._versions:
            if index.encoder.number not in self.doubtful:
                raise Violation(f"nobody asked for index {index.id}")
            self._versions[index.id] = index.encoder.number
        if self._versions[index.id] != index.encoder.number:
            raise Violation(f"index {index.id} is of version {index.encoder.number}, not {self._versions[index.id]}")

    def _must_exist(self, serving: str) -> set[str]:
        building = {self.builds[i].index for i in self.open_builds()}
        return {serving} | building | (self._served if self._kept else set())
