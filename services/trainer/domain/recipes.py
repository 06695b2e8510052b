"""Which recipes there are, and which one fits what is known."""

from collections.abc import Sequence

from services.trainer.domain.data import Judged

AUTO, CLASSES = "auto", "class-triplets"
NAMES = (
    AUTO,
    "multiple-negatives",
    "cached-multiple-negatives",
    "triplet",
    "cosine-similarity",
    "cosent",
    "contrastive",
    "online-contrastive",
    CLASSES,
)
# EduRanker's experience with two to three epochs at 5e-5 below 100 examples and more at 2e-5 above 500 was of a
# cross-encoder. The encoder here starts from vectors that are good already and is steered by validation queries: what
# does harm is not kept.
_FEW = 100
# Different targets from which on they are taken for grades, if so many of them are neither the highest nor the lowest:
# where people disagree, the mean of their thumbs lies between, too.
_GRADES, _BETWEEN = 4, 0.2


def choose(judged: Sequence[Judged]) -> str:
    """Classes have a recipe of their own. Grades keep their order by CoSENT; likes are ranked above all else."""
    if any(one.label for one in judged):
        return CLASSES
    return "cosent" if graded(judged) else "multiple-negatives"


def graded(judged: Sequence[Judged]) -> bool:
    """Whether targets are degrees of relevance, and not likes and dislikes with a few that people disagree about."""
    targets = [round(target, 3) for one in judged for target in one.targets.values()]
    if len(set(targets)) < _GRADES:
        return False
    lowest, highest = min(targets), max(targets)
    return sum(lowest < target < highest for target in targets) >= _BETWEEN * len(targets)


def epochs(positives: int) -> int:
    """Passes over so many relevant pairs."""
    return 4 if positives < _FEW else 3
