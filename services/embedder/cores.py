"""How many cores this process may really use: affinity, and the quota of its control group."""

import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def usable(root: Path = _ROOT) -> int:
    """At least 1. A quota of 2.5 cores gives 2: a third thread would have all of them throttled."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = quota(root)
    return allowed if given is None else max(1, min(allowed, int(given)))


def quota(root: Path = _ROOT) -> float | None:
    """The control group's quota in cores (version 2 or 1, as a container sees it); None without one."""
    try:
        if (root / "cpu.max").exists():
            limit, period = (root / "cpu.max").read_text().split()
        else:
            limit = (root / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        return None if limit == "max" or int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None
