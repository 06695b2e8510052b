"""A run's details in the object store, beyond the life of the run's folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from obstore.store import ObjectStore

log = structlog.get_logger()

# What a run's process leaves in the run's folder.
DETAILS = "details.json"
# A hundred thousand held-out queries with their scores are below this.
MOST_BYTES = 64 * 1024 * 1024


class Unreadable(Exception):
    """There are details, but not such as a report can be made of; the message says why."""


def keep(store: ObjectStore, run_id: str, folder: Path) -> None:
    """Store the details that are in the folder, if there are any. Again is harmless."""
    file = folder / DETAILS
    if not file.exists():
        return
    if (size := file.stat().st_size) > MOST_BYTES:
        log.warning("the run's details are too large to be kept", bytes=size, most=MOST_BYTES)
        return
    store.put(_path(run_id), file)


def fetch(store: ObjectStore, run_id: str) -> Mapping[str, Any]:
    """A run's details; empty if there are none. Raises ``Unreadable``."""
    try:
        found = store.get(_path(run_id))
    except FileNotFoundError:
        return {}
    if found.meta["size"] > MOST_BYTES:
        raise Unreadable(f"the details have {found.meta['size']:,} bytes, {MOST_BYTES:,} are the most")
    try:
        details = json.loads(bytes(found.bytes()))
    except ValueError as error:
        raise Unreadable("the details are not JSON") from error
    if not isinstance(details, dict):
        raise Unreadable("the details are not a JSON object")
    return details


def _path(run_id: str) -> str:
    return f"runs/{run_id}/{DETAILS}"
