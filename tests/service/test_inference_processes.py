"""Each version in a process of its own: killed, poisoned, stopped, replaced, while requests go on."""

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diapason import vectors
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from services.embedder import workers
from services.embedder.domain.versions import State
from services.embedder.residents import Resident
from tests.conftest import Tiny
from tests.support.embedding import Embedding, changed, desired, embedding, publish
from tests.support.words import NAMES, document

TEXTS = [document(i) for i in range(32)]


@pytest.fixture
async def running(tiny: Tiny, tmp_path: Path) -> AsyncIterator[Embedding]:
    async with embedding(tmp_path / "store", tmp_path / "cache") as started:
        await started.holding(publish(tmp_path / "store", tiny.candidate, 1))
        yield started


def resident(running: Embedding) -> Resident:
    return running.residents.all()[0]


def request(running: Embedding, texts: list[str], lane: pb.Lane.ValueType = pb.LANE_INTERACTIVE) -> pb.EmbedRequest:
    version = VersionRef(digest=resident(running).desired.digest)
    return pb.EmbedRequest(version=version, texts=texts, role=pb.ROLE_DOCUMENT, lane=lane)


def pid(running: Embedding) -> int:
    worker = resident(running).worker
    assert worker
    return worker.pid


async def another(running: Embedding, than: int) -> int:
    """Wait for another inference process."""
    async with asyncio.timeout(30):
        while (worker := resident(running).worker) is None or worker.pid == than:
            await asyncio.sleep(0.01)
        return worker.pid


async def test_i6_killing_the_inference_process_under_load_costs_no_request(running: Embedding) -> None:
    answer = await running.stub.Embed(request(running, TEXTS))
    expected = vectors.from_bytes(answer.vectors, 32)
    kills, answered = 0, [0] * 8

    async def caller(number: int) -> None:
        """Ask until the process has been killed three times and an answer came after that."""
        last = False
        while not last:
            last = kills == 3
            lane = pb.LANE_BULK if number % 2 else pb.LANE_INTERACTIVE
            found = await running.stub.Embed(request(running, TEXTS, lane), timeout=20)
            assert (vectors.from_bytes(found.vectors, 32) * expected).sum(axis=1).min() > 0.999
            answered[number] += 1

    callers = [asyncio.create_task(caller(number)) for number in range(8)]
    for _ in range(3):
        killed = pid(running)
        os.kill(killed, signal.SIGKILL)
        kills += 1
        await another(running, killed)
        before = list(answered)
        async with asyncio.timeout(30):  # what was lost has been computed by then
            while any(now == then for now, then in zip(answered, before, strict=True)):
                await asyncio.sleep(0.01)
    await asyncio.gather(*callers)
    assert kills == 3


async def test_while_its_process_is_replaced_the_version_says_so_and_requests_wait(running: Embedding) -> None:
    states: list[State] = []
    running.residents.on_change(lambda: states.append(resident(running).state))
    killed = pid(running)
    os.kill(killed, signal.SIGKILL)
    await running.until(resident(running).desired.digest, State.LOADING)
    assert "killed by signal 9" in resident(running).reason
    answer = await running.stub.Embed(request(running, TEXTS), timeout=20)
    assert len(answer.token_counts) == 32
    assert states[-3:] == [State.LOADING, State.WARMING, State.READY]


async def test_a_process_that_hangs_is_ended_and_its_batch_computed_by_the_next(
    running: Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "HUNG_SECONDS", 0.5)
    hung = pid(running)
    os.kill(hung, signal.SIGSTOP)
    answer = await running.stub.Embed(request(running, TEXTS), timeout=20)
    assert len(answer.token_counts) == 32
    assert pid(running) != hung


async def test_a_version_whose_process_keeps_ending_fails_and_comes_back_later(running: Embedding) -> None:
    digest = resident(running).desired.digest
    for _ in range(6):
        killed = pid(running)
        os.kill(killed, signal.SIGKILL)
        if len(resident(running).lost_at) < 5:
            await another(running, killed)
    reason = await running.until(digest, State.FAILED)
    assert "6 times within" in reason
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.stub.Embed(request(running, TEXTS))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await running.until(digest, State.READY)
    assert (await running.stub.Embed(request(running, TEXTS))).vectors


async def test_a_version_that_leaves_while_its_process_is_replaced_leaves_none_behind(running: Embedding) -> None:
    leaving = resident(running)
    others = set(_children(os.getpid())) - {pid(running)}
    with leaving.usage.held():
        running.residents.want([])
        await running.until(leaving.desired.digest, State.QUIESCING)
        os.kill(pid(running), signal.SIGKILL)
        while leaving.revival is None:
            await asyncio.sleep(0.001)
    await running.until(leaving.desired.digest, State.GONE)
    assert leaving.revival.done()
    assert set(_children(os.getpid())) == others


async def test_i10_tries_are_bounded_also_where_a_version_loads_well_and_then_keeps_ending(
    tiny: Tiny, tmp_path: Path
) -> None:
    async with embedding(tmp_path / "store", tmp_path / "cache", load_attempts=1) as running:
        version = publish(tmp_path / "store", tiny.candidate, 1)
        await running.holding(version)
        for _ in range(6):
            killed = pid(running)
            os.kill(killed, signal.SIGKILL)
            if len(resident(running).lost_at) < 5:
                await another(running, killed)
        await running.until(version.digest, State.FAILED)
        assert resident(running).retry_at == float("inf")


async def test_unloading_ends_the_process_so_that_its_memory_is_back(running: Embedding) -> None:
    version, ended = resident(running).desired, pid(running)
    running.residents.want([])
    await running.until(version.digest, State.GONE)
    with pytest.raises(ProcessLookupError):
        os.kill(ended, 0)


async def test_a_process_ends_with_its_embedder(tiny: Tiny, tmp_path: Path) -> None:
    """The embedder is killed, which closes its sockets; nobody is left to say goodbye."""
    version = publish(tmp_path / "store", tiny.candidate, 1)
    command = [sys.executable, "-m", "services.embedder", "--listen=127.0.0.1:0", "--registry-address=127.0.0.1:1"]
    command += [f"--artifacts-url={(tmp_path / 'store').as_uri()}", f"--cache-dir={tmp_path / 'cache'}"]
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "desired.json").write_text(json.dumps([vars(desired(version))]))
    embedder = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert embedder.stderr
    async with asyncio.timeout(30):
        while b'"state": "ready"' not in (line := await embedder.stderr.readline()):
            assert line, "it ended"
        [child] = _children(embedder.pid)
        embedder.kill()
        await embedder.wait()
        while _lives(child):
            await asyncio.sleep(0.01)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_poison_text_in_a_batch_of_32_fails_alone(running: Embedding, tiny: Tiny, tmp_path: Path) -> None:
    """The version's tokenizer has no token for unknown words, and so can't encode them."""
    known = [f"{NAMES[i]} {NAMES[i + 1]}" for i in range(31)]
    golden = await running.stub.Embed(request(running, known[:5]))
    description = {"golden_texts": known[:5], "golden_vectors": base64.b64encode(golden.vectors).decode()}
    candidate = changed(tiny, tmp_path / "candidate", description, {"unk_token": "[NOTHING]"})
    version = publish(tmp_path / "store", candidate, 2)
    await running.holding(version)
    texts = [*known[:17], "unspeakable", *known[17:]]
    config = pb.EmbedStreamConfig(version=VersionRef(digest=version.digest), role=pb.ROLE_DOCUMENT)

    async def one(text: str) -> None:
        await running.stub.Embed(pb.EmbedRequest(version=config.version, texts=[text], role=pb.ROLE_DOCUMENT))

    answers = await asyncio.gather(*(one(text) for text in texts), return_exceptions=True)
    [failed] = [answer for answer in answers if answer]
    assert answers[17] is failed
    assert isinstance(failed, grpc.aio.AioRpcError)
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (failed.details() or "").startswith("texts[0]: this version can't compute it")
    call = running.stub.EmbedStream(
        iter([pb.EmbedStreamRequest(config=config, texts=texts), pb.EmbedStreamRequest(texts=texts[:3])])
    )
    first, second = [answer async for answer in call]
    assert [(failure.index, failure.code) for failure in first.failures] == [
        (17, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    ]
    assert (len(first.token_counts), len(second.token_counts)) == (31, 3)
    assert not any(resident.lost_at for resident in running.residents.all())


async def test_i3_a_version_that_nothing_proves_is_refused(running: Embedding, tiny: Tiny, tmp_path: Path) -> None:
    candidate = changed(tiny, tmp_path / "candidate", {"golden_texts": [], "golden_vectors": ""}, {})
    version = publish(tmp_path / "store", candidate, 2)
    running.residents.want([desired(version)])
    assert "no golden texts" in await running.until(version.digest, State.FAILED)


async def test_i10_health_answers_within_its_time_while_all_cores_compute(running: Embedding) -> None:
    health = health_pb2_grpc.HealthStub(running.channel)
    long = ["wbaba " * 60] * 200
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            try:
                await running.stub.Embed(request(running, long, pb.LANE_BULK))
            except grpc.aio.AioRpcError as error:
                codes.add(error.code())

    codes: set[grpc.StatusCode] = set()
    loads = [asyncio.create_task(load()) for _ in range(30)]
    for check in ("liveness", "readiness", "", "diapason.embedder.v1.EmbedderService") * 10:
        answer = await health.Check(health_pb2.HealthCheckRequest(service=check), timeout=1.0)  # type: ignore[attr-defined]
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stop.set()
    await asyncio.gather(*loads)
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_the_embedder_itself_loads_neither_openvino_nor_tokenizers() -> None:
    script = (
        "import sys, services.embedder.__main__;"
        "sys.exit(any(name in sys.modules for name in ('openvino', 'tokenizers', 'torch')))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == 0


async def test_an_inference_process_loads_no_grpc() -> None:
    script = (
        "import sys, services.embedder.worker.openvino_runtime, services.embedder.worker.frames;"
        "sys.exit(any(name in sys.modules for name in ('grpc', 'torch', 'structlog')))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == 0
