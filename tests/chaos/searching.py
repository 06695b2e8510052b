"""Random searches and reads, and what must be true of their answers."""

import random

from diapason.search.v1 import search_pb2 as pb
from tests.chaos import planted
from tests.chaos.oracle import Violation
from tests.chaos.world import COLLECTION, World
from tests.chaos.writing import content_of

LIMIT = 100


class Searcher:
    """Asks for the exact text of some document, or reads some documents."""

    def __init__(self, name: str, seed: str, world: World) -> None:
        self._world = world
        self._random = random.Random(f"{seed} {name}")

    def step(self) -> None:
        """One random call. Raises ``Died``, ``Violation``."""
        ids = self._world.documents.ids()
        if not ids:
            self.search("nothing yet", "")
        elif self._random.random() < 0.2:
            self.read(self._random.sample(ids, min(len(ids), 20)))
        else:
            document_id = self._random.choice(ids)
            passages = sorted(self._world.documents.passages(document_id)) or ["something else"]
            passage = self._random.choice(passages)
            if self._world.has_words and self._random.random() < 0.2:
                self.search_by_words_too(passage)
            else:
                self.search(passage, document_id, self._random.choice([0, planted.SMALL]))

    def read(self, ids: list[str]) -> None:
        """GetDocuments by id."""
        world = self._world
        begun = world.clock.tick()
        with world.asking(f"read {ids}") as client:
            documents = {document.id: document for document in client.documents(COLLECTION, ids)}
        if unknown := set(documents) - set(ids):
            raise Violation(f"{unknown} were read, and not asked for")
        for document_id in ids:
            document = documents.get(document_id)
            if document is None:
                world.documents.read(document_id, None, begun)
            else:
                world.documents.read(document_id, content_of(document), begun, document.revision)
        world.count("reads", len(ids))

    def search(self, passage: str, document_id: str, dimensions: int = 0, limit: int = 10) -> pb.SearchResponse:
        """Ask for a text that a document has or had; check each result, and the first in particular."""
        world = self._world
        begun, floor = world.clock.tick(), world.routes.floor
        with world.asking(f"search {passage!r}") as client:
            answer = client.search(COLLECTION, passage, limit, dimensions)
        world.routes.seen(answer.route, floor)
        if answer.query_version != answer.route.encoder:
            raise Violation(f"the query's version is {answer.query_version}, the route is {answer.route}")
        for result in answer.results:
            self._check_result(result, passage, dimensions, answer.route.encoder.number, begun)
        self._check_order(answer, limit)
        if self._must_be_found(document_id, passage, begun):
            self._check_first(answer, document_id, passage)
        world.count("searches")
        return answer

    def search_by_words_too(self, passage: str) -> None:
        """A hybrid search. Its scores are of the fusion; the part that vectors had in them must be right."""
        world = self._world
        begun, floor = world.clock.tick(), world.routes.floor
        with world.asking(f"hybrid search {passage!r}") as client:
            answer = client.search(COLLECTION, passage, hybrid=pb.Hybrid(), explain=True)
        world.routes.seen(answer.route, floor)
        for result in answer.results:
            world.documents.read(result.id, content_of(result), begun)
            if result.parts.HasField("dense"):
                self._check_score(result.id, result.parts.dense, passage, 0, answer.route.encoder.number)
        world.count("searches")

    def _check_result(self, result: pb.Result, passage: str, dimensions: int, version: int, begun: int) -> None:
        self._world.documents.read(result.id, content_of(result), begun)
        self._check_score(result.id, result.score, passage, dimensions, version)

    def _check_score(self, document_id: str, score: float, passage: str, dimensions: int, version: int) -> None:
        """The score must be that of the text and one that the document had, under the version."""
        had = self._world.documents.passages(document_id)
        expected = [planted.similarity(version, passage, one, dimensions) for one in had]
        if not any(abs(score - one) < planted.TOLERANCE for one in expected):
            raise Violation(
                f"{passage!r} gave {document_id} a score of {score:.4f} under version {version}; "
                f"the texts it had give {sorted(round(one, 4) for one in expected)}"
            )

    def _check_order(self, answer: pb.SearchResponse, limit: int) -> None:
        scores = [result.score for result in answer.results]
        if scores != sorted(scores, reverse=True) or len(scores) > limit:
            raise Violation(f"{limit} results were asked for; their scores are {scores}")
        if len({result.id for result in answer.results}) != len(scores):
            raise Violation(f"a document was found twice: {[result.id for result in answer.results]}")

    def _must_be_found(self, document_id: str, passage: str, begun: int) -> bool:
        """Whether the document had this text, and was known to be indexed, all the time since ``begun``."""
        writes = self._world.documents.possible(document_id, begun) if document_id else []
        same = all(write.state is not None and write.state.passage == passage for write in writes)
        return bool(writes) and same and all(w.indexed is not None and w.indexed < begun for w in writes)

    def _check_first(self, answer: pb.SearchResponse, document_id: str, passage: str) -> None:
        first = answer.results[0] if answer.results else None
        if first is None or first.id != document_id or abs(first.score - 1) > planted.TOLERANCE:
            found = [(result.id, round(result.score, 4)) for result in answer.results]
            route = f"generation {answer.route.generation}, {answer.route.index}"
            raise Violation(f"{document_id} is indexed and was not found by {passage!r} but {found} ({route})")
        self._world.count("found")
