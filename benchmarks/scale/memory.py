"""What a process, and the kernel for it, holds in memory of a shard, and what of that could be evicted."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """Bytes.

    ``anonymous`` is the process's own memory, which nothing can evict where there is no swap; ``mapped`` are the
    pages of the shard's files that it has in its address space. The kernel evicts the latter when memory is short,
    and reads them again when they are wanted.
    """

    anonymous: int
    mapped: int

    def since(self, before: "Held") -> "Held":
        """What has come since."""
        return Held(self.anonymous - before.anonymous, self.mapped - before.mapped)


def held(folder: Path) -> Held:
    """By this process, of the files below the folder."""
    trim()
    anonymous = mapped = 0
    ours = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            ours = str(folder) in line
        elif name == "Rss:" and ours:
            mapped += int(rest[0]) * 1024
        elif name == "Anonymous:":
            anonymous += int(rest[0]) * 1024
    return Held(anonymous, mapped)


def trim() -> None:
    """Give what was freed back to the kernel: it is not held, and must not be filled again unseen."""
    ctypes.CDLL(None).malloc_trim(0)


def anonymous_now() -> int:
    """What this process holds beyond its files, cheaply."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def forget(folder: Path) -> None:
    """Have the kernel drop what it caches of the folder's files, so that only what is wanted comes back."""
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def on_disk(folder: Path) -> int:
    """Bytes of disk that the folder's files take. The write-ahead log is not counted: its size does not grow."""
    files = (path for path in _files(folder) if "wal" not in path.relative_to(folder).parts)
    return sum(path.stat().st_blocks * 512 for path in files)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
