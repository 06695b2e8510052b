"""Bringing a version's files from the artifact store into the cache, verified (I3), within its bound (I10)."""

import hashlib
import os
import shutil
import threading
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from obstore.store import ObjectStore

from diapason import artifacts
from diapason.artifact.v1.manifest_pb2 import File, FileRole, Manifest

# What each runtime reads.
ROLES = {
    "openvino": (FileRole.FILE_ROLE_OPENVINO, FileRole.FILE_ROLE_TOKENIZER),
    "torch": (FileRole.FILE_ROLE_WEIGHTS,),
}
_PARTIAL = ".partial"


class BadArtifact(Exception):
    """The artifact is not what its digest promises, or has no place here. It is refused."""


def fetch_manifest(store: ObjectStore, path: str, digest: str) -> Manifest:
    """Read manifest.json and check it against the version's digest. Raises ``BadArtifact``."""
    try:
        content = bytes(store.get(f"{path}/{artifacts.MANIFEST_NAME}").bytes())
    except FileNotFoundError as error:
        raise BadArtifact("it has no manifest.json in the artifact store") from error
    if artifacts.digest(content) != digest:
        raise BadArtifact("its manifest.json does not have the digest that the registry names")
    try:
        return artifacts.decode(content)
    except artifacts.BadManifest as error:
        raise BadArtifact(str(error)) from error


class VersionCache:
    """Folders of verified files, one for each version, together at most ``max_bytes``."""

    def __init__(self, folder: Path, max_bytes: int, runtime: str) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._roles = ROLES[runtime]
        self._stopped = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"*{_PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)

    def stop(self) -> None:
        """Cut off a download that is under way."""
        self._stopped.set()

    def path(self, digest: str) -> Path:
        """Where a version's files are, once they are."""
        return self._folder / digest

    def fetch(self, store: ObjectStore, path: str, digest: str, manifest: Manifest, in_use: Collection[str]) -> None:
        """Have the files here, under a temporary name unless they were; `verify` comes next.

        Versions used longest ago make room, except those ``in_use``. Raises ``BadArtifact``.
        """
        serving = self._serving(manifest)
        target = self.path(digest)
        if target.exists():
            if all(_fault(target, file) is None for file in serving):
                os.utime(target)
                return
            # A cache is a disk like any other.
            shutil.rmtree(target)
        self._make_room(sum(file.size_bytes for file in serving), {*in_use, digest})
        partial = self._partial(digest)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for file in serving:
                _download(store, f"{path}/{file.path}", file, partial / _safe(file), self._stopped)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def verify(self, digest: str, manifest: Manifest) -> Path:
        """Check each fetched file's sha-256 and give the folder its name. Raises ``BadArtifact``."""
        partial = self._partial(digest)
        if partial.exists():
            for file in self._serving(manifest):
                if fault := _fault(partial, file):
                    shutil.rmtree(partial)
                    raise BadArtifact(fault)
            partial.rename(self.path(digest))
        return self.path(digest)

    def _serving(self, manifest: Manifest) -> list[File]:
        return [file for file in manifest.files if file.role in self._roles]

    def _partial(self, digest: str) -> Path:
        return self._folder / (digest + _PARTIAL)

    def _make_room(self, needed: int, keep: Collection[str]) -> None:
        sizes = {folder: _size(folder) for folder in self._folder.iterdir() if folder.is_dir()}
        removable = sorted((f for f in sizes if f.name not in keep), key=lambda folder: folder.stat().st_mtime)
        for folder in removable:
            if sum(sizes.values()) + needed <= self._max_bytes:
                return
            shutil.rmtree(folder)
            del sizes[folder]
        if (held := sum(sizes.values())) + needed > self._max_bytes:
            raise BadArtifact(
                f"it needs {needed:,} bytes of cache, and versions in use hold {held:,} of the "
                f"{self._max_bytes:,} allowed; raise DIAPASON_CACHE_MAX_BYTES"
            )


def _download(store: ObjectStore, source: str, file: File, target: Path, stopped: threading.Event) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    left = file.size_bytes
    try:
        with target.open("wb") as output:
            for chunk in store.get(source).stream():
                left -= len(chunk)
                if stopped.is_set():
                    raise BadArtifact("its download was cut off: the embedder stops")
                if left < 0:
                    raise BadArtifact(f"{file.path} is larger than the manifest says")
                output.write(chunk)
    except FileNotFoundError as error:
        raise BadArtifact(f"{file.path} is missing from the artifact store") from error


def _fault(folder: Path, file: File) -> str | None:
    path = folder / _safe(file)
    wrong = f"{file.path} does not have the sha-256 that the manifest names"
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return wrong
    with path.open("rb") as content:
        return None if hashlib.file_digest(content, "sha256").hexdigest() == file.sha256 else wrong


def _safe(file: File) -> Path:
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts:
        raise BadArtifact(f"its manifest names a file outside of its folder: {file.path}")
    return Path(*relative.parts)


def _size(folder: Path) -> int:
    def sizes() -> Iterator[int]:
        for path in folder.rglob("*"):
            if path.is_file():
                yield path.stat().st_size

    return sum(sizes())
