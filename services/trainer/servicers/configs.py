"""What a request for a run says, checked."""

from diapason.trainer.v1 import (
    training_pb2,
)
from services.kit.errors import InvalidArgument, Violation
from services.trainer.domain import recipes
from services.trainer.domain.gate import FEWEST_QUERIES, GatePolicy
from services.trainer.domain.model import (
    TrainingConfig,
)

# More rows for each query than this cost time and teach little.
_MOST_NEGATIVES = 16


def config(given: training_pb2.TrainingConfig) -> TrainingConfig:
    """With defaults for what is not said. Raises ``InvalidArgument``."""
    default = TrainingConfig()
    made = TrainingConfig(
        epochs=given.epochs or default.epochs,
        batch_size=given.batch_size or default.batch_size,
        learning_rate=given.learning_rate or default.learning_rate,
        dimensions=tuple(sorted(given.dimensions, reverse=True)),
        held_out=given.held_out or default.held_out,
        seed=given.seed or default.seed,
        policy=given.policy,
        recipe=given.recipe or default.recipe,
        negatives=given.negatives or default.negatives,
    )
    wrong = []
    if made.recipe not in recipes.NAMES:
        wrong.append(Violation("config.recipe", f"is {made.recipe!r}; give one of {', '.join(recipes.NAMES)}"))
    if made.negatives > _MOST_NEGATIVES:
        wrong.append(Violation("config.negatives", f"is {made.negatives}; the most is {_MOST_NEGATIVES}"))
    if made.epochs > 100:
        wrong.append(Violation("config.epochs", f"is {made.epochs}; the most is 100"))
    if not 2 <= made.batch_size <= 1024:
        wrong.append(Violation("config.batch_size", f"is {made.batch_size}; give 2 to 1024"))
    if not 0 < made.learning_rate <= 0.1:
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
