"""`diapason eval` against real processes, with a tiny model and documents that are found by their words."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from diapason.cli.stack import Stack
from diapason.client import Client
from tests.conftest import Relative, Tiny
from tests.integration.test_loop import diapason, register, until
from tests.support.judged import write_folder
from tests.support.words import NAMES, TOPICS, document, query

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(stack: Stack, tiny: Tiny) -> Client:
    made = Client(stack.addresses)
    register(made, "measured", tiny)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Half of the queries name their topic, which words alone can find; the others say it otherwise."""
    corpus = [(f"topic-{i}", "", document(i)) for i in range(TOPICS)]
    asked = [NAMES[i] if i % 2 else query(i, 1) for i in range(TOPICS)]
    queries = [(f"q{i}", text) for i, text in enumerate(asked)]
    return write_folder(tmp_path / "topics", corpus, queries, [(f"q{i}", f"topic-{i}", 1) for i in range(TOPICS)])


def run(stack: Stack, *arguments: str) -> dict[str, Any]:
    done = diapason(stack, "eval", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_every_way_is_measured_on_a_real_stack(stack: Stack, client: Client, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    run(stack, str(folder), "--encoder", "measured", "--output", str(file))
    found = json.loads(file.read_text())
    ways = {(way["mode"], way["dimensions"]): way for way in found["ways"]}
    both = [(mode, size) for mode in ("dense", "exact", "hybrid", "hybrid-rrf") for size in (32, 16)]
    assert list(ways) == [*both, ("words", 0)]
    for size in (32, 16):
        assert ways["dense", size]["metrics"] == ways["exact", size]["metrics"]
    words = ways["words", 0]["queries"]
    assert all(words[f"q{i}"]["ndcg@10"] == 1 for i in range(1, TOPICS, 2))
    # All forty documents are among the hundred results of a search by meaning.
    assert ways["dense", 32]["metrics"]["recall@100"]["mean"] == 1
    assert found["route"]["encoder"] == {
        "model": "measured",
        "number": 1,
        "digest": client.versions("measured")[0].ref.digest,
    }
    assert not [known.name for known in client.collections() if known.name.startswith("eval-")]


def test_a_kept_collection_is_measured_again_and_runs_are_compared(
    stack: Stack, client: Client, folder: Path, tmp_path: Path
) -> None:
    first, second = str(tmp_path / "first.json"), str(tmp_path / "second.json")
    made = run(stack, str(folder), "--encoder", "measured", "--mode", "dense", "--keep", "--output", first)
    name = made["collection"]["name"]
    try:
        again = run(stack, str(folder), "--collection", name, "--mode", "dense", "--output", second)
        assert again["ways"][0]["metrics"] == made["ways"][0]["metrics"]
        client.delete(name, ["topic-0", "topic-2"])
        part = run(stack, str(folder), "--collection", name, "--mode", "words", "--output", second)
        assert part["collection"]["judged_missing"] == 2
    finally:
        client.delete_collection(name)
    command = ("eval-compare", first, second, "--second-mode", "words", "--json")
    done = subprocess.run(
        [sys.executable, "-c", "from diapason.cli.main import main; main()", *command],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)["metrics"]["ndcg@10"]
    assert compared["queries"] == TOPICS
    assert compared["interval"]["mean"] == pytest.approx(
        part["ways"][0]["metrics"]["ndcg@10"]["mean"] - made["ways"][0]["metrics"]["ndcg@10"]["mean"]
    )


def test_a_route_with_a_reranker_is_measured_with_it(
    stack: Stack, client: Client, folder: Path, family: dict[str, Relative]
) -> None:
    list(client.watch_run(client.register_model("judging", str(family["bert-reranker"].model), reranker=True)))
    until(lambda: any(v.replicas and v.replicas[0].status.state == 6 for v in client.versions("judging")))
    found = run(stack, str(folder), "--encoder", "measured", "--reranker", "judging", "--dimensions", "32")
    assert [way["mode"] for way in found["ways"]][-2:] == ["reranked", "hybrid-reranked"]
    assert found["route"]["reranker"]["model"] == "judging"
    assert all(0 < way["metrics"]["ndcg@10"]["mean"] <= 1 for way in found["ways"])


def test_ctrl_c_while_it_indexes_leaves_no_collection(stack: Stack, client: Client, tmp_path: Path) -> None:
    corpus = [(f"d{i}", "", f"{document(i % TOPICS)} {i} " * 20) for i in range(6_000)]
    folder = write_folder(tmp_path / "large", corpus, [("q", "tbaba")], [("q", "d1", 1)])
    command = [sys.executable, "-c", "from diapason.cli.main import main; main()", "eval", str(folder)]
    process = subprocess.Popen([*command, "--data", str(stack.data), "--encoder", "measured"], stderr=subprocess.PIPE)
    until(lambda: any(c.name == "eval-large-1" and c.documents > 50 for c in client.collections()))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    time.sleep(0.5)  # whatever was on its way has arrived
    assert "eval-large-1" not in [known.name for known in client.collections()]
