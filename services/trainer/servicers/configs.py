"""What a request for a run says, checked."""

from diapason.trainer.v1 import (
    training_pb2,
)
from services.kit.errors import InvalidArgument, Violation
from services.trainer.domain import recipes, reranking
from services.trainer.domain.gate import FEWEST_QUERIES, GatePolicy
from services.trainer.domain.model import Kind, TrainingConfig

# More rows for each query than this cost time and teach little.
_MOST_NEGATIVES = 16


def config(given: training_pb2.TrainingConfig, kind: Kind = Kind.ENCODER) -> TrainingConfig:
    """With defaults for what is not said. Raises ``InvalidArgument``."""
    default = TrainingConfig()
    made = TrainingConfig(
        epochs=given.epochs or default.epochs,
        batch_size=given.batch_size or default.batch_size,
        # A reranker's follows the number of examples, which is not known yet.
        learning_rate=given.learning_rate or (default.learning_rate if kind is Kind.ENCODER else 0.0),
        dimensions=tuple(sorted(given.dimensions, reverse=True)),
        held_out=given.held_out or default.held_out,
        seed=given.seed or default.seed,
        policy=given.policy,
        recipe=given.recipe or default.recipe,
        negatives=given.negatives or default.negatives,
    )
    wrong = []
    names = recipes.NAMES if kind is Kind.ENCODER else reranking.NAMES
    if made.recipe not in names:
        fit = f"for {'an encoder' if kind is Kind.ENCODER else 'a reranker'} give one of {', '.join(names)}"
        wrong.append(Violation("config.recipe", f"is {made.recipe!r}; {fit}"))
    if kind is Kind.RERANKER and made.dimensions:
        given_sizes = f"has {list(made.dimensions)}; a reranker gives scores, not vectors: leave it empty"
        wrong.append(Violation("config.dimensions", given_sizes))
    if made.negatives > _MOST_NEGATIVES:
        wrong.append(Violation("config.negatives", f"is {made.negatives}; the most is {_MOST_NEGATIVES}"))
    if made.epochs > 100:
        wrong.append(Violation("config.epochs", f"is {made.epochs}; the most is 100"))
    if not 2 <= made.batch_size <= 1024:
        wrong.append(Violation("config.batch_size", f"is {made.batch_size}; give 2 to 1024"))
    if given.learning_rate and not 0 < made.learning_rate <= 0.1:
        wrong.append(Violation("config.learning_rate", f"is {made.learning_rate}; give more than 0, at most 0.1"))
    if not 0 < made.held_out < 1:
        wrong.append(Violation("config.held_out", f"is {made.held_out}; give a share between 0 and 1"))
    if wrong:
        raise InvalidArgument(*wrong)
    return made


def gate_policy(given: training_pb2.GatePolicy) -> GatePolicy:
    """With defaults for what is not said. Raises ``InvalidArgument``."""
    policy = GatePolicy(
        given.min_queries or GatePolicy.min_queries,
        given.min_difference,
        given.guard,
        given.guard_margin or GatePolicy.guard_margin,
    )
    wrong = []
    if policy.min_queries < FEWEST_QUERIES:
        least = f"is {policy.min_queries}; fewer than {FEWEST_QUERIES} say nothing, give at least that"
        wrong.append(Violation("gate.min_queries", least))
    if not 0 <= policy.guard_margin < 1:
        wrong.append(Violation("gate.guard_margin", f"is {policy.guard_margin}; give more than 0, less than 1"))
    if not 0 <= policy.min_difference < 1:
        wrong.append(Violation("gate.min_difference", f"is {policy.min_difference}; give 0 or more, less than 1"))
    if wrong:
        raise InvalidArgument(*wrong)
    return policy
