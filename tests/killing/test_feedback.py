"""The short form, for every day. `python -m tests.killing` is the long one."""

from pathlib import Path

import pytest

from tests.killing.feedback import run


@pytest.mark.slow
def test_i5_what_was_acknowledged_is_there_once_over_kills(tmp_path: Path) -> None:
    run(tmp_path, kills=3, seed=1)
