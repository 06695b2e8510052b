"""One seed, from its first start to its last check, and what came of it."""

import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import planted
from tests.chaos.catalogs import Catalog
from tests.chaos.driver import Driver
from tests.chaos.oracle import Violation
from tests.chaos.process import Settings

# More than the data of several seeds.
_ENOUGH_BYTES = 2 << 30


@dataclass
class Outcome:
    """What one seed came to; no ``failure`` if all is well."""

    seed: int
    seconds: float
    failure: str
    counts: dict[str, int]
    history: list[str] = field(repr=False)


def _run_seed(seed: int, folder: Path, catalog: Catalog) -> Outcome:
    """Run one seed in an empty folder, from its first start to its last check."""
    began = time.monotonic()
    failure = ""
    with planted.surroundings() as around, catalog.fresh(folder) as url:
        settings = Settings(folder, url, around.embedder_address, around.feedback_address)
        driver = Driver(seed, settings, around.embedder, catalog)
        try:
            driver.run()
        except Violation as error:
            failure = str(error)
        except Exception:
            failure = traceback.format_exc()  # of the test itself; the other seeds go on
    return Outcome(seed, time.monotonic() - began, failure, driver.world.counts, driver.world.history.lines)


def run(folder: Path | None, catalog: Catalog, seed: int) -> Outcome:
    """One seed in a folder that is left where it is only if the seed fails."""
    own = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-", dir=folder or _memory()))
    outcome = _run_seed(seed, own, catalog)
    if outcome.failure:
        (own / "history.txt").write_text("\n".join([*outcome.history, outcome.failure]) + "\n")
        outcome.failure += f"\n(history, logs and data: {own})"
    else:
        shutil.rmtree(own)
    return outcome


def _memory() -> Path | None:
    """Where there is much of it: a kill loses nothing of what the kernel has, and no commit waits for a disk."""
    place = Path("/dev/shm")
    return place if place.is_dir() and shutil.disk_usage(place).free > _ENOUGH_BYTES else None
