"""The cores that a control group's quota leaves."""

import os
from pathlib import Path

import pytest

from services.embedder import cores


def group(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_quotas_of_both_versions_are_read(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    assert cores.quota(group(tmp_path, files)) == expected


@pytest.mark.parametrize(("limit", "expected"), [("50000", 1), ("199999", 1), ("99900000", os.cpu_count())])
def test_threads_follow_the_quota_downwards_and_are_at_least_one(tmp_path: Path, limit: str, expected: int) -> None:
    usable = cores.usable(group(tmp_path, {"cpu.max": f"{limit} 100000"}))
    assert usable == min(expected, len(os.sched_getaffinity(0)))
