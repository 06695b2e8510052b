"""Processes that end, by request or by force, and what the others make of it."""

import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from diapason.cli.output import Failure, Problem
from diapason.cli.stack import Stack
from diapason.client import Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from diapason.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from diapason.search.v1 import document_pb2, document_pb2_grpc
from diapason.trainer.v1 import registry_pb2, registry_pb2_grpc
from diapason.trainer.v1 import training_pb2 as training
from tests.conftest import Tiny, free_base_port
from tests.integration.test_loop import CONFIG, GATE, fill, judge, register, until
from tests.support.words import document

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Iterator[tuple[Stack, Client]]:
    """A stack whose parts the tests may end."""
    stack = Stack(tmp_path_factory.mktemp("own"), free_base_port(), {"DIAPASON_WATCH_SECONDS": "1"})
    stack.start()
    with Client(stack.addresses) as client:
        register(client, "tiny", tiny)
        fill(client, "films", "tiny")
        yield stack, client
    stack.stop()


def terminate(stack: Stack, name: str) -> "queue.SimpleQueue[int]":
    """Send SIGTERM and go on; the exit status comes through the queue."""
    status: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=lambda: status.put(stack.end(name, signal.SIGTERM))).start()
    return status


def wait_until_draining(address: str) -> None:
    """Return once a service takes no new requests."""
    host, port = address.split(":")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))):
                return
        time.sleep(0.02)
    raise AssertionError("it still listens")


def test_search_drains_on_sigterm(own: tuple[Stack, Client]) -> None:
    stack, client = own
    more = threading.Event()

    def requests() -> Iterator[document_pb2.UpsertDocumentsRequest]:
        for i in range(3):
            if i == 1:
                more.wait(20)
            text = document_pb2.Document(id=f"drain-{i}", text=document(i))
            yield document_pb2.UpsertDocumentsRequest(collection="films", document=text)

    with grpc.insecure_channel(stack.addresses.search) as channel:
        receipts = document_pb2_grpc.DocumentServiceStub(channel).UpsertDocuments(requests())
        assert next(receipts).indexed
        status = terminate(stack, "search")
        wait_until_draining(stack.addresses.search)
        more.set()
        assert [receipt.id for receipt in receipts] == ["drain-1", "drain-2"]
    assert status.get(timeout=30) == 0
    stack.revive("search")
    assert {d.id for d in client.documents("films", ["drain-1", "drain-2"])} == {"drain-1", "drain-2"}


def test_feedback_drains_on_sigterm(own: tuple[Stack, Client]) -> None:
    stack, _ = own
    item = feedback_pb2.Feedback(
        idempotency_key="k", search_id="never", document_id="d", signal=feedback_pb2.SIGNAL_THUMBS_UP
    )
    with grpc.insecure_channel(stack.addresses.feedback) as channel:
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        # It waits two seconds for the impression, so it is in flight when the signal comes.
        call = stub.SubmitFeedback.future(feedback_pb2.SubmitFeedbackRequest(feedback=[item]), timeout=20)
        stub.GetSummary(feedback_pb2.GetSummaryRequest(), timeout=20)  # sent after it, so it has arrived
        assert not call.done()
        status = terminate(stack, "feedback")
        assert call.code() is grpc.StatusCode.NOT_FOUND
    assert status.get(timeout=30) == 0
    stack.revive("feedback")


def test_the_trainer_drains_on_sigterm(own: tuple[Stack, Client]) -> None:
    stack, _ = own
    more = threading.Event()

    def reports() -> Iterator[registry_pb2.SyncRequest]:
        yield registry_pb2.SyncRequest(replica_id="visitor")
        more.wait(20)
        yield registry_pb2.SyncRequest(replica_id="visitor")

    with grpc.insecure_channel(stack.addresses.trainer) as channel:
        answers = registry_pb2_grpc.RegistryServiceStub(channel).Sync(reports())
        first = next(answers)
        # The embedder's own conversation would hold the trainer until the grace period ends.
        stack.end("embedder", signal.SIGTERM)
        status = terminate(stack, "trainer")
        wait_until_draining(stack.addresses.trainer)
        more.set()
        assert [list(answer.desired) for answer in answers] == [list(first.desired)]
    assert status.get(timeout=30) == 0
    stack.revive("trainer")
    stack.revive("embedder")


def test_the_embedder_drains_on_sigterm(own: tuple[Stack, Client]) -> None:
    stack, client = own
    version: VersionRef = client.collection("films").route.encoder
    request = embedder_pb2.EmbedRequest(
        version=version, texts=[f"{document(i % 40)} " * 600 for i in range(64)], role=embedder_pb2.ROLE_DOCUMENT
    )
    try:
        with grpc.insecure_channel(stack.addresses.embedder) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            calls = [stub.Embed.future(request, timeout=60) for _ in range(5)]
            calls[0].result()  # each takes long, so the others have arrived by now
            waiting = sum(not call.done() for call in calls)
            status = terminate(stack, "embedder")
            assert [len(call.result().vectors) for call in calls] == [64 * 32 * 4] * 5
        assert waiting
        assert status.get(timeout=60) == 0
    finally:
        stack.revive("embedder")


def test_i5_what_search_acknowledged_survives_kill_9(own: tuple[Stack, Client]) -> None:
    stack, client = own
    client.create_collection("durable", "tiny")
    acknowledged: list[str] = []
    half = threading.Event()

    def write() -> None:
        documents = (document_pb2.Document(id=f"k{i}", text=f"{document(i % 40)} {i}") for i in itertools.count())
        try:
            for receipt in client.upsert("durable", documents):
                acknowledged.append(receipt.id)
                if len(acknowledged) == 200:
                    half.set()
        except Exception:
            return

    writer = threading.Thread(target=write)
    writer.start()
    assert half.wait(60)
    assert stack.end("search", signal.SIGKILL) == -signal.SIGKILL
    writer.join(30)
    stack.revive("search")
    found: set[str] = set()
    for start in range(0, len(acknowledged), 100):
        found |= {d.id for d in client.documents("durable", acknowledged[start : start + 100])}
    assert found == set(acknowledged)

    def indexed() -> bool:
        view = client.collection("durable")
        return view.indexes[0].points == view.documents >= len(acknowledged)

    until(indexed)


def test_i5_what_feedback_acknowledged_survives_kill_9(own: tuple[Stack, Client]) -> None:
    stack, client = own
    acknowledged: list[str] = []
    half = threading.Event()

    def submit() -> None:
        for i in range(5_000):
            item = feedback_pb2.Feedback(
                idempotency_key=f"kill-{i}", document_id="d", signal=feedback_pb2.SIGNAL_THUMBS_UP
            )
            item.query.CopyFrom(feedback_pb2.QuerySubject(collection="killed", text=f"query {i}"))
            try:
                client.submit([item])
            except Exception:
                return
            acknowledged.append(f"query {i}")
            if len(acknowledged) == 100:
                half.set()

    writer = threading.Thread(target=submit)
    writer.start()
    assert half.wait(60)
    stack.end("feedback", signal.SIGKILL)
    writer.join(60)
    stack.revive("feedback")
    assert set(acknowledged) <= {answer.judgment.query for answer in client.judgments("killed")}


def test_without_redis_search_and_feedback_go_on_and_training_waits_and_resumes(own: tuple[Stack, Client]) -> None:
    stack, client = own
    fill(client, "patient", "tiny")
    judge(client, "patient")
    stack.end("redis", signal.SIGTERM)
    answer = client.search("patient", document(3), 1)
    assert answer.results[0].id == "topic-3"
    assert client.thumbs(answer.search_id, "topic-3", up=True)
    status = client.trainer_status()
    assert not status.broker_reachable
    assert "broker" in status.broker_reason
    run = client.train("patient", training.TrainingConfig(epochs=1), GATE, dry_run=True)
    assert run.state == training.RUN_STATE_QUEUED
    assert "broker does not answer" in run.message
    stack.revive("redis")
    assert list(client.watch_run(run.id))[-1].state == training.RUN_STATE_SUCCEEDED


def in_training(client: Client, collection: str) -> str:
    """Start a run and wait until it trains; returns its id."""
    run_id = client.train(collection, CONFIG, GATE, dry_run=True).id
    for run in client.watch_run(run_id):
        if run.stage == training.RUN_STAGE_TRAIN:
            return run_id
    raise AssertionError(f"it did not come to train: {run.message}")


def test_i7_a_run_goes_on_after_its_worker_ended(own: tuple[Stack, Client]) -> None:
    """Twice: when it was asked to end, and when it was killed soon after another had taken the run up."""
    stack, client = own
    fill(client, "resumed", "tiny")
    judge(client, "resumed")
    run_id = in_training(client, "resumed")
    for how, status in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        assert client.run(run_id).state != training.RUN_STATE_SUCCEEDED
        assert stack.end("worker", how) == status
        stack.revive("worker")
    assert list(client.watch_run(run_id))[-1].state == training.RUN_STATE_SUCCEEDED


def test_a_run_is_cancelled_while_it_trains(own: tuple[Stack, Client]) -> None:
    _, client = own
    fill(client, "stopped", "tiny")
    judge(client, "stopped")
    run_id = in_training(client, "stopped")
    with pytest.raises(Exception, match="not finished"):
        client.train("stopped", CONFIG)
    client.cancel_run(run_id)
    assert list(client.watch_run(run_id))[-1].state == training.RUN_STATE_CANCELLED


def up(data: Path, port: int) -> subprocess.Popen[str]:
    """`diapason up` without a first model."""
    command = [sys.executable, "-c", "from diapason.cli.main import main; main()", "up", "--model", ""]
    command += ["--data", str(data), "--base-port", str(port), "--json"]
    # As on any machine: output to a pipe is buffered unless the command flushes it.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ready(process: subprocess.Popen[str]) -> None:
    """Wait for the JSON that says that it is up."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("}"):
            return
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_up_stops_cleanly_on_ctrl_c_and_serves_again_afterwards(tmp_path: Path) -> None:
    port = free_base_port()
    for number in (signal.SIGINT, signal.SIGTERM):
        process = up(tmp_path / "data", port)
        ready(process)
        pids = _pids(tmp_path / "data")
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "Traceback" not in said
        assert [pid for pid in pids.values() if _lives(pid)] == []
        for name in ("search", "embedder", "feedback", "trainer"):
            assert '"stopped"' in (tmp_path / "data" / "logs" / f"{name}.log").read_text()


def test_up_says_in_a_sentence_what_is_wrong(tmp_path: Path) -> None:
    port = free_base_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 2))
        taken.listen()
        _refused(up(tmp_path / "a", port), f"port {port + 2}, meant for search, is taken")
    first = up(tmp_path / "a", port)
    ready(first)
    _refused(up(tmp_path / "a", free_base_port()), "another `diapason up` uses")
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    (tmp_path / "a" / "diapason.json").write_text('{"layout": 99}')
    _refused(up(tmp_path / "a", port), "made by another release (layout 99")
    (tmp_path / "file").write_text("")
    _refused(up(tmp_path / "file", port), "can't be used as data folder")


def _refused(process: subprocess.Popen[str], sentence: str) -> None:
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert sentence in " ".join(said.split())
    assert "Traceback" not in said


def test_up_ends_with_a_sentence_when_a_part_dies(tmp_path: Path) -> None:
    process = up(tmp_path / "data", free_base_port())
    ready(process)
    pids = _pids(tmp_path / "data")
    os.kill(pids["feedback"], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "feedback has ended with status -9" in " ".join(said.split())
    assert [pid for pid in pids.values() if _lives(pid)] == []


def test_up_takes_over_from_one_that_was_killed(tmp_path: Path) -> None:
    port = free_base_port()
    process = up(tmp_path / "data", port)
    ready(process)
    left = _pids(tmp_path / "data")
    process.kill()
    process.communicate(timeout=10)
    again = up(tmp_path / "data", port)
    ready(again)
    assert [pid for pid in left.values() if _lives(pid)] == []
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert again.returncode == 0


def _pids(data: Path) -> dict[str, int]:
    """The processes of a stack, by name."""
    return {p["name"]: p["pid"] for p in json.loads((data / "stack.json").read_text())["processes"]}


def _lives(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(shown.stdout.strip()) and not shown.stdout.strip().startswith("Z")


def test_a_stack_that_can_not_start_leaves_nothing_behind(tmp_path: Path) -> None:
    stack = Stack(tmp_path, free_base_port(), {"DIAPASON_DRAIN_SECONDS": str(uuid.uuid4())})
    with pytest.raises((Failure, Problem), match="has ended with status 2"):
        stack.start()
    assert not (tmp_path / "stack.json").exists()
