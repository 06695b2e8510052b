"""What callers see of Split: passages that Embed reads whole, with every kind of tokenizer; errors and overload."""

import asyncio
import base64
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from diapason.client import Addresses, Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.embedder.v1 import embedder_pb2 as pb
from diapason.errors import DiapasonError
from services.embedder.worker import cutting, openvino_runtime
from services.embedder.worker.runtime import Cut, Model
from tests.conftest import Relative, Tiny
from tests.support.build_tiny import MAX_TOKENS
from tests.support.embedding import Embedding, changed, embedding, publish
from tests.support.words import FILLERS, NAMES

SENTENCES = " ".join(
    f"{NAMES[i % 40]} {FILLERS[i % 60]} {FILLERS[i * 7 % 60]}, {NAMES[i * 3 % 40]}." for i in range(99)
)
FOREIGN = (
    "Ünïcode naïve e\u0301te\u0301 👩‍👩‍👧 漢字かな交じり文。次の文！ ﬁne ﷺ [SEP] wbaba\u00a0tbace\u200b\x00. " * 20
)
PROMPTS = {"query": "", "document": "tbaba tbace: "}

Span = tuple[int, int]


def ref(running: Embedding) -> VersionRef:
    return VersionRef(digest=running.residents.all()[0].desired.digest)


async def split(running: Embedding, texts: Sequence[str], most: int = 0, overlap: int = 0) -> list[list[Span]]:
    request = pb.SplitRequest(version=ref(running), texts=texts, max_tokens=most, overlap_tokens=overlap)
    answer = await running.stub.Split(request, timeout=30)
    assert answer.version.digest == ref(running).digest
    return [list(zip(text.starts, text.ends, strict=True)) for text in answer.texts]


async def failure(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


def check(text: str, found: Sequence[Span]) -> None:
    """Nothing is lost, and all is in order."""
    for i in (0, 1):
        assert all(one[i] < other[i] for one, other in pairwise(found))
    covered = {i for start, end in found for i in range(start, end)}
    assert all(character.isspace() for i, character in enumerate(text) if i not in covered)


@pytest.mark.parametrize(
    ("name", "runtime"),
    [("bert-mean", "openvino"), ("xlmr-mean", "openvino"), ("modernbert-mean", "openvino"), ("bert-mean", "torch")],
)
@pytest.mark.parametrize("prompts", [{}, PROMPTS], ids=["", "prompted"])
async def test_embed_reads_each_passage_whole(
    family: dict[str, Relative], tmp_path: Path, name: str, runtime: str, prompts: dict[str, str]
) -> None:
    candidate = changed(family[name], tmp_path / "candidate", {"prompts": prompts}, {})
    texts = [SENTENCES, FOREIGN, "", " \n", f"  {NAMES[0]} {NAMES[1]} ", SENTENCES.replace(" ", "\n" * 9)]
    async with embedding(tmp_path / "store", tmp_path / "cache", runtime=runtime) as running:
        await running.holding(publish(tmp_path / "store", candidate, 1))
        for most, overlap in ((0, 0), (0, 31), (21, 0), (21, 6)):
            found = await split(running, texts, most, overlap)
            assert found[2:5] == [[(0, 0)], [(0, 2)], [(0, len(texts[4]))]]
            assert len(found[0]) > len(SENTENCES.split()) // MAX_TOKENS
            for text, spans in zip(texts, found, strict=True):
                check(text, spans)
                if text.strip():
                    passages = [text[start:end] for start, end in spans]
                    request = pb.EmbedRequest(version=ref(running), texts=passages, role=pb.ROLE_DOCUMENT)
                    answer = await running.stub.Embed(request)
                    assert max(answer.token_counts) <= (most or MAX_TOKENS)
                    assert not any(answer.truncated)


async def test_both_runtimes_cut_alike(family: dict[str, Relative], tmp_path: Path) -> None:
    version = publish(tmp_path / "store", family["modernbert-mean"].candidate, 1)
    found = []
    for runtime in ("openvino", "torch"):
        async with embedding(tmp_path / "store", tmp_path / runtime, runtime=runtime) as running:
            await running.holding(version)
            found.append(await split(running, [SENTENCES, FOREIGN], 30, 7))
    assert found[0] == found[1]


# Tokenizers as the usual backbones have them, trained on next to nothing: words fall into many pieces.


class Reads:
    """A loaded version, as far as cutting goes. ``characters`` counts what it has read."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.special_tokens = tokenizer.num_special_tokens_to_add(False)
        self.characters = 0
        tokenizer.enable_truncation(max_tokens)
        tokenizer.enable_padding()

    def offsets(self, text: str) -> list[Span]:
        self.characters += len(text)
        return openvino_runtime.offsets(self._tokenizer, text)

    def tokens(self, text: str) -> int:
        """Of a text as `Embed` reads it, or one more than it may have."""
        [encoding] = self._tokenizer.encode_batch([text])
        return len(encoding) + bool(encoding.overflowing)


_CORPUS = [SENTENCES, FOREIGN, "unbelievable internationalization of the tokenizers, the quick brown fox jumps"]
_SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]


def _word_pieces() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        _CORPUS, trainers.WordPieceTrainer(vocab_size=250, special_tokens=_SPECIAL, show_progress=False)
    )
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=250, special_tokens=_SPECIAL, unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


_KINDS: dict[str, Callable[[], Tokenizer]] = {"word pieces": _word_pieces, "unigram": _unigram, "bytes": _bytes}


@cache
def reads(kind: str, max_tokens: int = 48) -> Reads:
    tokenizer = _KINDS[kind]()
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    return Reads(tokenizer, max_tokens)


def spans(model: Reads, text: str, most: int = 48, overlap: int = 0, prompt: str = "") -> list[Span]:
    return cutting.cut(_model(model), Cut(prompt, text, most, overlap)).spans


def _model(reading: Reads) -> Model:
    return reading  # type: ignore[return-value]


_PARTS = st.sampled_from([
    *NAMES[:3], "unbelievable", "naïve", "e\u0301", "한국어",
    "漢字かな。", "😀", "👩‍👩‍👧", "ﬁ", "ﷺ", "\U0001d160", "\u200b", "\x00",
    "[SEP]", "a" * 30, "tbabawbaba" * 8, "unbelievable" * 7, "..",
    "Mr. X!", " ", "  ", "\n\n", "\n" * 60, "\t", "\u3000",
])  # fmt: skip


@pytest.mark.parametrize("kind", _KINDS)
@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(st.one_of(_PARTS, st.text(max_size=4)), max_size=120),
    separator=st.sampled_from(["", " "]),
    most=st.integers(16, 48),
    overlap=st.integers(0, 23),
    prompt=st.sampled_from(["", "to be ", "doc:"]),
)
def test_no_passage_is_truncated_with_any_kind_of_tokenizer(
    kind: str, parts: list[str], separator: str, most: int, overlap: int, prompt: str
) -> None:
    model, text = reads(kind), separator.join(parts)
    found = spans(model, text, most, overlap, prompt)
    if not found:
        assert most < model.special_tokens + model.tokens(prompt) + 8
        return
    check(text, found)
    assert all(model.tokens(prompt + text[a:b]) <= most or b - a == 1 for a, b in found if text.strip())
    if not text.strip() or model.tokens(prompt + text) <= most:
        assert found == [(0, len(text))]


@pytest.mark.parametrize("kind", _KINDS)
def test_passages_are_well_filled(kind: str) -> None:
    model = reads(kind)
    found = spans(model, SENTENCES, 48)
    filled = [model.tokens(SENTENCES[start:end]) for start, end in found]
    assert sum(filled) / len(filled) > 0.75 * 48
    ends = [SENTENCES[end - 1] for _, end in found]
    assert all(SENTENCES[end : end + 1] in (" ", "") for _, end in found)
    assert ends.count(".") > len(ends) // 2 or kind == "bytes"


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("unit", [SENTENCES, FOREIGN, "unbelievable", "😀", "\n", ".", "x \n\n"])
def test_i10_the_longest_text_is_read_a_few_times_over_and_no_more(kind: str, unit: str) -> None:
    text = ("tbaba. " + unit * (100_000 // len(unit) + 1))[:100_000]
    model = reads(kind)
    for most, overlap in ((48, 0), (48, 23)):
        model.characters = 0
        check(text, spans(model, text, most, overlap))
        assert model.characters < 8 * len(text)


# The call


@pytest.fixture
async def running(tiny: Tiny, tmp_path: Path) -> AsyncIterator[Embedding]:
    limits = {"max_texts": 20, "max_queued_texts": 20, "max_text_characters": 5000}
    async with embedding(tmp_path / "store", tmp_path / "cache", **limits) as started:
        await started.holding(publish(tmp_path / "store", tiny.candidate, 1))
        yield started


@pytest.mark.parametrize(
    ("broken", "field", "says"),
    [
        ({"version": None}, "version", "is missing; give a digest"),
        ({"texts": []}, "texts", "has 0 texts; send 1 to 20"),
        ({"texts": ["a"] * 21}, "texts", "has 21 texts; send 1 to 20"),
        ({"texts": ["a", "b" * 5001]}, "texts[1]", "has 5001 characters; the most is 5000"),
        ({"max_tokens": 15}, "max_tokens", "is 15; give 16 to 64, or 0 for 64"),
        ({"max_tokens": 65}, "max_tokens", "is 65; give 16 to 64, or 0 for 64"),
        ({"overlap_tokens": 32}, "overlap_tokens", "is 32; give less than half of max_tokens, 64"),
        ({"max_tokens": 17, "overlap_tokens": 9}, "overlap_tokens", "is 9; give less than half of max_tokens, 17"),
    ],
)
async def test_bad_input_is_named_with_its_remedy(
    running: Embedding, broken: dict[str, object], field: str, says: str
) -> None:
    given_ = {"version": ref(running), "texts": [SENTENCES], **broken}
    error = await failure(running.stub.Split(pb.SplitRequest(**given_)))  # type: ignore[arg-type]
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = BadRequest()
    assert any(detail.Unpack(bad) for detail in rpc_status.from_call(error).details)  # type: ignore[arg-type]
    [violation] = bad.field_violations
    assert violation.field == field
    assert violation.description.startswith(says)


async def test_all_faults_are_named_at_once(running: Embedding) -> None:
    error = await failure(split(running, ["a"], 15, 40))
    assert "max_tokens: is 15" in (error.details() or "")
    assert "overlap_tokens: is 40" in (error.details() or "")


async def test_a_prompt_that_leaves_no_room_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    prompts = {"query": "", "document": "tbaba " * 10}
    candidate = changed(tiny, tmp_path / "candidate", {"prompts": prompts}, {})
    async with embedding(tmp_path / "store", tmp_path / "cache") as running:
        await running.holding(publish(tmp_path / "store", candidate, 1))
        error = await failure(split(running, ["tbaba"], 19))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.details() or "").startswith("max_tokens: is 19, and the version's prompt")
        [found] = await split(running, [SENTENCES], 20)
        check(SENTENCES, found)


async def test_a_version_that_is_not_here_and_a_reranker_are_refused_as_embed_does(
    running: Embedding, family: dict[str, Relative], tmp_path: Path
) -> None:
    elsewhere = VersionRef(model="tiny", number=7)
    error = await failure(running.stub.Split(pb.SplitRequest(version=elsewhere, texts=["a"])))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    reranker = publish(tmp_path / "store", family["bert-reranker"].candidate, 2)
    await running.holding(reranker)
    error = await failure(running.stub.Split(pb.SplitRequest(version=VersionRef(digest=reranker.digest), texts=["a"])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "a reranker; use Rerank, or name an encoder" in (error.details() or "")


async def test_i10_overload_is_refused_with_the_time_to_wait_and_queries_go_on(running: Embedding) -> None:
    [resident] = running.residents.all()
    assert resident.worker
    os.kill(resident.worker.pid, signal.SIGSTOP)  # nothing leaves the queue meanwhile
    calls = [asyncio.create_task(split(running, [SENTENCES] * 20)) for _ in range(9)]
    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    error = done.pop().exception()
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(error).details)  # type: ignore[arg-type]
    assert retry.retry_delay.ToNanoseconds() > 0
    query = pb.EmbedRequest(version=ref(running), texts=["tbaba"], role=pb.ROLE_QUERY)
    asked = asyncio.ensure_future(running.stub.Embed(query))
    await asyncio.sleep(0.1)
    assert not asked.done()  # queued, not refused
    os.kill(resident.worker.pid, signal.SIGCONT)
    assert (await asked).vectors
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(outcome, list) for outcome in outcomes)


async def test_i10_a_call_beyond_its_deadline_ends_and_its_texts_leave_the_queue(running: Embedding) -> None:
    [resident] = running.residents.all()
    assert resident.worker
    os.kill(resident.worker.pid, signal.SIGSTOP)
    requests = [pb.SplitRequest(version=ref(running), texts=[SENTENCES] * 10) for _ in range(2)]
    for error in await asyncio.gather(*(failure(running.stub.Split(r, timeout=0.3)) for r in requests)):
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    os.kill(resident.worker.pid, signal.SIGCONT)
    await asyncio.sleep(0.3)  # a full lane is looked through again
    assert len(await split(running, [SENTENCES] * 20)) == 20


async def test_i6_a_process_that_ends_meanwhile_costs_no_request(running: Embedding) -> None:
    expected = await split(running, [SENTENCES] * 3, 30, 5)
    [resident] = running.residents.all()
    assert resident.worker
    os.kill(resident.worker.pid, signal.SIGSTOP)
    call = asyncio.create_task(split(running, [SENTENCES] * 3, 30, 5))
    await asyncio.sleep(0.1)
    os.kill(resident.worker.pid, signal.SIGKILL)
    assert await call == expected


async def test_a_text_that_the_tokenizer_can_not_read_is_named(running: Embedding, tiny: Tiny, tmp_path: Path) -> None:
    golden = pb.EmbedRequest(version=ref(running), texts=NAMES[:5], role=pb.ROLE_DOCUMENT)
    content = base64.b64encode((await running.stub.Embed(golden)).vectors).decode()
    description = {"golden_texts": NAMES[:5], "golden_vectors": content}
    candidate = changed(tiny, tmp_path / "candidate", description, {"unk_token": "[NOTHING]"})
    await running.holding(publish(tmp_path / "store", candidate, 2))
    version = VersionRef(model="tiny", number=2)
    error = await failure(running.stub.Split(pb.SplitRequest(version=version, texts=["tbaba", "unspeakable"])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith("texts[1]: this version can't compute it")


async def test_i10_more_than_a_lane_holds_is_refused_with_what_it_takes(tiny: Tiny, tmp_path: Path) -> None:
    async with embedding(tmp_path / "store", tmp_path / "cache", max_queued_tokens=50) as running:
        await running.holding(publish(tmp_path / "store", tiny.candidate, 1))
        error = await failure(split(running, ["tbaba " * 500] * 2))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.details() or "") == "texts: have 6000 characters; send at most 5000 at once"
        assert len(await split(running, ["tbaba " * 500])) == 1


async def test_splits_and_documents_of_the_same_lane_are_each_answered_as_alone(running: Embedding) -> None:
    documents = pb.EmbedRequest(
        version=ref(running), texts=["tbaba", "tbace wbaba"], role=pb.ROLE_DOCUMENT, lane=pb.LANE_BULK
    )
    expected = await split(running, [SENTENCES]), await running.stub.Embed(documents)
    calls = [(split(running, [SENTENCES]), running.stub.Embed(documents)) for _ in range(5)]
    for cut, embedded in calls:
        answers = await asyncio.gather(cut, embedded)
        assert answers[0] == expected[0]
        assert list(answers[1].token_counts) == list(expected[1].token_counts)


async def test_the_client_gives_pairs_that_slice_the_text(running: Embedding) -> None:
    with Client(Addresses(embedder=running.address)) as client:
        [found, blank] = await asyncio.to_thread(client.split, ref(running), [SENTENCES, ""], 30, 5)
        assert found == (await split(running, [SENTENCES], 30, 5))[0]
        assert blank == [(0, 0)]
        with pytest.raises(DiapasonError):
            await asyncio.to_thread(client.split, ref(running), [SENTENCES], 3)
