"""What rows must be like, one by one and all together. Rows are those of the contract (`diapason.trainer.v1.dataset`).

A `Checker` takes rows one at a time and keeps no texts, only digests of them: 200,000 rows take about 90 MB.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from diapason.datasets.rows import fault, weight_of
from diapason.trainer.v1 import dataset_pb2 as pb

# EduRanker's experience: below ten examples there is nothing to learn from.
FEWEST = 10
# From here on a document is relevant to a query.
RELEVANT = 0.5
# So many bad rows are named; the others are counted.
NAMED = 20

_PARTS = {
    pb.DATASET_FORM_JUDGMENTS: ("judgment",),
    pb.DATASET_FORM_PAIRS: ("pair",),
    pb.DATASET_FORM_TRIPLETS: ("triplet",),
    pb.DATASET_FORM_SCORED_PAIRS: ("scored_pair",),
    pb.DATASET_FORM_CLASSES: ("labelled",),
    pb.DATASET_FORM_EVALUATION: ("evaluation_document", "evaluation_judgment"),
}
FORMS = tuple(_PARTS)


def name_of(form: pb.DatasetForm.ValueType) -> str:
    """A form as people write it, for example ``scored-pairs``."""
    return pb.DatasetForm.Name(form).removeprefix("DATASET_FORM_").lower().replace("_", "-")


def plain(query: str) -> str:
    """A query as it is told from others: white space does not matter, in feedback neither."""
    return " ".join(query.split())


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row. ``place`` is a line, or a row of a request; ``field`` may be empty."""

    place: str
    field: str
    said: str

    def __str__(self) -> str:
        """As a sentence."""
        return f"{self.place}: {self.field} {self.said}" if self.field else f"{self.place}: {self.said}"


class BadData(ValueError):
    """Nothing can be done with the rows. ``problems`` are the first of ``total`` bad rows; none if all are at fault."""

    def __init__(self, said: str, problems: tuple[Problem, ...] = (), total: int = 0) -> None:
        super().__init__(said)
        self.problems, self.total = problems, total


@dataclass
class Summary:
    """What there is, as `Dataset` of the contract has it."""

    rows: int = 0
    queries: int = 0
    rankable_queries: int = 0
    classes: int = 0
    documents: int = 0
    remarks: list[str] = field(default_factory=list)


# What was said of something, and where.
_Said = tuple[object, str]


class Checker:
    """Rows of one form, taken one by one; then `finish` says what they are, or raises ``BadData``."""

    def __init__(self, form: pb.DatasetForm.ValueType) -> None:
        self._form = form
        self._problems: list[Problem] = []
        self._bad_rows = 0
        self._rows = self._duplicates = self._empty = 0
        self._opinions: dict[bytes, _Said] = {}
        self._triplets: set[bytes] = set()
        self._queries: dict[bytes, bool] = {}
        self._classes: Counter[str] = Counter()
        self._documents: dict[bytes, _Said] = {}
        self._judged: list[tuple[bytes, bytes, bool]] = []

    def bad(self, problem: Problem) -> None:
        """Note what is wrong with a row: each is noted once."""
        self._bad_rows += 1
        if len(self._problems) < NAMED:
            self._problems.append(problem)

    def add(self, place: str, row: pb.DatasetRow) -> bool:
        """Take a row. False if it is to be left out: it is bad, it is empty, or it was there before."""
        part = row.WhichOneof("row")
        if part not in _PARTS[self._form]:
            wanted = " or ".join(_PARTS[self._form])
            self.bad(Problem(place, "row", f"is {part or 'empty'}; {name_of(self._form)} have {wanted}"))
            return False
        if wrong := fault(row):
            self.bad(Problem(place, *wrong))
            return False
        return self._relate(place, row)

    def finish(self) -> Summary:
        """What there is. Raises ``BadData``."""
        if self._bad_rows:
            more = f"; and {self._bad_rows - len(self._problems)} more" if self._bad_rows > len(self._problems) else ""
            listed = "; ".join(map(str, self._problems))
            raise BadData(f"{listed}{more}", tuple(self._problems), self._bad_rows)
        made = Summary(self._rows, len(self._queries), sum(self._queries.values()))
        if self._duplicates:
            made.remarks.append(f"{_counted(self._duplicates, 'exact duplicate')} left out")
        if self._form == pb.DATASET_FORM_CLASSES:
            self._finish_classes(made)
        elif self._form == pb.DATASET_FORM_EVALUATION:
            self._finish_evaluation(made)
        else:
            self._finish_judgments(made)
        return made

    # How rows go together

    def _relate(self, place: str, row: pb.DatasetRow) -> bool:
        match row.WhichOneof("row"):
            case "judgment":
                j = row.judgment
                return self._judge(place, "grade", j.query, _passage(j.document), j.grade, weight_of(j))
            case "pair":
                return self._judge(
                    place, "weight", row.pair.query, _passage(row.pair.positive), 1.0, weight_of(row.pair)
                )
            case "scored_pair":
                s = row.scored_pair
                return self._judge(place, "score", s.query, _passage(s.document), s.score, weight_of(s))
            case "triplet":
                return self._triplet(place, row.triplet)
            case "labelled":
                text, label = row.labelled.text, row.labelled.label
                if self._known(place, "class", _digest(plain(text)), label, "the text"):
                    return False
                self._classes[label] += 1
            case "evaluation_document":
                return self._document(place, row.evaluation_document)
            case "evaluation_judgment":
                e = row.evaluation_judgment
                if self._known(place, "grade", _digest(plain(e.query), e.document_id), e.grade, "the document"):
                    return False
                self._judged.append((_digest(plain(e.query)), _digest(e.document_id), e.grade > 0))
        self._rows += 1
        return True

    def _judge(self, place: str, field: str, query: str, document: str, grade: float, weight: float) -> bool:
        if self._known(place, field, _digest(plain(query), document), (grade, weight), "the document"):
            return False
        self._ask(query, grade >= RELEVANT)
        self._rows += 1
        return True

    def _triplet(self, place: str, row: pb.TripletRow) -> bool:
        positive, negative = _passage(row.positive), _passage(row.negative)
        query = plain(row.query)
        key = _digest(query, positive, negative)
        if key in self._triplets:
            self._duplicates += 1
            return False
        for name, document, relevant in (("positive", positive, True), ("negative", negative, False)):
            before = self._opinions.setdefault(_digest(query, document), (relevant, place))
            if before[0] != relevant:
                other = "negative" if relevant else "positive"
                self.bad(Problem(place, name, f"is the {other} of the same query in {before[1]}; keep one of them"))
                return False
        self._triplets.add(key)
        self._ask(query, True)
        self._rows += 1
        return True

    def _document(self, place: str, row: pb.EvaluationDocument) -> bool:
        if not row.text.strip():
            self._empty += 1
            return False
        before = self._documents.setdefault(_digest(row.id), (_digest(row.text), place))
        if before[1] == place:
            self._rows += 1
            return True
        if before[0] == _digest(row.text):
            self._duplicates += 1
        else:
            self.bad(Problem(place, "id", f"is that of another document in {before[1]}; each needs its own"))
        return False

    def _known(self, place: str, field: str, key: bytes, said: object, what: str) -> bool:
        """Whether this was said before; if it is contradicted, that is a problem."""
        before = self._opinions.setdefault(key, (said, place))
        if before[1] == place:
            return False
        if before[0] == said:
            self._duplicates += 1
        else:
            shown = [_shown(one) for one in (said, before[0])]
            self.bad(
                Problem(place, field, f"is {shown[0]}, but {shown[1]} for {what} in {before[1]}; keep one of them")
            )
        return True

    def _ask(self, query: str, relevant: bool) -> None:
        key = _digest(plain(query))
        self._queries[key] = self._queries.get(key, False) or relevant

    # What they are together

    def _finish_judgments(self, made: Summary) -> None:
        _enough(made.rows, "row")
        if not made.rankable_queries:
            raise BadData(
                f"none of the {made.rows} rows says that a document is relevant ({RELEVANT} or more): there is nothing "
                "to rank first; add some that are"
            )
        if self._form == pb.DATASET_FORM_JUDGMENTS and all(
            isinstance(said, tuple) and said[0] >= RELEVANT for said, _ in self._opinions.values()
        ):
            made.remarks.append("every judgment is in favour: they teach what positive pairs teach")

    def _finish_classes(self, made: Summary) -> None:
        _enough(made.rows, "text")
        if len(self._classes) == 1:
            [only] = self._classes
            raise BadData(f"there is only one class, {only[:60]!r}: nothing tells its texts from others; add a second")
        lone = sum(count == 1 for count in self._classes.values())
        made.queries, made.classes = made.rows, len(self._classes) - lone
        made.rankable_queries = made.rows - lone
        if made.classes < 2:
            raise BadData(
                f"{made.classes} of {len(self._classes)} classes have two texts or more, and two such classes are "
                "needed: a text is compared with others of its class"
            )
        if lone:
            made.remarks.append(f"{_counted(lone, 'text')} left out: no other is of the same class")

    def _finish_evaluation(self, made: Summary) -> None:
        for query, document, relevant in self._judged:
            if document in self._documents:
                self._queries[query] = self._queries.get(query, False) or relevant
        unknown = sum(document not in self._documents for _, document, _ in self._judged)
        made.queries, made.rankable_queries = len(self._queries), sum(self._queries.values())
        made.documents = len(self._documents)
        _enough(made.rankable_queries, "query with a relevant document", "queries with a relevant document")
        if self._empty:
            made.remarks.append(f"{_counted(self._empty, 'document')} without any text left out")
        if unknown:
            made.remarks.append(f"{_counted(unknown, 'judgment')} of documents that are not in it left out")


def _passage(passage: pb.Passage) -> str:
    return f"id {passage.id}" if passage.WhichOneof("passage") == "id" else f"text {passage.text.strip()}"


def _digest(*parts: str) -> bytes:
    joined = "\0".join(f"{len(part)} {part}" for part in parts)
    return hashlib.blake2b(joined.encode(), digest_size=16).digest()


def _shown(said: object) -> str:
    """Without the weight, unless that is what differs."""
    if isinstance(said, tuple):
        grade, weight = said
        return f"{grade:g}" if weight == 1 else f"{grade:g} with weight {weight:g}"
    return f"{said:g}" if isinstance(said, float) else repr(said)[:60]


def _enough(count: int, what: str, many: str = "") -> None:
    if not count:
        raise BadData(f"there is no {what} at all; {FEWEST} are the least to learn anything from")
    if count < FEWEST:
        of = what if count == 1 else many or f"{what}s"
        raise BadData(f"there are only {count} {of}; {FEWEST} are the least to learn anything from: add more")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
