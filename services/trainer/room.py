"""Telling a full disk from other failures, whichever library it comes through."""

import errno
import shutil
from pathlib import Path

# A full disk, a quota, a limit on the size of files.
_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The same where a library has made a text of it: the system's own words, Rust's names, what torch and OpenVINO say.
_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "StorageFull",
    "FileTooLarge",
    "PytorchStreamWriter failed writing",
    "inline_container.cc",
    "iostream error",
)
# Whatever fails where there is less than this has most likely failed for it.
_NEARLY_NOTHING = 4 * 1024 * 1024


def is_missing(error: BaseException) -> bool:
    """Whether an error, or what it came of, says that there is no room."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _NUMBERS:
            return True
        if any(words in str(seen) for words in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def said(error: BaseException, folder: Path) -> str:
    """What to tell of an error if there was no room for ``folder``; empty if it was something else."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        free = _NEARLY_NOTHING
    if not is_missing(error) and free >= _NEARLY_NOTHING:
        return ""
    return (
        f"there is no room left to write in {folder} ({free / 2**20:,.0f} MiB free on its disk); make room, then start "
        "the run again; what served goes on serving"
    )
