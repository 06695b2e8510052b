"""Bringing a version's files from the artifact store into the cache, verified (I3)."""

import hashlib
import shutil
from pathlib import Path, PurePosixPath

from obstore.store import ObjectStore

from diapason import artifacts
from diapason.artifact.v1.manifest_pb2 import File, Manifest


class BadArtifact(Exception):
    """The artifact is not what its digest promises. It is refused."""


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


def fetch_files(store: ObjectStore, path: str, manifest: Manifest, target: Path) -> None:
    """Copy what serving needs into ``target``, which appears whole or not at all.

    Files already in the cache are verified again: a cache is a disk like any other.
    Raises ``BadArtifact``.
    """
    serving = [file for file in manifest.files if file.role in artifacts.SERVING_ROLES]
    if target.exists():
        if all(_matches(target / _safe(file), file) for file in serving):
            return
        shutil.rmtree(target)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for file in serving:
        _fetch_file(store, f"{path}/{file.path}", file, partial / _safe(file))
    partial.rename(target)


def _fetch_file(store: ObjectStore, source: str, file: File, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("wb") as output:
            for chunk in store.get(source).stream():
                output.write(chunk)
    except FileNotFoundError as error:
        raise BadArtifact(f"{file.path} is missing from the artifact store") from error
    if not _matches(target, file):
        raise BadArtifact(f"{file.path} does not have the sha-256 that the manifest names")


def _matches(path: Path, file: File) -> bool:
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _safe(file: File) -> Path:
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts:
        raise BadArtifact(f"its manifest names a file outside of its folder: {file.path}")
    return Path(*relative.parts)
