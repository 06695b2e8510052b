"""What an import leaves to be published gives what sentence-transformers gives, without it."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from diapason import vectors
from diapason.vectors import Matrix
from services.trainer.process.spec import Spec
from tests.conftest import Relative
from tests.support.build_tiny import FAMILY, MAX_TOKENS

RERANKERS = [name for name in FAMILY if "reranker" in name]
ENCODERS = [name for name in FAMILY if name not in RERANKERS]


class Published:
    """A candidate run with OpenVINO and tokenizers alone, in float32."""

    def __init__(self, candidate: Path) -> None:
        self.described: dict[str, Any] = json.loads((candidate / "description.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(candidate / "tokenizer.json"))
        self.padding, self.truncation = self.tokenizer.padding, self.tokenizer.truncation
        self.tokenizer.enable_truncation(self.described["max_tokens"])
        model = str(candidate / "openvino" / "model.xml")
        self._graph = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(self, inputs: list[Any]) -> Matrix:
        """All in one batch, padded to the longest."""
        encodings = self.tokenizer.encode_batch(inputs)
        offered = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        names = [port.get_any_name() for port in self._graph.inputs]
        return np.array(self._graph({name: np.array(offered[name], np.int64) for name in names})[0])

    def in_batches_of(self, size: int, inputs: list[Any]) -> Matrix:
        return np.concatenate([self.run(inputs[start : start + size]) for start in range(0, len(inputs), size)])

    def golden(self) -> tuple[list[Any], Matrix]:
        said = self.described
        values = vectors.from_bytes(base64.b64decode(said["golden_vectors"]), said["dimension"] or 1)
        queries, texts = said["golden_queries"], said["golden_texts"]
        return list(zip(queries, texts, strict=True)) if queries else texts, values


def assert_same_vectors(found: Matrix, expected: Matrix) -> None:
    assert found.shape == expected.shape
    lengths, wanted = np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1)
    assert np.allclose(lengths / wanted, 1, atol=0.01)
    assert ((found * expected).sum(axis=1) / lengths / wanted).min() > 0.999


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoders_graph_gives_its_vectors_in_any_batch(family: dict[str, Relative], name: str, size: int) -> None:
    published = Published(family[name].candidate)
    assert_same_vectors(published.in_batches_of(size, list(family[name].inputs)), family[name].expected)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("name", RERANKERS)
def test_a_rerankers_graph_gives_its_scores_in_any_batch(family: dict[str, Relative], name: str, size: int) -> None:
    expected = family[name].expected
    assert np.ptp(expected) > 0.03, "scores so alike would show nothing"
    found = Published(family[name].candidate).in_batches_of(size, list(family[name].inputs))
    assert found.shape == expected.shape == (len(family[name].inputs), 1)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("name", FAMILY)
def test_what_is_golden_comes_out(family: dict[str, Relative], name: str) -> None:
    published = Published(family[name].candidate)
    inputs, values = published.golden()
    assert len(inputs) == len(values) == 5
    assert np.allclose(published.run(inputs), values, atol=1e-3)


@pytest.mark.parametrize("name", FAMILY)
def test_a_candidate_is_described(family: dict[str, Relative], name: str) -> None:
    described = Published(family[name].candidate).described
    reranker = name in RERANKERS
    full = 24 if "dense" in name else 32
    assert described["kind"] == ("reranker" if reranker else "encoder")
    assert (described["dimension"], described["dimensions"]) == ((0, []) if reranker else (full, [full, 16]))
    assert described["max_tokens"] == MAX_TOKENS
    assert described["raw"] is ("raw" in name)
    lengths = np.linalg.norm(family[name].expected, axis=1)
    assert np.allclose(lengths, 1, atol=1e-4) is (not reranker and not described["raw"])


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("bert-mean", (0, "[PAD]", "right")),
        ("xlmr-mean", (1, "<pad>", "right")),
        ("modernbert-mean", (140, "[PAD]", "right")),
        ("modernbert-lasttoken-left", (140, "[PAD]", "left")),
        ("xlmr-reranker", (1, "<pad>", "right")),
    ],
)
def test_the_tokenizer_brings_its_padding_and_no_truncation(
    family: dict[str, Relative], name: str, padding: tuple[int, str, str]
) -> None:
    published = Published(family[name].candidate)
    assert published.padding is not None
    assert (published.padding["pad_id"], published.padding["pad_token"], published.padding["direction"]) == padding
    assert published.padding["length"] is None
    assert published.truncation is None


def with_two_labels(model: Path, folder: Path) -> Path:
    """The same reranker, but for a second label."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights |= {name: np.repeat(weights[name], 2, axis=0) for name in ("classifier.weight", "classifier.bias")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def start(spec: Spec, folder: Path) -> "subprocess.Popen[str]":
    """Start a job process on ``spec``. Packages are looked for beside ``folder``, too."""
    folder.mkdir()
    spec.write(folder)
    command = [sys.executable, "-m", "services.trainer.process", str(folder)]
    packages = {**os.environ, "PYTHONPATH": str(folder.parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=packages)


def test_what_cannot_be_served_is_refused_in_a_sentence(family: dict[str, Relative], tmp_path: Path) -> None:
    encoder = str(family["bert-mean"].model)
    two = str(with_two_labels(family["bert-reranker"].model, tmp_path / "two"))
    cases = {
        "gives 2 scores per pair of texts; a reranker gives one": Spec("import", two, "reranker"),
        "is no cross-encoder: its architecture is BertModel": Spec("import", encoder, "reranker"),
        "sizes [32] are not below the model's full size, 32": Spec("import", encoder, dimensions=[16, 32]),
    }
    jobs = [start(spec, tmp_path / str(number)) for number, spec in enumerate(cases.values())]
    for job, sentence in zip(jobs, cases, strict=True):
        output, _ = job.communicate(timeout=120)
        assert job.returncode == 1
        assert sentence in json.loads(output.splitlines()[-1])["error"]


def test_a_reranker_may_come_in_a_package_with_only_what_transformers_writes(
    family: dict[str, Relative], tmp_path: Path
) -> None:
    shutil.copytree(family["bert-reranker"].model.parent / "backbone", tmp_path / "carrier" / "model")
    (tmp_path / "carrier" / "__init__.py").touch()
    job = start(Spec("import", "package:carrier", "reranker"), tmp_path / "job")
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    candidate = tmp_path / "job" / "candidate"
    relative = family["bert-reranker"]
    assert np.allclose(Published(candidate).run(list(relative.inputs)), relative.expected, atol=1e-3)


def test_the_prompt_for_documents_goes_by_several_names() -> None:
    """In a process of its own: it needs torch."""
    script = (
        "import json, sys; from services.trainer.process.exporting import _prompts;"
        "print(json.dumps([_prompts(named) for named in json.loads(sys.argv[1])]))"
    )
    given = [{"query": "query: ", name: "passage: ", "other": "x"} for name in ("document", "passage", "corpus")]
    command = [sys.executable, "-c", script, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [{"query": "query: ", "document": "passage: "}] * 3
