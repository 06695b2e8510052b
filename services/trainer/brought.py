"""What users brought, as a run reads it: which datasets, their rows as judgments, and the documents they come with."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from obstore.store import ObjectStore

from diapason.datasets.checking import name_of, plain
from diapason.datasets.rows import weight_of
from diapason.trainer.v1 import dataset_pb2 as pb
from services.kit.errors import FailedPrecondition, InvalidArgument, ServiceError, Violation
from services.trainer.datasets import Datasets, read_rows
from services.trainer.domain.data import Judged, Judgment
from services.trainer.domain.model import Kind
from services.trainer.domain.recipes import AUTO, CLASSES
from services.trainer.process import spec as files
from services.trainer.tables import DatasetRow

MOST_DATASETS = 50
# Of documents that the collection does not have, so many are named.
_NAMED = 5


class Gone(ServiceError):
    """A dataset was deleted or replaced after the run was asked for."""


@dataclass(frozen=True)
class Named:
    """A dataset as it was when the run was asked for."""

    name: str
    form: str
    path: str


@dataclass(frozen=True)
class Wanted:
    """The data of a run besides its collection's feedback, or in its place."""

    datasets: Sequence[Named] = ()
    without_feedback: bool = False
    guard: Named | None = None

    @classmethod
    def read(cls, request: Mapping[str, Any]) -> "Wanted":
        """From a run's row; runs queued by an earlier release say nothing of it."""
        guard = request.get("guard")
        return cls(
            [Named(**one) for one in request.get("datasets", ())],
            request.get("without_feedback", False),
            Named(**guard) if guard else None,
        )

    def stored(self) -> dict[str, Any]:
        """For a run's row."""
        return {
            "datasets": [asdict(one) for one in self.datasets],
            "without_feedback": self.without_feedback,
            "guard": asdict(self.guard) if self.guard else None,
        }

    @property
    def classes(self) -> bool:
        """Whether it is texts with classes that are trained on."""
        return any(one.form == "DATASET_FORM_CLASSES" for one in self.datasets)


def want(
    store: Datasets, names: Sequence[str], without_feedback: bool, guard: str, recipe: str, kind: Kind = Kind.ENCODER
) -> tuple[Wanted, int]:
    """What a request for a model of a ``kind`` asks for, and how many queries at most it brings.

    Raises ``InvalidArgument``, ``NotFound``, ``FailedPrecondition``.
    """
    if len(names) > MOST_DATASETS:
        raise InvalidArgument(Violation("datasets", f"has {len(names)} names; the most is {MOST_DATASETS}"))
    rows = [store.get(name) for name in dict.fromkeys(names)]
    for row in rows:
        if row.form == "DATASET_FORM_EVALUATION":
            raise _unfit(row.name, "is an evaluation, which is never trained on; give it as the gate's guard")
    if without_feedback and not rows:
        raise _unfit("", "without feedback there is nothing to train on; name a dataset")
    kinds = {row.form == "DATASET_FORM_CLASSES" for row in rows}
    if True in kinds and (False in kinds or not without_feedback):
        said = ", ".join(f"{row.name!r} ({_form(row)})" for row in rows)
        others = "other forms" if False in kinds else "feedback: say without_feedback"
        raise _unfit(rows[0].name, f"texts with classes are trained on by themselves, not with {others}; given: {said}")
    if kind is Kind.RERANKER and True in kinds:
        raise _unfit(rows[0].name, "has texts with classes, which teach an encoder; a reranker needs judged documents")
    if recipe == CLASSES and True not in kinds:
        said = ", ".join(f"{row.name!r} ({_form(row)})" for row in rows) or "feedback alone"
        raise _unfit(CLASSES, f"the recipe {CLASSES} needs datasets of the form classes; given: {said}")
    if recipe not in (AUTO, CLASSES) and True in kinds:
        raise _unfit(recipe, f"the recipe {recipe} reads queries with documents; classes need {CLASSES} (or {AUTO})")
    guarding = store.get(guard) if guard else None
    if guarding is not None and guarding.form != "DATASET_FORM_EVALUATION":
        raise _unfit(guard, f"the guard {guard!r} is of the form {_form(guarding)}; it must be an evaluation")
    wanted = Wanted([_named(row) for row in rows], without_feedback, _named(guarding) if guarding else None)
    return wanted, sum(row.rankable_queries for row in rows)


@dataclass
class Brought:
    """The rows of datasets, over a collection's documents (id to text).

    ``texts`` are documents that came with the rows; ``labels`` maps texts to their classes; ``unknown`` are ids which
    the collection does not have, each with the number of judgments that name it.
    """

    corpus: Mapping[str, str]
    judgments: dict[tuple[str, str], Judgment] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A text that the collection has is that document, not another beside it."""
        self._known = {text.strip(): name for name, text in self.corpus.items()}

    def take(self, rows: Iterable[pb.DatasetRow]) -> None:
        """Rows that train; what is said later of a query and a document stands."""
        for row in rows:
            match row.WhichOneof("row"):
                case "judgment":
                    self._say(row.judgment, row.judgment.document, row.judgment.grade)
                case "pair":
                    self._say(row.pair, row.pair.positive, 1.0)
                case "scored_pair":
                    self._say(row.scored_pair, row.scored_pair.document, row.scored_pair.score)
                case "triplet":
                    self._check_sides(row.triplet)
                    self._say(row.triplet, row.triplet.positive, 1.0)
                    self._say(row.triplet, row.triplet.negative, 0.0)
                case "labelled":
                    self._label(row.labelled)

    def name(self, text: str) -> str:
        """The id of a text: of the collection's document, or one made of the text."""
        known = self._known.get(text.strip())
        return known or f"text:{hashlib.sha256(text.strip().encode()).hexdigest()[:32]}"

    @property
    def unknown_judgments(self) -> int:
        """Judgments that name documents which the collection does not have."""
        return sum(self.unknown.values())

    def unknown_said(self) -> str:
        """The first of those documents, as a part of a sentence; empty if there are none."""
        if not self.unknown:
            return ""
        first = ", ".join(repr(name) for name in list(self.unknown)[:_NAMED])
        more = f" and {len(self.unknown) - _NAMED} more" if len(self.unknown) > _NAMED else ""
        return f"; the collection has no documents {first}{more}, which {self.unknown_judgments} judgments name"

    def _check_sides(self, row: pb.TripletRow) -> None:
        """Raises ``FailedPrecondition`` for an id on one side whose text is on the other: it is one document."""
        names = {self._named(passage) for passage in (row.positive, row.negative)}
        if len(names) == 1:
            same = f"has document {names.pop()!r} as positive and as negative, by its id and its text"
            raise _unfit("triplets", f"a triplet of {row.query[:60]!r} {same}; correct it and upload it again")

    def _named(self, passage: pb.Passage) -> str:
        return passage.id if passage.WhichOneof("passage") == "id" else self.name(passage.text)

    def _say(
        self, row: pb.JudgmentRow | pb.PairRow | pb.ScoredPairRow | pb.TripletRow, passage: pb.Passage, target: float
    ) -> None:
        weight = weight_of(row)
        name = self._named(passage)
        if name not in self.corpus:
            if passage.WhichOneof("passage") == "id":
                self.unknown[name] = self.unknown.get(name, 0) + 1
                return
            self.texts[name] = passage.text
        query = plain(row.query)
        self.judgments[query, name] = Judgment(query, name, target, weight)

    def _label(self, row: pb.ClassRow) -> None:
        # As text it asks, too, and queries are told apart without their white space.
        before = self.labels.setdefault(plain(row.text), row.label)
        if before != row.label:
            raise _unfit(
                "classes",
                f"the text {row.text[:60]!r} is of class {before!r} in one dataset and {row.label!r} in another",
            )


def rows_of(objects: ObjectStore, dataset: Named) -> Iterable[pb.DatasetRow]:
    """The rows of a dataset as it was when the run was asked for. Raises ``Gone``."""
    try:
        yield from read_rows(objects, dataset.path)
    except FileNotFoundError as error:
        raise Gone(
            f"dataset {dataset.name!r} was deleted or replaced after this run was asked for; start it again"
        ) from error


def write_guard(objects: ObjectStore, guard: Named, folder: Path) -> None:
    """The guard's judged queries and its documents, into the run's folder; the queries last."""
    documents: dict[str, str] = {}
    targets: dict[str, dict[str, float]] = {}
    for row in rows_of(objects, guard):
        if row.WhichOneof("row") == "evaluation_document":
            documents[row.evaluation_document.id] = row.evaluation_document.text
        else:
            judgment = row.evaluation_judgment
            targets.setdefault(plain(judgment.query), {})[judgment.document_id] = judgment.grade
    judged = [
        Judged(query, {name: grade for name, grade in said.items() if name in documents and grade > 0})
        for query, said in sorted(targets.items())
    ]
    files.write_lines(folder / files.GUARD_CORPUS, [{"id": name, "text": text} for name, text in documents.items()])
    files.write_lines(folder / files.GUARD, [asdict(one) for one in judged if one.targets])


def summary(wanted: Wanted, brought: Brought, added: int) -> dict[str, Any]:
    """What a run's row says of its datasets; nothing where it has none."""
    if not wanted.datasets:
        return {}
    return {
        "datasets": [one.name for one in wanted.datasets],
        "unknown_documents": brought.unknown_judgments,
        "added_documents": added,
    }


def _unfit(subject: str, message: str) -> FailedPrecondition:
    return FailedPrecondition("DATASETS_DO_NOT_FIT", subject, message)


def _named(row: DatasetRow) -> Named:
    return Named(row.name, row.form, row.path)


def _form(row: DatasetRow) -> str:
    return name_of(pb.DatasetForm.Value(row.form))
