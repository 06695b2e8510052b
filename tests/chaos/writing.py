"""Random writes and deletes, and what must be true of their answers."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from diapason.search.v1 import document_pb2 as pb
from diapason.search.v1 import filter_pb2, search_pb2
from tests.chaos.oracle import Content, State, Violation, Write
from tests.chaos.world import COLLECTION, Died, World

_LEAP = 100  # well above the revisions that unanswered writes may have taken meanwhile
_PATIENCE_SECONDS = 30.0


@dataclass
class _Change:
    """One document of a stream. ``write`` is None where the document must be refused or left as it is."""

    document: pb.Document
    content: Content
    write: Write | None
    kind: str


def message(document_id: str, content: Content, revision: int = 0) -> pb.Document:
    """The contract's form."""
    document = pb.Document(id=document_id, text=content.text, title=content.title, revision=revision)
    document.payload.update({"group": content.group, "n": content.number})
    return document


def content_of(document: pb.Document | search_pb2.Result) -> Content:
    """What a document that was read says."""
    fields = document.payload.fields
    return Content(document.text, document.title, fields["group"].string_value, int(fields["n"].number_value))


def in_group(group: str) -> filter_pb2.Filter:
    """Passes the documents of a group."""
    condition = filter_pb2.Condition(field="group")
    condition.equals.string_value = group
    return filter_pb2.Filter(must=[condition])


class Writer:
    """Writes documents of its own, ``<name>-0`` and so on, and now and then one that others write too."""

    def __init__(self, name: str, seed: str, world: World) -> None:
        self._name = name
        self._world = world
        self._random = random.Random(f"{seed} {name}")
        self._written = 0
        self._own = [f"{name}-{i}" for i in range(30)]
        self._shared = [f"shared-{i}" for i in range(6)]

    def step(self, on_acknowledged: Callable[[int], None] = lambda count: None) -> None:
        """One random call. Raises ``Died``, ``Violation``."""
        kinds = {self.upsert: 6, self.delete: 2, self.delete_group: 1, self.count_group: 1}
        act = self._random.choices(list(kinds), list(kinds.values()))[0]
        act(on_acknowledged)

    def upsert(self, on_acknowledged: Callable[[int], None] = lambda count: None) -> None:
        """One stream of changes, all at once or in portions."""
        count = self._random.choice([1, 1, 2, 5, 20, 60])
        ids = [self._random.choice(self._own if self._random.random() < 0.9 else self._shared) for _ in range(count)]
        # At most one change of each document, except where it is plainly the next content.
        changes = self._changes(ids)
        portion = self._random.choice([1, 7, count])
        self._send(changes, portion, on_acknowledged)

    def fill(self, count: int) -> None:
        """Many documents that never change."""
        ids = [f"{self._name}-still-{i}" for i in range(count)]
        self._send(self._begun([(i, Content(f"words of {i}"), "+") for i in ids]), count, lambda acknowledged: None)

    def put(self, document_id: str) -> pb.UpsertDocumentsResponse:
        """One new content of one document; returns its acknowledgement."""
        self._written += 1
        content = Content(f"words of {document_id} by {self._name} {self._written}", number=self._written)
        changes = self._begun([(document_id, content, "+")])
        return self._send(changes, 1, lambda acknowledged: None)[0]

    def delete(self, on_acknowledged: Callable[[int], None] = lambda count: None) -> None:
        """Some of the documents, and an unknown one."""
        ids = self._random.sample(self._own, self._random.choice([1, 2, 5]))
        shared = self._random.sample(self._shared, 1) if self._random.random() < 0.2 else []
        living = [i for i in ids if self._state(i)]
        everything = [*ids, *shared, "never"]
        answer = self._delete(f"delete {everything}", [*ids, *shared], everything, None)
        # Others may write to the shared one meanwhile, so it may be counted or not.
        if not len(living) <= answer.deleted <= len(living) + len(shared):
            raise Violation(f"{answer.deleted} of {everything} were deleted; {living} lived")
        if answer.deleted + answer.unknown != len(everything):
            raise Violation(f"of {len(everything)} ids {answer.deleted} were deleted and {answer.unknown} unknown")
        on_acknowledged(1)

    def delete_group(self, on_acknowledged: Callable[[int], None] = lambda count: None) -> None:
        """All documents of one group, which holds only documents of this writer."""
        group, ids = self._some_group()
        answer = self._delete(f"delete group {group}", ids, [], in_group(group))
        if answer.deleted != len(ids):
            raise Violation(f"{answer.deleted} documents of group {group} were deleted; there were {ids}")
        on_acknowledged(1)

    def count_group(self, on_acknowledged: Callable[[int], None] = lambda count: None) -> None:
        """As many documents as there are in one group of this writer."""
        group, ids = self._some_group()
        with self._world.asking(f"count group {group}") as client:
            count = client.count(COLLECTION, in_group(group))
        if count != len(ids):
            raise Violation(f"{count} documents of group {group} were counted; there are {ids}")
        on_acknowledged(1)

    def _some_group(self) -> tuple[str, list[str]]:
        group = self._group()
        return group, [i for i in self._own if (state := self._state(i)) and state.group == group]

    def _delete(
        self, what: str, ids: Sequence[str], named: Sequence[str], chosen: filter_pb2.Filter | None
    ) -> pb.DeleteDocumentsResponse:
        world = self._world
        writes = world.documents.begin([(i, None) for i in ids])
        try:
            with world.asking(what) as client:
                answer = client.delete(COLLECTION, named, chosen)
        except Died:
            world.documents.abandon(writes)
            raise
        for write in writes:
            world.documents.acknowledge(write)
        world.history.note(f"{what}: {answer.deleted} deleted, {answer.unknown} unknown")
        world.count("deletes")
        return answer

    def _send(
        self, changes: Sequence[_Change], portion: int, on_acknowledged: Callable[[int], None]
    ) -> list[pb.UpsertDocumentsResponse]:
        """Send a stream, each portion after the one before was acknowledged."""
        world = self._world
        what = f"upsert {len(changes)} in portions of {portion}: " + " ".join(
            f"{c.document.id}={c.content.text.rpartition(' ')[2]}{c.kind}" for c in changes[:60]
        )
        answers: list[pb.UpsertDocumentsResponse] = []
        turnstile = _Turnstile(portion)
        try:
            with (
                world.asking(what) as client,
                closing(client.upsert(COLLECTION, turnstile.through(changes))) as receipts,  # type: ignore[type-var]
            ):
                for answer in receipts:
                    if len(answers) == len(changes):
                        raise Violation(f"{what}: more acknowledgements than documents")
                    self._take(changes[len(answers)], answer)
                    answers.append(answer)
                    turnstile.acknowledged()
                    on_acknowledged(len(answers))
        finally:
            turnstile.end()
            world.documents.abandon([c.write for c in changes if c.write])
            indexed = sum(answer.indexed for answer in answers)
            world.history.note(f"{what}: {len(answers)} acknowledged, {indexed} indexed")
            world.count("writes", len(answers))
        if len(answers) != len(changes):
            raise Violation(f"{what}: only {len(answers)} acknowledgements")
        return answers

    def _take(self, change: _Change, answer: pb.UpsertDocumentsResponse) -> None:
        """Hear what became of one document."""
        document, world = change.document, self._world
        if answer.id != document.id:
            raise Violation(f"{answer.id} was acknowledged in place of {document.id}")
        if bool(answer.error) != (change.kind == "!"):
            raise Violation(f"{document.id} ({change.kind}) was answered with error {answer.error!r}")
        if change.write is None:
            if change.kind == "<" and not (answer.unchanged and answer.revision >= document.revision):
                raise Violation(f"{document.id} at the old revision {document.revision} was answered with {answer}")
            return
        if document.revision and (answer.unchanged or answer.revision != document.revision):
            raise Violation(f"{document.id} at the new revision {document.revision} was answered with {answer}")
        if change.kind == "=" and not answer.unchanged:
            raise Violation(f"{document.id} was sent again as it was, and written again")
        if answer.unchanged and change.kind != "=":
            raise Violation(f"{document.id} has new content, and is said to be unchanged")
        world.documents.acknowledge(change.write, answer.revision, answer.indexed)

    def _changes(self, ids: Sequence[str]) -> list[_Change]:
        """A random change of each; shared ones and those named before get new content."""
        wanted: list[tuple[str, Content, str]] = []
        named: set[str] = set()
        for document_id in ids:
            simple = document_id in named or document_id in self._shared
            wanted.append(self._change(document_id, "+" if simple else ""))
            named.add(document_id)
        return self._begun(wanted)

    def _change(self, document_id: str, kind: str) -> tuple[str, Content, str]:
        current = self._state(document_id) if not kind else None
        if not kind:
            kind = self._random.choices(["+", "~", "=", ">", "<", "!"], [10, 3, 3, 2, 2, 1])[0]
        if kind in "~=<" and current is None:
            kind = "+"
        content = self._content(document_id)
        if kind == "=" and current:
            content = current
        if kind == "~" and current:
            content = Content(current.text, current.title, self._group(), self._written)
        if kind == "!":
            content = Content(" ", "", content.group, content.number)
        return document_id, content, kind

    def _begun(self, wanted: Sequence[tuple[str, Content, str]]) -> list[_Change]:
        """Tell the oracle of those that are to be written."""
        documents = self._world.documents
        counted = [(i, content) for i, content, kind in wanted if kind not in "!<"]
        writes = iter(documents.begin(counted))
        changes = []
        for document_id, content, kind in wanted:
            known = documents.revision(document_id)
            revision = {">": known + _LEAP, "<": self._random.randint(1, max(known, 1))}.get(kind, 0)
            write = next(writes) if kind not in "!<" else None
            changes.append(_Change(message(document_id, content, revision), content, write, kind))
        return changes

    def _state(self, document_id: str) -> State:
        """What a document of this writer is now: with no call of its own under way it can be one thing only."""
        documents = self._world.documents
        states = {write.state for write in documents.possible(document_id, self._world.clock.tick())}
        (state,) = states
        return state

    def _content(self, document_id: str) -> Content:
        self._written += 1
        title = f"title of {document_id}" if self._random.random() < 0.3 else ""
        group = "" if document_id in self._shared else self._group()
        return Content(f"words of {document_id} by {self._name} {self._written}", title, group, self._written)

    def _group(self) -> str:
        return f"{self._name}-group-{self._random.randrange(4)}"


class _Turnstile:
    """Lets documents into a stream in portions, each after the one before was acknowledged."""

    def __init__(self, portion: int) -> None:
        self._portion = portion
        self._allowed = portion
        self._acknowledged = 0
        self._over = False
        self._changed = threading.Condition()

    def through(self, changes: Sequence[_Change]) -> Iterator[pb.Document]:
        """The documents. Runs in a thread of the channel, so it must end when the call does."""
        for number, change in enumerate(changes):
            with self._changed:
                self._changed.wait_for(lambda: self._over or number < self._allowed, _PATIENCE_SECONDS)  # noqa: B023
                if self._over:
                    return
            yield change.document

    def acknowledged(self) -> None:
        """One was."""
        with self._changed:
            self._acknowledged += 1
            if self._acknowledged == self._allowed:
                self._allowed += self._portion
                self._changed.notify_all()

    def end(self) -> None:
        """The call has ended."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
