"""The whole state, looked at while nobody calls: after each restart and at the end."""

import time
from collections.abc import Callable

from diapason.search.v1 import collection_pb2 as pb
from tests.chaos.moving import Mover
from tests.chaos.oracle import Violation
from tests.chaos.searching import LIMIT, Searcher
from tests.chaos.world import COLLECTION, World
from tests.chaos.writing import Writer, content_of

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.02
_SENTINEL = "driver-sentinel"
# So many documents are searched for by their text: those indexed last, and others.
_LATEST, _SAMPLE = 20, 40


class Checker:
    """Compares everything that the service shows with the oracle."""

    def __init__(self, world: World, writer: Writer, searcher: Searcher, mover: Mover) -> None:
        self._world = world
        self._writer = writer
        self._searcher = searcher
        self._mover = mover
        self._turn = 0

    def durable(self) -> None:
        """What must hold at once after a restart."""
        self._routes()
        self._documents()
        self._mover.look_after_doubts()
        self._mover.indexes.quiet(self._collection())
        # What was acknowledged as indexed is found without waiting.
        self._search_some()

    def settled(self) -> None:
        """What must hold once every index has taken in every write."""
        self._wait_until_indexed()
        self._until(self._counts_are_right, "every index holds as many points as there are documents")
        self._until(self._builds_have_caught_up, "every build has caught up, and the cancelled ones are gone")
        self._routes()
        self._documents()
        self._search_some()
        self._search_for_deleted()

    def everywhere(self) -> None:
        """The same under every index that could serve."""
        self.settled()
        for reindex_id in self._mover.indexes.open_builds():
            self._mover.switch_when_ready(reindex_id)
            self.settled()
        self._writer.upsert()
        self._mover.roll_back()
        self.settled()

    def _routes(self) -> None:
        collection = self._collection()
        with self._world.asking("list routes") as client:
            routes = client.routes(COLLECTION)
        self._world.routes.quiet(routes)
        if routes[0] != collection.route:
            raise Violation(f"routes begin with {routes[0]}; what serves is {collection.route}")

    def _documents(self) -> None:
        """Each document by id, then all of them page by page, then their number."""
        documents = self._world.documents
        ids = documents.ids()
        for start in range(0, len(ids), 500):
            self._searcher.read(ids[start : start + 500])
        living = documents.living()
        with self._world.asking("list documents") as client:
            listed = {document.id: content_of(document) for document in client.documents(COLLECTION)}
        if listed != living:
            wrong = {i: (listed.get(i), living.get(i)) for i in {*listed, *living} if listed.get(i) != living.get(i)}
            raise Violation(f"listed and read differ: {wrong}")
        if (count := self._collection().documents) != len(living):
            raise Violation(f"{count} documents are counted; {len(living)} are listed")

    def _search_some(self) -> None:
        """The documents that were indexed last, and some others, each time other ones."""
        living = self._world.documents.living()
        self._turn += 1
        some = sorted(living)[self._turn % 7 :: max(1, len(living) // _SAMPLE)]
        for document_id in dict.fromkeys([*self._world.documents.latest(_LATEST), *some]):
            if content := living.get(document_id):
                self._searcher.search(content.passage, document_id, limit=3)

    def _search_for_deleted(self) -> None:
        """As many results as there are documents: none that was deleted, none twice, none missing."""
        living = self._world.documents.living()
        gone = [i for i in self._world.documents.ids() if i not in living]
        for document_id in gone[self._turn % 5 :: 5]:
            for passage in sorted(self._world.documents.passages(document_id))[-1:]:
                found = self._searcher.search(passage, document_id, limit=LIMIT).results
                if len(found) != min(LIMIT, len(living)):
                    raise Violation(f"{len(found)} results of {len(living)} documents for {passage!r}")

    def _wait_until_indexed(self) -> None:
        """Write a document until the serving index is said to hold it, and so all before it."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            begun = self._world.clock.tick()
            if self._writer.put(_SENTINEL).indexed:
                return self._world.documents.all_indexed(begun)
            if time.monotonic() > deadline:
                raise Violation(f"nothing was indexed in {_PATIENCE_SECONDS:.0f} s")

    def _counts_are_right(self) -> str:
        collection = self._collection()
        points = {index.id: index.points for index in collection.indexes}
        right = set(points.values()) == {collection.documents} == {len(self._world.documents.living())}
        return "" if right else f"{collection.documents} documents, points {points}"

    def _builds_have_caught_up(self) -> str:
        collection = self._collection()
        self._mover.indexes.quiet(collection)
        states = {index.id: index.state for index in collection.indexes}
        waiting = [i for i, state in states.items() if state == pb.INDEX_STATE_BUILDING]
        left = self._mover.indexes.gone() & set(states)
        return f"building {waiting}, cancelled {left}" if waiting or left else ""

    def _collection(self) -> pb.Collection:
        floor = self._world.routes.floor
        with self._world.asking("look at the collection") as client:
            collection = client.collection(COLLECTION)
        self._world.routes.seen(collection.route, floor)
        return collection

    def _until(self, wrong: Callable[[], str], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while said := wrong():
            if time.monotonic() > deadline:
                raise Violation(f"it does not come true that {what}: {said}")
            time.sleep(_POLL_SECONDS)
