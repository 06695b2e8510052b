"""The folder of an index in the embedded engine: one shard in use, and for a while a copy that will take its place.

`<index>/<number>/` is a shard; `<index>/current` holds the number of the one in use.
"""

import os
import shutil
from pathlib import Path

_CURRENT, _NEW = "current", ".new"


def first(folder: Path) -> Path:
    """Prepare the folder of a new index; returns where its first shard belongs."""
    folder.mkdir()
    shard = folder / "1"
    use(shard)
    return shard


def current(folder: Path) -> Path:
    """The shard in use."""
    return folder / str(int((folder / _CURRENT).read_text()))


def use(shard: Path) -> None:
    """From now on, also after a crash, this is the shard in use."""
    path = shard.parent / _CURRENT
    partial = path.with_name(_CURRENT + _NEW)
    with partial.open("w") as file:
        file.write(shard.name)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def copy(folder: Path) -> Path:
    """A copy of the shard in use, which must have been flushed and not be written to meanwhile."""
    shard = current(folder)
    made = folder / str(int(shard.name) + 1)
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(shard, made)
    return made


def clear(folder: Path) -> None:
    """Delete all but the shard in use: what a crash or a change has left."""
    keep = {_CURRENT, current(folder).name}
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
