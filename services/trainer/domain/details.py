"""What a run's process has measured, beyond what the run's row keeps: `details.json`.

Every part may be absent, and a part that does not hold together is left out and named, so that a report can always be
made of the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

NDCG = "ndcg@10"

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
# The 5th, 25th, 50th, 75th and 95th percentile.
Percentiles = Annotated[list[FiniteFloat], Field(min_length=5, max_length=5)]
# {dimensions: {metric: one score per query}}; 0 dimensions where there are no vectors.
Scores = dict[int, dict[str, list[FiniteFloat]]]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Data(_Part):
    """Counts, and lengths in tokens of the model's tokenizer."""

    judgments: int | None = None
    positives: int | None = None
    negatives: int | None = None
    documents: int | None = None
    train_queries: int | None = None
    validation_queries: int | None = None
    held_out_queries: int | None = None
    recipe: str = ""
    datasets: list[str] = []
    query_tokens: Percentiles | None = None
    document_tokens: Percentiles | None = None
    policy: dict[str, Any] = {}


class LossPoint(_Part):
    """The training loss at one step."""

    step: int
    epoch: FiniteFloat
    loss: FiniteFloat


class ValidationPoint(_Part):
    """nDCG@10 on the validation queries at one step."""

    step: int
    epoch: FiniteFloat
    ndcg: FiniteFloat = Field(alias=NDCG)


class MixPoint(_Part):
    """nDCG@10 on the validation queries with so large a share of the new weights, and what it forgot of the guard set.

    ``guard`` is the difference to what serves; each is None where it was not asked.
    """

    weight: Share
    ndcg: FiniteFloat | None = Field(None, alias=NDCG)
    guard: FiniteFloat | None = None


class BlendPoint(_Part):
    """nDCG@10 on the validation queries with so large a share of the order left to the first stage."""

    share: Share
    ndcg: FiniteFloat = Field(alias=NDCG)


class Pair(_Part):
    """One number before training and after."""

    before: FiniteFloat
    after: FiniteFloat


class Shown(_Part):
    """What one query found: the first few documents before and after, and what it should have found."""

    before: list[str] = []
    after: list[str] = []
    relevant: list[str] = []


class _Compared(_Part):
    """Scores of the same queries in the same order, before and after."""

    before: Scores
    after: Scores

    @model_validator(mode="after")
    def _same_queries(self) -> "_Compared":
        lengths = {
            len(values) for scores in (self.before, self.after) for size in scores.values() for values in size.values()
        }
        if len(lengths) > 1:
            raise ValueError(f"there are lists of scores of different lengths {sorted(lengths)}")
        return self


class HeldOut(_Compared):
    """The gate's queries."""

    queries: list[str]
    judged: Pair | None = Field(None, alias="judged@10")
    shown: dict[str, Shown] = {}

    @model_validator(mode="after")
    def _named(self) -> "HeldOut":
        for scores in (self.before, self.after):
            for metrics in scores.values():
                if any(len(values) != len(self.queries) for values in metrics.values()):
                    raise ValueError(f"there are {len(self.queries)} queries but another number of scores")
        return self


class Guard(_Compared):
    """Queries that have nothing to do with the collection, against forgetting."""

    name: str = ""
    queries: int


class Split(_Part):
    """Scores of pairs by what people said of them."""

    liked: list[FiniteFloat]
    disliked: list[FiniteFloat]


class Scored(_Part):
    """Scores before and after."""

    before: Split
    after: Split


class Pairs(_Part):
    """A reranker's held-out pairs: 1 or 0, and scores after the sigmoid, so between 0 and 1."""

    labels: list[Annotated[int, Field(ge=0, le=1)]]
    before: list[Share]
    after: list[Share]

    @model_validator(mode="after")
    def _same_pairs(self) -> "Pairs":
        if not len(self.labels) == len(self.before) == len(self.after):
            raise ValueError("the numbers of labels and of scores differ")
        return self


class Comparison(_Part):
    """One metric at one size, with the 95 % interval of the paired difference."""

    metric: str
    dimensions: int
    before: FiniteFloat
    after: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


class Gate(_Part):
    """The verdict as the run's row has it."""

    verdict: str
    reason: str
    queries: int
    metrics: list[Comparison] = []


class Details(_Part):
    """All parts; those that are None, or empty, were not measured. ``gate`` is not in the file but in the run's row."""

    kind: str = ""
    gate: Gate | None = None
    data: Data | None = None
    config: dict[str, Any] = {}
    training: list[LossPoint] = []
    validation: list[ValidationPoint] = []
    mix: list[MixPoint] = []
    mix_chosen: Share | None = None
    blend: list[BlendPoint] = []
    blend_chosen: Share | None = None
    held_out: HeldOut | None = None
    guard: Guard | None = None
    scores: Scored | None = None
    pairs: Pairs | None = None
    seconds: dict[str, FiniteFloat] = {}


def read(content: Mapping[str, Any]) -> tuple[Details, Sequence[str]]:
    """The parts that can be read, and of each of the others its name with what is wrong with it."""
    try:
        return Details.model_validate(content), ()
    except ValidationError as error:
        wrong: dict[str, str] = {}
        for each in error.errors(include_url=False, include_input=False):
            where = ".".join(str(step) for step in each["loc"])
            wrong.setdefault(str(each["loc"][0]), f"{where}: {each['msg']}")
    sound = {name: part for name, part in content.items() if name not in wrong}
    return Details.model_validate(sound), tuple(wrong.values())
