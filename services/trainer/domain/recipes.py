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
# Different targets from which on they are taken for grades.
_GRADES = 4


def choose(judged: Sequence[Judged]) -> str:
    """Classes have a recipe of their own. Grades keep their order by CoSENT; likes are ranked above all else."""
    if any(one.label for one in judged):
        return CLASSES
    targets = {round(target, 3) for one in judged for target in one.targets.values()}
    return "cosent" if len(targets) >= _GRADES else "multiple-negatives"


def epochs(positives: int) -> int:
    """Passes over so many relevant pairs."""
    return 4 if positives < _FEW else 3
