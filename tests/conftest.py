"""Fixtures: tiny models built on the spot, and stacks of real processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diapason.artifact.v1.manifest_pb2 import Lineage
from diapason.cli.stack import Stack

# No test may reach a hub.
os.environ["HF_HUB_OFFLINE"] = "1"


@dataclass(frozen=True)
class Tiny:
    """A tiny model as sentence-transformers has it, and as a run leaves it to be published."""

    model: Path
    candidate: Path


def _build(folder: Path, seed: int) -> Tiny:
    command = [sys.executable, "-m", "tests.support.build_tiny", str(folder), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Tiny(folder / "model", folder / "candidate")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One tiny encoder of 32 dimensions, usable at 16."""
    return _build(tmp_path_factory.mktemp("tiny"), seed=1)


@pytest.fixture(scope="session")
def other_tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The same with other weights."""
    return _build(tmp_path_factory.mktemp("other"), seed=2)


@pytest.fixture
def lineage() -> Lineage:
    """Where a published version comes from."""
    return Lineage(source="test", run_id="run-1")


def free_base_port() -> int:
    """A base port above which the ports of a stack are free now."""
    for base in range(21_000, 29_000, 20):
        try:
            for offset in (1, 2, 3, 4, 9):
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
