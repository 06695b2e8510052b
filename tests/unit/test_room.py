"""Telling a full disk from other failures."""

import errno
from pathlib import Path

import pytest

from services.trainer import room


def wrapped(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'),
        RuntimeError("basic_ios::clear: iostream error"),
        wrapped(OSError(errno.ENOSPC, "x")),
    ],
)
def test_a_full_disk_is_told_whatever_it_comes_through(error: Exception, tmp_path: Path) -> None:
    assert room.said(error, tmp_path).startswith(f"there is no room left to write in {tmp_path} (")


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), ValueError("space")])
def test_another_failure_is_not(error: Exception, tmp_path: Path) -> None:
    assert room.said(error, tmp_path) == ""
