"""A second collection, which is made, filled and deleted again and again: it is there whole, or not at all."""

import random
import time

from diapason.errors import NotFound
from diapason.search.v1 import document_pb2
from tests.chaos import planted
from tests.chaos.oracle import Violation
from tests.chaos.world import World

NAME = "aside"
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.02


class Aside:
    """Used by the driver alone."""

    def __init__(self, seed: str, world: World) -> None:
        self._random = random.Random(f"{seed} aside")
        self._world = world
        # None: its making or deletion was not answered.
        self._present: bool | None = False
        # Texts by id: those that were acknowledged, and those that were not.
        self._sure: dict[str, str] = {}
        self._perhaps: dict[str, str] = {}
        self._written = 0

    def step(self) -> None:
        """Make it, write to it, or delete it. Raises ``Died``, ``Violation``."""
        if not self._present:
            self._make()
        elif self._random.random() < 0.4:
            self._delete()
        else:
            self._write()

    def check(self) -> None:
        """What must hold at once after a restart. It settles what was not answered."""
        with self._world.asking("list collections") as client:
            present = NAME in [collection.name for collection in client.collections()]
        if self._present is not None and present != self._present:
            raise Violation(f"{NAME} is {'there' if present else 'gone'}, and must not be")
        if not present:
            self._sure = {}
        read = self._read()
        wrong = {i for i, text in read.items() if {**self._sure, **self._perhaps}.get(i) != text}
        if wrong or not self._sure.keys() <= read.keys():
            raise Violation(f"{NAME} has {read}; sure are {self._sure}, perhaps {self._perhaps}")
        self._present, self._sure, self._perhaps = present, read, {}

    def check_settled(self) -> None:
        """What must hold once all is indexed."""
        self.check()
        if not self._present:
            return
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with self._world.asking(f"look at {NAME}") as client:
                collection = client.collection(NAME)
            if [index.points for index in collection.indexes] == [collection.documents] == [len(self._sure)]:
                break
            if time.monotonic() > deadline:
                raise Violation(f"{NAME} has {len(self._sure)} documents and does not settle: {collection}")
            time.sleep(_POLL_SECONDS)
        for document_id, text in self._sure.items():
            with self._world.asking(f"search {NAME}") as client:
                first = client.search(NAME, text, 1).results[0]
            if first.id != document_id or abs(first.score - 1) > planted.TOLERANCE:
                raise Violation(f"{text!r} of {NAME} gave {first.id} with {first.score:.4f}")

    def _make(self) -> None:
        self._present, self._sure = None, {}
        with self._world.asking(f"create {NAME}") as client:
            collection = client.create_collection(NAME, planted.version(2))
        if collection.documents or collection.route.generation != 1:
            raise Violation(f"{NAME} is new and has {collection}")
        self._present = True
        self._world.history.note(f"create {NAME}")
        self._write()

    def _write(self) -> None:
        texts = {f"aside-{i}": f"{NAME} {i} {self._written}" for i in self._random.sample(range(100), 9)}
        texts = {i: text for i, text in texts.items() if i not in self._sure}
        self._written += 1
        self._perhaps = dict(texts)
        documents = [document_pb2.Document(id=i, text=text) for i, text in texts.items()]
        with self._world.asking(f"write to {NAME}") as client:
            for answer in client.upsert(NAME, documents):
                self._sure[answer.id] = self._perhaps.pop(answer.id)
        self._world.history.note(f"write {len(texts)} to {NAME}")

    def _delete(self) -> None:
        self._present = None
        with self._world.asking(f"delete {NAME}") as client:
            documents = client.delete_collection(NAME)
        self._world.history.note(f"delete {NAME} with {documents}")
        if documents != len(self._sure):
            raise Violation(f"{NAME} was deleted with {documents} documents; it had {len(self._sure)}")
        self._present, self._sure = False, {}

    def _read(self) -> dict[str, str]:
        try:
            with self._world.asking(f"read {NAME}", NotFound) as client:
                return {document.id: document.text for document in client.documents(NAME)}
        except NotFound:
            return {}
