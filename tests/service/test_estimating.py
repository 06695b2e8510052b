"""What a training is said to take, and what becomes of one for which there is no room."""

from pathlib import Path

import pytest

from services.trainer.process import estimating, loading
from services.trainer.process.estimating import Need, Room
from services.trainer.process.evaluating import RANKING_BYTES
from services.trainer.process.spec import JobError
from tests.conftest import Tiny

_GIB = 1 << 30


def test_what_is_needed_grows_with_the_texts_of_a_step_and_with_the_collection(tiny: Tiny) -> None:
    model = loading.load(str(tiny.model))
    empty, some, more = (estimating.need(model, texts, 64, 0, half=True) for texts in (0, 100, 200))
    assert more.memory - some.memory == some.memory - empty.memory > 0
    whole = estimating.need(model, 100, 64, 0, half=False)
    assert whole.memory - empty.memory == 2 * (some.memory - empty.memory)
    large = estimating.need(model, 0, 64, 1_000_000, half=True)
    assert large.memory - empty.memory == 1_000_000 * (32 * 4 * 4 + RANKING_BYTES)
    assert large.disk == empty.disk > sum(path.stat().st_size for path in tiny.model.rglob("*.safetensors"))


def test_what_is_free_is_read_from_the_machine(tmp_path: Path) -> None:
    free = estimating.room(tmp_path)
    assert 0 < free.memory < 1 << 50
    assert 0 < free.disk < 1 << 60


@pytest.mark.parametrize(
    ("free", "said"),
    [
        (
            Room(memory=3 * _GIB, disk=9 * _GIB),
            "needs about 4.0 GiB of memory and 3.0 GiB are free; lower the batch size",
        ),
        (Room(memory=9 * _GIB, disk=1 * _GIB), "needs about 2.0 GiB of disk and 1.0 GiB are free in the work folder"),
    ],
)
def test_too_little_room_is_an_error_that_says_how_much_and_what_to_do(free: Room, said: str) -> None:
    with pytest.raises(JobError) as found:
        estimating.check(Need(memory=4 * _GIB, disk=2 * _GIB), free)
    assert said in str(found.value)


def test_enough_room_is_no_error() -> None:
    estimating.check(Need(memory=4 * _GIB, disk=2 * _GIB), Room(memory=5 * _GIB, disk=3 * _GIB))
