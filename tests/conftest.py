"""Fixtures: tiny models built on the spot, and stacks of real processes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from diapason.artifact.v1.manifest_pb2 import Lineage
from diapason.cli.stack import Stack
from diapason.vectors import Matrix
from tests.support.build_tiny import FAMILY

# No test may reach a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# How long an example takes says more of the machine than of the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@dataclass(frozen=True)
class Tiny:
    """A tiny model as sentence-transformers has it, and as a run leaves it to be published."""

    model: Path
    candidate: Path


@dataclass(frozen=True)
class Relative(Tiny):
    """One of the family of tiny models, and what sentence-transformers itself gives with it, one text at a time.

    ``inputs`` are texts for an encoder, pairs of query and text for a reranker, of very different lengths, some
    too long; ``expected`` has a row for each: its vector, or its score.
    """

    inputs: list[str] | list[tuple[str, str]]
    expected: Matrix


def _run_build(folder: Path, seed: int, *names: str) -> None:
    command = [sys.executable, "-m", "tests.support.build_tiny", str(folder), str(seed), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _build(folder: Path, seed: int) -> Tiny:
    _run_build(folder, seed)
    return Tiny(folder / "model", folder / "candidate")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One tiny encoder of 32 dimensions, usable at 16."""
    return _build(tmp_path_factory.mktemp("tiny"), seed=1)


@pytest.fixture(scope="session")
def other_tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The same with other weights."""
    return _build(tmp_path_factory.mktemp("other"), seed=2)


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One tiny cross-encoder."""
    folder = tmp_path_factory.mktemp("reranker")
    _run_build(folder, 7, "bert-reranker")
    return _relative(folder / "bert-reranker")


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Relative]:
    """Tiny models of every usual type, by their names in `FAMILY`."""
    folder = tmp_path_factory.mktemp("family")
    _run_build(folder, 7, *FAMILY)
    return {name: _relative(folder / name) for name in FAMILY}


def _relative(folder: Path) -> Relative:
    said = json.loads((folder / "expected.json").read_text())
    inputs = list(zip(said["queries"], said["texts"], strict=True)) if said["queries"] else said["texts"]
    return Relative(folder / "model", folder / "candidate", inputs, np.array(said["values"], np.float32))


@pytest.fixture
def lineage() -> Lineage:
    """Where a published version comes from."""
    return Lineage(source="test", run_id="run-1")


def free_base_port() -> int:
    """A base port above which the ports of a stack are free now."""
    for base in range(21_000, 29_000, 20):
        try:
            for offset in range(1, 10):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A whole stack of real processes, shared by the tests that leave it whole."""
    running = Stack(tmp_path_factory.mktemp("stack"), free_base_port(), {"DIAPASON_WATCH_SECONDS": "1"})
    running.start()
    yield running
    running.stop()
