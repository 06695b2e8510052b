"""Publishing versions to the artifact store, and fetching weights back. The manifest goes last."""

import base64
import hashlib
import json
import shutil
from pathlib import Path

from obstore.store import ObjectStore

from diapason import artifacts
from diapason.artifact.v1.manifest_pb2 import File, FileRole, Golden, Lineage, Manifest, Prompts
from services.trainer import wire
from services.trainer.domain.model import Kind, PublishedVersion
from services.trainer.process.spec import DESCRIPTION, IR, TOKENIZER, WEIGHTS


class BrokenArtifact(Exception):
    """What is in the store is not what the manifest says."""


def publish(store: ObjectStore, candidate: Path, *, model: str, number: int, lineage: Lineage) -> PublishedVersion:
    """Upload a job's candidate. The folder in the store is the run's own, so nothing is overwritten.

    Publishing the same candidate again gives the version that the first time gave.
    """
    path = f"models/{model}/{lineage.run_id}"
    manifest_path = f"{path}/{artifacts.MANIFEST_NAME}"
    try:
        content = bytes(store.get(manifest_path).bytes())
    except FileNotFoundError:
        manifest = _describe(candidate, model, number, lineage)
        for file in manifest.files:
            store.put(f"{path}/{file.path}", candidate / file.path)
        content = artifacts.encode(manifest)
        store.put(manifest_path, content)
    manifest = artifacts.decode(content)
    return PublishedVersion(
        model=manifest.model,
        number=manifest.number,
        digest=artifacts.digest(content),
        kind=wire.known_kind(manifest.kind),
        path=path,
        dimension=manifest.dimension,
        dimensions=tuple(manifest.dimensions),
        parent_digest=manifest.lineage.parent_digest,
        run_id=manifest.lineage.run_id,
    )


def manifest_of(store: ObjectStore, version: PublishedVersion) -> Manifest:
    """What a version consists of. Raises ``BrokenArtifact``."""
    content = bytes(store.get(f"{version.path}/{artifacts.MANIFEST_NAME}").bytes())
    if artifacts.digest(content) != version.digest:
        raise BrokenArtifact(f"the manifest of {version.model} version {version.number} was changed")
    return artifacts.decode(content)


def fetch_weights(store: ObjectStore, version: PublishedVersion, cache: Path) -> Path:
    """The folder of a version's weights, verified, fetched unless it is there. Raises ``BrokenArtifact``."""
    target = cache / version.digest
    if target.exists():
        return target
    manifest = manifest_of(store, version)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for file in manifest.files:
        if file.role != FileRole.FILE_ROLE_WEIGHTS:
            continue
        local = partial / Path(file.path).relative_to(WEIGHTS)
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("wb") as output:
            for chunk in store.get(f"{version.path}/{file.path}").stream():
                output.write(chunk)
        if _sha256(local) != file.sha256:
            raise BrokenArtifact(f"{file.path} of {version.model} version {version.number} was changed")
    partial.rename(target)
    return target


def _describe(candidate: Path, model: str, number: int, lineage: Lineage) -> Manifest:
    described = json.loads((candidate / DESCRIPTION).read_text())
    paths = [
        candidate / TOKENIZER,
        *sorted((candidate / IR).rglob("*")),
        *sorted((candidate / WEIGHTS).rglob("*")),
    ]
    return Manifest(
        format=artifacts.FORMAT,
        model=model,
        number=number,
        kind=wire.kind(Kind(described["kind"])),
        raw=described["raw"],
        dimension=described["dimension"],
        dimensions=described["dimensions"],
        max_tokens=described["max_tokens"],
        prompts=Prompts(**described["prompts"]),
        files=[_file(path, candidate) for path in paths if path.is_file()],
        golden=Golden(
            texts=described["golden_texts"],
            vectors=base64.b64decode(described["golden_vectors"]),
            queries=described["golden_queries"],
        ),
        lineage=lineage,
        first_stage_share=described["first_stage_share"],
    )


def _file(path: Path, root: Path) -> File:
    relative = path.relative_to(root)
    roles = {
        TOKENIZER: FileRole.FILE_ROLE_TOKENIZER,
        IR: FileRole.FILE_ROLE_OPENVINO,
        WEIGHTS: FileRole.FILE_ROLE_WEIGHTS,
    }
    return File(
        path=relative.as_posix(),
        size_bytes=path.stat().st_size,
        sha256=_sha256(path),
        role=roles[relative.parts[0]],
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
