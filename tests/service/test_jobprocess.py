"""What a run's row is told of its job process, by processes that say what a test has them say."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from services.trainer import jobprocess
from services.trainer.jobprocess import JobFailed, JobProcess
from services.trainer.pacing import Shutdown, StopRequested
from services.trainer.process.spec import RESULT


def says(monkeypatch: pytest.MonkeyPatch, *lines: dict[str, Any], then: str = "") -> None:
    script = "\n".join([*(f"print({json.dumps(json.dumps(line))}, flush=True)" for line in lines), then])
    monkeypatch.setattr(jobprocess, "job_command", lambda folder, processes: [sys.executable, "-c", script])


def test_losses_are_kept_from_start_to_start_and_those_told_again_take_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}
    points = [[step, step / 10, 1.0] for step in (10, 15)]
    done = f"open({str(tmp_path / RESULT)!r}, 'w').write('{{}}')"
    says(monkeypatch, *({"stage": "train", "loss": point} for point in points), then=done)
    before = [[5, 0.5, 3.0], [10, 1.0, 2.0], [20, 2.0, 2.0]]
    JobProcess(tmp_path, lambda **changes: told.update(changes), Shutdown(), before).run(1, {})
    assert told["losses"] == [before[0], *points]


def test_the_error_that_it_named_is_what_the_run_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, {"error": "the loss became nan"}, then="raise SystemExit(1)")
    with pytest.raises(JobFailed, match=r"^the loss became nan$"):
        JobProcess(tmp_path, lambda **changes: None, Shutdown()).run(1, {})
    says(monkeypatch, then="raise ValueError('what nobody foresaw')")
    with pytest.raises(JobFailed, match="the training process failed: ValueError: what nobody foresaw"):
        JobProcess(tmp_path, lambda **changes: None, Shutdown()).run(1, {})
    says(monkeypatch, then="import os; os.kill(os.getpid(), 9)")
    with pytest.raises(JobFailed, match="killed by signal 9; out of memory is the usual reason"):
        JobProcess(tmp_path, lambda **changes: None, Shutdown()).run(1, {})


def test_what_noting_raises_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "pid"
    write = f"import os, time; open({str(here)!r}, 'w').write(str(os.getpid()))"
    says(monkeypatch, then=f'{write}; print(\'{{"stage": "train"}}\', flush=True); time.sleep(60)')

    def stopped(**changes: Any) -> None:
        if changes:
            raise StopRequested

    with pytest.raises(StopRequested):
        JobProcess(tmp_path, stopped, Shutdown()).run(1, {})
    assert not Path(f"/proc/{here.read_text()}").exists()
