"""The embedder with real artifacts of tiny models, OpenVINO and tokenizers."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from diapason import artifacts, vectors
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from services.embedder.domain.versions import State
from tests.conftest import Tiny
from tests.support.embedding import Embedding, desired, embedding, publish
from tests.support.words import document, query

TEXTS = [document(1), query(1, 2), "unknown words too"]


def request(digest: str, texts: list[str], dimensions: int = 0) -> pb.EmbedRequest:
    return pb.EmbedRequest(version=VersionRef(digest=digest), texts=texts, role=pb.ROLE_DOCUMENT, dimensions=dimensions)


async def embed(running: Embedding, digest: str, texts: list[str], dimensions: int = 0) -> vectors.Matrix:
    answer = await running.stub.Embed(request(digest, texts, dimensions))
    assert answer.version.digest == digest
    return vectors.from_bytes(answer.vectors, answer.dimensions)


async def code_of(running: Embedding, message: pb.EmbedRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.stub.Embed(message)
    return caught.value.code(), caught.value.details() or ""


def reference(tiny: Tiny, texts: list[str]) -> vectors.Matrix:
    """The same texts by sentence-transformers, in a process of its own."""
    script = (
        "import json, sys; from sentence_transformers import SentenceTransformer as S;"
        "print(json.dumps(S(sys.argv[1], device='cpu').encode(json.loads(sys.argv[2]),"
        "normalize_embeddings=True).tolist()))"
    )
    command = [sys.executable, "-c", script, str(tiny.model), json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return np.array(json.loads(done.stdout), np.float32)


async def test_vectors_are_those_of_sentence_transformers(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(version)
        found = await embed(running, version.digest, TEXTS)
        assert found.shape == (3, 32)
        assert (found * reference(tiny, TEXTS)).sum(axis=1).min() > 0.999
        short = await embed(running, version.digest, TEXTS, 16)
        assert short.shape == (3, 16)
        assert np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-4)


async def test_a_vector_does_not_depend_on_its_company(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(version)
        together = await embed(running, version.digest, [document(i) * (1 + i % 3) for i in range(20)])
        alone = [await embed(running, version.digest, [document(i) * (1 + i % 3)]) for i in range(20)]
        assert (together * np.concatenate(alone)).sum(axis=1).min() > 0.999


async def test_long_texts_are_truncated_and_flagged(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(version)
        answer = await running.stub.Embed(request(version.digest, ["tbaba", "tbaba " * 100]))
        assert list(answer.truncated) == [False, True]
        assert list(answer.token_counts) == [3, 64]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.EmbedRequest(texts=["x"], role=pb.ROLE_QUERY), "version"),
        (pb.EmbedRequest(version=VersionRef(digest="D"), texts=["x"]), "role"),
        (pb.EmbedRequest(version=VersionRef(digest="D"), role=pb.ROLE_QUERY), "texts"),
        (pb.EmbedRequest(version=VersionRef(digest="D"), texts=["x", "  "], role=pb.ROLE_QUERY), "texts[1]"),
        (pb.EmbedRequest(version=VersionRef(digest="D"), texts=["x" * 101], role=pb.ROLE_QUERY), "texts[0]"),
        (pb.EmbedRequest(version=VersionRef(digest="D"), texts=["x"] * 257, role=pb.ROLE_QUERY), "texts"),
        (pb.EmbedRequest(version=VersionRef(digest="D"), texts=["x"], role=pb.ROLE_QUERY, dimensions=20), "dimensions"),
        (pb.EmbedRequest(version=VersionRef(digest="D", model="other"), texts=["x"], role=pb.ROLE_QUERY), "version"),
    ],
)
async def test_i10_bad_requests_name_the_field(
    tiny: Tiny, tmp_path: Path, message: pb.EmbedRequest, field: str
) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    async with embedding(tmp_path / "store", tmp_path / "cache", max_text_characters=100) as running:
        await running.holding(version)
        sent = pb.EmbedRequest()
        sent.CopyFrom(message)
        if sent.version.digest:
            sent.version.digest = version.digest
        code, text = await code_of(running, sent)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith(f"{field}:")


async def test_an_unknown_version_is_not_found(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        code, text = await code_of(running, request("f" * 64, ["x"]))
        assert code is grpc.StatusCode.NOT_FOUND
        assert "GetInfo" in text


async def test_i4_the_old_version_serves_while_the_new_one_comes_and_until_it_is_let_go(
    tiny: Tiny, other_tiny: Tiny, tmp_path: Path
) -> None:
    old = publish(tmp_path / "store", tiny.candidate, 1)
    new = publish(tmp_path / "store", other_tiny.candidate, 2)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        running.residents.want([desired(old)])
        await running.until(old.digest, State.READY)
        expected = await embed(running, old.digest, TEXTS)
        answered, swapping = 0, asyncio.Event()

        async def keep_asking() -> None:
            nonlocal answered
            while not swapping.is_set():
                found = await embed(running, old.digest, TEXTS)
                assert (found * expected).sum(axis=1).min() > 0.999
                answered += 1

        asking = asyncio.create_task(keep_asking())
        running.residents.want([desired(old), desired(new)])
        await running.until(new.digest, State.READY)
        swapping.set()
        await asking
        assert answered > 0
        different = await embed(running, new.digest, TEXTS)
        assert (different * expected).sum(axis=1).max() < 0.999
        running.residents.want([desired(new)])
        await running.until(old.digest, State.GONE)
        assert (await code_of(running, request(old.digest, ["x"])))[0] is grpc.StatusCode.NOT_FOUND


async def test_i4_a_version_in_use_is_not_unloaded(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(version)
        resident = running.residents.find("", 0, version.digest)
        with resident.usage.held():
            running.residents.want([])
            await running.until(version.digest, State.QUIESCING)
            asked = request(version.digest, ["x"])
            assert (await code_of(running, asked))[0] is grpc.StatusCode.FAILED_PRECONDITION
            assert resident.worker is not None
            assert resident.worker.resident_bytes() > 0
            assert resident.state is State.QUIESCING
        await running.until(version.digest, State.GONE)


async def test_i4_a_version_wanted_again_while_another_leaves_stays(
    tiny: Tiny, other_tiny: Tiny, tmp_path: Path
) -> None:
    first, second = publish(tmp_path / "store", tiny.candidate, 1), publish(tmp_path / "store", other_tiny.candidate, 2)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        running.residents.want([desired(first), desired(second)])
        await running.until(second.digest, State.READY)
        with running.residents.find("", 0, first.digest).usage.held():
            running.residents.want([])
            await running.until(first.digest, State.QUIESCING)
            running.residents.want([desired(second)])
        await running.until(first.digest, State.GONE)
        assert running.residents.find("", 0, second.digest).state is State.READY


async def test_a_kept_set_that_can_not_be_read_is_left_aside(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "desired.json").write_text("")
    version = publish(tmp_path / "store", tiny.candidate, 1)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        assert not running.residents.settled()
        await running.holding(version)
        assert running.residents.settled()


def manifest_files() -> list[str]:
    return [artifacts.MANIFEST_NAME, "tokenizer.json", "openvino/model.xml", "openvino/model.bin"]


@pytest.mark.parametrize("name", manifest_files())
@pytest.mark.parametrize("harm", ["changed", "missing"])
async def test_i3_a_tampered_file_is_refused_and_the_old_version_keeps_serving(
    tiny: Tiny, other_tiny: Tiny, tmp_path: Path, name: str, harm: str
) -> None:
    old = publish(tmp_path / "store", tiny.candidate, 1)
    new = publish(tmp_path / "store", other_tiny.candidate, 2)
    target = tmp_path / "store" / new.path / name
    if harm == "missing":
        target.unlink()
    else:
        content = bytearray(target.read_bytes())
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        running.residents.want([desired(old), desired(new)])
        reason = await running.until(new.digest, State.FAILED)
        assert name in reason
        assert (await embed(running, old.digest, TEXTS)).shape == (3, 32)
        code, text = await code_of(running, request(new.digest, ["x"]))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert name in text
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"desired.json", old.digest}


async def test_i3_a_manifest_that_points_outside_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    path = tmp_path / "store" / version.path / artifacts.MANIFEST_NAME
    manifest = artifacts.decode(path.read_bytes())
    manifest.files[0].path = "../../outside"
    content = artifacts.encode(manifest)
    path.write_bytes(content)
    moved = desired(version)
    moved = type(moved)(moved.model, moved.number, artifacts.digest(content), moved.path)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        running.residents.want([moved])
        assert "outside of its folder" in await running.until(moved.digest, State.FAILED)


async def test_i3_golden_vectors_that_do_not_come_out_are_refused(tiny: Tiny, other_tiny: Tiny, tmp_path: Path) -> None:
    candidate = tmp_path / "candidate"
    shutil.copytree(tiny.candidate, candidate)
    described = json.loads((other_tiny.candidate / "description.json").read_text())
    (candidate / "description.json").write_text(json.dumps(described))
    version = publish(tmp_path / "store", candidate, 1)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        running.residents.want([desired(version)])
        assert "golden vectors" in await running.until(version.digest, State.FAILED)


async def test_i3_a_cache_that_was_changed_is_fetched_again(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    for _ in range(2):
        async with embedding(tmp_path / "store", tmp_path / "cache") as running:
            running.residents.want([desired(version)])
            await running.until(version.digest, State.READY)
        tokenizer = tmp_path / "cache" / version.digest / "tokenizer.json"
        tokenizer.write_text("{}")


async def test_a_restart_without_the_registry_serves_what_was_wanted_last(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(version)
    async with embedding(tmp_path / "store", tmp_path / "cache") as again:
        await again.until(version.digest, State.READY)
        assert again.residents.settled()
        assert (await embed(again, version.digest, TEXTS)).shape == (3, 32)


async def test_a_version_wanted_again_while_it_leaves_comes_back(tiny: Tiny, other_tiny: Tiny, tmp_path: Path) -> None:
    first, second = (publish(tmp_path / "store", built.candidate, i + 1) for i, built in enumerate([tiny, other_tiny]))
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(first)
        running.residents.announce()  # from here on it waits, while leaving, until that was heard
        running.residents.want([desired(second)])
        await running.until(first.digest, State.QUIESCING)
        running.residents.want([desired(first), desired(second)])
        running.residents.told(running.residents.changes)
        await running.until(first.digest, State.READY)
        assert (await embed(running, first.digest, TEXTS)).shape == (3, 32)


async def test_i4_an_answer_to_a_report_of_before_does_not_let_a_version_go(
    tiny: Tiny, other_tiny: Tiny, tmp_path: Path
) -> None:
    first, second = (publish(tmp_path / "store", built.candidate, i + 1) for i, built in enumerate([tiny, other_tiny]))
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(first)
        running.residents.announce()
        reported = running.residents.changes
        running.residents.want([desired(second)])
        await running.until(first.digest, State.QUIESCING)
        running.residents.told(reported)
        # A round trip, in which it would have gone.
        assert (await embed(running, first.digest, TEXTS)).shape == (3, 32)
        assert (await embed(running, first.digest, TEXTS)).shape == (3, 32)
        running.residents.told(running.residents.changes)
        await running.until(first.digest, State.GONE)


async def test_i10_the_cache_on_disk_is_bounded_and_keeps_what_is_in_use(
    tiny: Tiny, other_tiny: Tiny, tmp_path: Path
) -> None:
    versions = [publish(tmp_path / "store", built.candidate, i + 1) for i, built in enumerate([tiny, other_tiny] * 2)]
    size = sum(f.stat().st_size for f in (tmp_path / "store" / versions[0].path / "openvino").iterdir())
    room = int(size * 2.6)  # with their tokenizers two fit, three do not
    async with embedding(tmp_path / "store", tmp_path / "cache", cache_max_bytes=room) as running:
        for version in versions[:3]:
            await running.holding(version)
            await running.until(version.digest, State.READY)
        kept = {path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()}
        assert kept == {versions[1].digest, versions[2].digest}
        running.residents.want([desired(version) for version in versions[1:]])
        reason = await running.until(versions[3].digest, State.FAILED)
        assert "DIAPASON_CACHE_MAX_BYTES" in reason
        assert (await embed(running, versions[1].digest, TEXTS)).shape == (3, 32)


async def test_a_download_that_was_cut_off_leaves_nothing_behind(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    left = tmp_path / "cache" / f"{'0' * 64}.partial"
    left.mkdir(parents=True)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(version)
        assert not left.exists()


async def test_where_memory_is_tight_what_is_not_wanted_leaves_first(
    tiny: Tiny, other_tiny: Tiny, tmp_path: Path
) -> None:
    old, new = publish(tmp_path / "store", tiny.candidate, 1), publish(tmp_path / "store", other_tiny.candidate, 2)
    async with embedding(tmp_path / "store", tmp_path / "cache", preserve="resources") as running:
        await running.holding(old)
        together = 0

        def look() -> None:
            nonlocal together
            together += len([resident for resident in running.residents.all() if resident.worker]) > 1

        running.residents.on_change(look)
        await running.holding(new)
        await running.until(old.digest, State.GONE)
        assert together == 0


async def test_i10_a_version_that_can_not_be_loaded_is_given_up_in_the_end(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    (tmp_path / "store" / version.path / "tokenizer.json").unlink()
    async with embedding(tmp_path / "store", tmp_path / "cache", load_attempts=1) as running:
        running.residents.want([desired(version)])
        await running.until(version.digest, State.FAILED)
        [resident] = running.residents.all()
        assert resident.failures == 1
        assert resident.retry_at == float("inf")


async def test_info_says_what_there_is(tiny: Tiny, tmp_path: Path) -> None:
    version = publish(tmp_path / "store", tiny.candidate, 1)
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(version)
        info = await running.stub.GetInfo(pb.GetInfoRequest())
        [status] = info.versions
        assert (status.dimension, list(status.dimensions), status.max_tokens) == (32, [32, 16], 64)
        assert status.state == pb.VERSION_STATE_READY
        assert status.resident_bytes > 10_000_000
        assert info.limits.max_texts == 256
        assert info.limits.max_queued_tokens == 131_072
        assert info.inference_threads >= 1
        assert info.runtime.startswith("openvino")
