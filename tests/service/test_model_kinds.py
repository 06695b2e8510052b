"""Backbones, poolings and rerankers of every usual type, served by both runtimes as sentence-transformers has them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from diapason import vectors
from diapason.common.v1.version_pb2 import MODEL_KIND_RERANKER, VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from services.trainer.domain.model import PublishedVersion
from tests.conftest import Relative, Tiny
from tests.support.build_tiny import FAMILY
from tests.support.embedding import Embedding, changed, embedding, publish

ENCODERS = [name for name in FAMILY if "reranker" not in name]
RERANKERS = [name for name in FAMILY if "reranker" in name]
# Torch takes seconds to start; these differ in everything that its runtime does itself.
BY_TORCH = ["bert-mean", "bert-mean-raw", "modernbert-lasttoken-left", "bert-reranker"]


@asynccontextmanager
async def serving(built: Tiny, folder: Path, runtime: str) -> AsyncIterator[tuple[Embedding, PublishedVersion]]:
    version = publish(folder / "store", built.candidate, 1)
    async with embedding(folder / "store", folder / "cache", runtime=runtime) as running:
        await running.holding(version)
        yield running, version


async def embedded(running: Embedding, version: PublishedVersion, texts: Sequence[str]) -> vectors.Matrix:
    request = pb.EmbedRequest(version=VersionRef(digest=version.digest), texts=texts, role=pb.ROLE_DOCUMENT)
    answer = await running.stub.Embed(request)
    return vectors.from_bytes(answer.vectors, answer.dimensions)


async def reranked(running: Embedding, version: PublishedVersion, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """One request for each query, as the contract has it."""
    scores = []
    for query, text in pairs:
        request = pb.RerankRequest(version=VersionRef(digest=version.digest), query=query, texts=[text])
        answer = await running.stub.Rerank(request)
        scores.append(answer.scores[0])
    return scores


def pairs_of(model: Relative) -> list[tuple[str, str]]:
    return [pair for pair in model.inputs if not isinstance(pair, str)]


@pytest.mark.parametrize(
    ("name", "runtime"), [*((name, "openvino") for name in FAMILY), *((name, "torch") for name in BY_TORCH)]
)
async def test_it_is_served_as_sentence_transformers_has_it(
    family: dict[str, Relative], tmp_path: Path, name: str, runtime: str
) -> None:
    model = family[name]
    async with serving(model, tmp_path, runtime) as (running, version):
        if name in RERANKERS:
            found = np.array(await reranked(running, version, pairs_of(model)))
            assert np.abs(found - model.expected[:, 0]).max() < 0.01
            return
        texts = [text for text in model.inputs if isinstance(text, str)]
        rows = await embedded(running, version, texts)
        lengths, expected = np.linalg.norm(rows, axis=1), np.linalg.norm(model.expected, axis=1)
        assert ((rows * model.expected).sum(axis=1) / lengths / expected).min() > 0.999
        assert np.abs(lengths / expected - 1).max() < 0.02
        assert ("raw" in name) == (np.abs(lengths - 1).max() > 0.02)


async def test_many_texts_of_a_reranking_are_scored_as_each_alone(family: dict[str, Relative], tmp_path: Path) -> None:
    model = family["bert-reranker"]
    async with serving(model, tmp_path, "openvino") as (running, version):
        query, texts = pairs_of(model)[0][0], [text for _, text in pairs_of(model)] * 10
        request = pb.RerankRequest(version=VersionRef(digest=version.digest), query=query, texts=texts)
        answer = await running.stub.Rerank(request)
        alone = await reranked(running, version, [(query, text) for text in texts[: len(model.inputs)]])
        assert np.abs(np.array(answer.scores) - np.array(alone * 10)).max() < 0.01
        assert answer.version.digest == version.digest
        assert len(answer.token_counts) == len(answer.truncated) == len(texts)
        assert any(answer.truncated)
        [status] = (await running.stub.GetInfo(pb.GetInfoRequest())).versions
        assert (status.kind, status.dimension) == (MODEL_KIND_RERANKER, 0)


async def test_a_reranking_says_what_its_version_leaves_to_the_first_stage(
    family: dict[str, Relative], tmp_path: Path
) -> None:
    built = Tiny(
        tmp_path / "unused", changed(family["bert-reranker"], tmp_path / "blended", {"first_stage_share": 0.5}, {})
    )
    async with serving(built, tmp_path, "openvino") as (running, version):
        request = pb.RerankRequest(version=VersionRef(digest=version.digest), query="storm", texts=["A storm."])
        assert (await running.stub.Rerank(request)).first_stage_share == 0.5


async def test_a_reranker_does_not_embed(family: dict[str, Relative], tmp_path: Path) -> None:
    async with serving(family["bert-reranker"], tmp_path, "openvino") as (running, version):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await embedded(running, version, ["text"])
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "use Rerank" in (caught.value.details() or "")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RerankRequest(query="q", texts=["t"]), "version"),
        (pb.RerankRequest(version=VersionRef(digest="D"), texts=["t"]), "query"),
        (pb.RerankRequest(version=VersionRef(digest="D"), query="q"), "texts"),
        (pb.RerankRequest(version=VersionRef(digest="D"), query="q", texts=["t", " "]), "texts[1]"),
    ],
)
async def test_i10_bad_rerankings_name_the_field(
    family: dict[str, Relative], tmp_path: Path, request_: pb.RerankRequest, field: str
) -> None:
    async with serving(family["bert-reranker"], tmp_path, "openvino") as (running, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.stub.Rerank(request_)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (caught.value.details() or "").startswith(f"{field}:")


async def test_a_raw_version_is_shortened_but_not_scaled(family: dict[str, Relative], tmp_path: Path) -> None:
    model = family["bert-mean-raw"]
    async with serving(model, tmp_path, "openvino") as (running, version):
        texts = [text for text in model.inputs if isinstance(text, str)]
        whole = await embedded(running, version, texts)
        size = version.dimensions[-1]
        request = pb.EmbedRequest(
            version=VersionRef(digest=version.digest), texts=texts, role=pb.ROLE_DOCUMENT, dimensions=size
        )
        answer = await running.stub.Embed(request)
        assert np.allclose(vectors.from_bytes(answer.vectors, size), whole[:, :size], rtol=0.02, atol=0.01)
        assert (await running.stub.GetInfo(pb.GetInfoRequest())).versions[0].raw
