"""What tuning does to a model, on tiny real ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from services.trainer.domain.data import Judged
from services.trainer.domain.examples import Row
from services.trainer.process import loading, mixing
from services.trainer.process.encoding import Encoder, Plain
from services.trainer.process.mining import mine
from services.trainer.process.rotation import rotate
from services.trainer.process.training import shortened, without_dropout
from tests.conftest import Tiny

TEXTS = [
    f"{a} {b} {c}" for a in ("red", "blue", "old") for b in ("house", "film", "boat") for c in ("sinks", "sings", "")
]


def test_a_rotation_leaves_full_scores_and_puts_the_most_in_front(tiny: Tiny, tmp_path: Path) -> None:
    model = loading.load(str(tiny.model))
    before = Encoder(model)(TEXTS, "document")
    rotated = rotate(model, before)
    after = Encoder(model)(TEXTS, "document")
    assert after == pytest.approx(rotated, abs=2e-2)  # what serves in bfloat16 is this near
    assert after @ after.T == pytest.approx(before @ before.T, abs=2e-2)
    energy = (rotated**2).mean(axis=0)
    assert all(np.diff(energy) <= 1e-6)
    assert (rotated**2)[:, :8].sum() > (before**2)[:, :8].sum()
    model.save_pretrained(str(tmp_path / "rotated"))
    again = loading.load(str(tmp_path / "rotated"))
    assert Encoder(again)(TEXTS, "document") == pytest.approx(after, abs=1e-3)


def test_a_rotation_stands_before_the_scaling_to_unit_length(tiny: Tiny) -> None:
    model = loading.load(str(tiny.model))
    names = [type(module).__name__ for module in model]
    rotate(model, Encoder(model)(TEXTS, "document"))
    assert [type(module).__name__ for module in model] == [*names[:-1], "Dense", names[-1]]
    assert names[-1] == "Normalize"


def test_a_model_without_dropout_says_the_same_twice_while_it_trains(tiny: Tiny) -> None:
    model = loading.load(str(tiny.model)).train()
    features = model.preprocess(TEXTS)

    def differences() -> float:
        first, second = (model(dict(features))["sentence_embedding"] for _ in range(2))
        return float((first - second).detach().abs().max())

    assert differences() > 1e-3
    without_dropout(model)
    assert differences() == 0.0


def test_training_reads_the_beginnings_of_long_documents(tiny: Tiny) -> None:
    model = loading.load(str(tiny.model))
    texts = {"long": "red  blue, old " * 20, "short": "red", "empty": "", "unused": "blue"}
    rows = [Row("red", ("long", "short"), 1.0), Row("old", ("short", "empty"), 1.0)]
    found = shortened(model, rows, texts, tokens=5)
    assert found == {"long": "red  blue, old red", "short": "red", "empty": ""}


def test_what_is_mined_was_not_judged_and_keeps_a_margin() -> None:
    documents = np.eye(8, dtype=np.float32)
    query = np.array([[0.6, 0.59, 0.4, 0.3, 0.1, 0.05, 0.02, 0.01]], np.float32)
    ids = [f"d{i}" for i in range(8)]
    judged = Judged("q", {"d0": 1.0, "d3": 0.0})
    found = mine([judged], query, ids, documents)
    # d1 looks as relevant as d0 does, which is known to be, so it comes last; d3 was judged.
    assert found == {"q": ["d2", "d4", "d5", "d6", "d7", "d1"]}


@dataclass
class Moved:
    """A model of which every weight has become greater by one."""

    model: SentenceTransformer
    before: dict[str, torch.Tensor]

    @property
    def share(self) -> float:
        """How much of that is in it now."""
        name = next(iter(self.before))
        return float((self.model.state_dict()[name] - self.before[name]).flatten()[0])


@pytest.fixture
def moved(tiny: Tiny) -> Moved:
    model = loading.load(str(tiny.model))
    before = mixing.weights_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return Moved(model, before)


def test_a_mix_lies_between_and_is_the_best_on_validation(moved: Moved) -> None:
    share, tried = mixing.mix(moved.model, moved.before, lambda: -abs(moved.share - 0.25))
    assert share == 0.25
    assert [one.weight for one in tried] == [0.25, 0.5, 0.75, 1.0]
    for name, value in moved.model.state_dict().items():
        if value.is_floating_point():
            assert value.numpy() == pytest.approx(moved.before[name].numpy() + 0.25, abs=1e-5)


@pytest.mark.parametrize(
    ("steered", "forgotten", "margin", "share", "asked"),
    [
        (True, 0.1, 0.06, 0.5625, [0.5, 0.5625, 0.625, 0.75, 1.0]),  # of 0.75, the best, too much
        (True, 0.1, 0.2, 0.75, [0.75]),  # the best will do
        (True, 0.1, 0.01, 0.25, [0.25, 0.5, 0.75, 1.0]),  # none will do: the least
        (False, 0.1, 0.06, 0.5, [0.5]),  # nothing to steer by but the guard set
        (False, 0.1, 0.03, 0.25, [0.25, 0.3125, 0.375, 0.5]),
    ],
)
def test_a_mix_that_has_forgotten_too_much_is_not_taken(
    moved: Moved, steered: bool, forgotten: float, margin: float, share: float, asked: list[float]
) -> None:
    forgetting = mixing.Forgetting(lambda: -forgotten * moved.share, margin)
    validate = (lambda: 1.0 - abs(moved.share - 0.8)) if steered else None
    chosen, tried = mixing.mix(moved.model, moved.before, validate, forgetting)
    assert chosen == share
    assert moved.share == pytest.approx(share, abs=1e-5)
    assert [one.weight for one in tried if one.guard is not None] == asked
    assert all((one.ndcg is not None) == steered for one in tried)


def test_of_what_is_not_steered_half_is_kept(moved: Moved) -> None:
    assert mixing.mix(moved.model, moved.before, None)[0] == 0.5
    assert moved.share == pytest.approx(0.5, abs=1e-5)


def test_few_texts_are_read_alike_by_either_way(tiny: Tiny) -> None:
    model = loading.load(str(tiny.model))
    model.train()
    for role in ("query", "document"):
        assert Plain(model)(TEXTS, role) == pytest.approx(Encoder(model)(TEXTS, role), abs=2e-2)
    assert model.training
