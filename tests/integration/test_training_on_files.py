"""From a file to a better model that serves, by commands, on a stack of real processes, without any feedback."""

import json
from pathlib import Path

import pytest

from diapason.cli.stack import Stack
from diapason.client import Client
from diapason.trainer.v1 import training_pb2 as training
from tests.conftest import Tiny
from tests.integration.test_loop import CONFIG, GATE, WORDINGS, fill, register, right
from tests.support.terminal import Command
from tests.support.words import TOPICS, query

pytestmark = pytest.mark.slow


def test_triplets_in_a_file_make_a_better_model_take_over(
    stack: Stack,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DIAPASON_DATA", str(stack.data))
    command, file = Command(monkeypatch, capsys), tmp_path / "asked.jsonl"
    asked = [
        {"query": query(i, wording), "positive_id": f"topic-{i}", "negative_id": f"topic-{(i + 1) % TOPICS}"}
        for i in range(TOPICS)
        for wording in range(WORDINGS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in asked))
    code, out, err = command("datasets", "upload", "asked", str(file))
    assert (code, f"triplets: {TOPICS * WORDINGS} rows" in out) == (0, True), err
    with Client(stack.addresses) as client:
        register(client, "from-files", tiny)
        fill(client, "files", "from-files")
        before = right(client, "files")
        started = client.train("files", CONFIG, GATE, datasets=["asked"], without_feedback=True)
        run = list(client.watch_run(started.id))[-1]
        assert run.state == training.RUN_STATE_SUCCEEDED, run.message
        assert run.gate.verdict == training.VERDICT_PROMOTE, run.message
        assert list(run.data.datasets) == ["asked"]
        assert (run.data.unknown_documents, run.data.added_documents, run.data.policy) == (0, 0, "")
        list(client.watch_rollout(run.rollout_id))
        assert client.collection("files").route.encoder == run.published
        assert right(client, "files") > before + TOPICS / 2
        assert "datasets: asked, with 0 documents of their own" in command("runs", run.id)[1]
