"""The benchmark of scale from end to end, with few vectors; what it measures here means nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale import corpus
from benchmarks.scale.contestants import CONTESTANTS, LABELS

SIZES = (2000, 10_000)


@pytest.mark.slow
def test_the_benchmark_of_scale_measures_every_goal_and_keeps_what_it_built(tmp_path: Path) -> None:
    out, kept = tmp_path / "results" / "scale.json", tmp_path / "kept"
    out.parent.mkdir()
    numbers = ["--sizes", ",".join(map(str, SIZES)), "--queries", "100", "--rounds", "2"]
    command = [sys.executable, "-m", "benchmarks.scale", *numbers, "--out", str(out), "--keep", str(kept)]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr[-3000:]
    result = json.loads(out.read_text())
    assert set(result) == {"machine", "rows"}
    for contestant in CONTESTANTS:
        for size in SIZES:
            ours = [row for row in result["rows"] if row["name"].startswith(f"{size:,}, {LABELS[contestant]}:")]
            assert len(ours) == 12
            assert all(row["runs"] for row in ours)
            recall = next(row["value"] for row in ours if row["name"].endswith("recall@10"))
            assert 0.9 < recall <= 1
    judged = [row for row in result["rows"] if row["goal"]]
    assert len(judged) == 4 * (len(CONTESTANTS) - 1)
    assert all(row["met"] is not None for row in judged)
    assert out.with_suffix(".svg").read_text().startswith("<?xml")

    built = {path: path.stat().st_mtime_ns for path in kept.iterdir() if path.suffix in {".json", ".npy"}}
    second = subprocess.run(
        [*command, "--plot", str(tmp_path / "plot.svg")], capture_output=True, text=True, check=False
    )
    assert second.returncode == 0, second.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in built} == built
    assert (tmp_path / "plot.svg").exists()


def test_the_corpus_is_always_the_same_and_queries_are_not_in_it() -> None:
    vectors, asked = corpus.block(0), corpus.queries(50)
    np.testing.assert_array_equal(vectors, corpus.block(0))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert not np.allclose(vectors, corpus.block(corpus.BLOCK))
    similarities = asked @ vectors.T
    assert similarities.max() < 0.999
    # Near as sentences are: neither all alike nor all at right angles.
    assert 0.5 < np.median(similarities.max(axis=1)) < 0.8


def test_the_truth_is_what_sorting_everything_gives() -> None:
    count, asked = corpus.BLOCK + 500, corpus.queries(20)
    everything = np.concatenate([corpus.block(0), corpus.block(corpus.BLOCK)[:500]])
    expected = np.argsort(-(asked @ everything.T), axis=1)[:, :10]
    *_, found = corpus.nearest(count, asked, 10)
    assert [set(row) for row in found.tolist()] == [set(row) for row in expected.tolist()]
