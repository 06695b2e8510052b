"""The whole loop on a tiny model, with real processes, Redis, engines and sockets."""

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from diapason.cli.demo.measuring import BackgroundSearcher, mismatched
from diapason.cli.demo.samples import Query
from diapason.cli.stack import Stack
from diapason.client import Client
from diapason.common.v1.version_pb2 import MODEL_KIND_RERANKER, VersionRef
from diapason.embedder.v1.embedder_pb2 import VERSION_STATE_FAILED, VERSION_STATE_READY
from diapason.errors import FailedPrecondition, InvalidArgument, NotFound
from diapason.feedback.v1.feedback_pb2 import SIGNAL_THUMBS_DOWN, SIGNAL_THUMBS_UP, Feedback, QuerySubject
from diapason.search.v1.document_pb2 import Document
from diapason.search.v1.search_pb2 import Rerank
from diapason.trainer.v1 import registry_pb2, registry_pb2_grpc, rollout_pb2, rollout_pb2_grpc
from diapason.trainer.v1 import training_pb2 as training
from diapason.trainer.v1.rollout_pb2 import (
    ROLLOUT_STATE_DONE,
    ROLLOUT_STATE_FAILED,
    ROLLOUT_STATE_RETIRING,
    ROLLOUT_STATE_ROLLED_BACK,
)
from tests.conftest import Tiny
from tests.support import liking
from tests.support.words import TOPICS, document, query

pytestmark = pytest.mark.slow

WORDINGS = 6
# For a model this small, trained on a language this simple.
CONFIG = training.TrainingConfig(epochs=12, batch_size=16, learning_rate=5e-3)
GATE = training.GatePolicy(min_queries=20)


def register(client: Client, name: str, tiny: Tiny) -> None:
    """Import a tiny model and wait until it is published and resident."""
    run_id = client.register_model(name, str(tiny.model), [16])
    last = list(client.watch_run(run_id))[-1]
    assert last.state == training.RUN_STATE_SUCCEEDED, last.message
    until(lambda: any(v.replicas and v.replicas[0].status.state == 6 for v in client.versions(name)))


def until(condition: object, seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)


def fill(client: Client, collection: str, model: str, retention: float | None = None) -> None:
    """A collection with one document per topic."""
    client.create_collection(collection, model, [16], retention)
    documents = [Document(id=f"topic-{i}", text=document(i)) for i in range(TOPICS)]
    receipts = list(client.upsert(collection, documents))
    assert all(receipt.indexed and not receipt.error for receipt in receipts)


def judge(client: Client, collection: str) -> None:
    """People ask for every topic in several wordings and like its document, not the next one."""
    items = []
    for topic in range(TOPICS):
        for wording in range(WORDINGS):
            for other, thumb in ((topic, SIGNAL_THUMBS_UP), ((topic + 1) % TOPICS, SIGNAL_THUMBS_DOWN)):
                item = Feedback(idempotency_key=uuid.uuid4().hex, document_id=f"topic-{other}", signal=thumb)
                item.query.CopyFrom(QuerySubject(collection=collection, text=query(topic, wording)))
                items.append(item)
    client.submit(items)


def unseen() -> list[Query]:
    """Wordings that nobody judged."""
    return [Query(query(topic, WORDINGS + topic % 3), f"topic-{topic}") for topic in range(TOPICS)]


def right(client: Client, collection: str) -> int:
    """How many unseen queries bring their document first."""
    answers = [(client.search(collection, q.text, 1).results, q.document) for q in unseen()]
    return sum(bool(results) and results[0].id == wanted for results, wanted in answers)


@pytest.fixture(scope="module")
def client(stack: Stack, tiny: Tiny) -> Client:
    made = Client(stack.addresses)
    register(made, "tiny", tiny)
    return made


def test_the_loop_learns_and_swaps_without_a_failed_or_mixed_search(client: Client) -> None:
    fill(client, "loop", "tiny", retention=3)
    judge(client, "loop")
    before = right(client, "loop")
    searcher = BackgroundSearcher(client, "loop", unseen())
    searcher.start()
    run = list(client.watch_run(client.train("loop", CONFIG, GATE).id))[-1]
    assert run.state == training.RUN_STATE_SUCCEEDED, run.message
    assert run.gate.verdict == training.VERDICT_PROMOTE, run.gate.reason
    assert {m.dimensions for m in run.gate.metrics} == {32, 16}
    assert run.losses[-1].loss < run.losses[0].loss
    rollout = list(client.watch_rollout(run.rollout_id))[-1]
    assert rollout.state == ROLLOUT_STATE_RETIRING, rollout.message
    searcher.stop()
    assert right(client, "loop") > before + TOPICS / 2
    assert [sample.error for sample in searcher.samples if sample.error] == []
    assert mismatched(client, searcher.samples) == 0
    assert {sample.answer.route.generation for sample in searcher.samples if sample.answer} == {1, 2}
    assert client.collection("loop").route.encoder == run.published
    # After the retention window the old index is gone and the rollout is done.
    until(lambda: client.rollout(run.rollout_id).state == ROLLOUT_STATE_DONE)
    assert len(client.collection("loop").indexes) == 1


def test_i8_a_rollout_is_rolled_back_by_request(client: Client, stack: Stack, other_tiny: Tiny) -> None:
    fill(client, "back", "tiny")
    first = client.collection("back").route
    register(client, "second", other_tiny)
    rollout = client.start_rollout("back", client.versions("second")[0].ref)
    assert list(client.watch_rollout(rollout.id))[-1].state == ROLLOUT_STATE_RETIRING
    assert client.collection("back").route.encoder.model == "second"
    with grpc.insecure_channel(stack.addresses.trainer) as channel:
        request = registry_pb2.GetVersionRequest(version=VersionRef(model="second", number=1))
        version = registry_pb2_grpc.RegistryServiceStub(channel).GetVersion(request, timeout=10).version
        assert version.ref == rollout.to
        assert [replica.status.state for replica in version.replicas] == [VERSION_STATE_READY]
        abort = rollout_pb2.AbortRolloutRequest(id=rollout.id)
        with pytest.raises(grpc.RpcError, match="rolled back"):
            rollout_pb2_grpc.RolloutServiceStub(channel).AbortRollout(abort, timeout=10)
    list(client.upsert("back", [Document(id="since", text="tbaba tbaba")]))
    assert client.roll_back(rollout.id).state == ROLLOUT_STATE_ROLLED_BACK
    route = client.collection("back").route
    assert (route.generation, route.encoder, route.index) == (3, first.encoder, first.index)
    answer = client.search("back", "tbaba tbaba", 1)
    assert (answer.results[0].id, answer.query_version) == ("since", first.encoder)


def test_i9_a_candidate_that_is_no_better_is_not_promoted(client: Client) -> None:
    fill(client, "nonsense", "tiny")
    items = []
    for i in range(120):  # likes without any sense teach nothing that holds on other queries
        item = Feedback(
            idempotency_key=uuid.uuid4().hex, document_id=f"topic-{i * 7 % TOPICS}", signal=SIGNAL_THUMBS_UP
        )
        item.query.CopyFrom(QuerySubject(collection="nonsense", text=f"{query(i % TOPICS, i)} {i}"))
        items.append(item)
    client.submit(items)
    run = list(client.watch_run(client.train("nonsense", training.TrainingConfig(epochs=1), GATE).id))[-1]
    assert run.state == training.RUN_STATE_SUCCEEDED, run.message
    assert run.gate.verdict in (training.VERDICT_REJECT, training.VERDICT_INCONCLUSIVE)
    assert not run.rollout_id
    assert client.collection("nonsense").route.generation == 1
    report = client.report(run.id)
    assert report.sentence.startswith(("Rejected (", "Inconclusive ("))
    assert b'id="gate"' in report.content


def liked(client: Client) -> tuple[str, int]:
    """Which version reranked ("none" if none did), and how many of the first five have what people like."""
    answer = client.search("taste", liking.asked(1000), 5, rerank=Rerank(budget=Duration(seconds=20)))
    by = answer.reranking
    name = f"{by.version.model} {by.version.number}" if by.applied else "none"
    return name, sum(int(result.id.removeprefix("t")) in liking.GOOD for result in answer.results)


def test_a_reranker_is_tuned_swapped_in_without_a_reindex_and_rolled_back(client: Client, tiny_reranker: Tiny) -> None:
    client.create_collection("taste", "tiny", [16], retention=600)
    documents = [Document(id=f"t{i}", text=liking.document(i)) for i in range(TOPICS)]
    assert all(receipt.indexed for receipt in client.upsert("taste", documents))
    items = []
    for judgment in liking.judgments(160):
        thumb = SIGNAL_THUMBS_UP if judgment.target else SIGNAL_THUMBS_DOWN
        item = Feedback(idempotency_key=uuid.uuid4().hex, document_id=judgment.document_id, signal=thumb)
        item.query.CopyFrom(QuerySubject(collection="taste", text=judgment.query))
        items.append(item)
    client.submit(items[::2])
    client.submit(items[1::2])
    registered = list(client.watch_run(client.register_model("judge", str(tiny_reranker.model), reranker=True)))[-1]
    assert registered.state == training.RUN_STATE_SUCCEEDED, registered.message
    first = client.start_rollout("taste", client.versions("judge")[0].ref)
    assert list(client.watch_rollout(first.id))[-1].state == ROLLOUT_STATE_RETIRING
    before = client.collection("taste").route
    assert liked(client)[0] == "judge 1"

    config = training.TrainingConfig(epochs=2, learning_rate=2e-3)
    run = list(client.watch_run(client.train("taste", config, GATE, reranker="judge").id))[-1]
    assert run.state == training.RUN_STATE_SUCCEEDED, run.message
    assert run.gate.verdict == training.VERDICT_PROMOTE, run.gate.reason
    assert (run.model, run.model_kind, run.current) == ("judge", MODEL_KIND_RERANKER, before.reranker)
    assert {(m.metric, m.dimensions) for m in run.gate.metrics} >= {("ndcg@10", 0), ("auc", 0), ("f1", 0)}
    rollout = list(client.watch_rollout(run.rollout_id))[-1]
    assert rollout.state == ROLLOUT_STATE_RETIRING, rollout.message
    states = [event.state for event in rollout.history]
    assert rollout_pb2.ROLLOUT_STATE_REINDEXING not in states
    after = client.collection("taste").route
    assert (after.index, after.encoder) == (before.index, before.encoder)
    assert (after.generation, after.reranker) == (before.generation + 1, run.published)
    assert liked(client) == ("judge 2", 5)
    assert b'id="classification"' in client.report(run.id).content

    assert client.roll_back(rollout.id).state == ROLLOUT_STATE_ROLLED_BACK
    # I8: at once, and also once everything has been let go that nothing holds any longer.
    assert liked(client)[0] == "judge 1"
    until(lambda: "kept" not in {lease.split(":")[0] for lease in client.versions("judge")[0].leases})
    assert liked(client)[0] == "judge 1"
    assert client.collection("taste").route.reranker == before.reranker


def test_too_few_judgments_say_how_many_there_are_and_are_needed(client: Client) -> None:
    fill(client, "quiet", "tiny")
    with pytest.raises(FailedPrecondition, match=r"0 queries .* 10 are needed"):
        client.train("quiet")


def test_i3_i6_a_tampered_artifact_is_refused_and_the_old_version_keeps_serving(
    client: Client, stack: Stack, other_tiny: Tiny, tmp_path: Path
) -> None:
    fill(client, "tampered", "tiny")
    run_id = client.register_model("evil", str(other_tiny.model))
    assert list(client.watch_run(run_id))[-1].state == training.RUN_STATE_SUCCEEDED
    version = client.versions("evil")[0]
    model = stack.data / "artifacts" / version.artifact_path / "openvino" / "model.bin"
    content = bytearray(model.read_bytes())
    content[100] ^= 1
    model.write_bytes(content)
    # Whatever the embedder fetched before the change is fetched anew after a restart of its cache.
    stack.end("embedder", signal.SIGTERM)
    for cached in (stack.data / "embedder").glob("*/openvino/model.bin"):
        if version.ref.digest in str(cached):
            cached.write_bytes(b"")
    stack.revive("embedder")
    rollout = client.start_rollout("tampered", version.ref)
    last = list(client.watch_rollout(rollout.id))[-1]
    assert last.state == ROLLOUT_STATE_FAILED
    assert "model.bin" in last.message
    states = {s.version.model: s.state for s in client.embedder_info().versions}
    assert states["evil"] == VERSION_STATE_FAILED
    assert client.search("tampered", "tbaba", 1).route.generation == 1


def test_a_model_that_is_none_is_refused_with_its_reason(client: Client, tmp_path: Path) -> None:
    run = list(client.watch_run(client.register_model("none", str(tmp_path / "nowhere"))))[-1]
    assert run.state == training.RUN_STATE_FAILED
    assert "nowhere" in run.message
    with pytest.raises(InvalidArgument, match="name"):
        client.register_model("Bad Name", "x")


def test_unknown_things_and_bad_queries_are_said(client: Client) -> None:
    for call in (
        lambda: client.search("nothing", "x"),
        lambda: client.collection("nothing"),
        lambda: client.run("nothing"),
        lambda: client.rollout("nothing"),
        lambda: client.versions("nothing"),
        lambda: client.train("nothing"),
        lambda: client.thumbs("no-search", "x", up=True),
    ):
        with pytest.raises(NotFound, match=r"nothing|no-search"):
            call()
    fill(client, "some", "tiny")
    with pytest.raises(InvalidArgument) as caught:
        client.search("some", "  ", limit=500)
    assert [field for field, _ in caught.value.violations] == ["query", "limit"]
    answer = client.search("some", "tbaba", 2)
    with pytest.raises(FailedPrecondition, match="did not show"):
        client.thumbs(answer.search_id, "never-shown", up=True)
    assert client.thumbs(answer.search_id, answer.results[0].id, up=True)
    assert not client.thumbs(answer.search_id, answer.results[0].id, up=True)
    assert next(client.documents("some", ["topic-1", "none"])).passage == document(1)


def test_search_and_feedback_work_by_reflection_alone(stack: Stack, client: Client) -> None:
    fill(client, "reflected", "tiny")

    def call(address: str, service: str, method: str, **fields: object) -> dict[str, object]:
        with grpc.insecure_channel(address) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            described = pool.FindServiceByName(service).FindMethodByName(method)
            request = GetMessageClass(described.input_type)(**fields)
            invoke: grpc.UnaryUnaryMultiCallable[Message, Message] = channel.unary_unary(
                f"/{service}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(described.output_type).FromString,
            )
            return MessageToDict(invoke(request, timeout=10))

    answer = call(
        stack.addresses.search, "diapason.search.v1.SearchService", "Search", collection="reflected", query="tbaba"
    )
    results = answer["results"]
    assert isinstance(results, list)
    item = {"idempotency_key": "k", "search_id": answer["searchId"], "document_id": results[0]["id"], "signal": 1}
    feedback = call(stack.addresses.feedback, "diapason.feedback.v1.FeedbackService", "SubmitFeedback", feedback=[item])
    assert feedback["receipts"] == [{"idempotencyKey": "k"}]


def diapason(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, against the shared stack."""
    command = [sys.executable, "-c", "from diapason.cli.main import main; main()", *arguments]
    return subprocess.run(
        [*command, "--data", str(stack.data)], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_command_line_goes_around_the_loop(stack: Stack, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "topics.jsonl"
    file.write_text("".join(json.dumps({"id": f"topic-{i}", "text": document(i)}) + "\n" for i in range(5)))
    options = ("--collection", "shell", "--json")
    indexed = diapason(stack, "index", str(file), "--model", "tiny", *options)
    counts = {"written": 5, "unchanged": 0, "waiting": 0, "truncated": 0}
    assert json.loads(indexed.stdout) == {"collection": "shell", **counts}, indexed.stderr
    found = json.loads(diapason(stack, "search", document(3), *options).stdout)
    assert found["results"][0]["id"] == "topic-3"
    stored = json.loads(diapason(stack, "feedback", "up", "1", *options).stdout)
    assert stored["duplicate"] is False
    shown = diapason(stack, "search", document(3), "--collection", "shell", "--hybrid")
    assert "tiny version" in shown.stdout
    moved = tmp_path / "moved.jsonl"
    assert diapason(stack, "export", "shell", str(moved)).returncode == 0
    imported = diapason(stack, "import", str(moved), "--collection", "shell-too", "--json")
    assert json.loads(imported.stdout)["documents"] == "5", imported.stderr
    status = json.loads(diapason(stack, "status", "--json").stdout)
    assert set(status["services"].values()) == {"SERVING"}
    assert status["training"]["broker_reachable"] is True
    assert "shell" in [collection["name"] for collection in status["collections"]]
    assert "tiny" in [version["ref"]["model"] for version in json.loads(diapason(stack, "models", "--json").stdout)]
    assert json.loads(diapason(stack, "runs", "--json").stdout)
    for command in ("status", "models", "runs"):
        assert diapason(stack, command).returncode == 0


def test_the_command_line_says_what_is_wrong_in_a_sentence(stack: Stack, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text('{"id": "a", "text": "good"}\n{"id": "b", "text": "good"}\n{broken\n{"id": "c", "text": "late"}\n')
    for arguments, said in (
        (("index", str(file), "--model", "tiny", "--collection", "broken"), "line 3: not JSON"),
        (("search", "x", "--collection", "nothing"), "there is no collection 'nothing'"),
        (("search", " ", "--collection", "broken"), "query"),
        (("train", "--collection", "broken"), "10 are needed"),
        (("feedback", "up", "99"), "not one of them"),
        (("runs", "nothing"), "there is no run 'nothing'"),
    ):
        done = diapason(stack, *arguments)
        assert done.returncode == 2, done.stderr
        assert said in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    assert client.collection("broken").documents == 2


def test_documents_pass_through_a_stream_of_many(client: Client) -> None:
    client.create_collection("many", "tiny")
    documents = (Document(id=f"n{i}", text=f"{document(i % TOPICS)} {i}") for i in range(700))
    receipts = list(client.upsert("many", documents))
    assert [receipt.id for receipt in receipts] == [f"n{i}" for i in range(700)]
    assert client.collection("many").documents == client.collection("many").indexes[0].points == 700
    assert len(list(client.documents("many"))) == 700
    deleted = client.delete("many", ["n0", "n1", "unknown"])
    assert (deleted.deleted, deleted.unknown) == (2, 1)
    assert client.collection("many").documents == 698


def test_searching_goes_on_in_many_threads(client: Client) -> None:
    fill(client, "busy", "tiny")
    wrong: list[str] = []

    def search(number: int) -> None:
        for i in range(20):
            topic = (number * 20 + i) % TOPICS
            answer = client.search("busy", document(topic), 1)
            if answer.results[0].id != f"topic-{topic}":
                wrong.append(answer.results[0].id)

    threads = [threading.Thread(target=search, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
