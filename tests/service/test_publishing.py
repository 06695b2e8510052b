"""What is published, and as what: real artifacts on disk."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from obstore.store import from_url

from diapason import artifacts as contract
from diapason.artifact.v1.manifest_pb2 import Lineage, Manifest
from diapason.common.v1.version_pb2 import MODEL_KIND_RERANKER
from services.trainer import artifacts
from services.trainer.domain.model import Kind, PublishedVersion
from services.trainer.pacing import Shutdown
from services.trainer.process.spec import Spec
from services.trainer.runs import Runner
from services.trainer.tables import RunRow
from tests.conftest import Relative, Tiny
from tests.support.embedding import publish
from tests.support.jobs import Store


def test_i3_publishing_again_changes_nothing(tiny: Tiny, other_tiny: Tiny, tmp_path: Path) -> None:
    first = publish(tmp_path / "store", tiny.candidate, 1)
    objects = from_url((tmp_path / "store").as_uri())
    lineage = Lineage(source="test", run_id="run-1")
    again = artifacts.publish(objects, other_tiny.candidate, model="tiny", number=9, lineage=lineage)
    assert again == first


def test_i3_the_manifest_is_written_last(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    objects = from_url((tmp_path / "store").as_uri())
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    for source in tiny.candidate.iterdir():
        (candidate / source.name).symlink_to(source)
    order: list[str] = []

    class Recording:
        def get(self, path: str) -> object:
            return objects.get(path)

        def put(self, path: str, content: object) -> None:
            order.append(path)
            objects.put(path, content)  # type: ignore[arg-type]

    lineage = Lineage(source="test", run_id="run-1")
    artifacts.publish(Recording(), candidate, model="tiny", number=1, lineage=lineage)  # type: ignore[arg-type]
    assert order[-1].endswith(contract.MANIFEST_NAME)
    assert len([path for path in order if path.endswith(contract.MANIFEST_NAME)]) == 1


def test_i3_tampered_weights_are_not_trained_on(tiny: Tiny, tmp_path: Path) -> None:
    published = publish(tmp_path / "store", tiny.candidate, 1)
    objects = from_url((tmp_path / "store").as_uri())
    assert (artifacts.fetch_weights(objects, published, tmp_path / "good") / "model.safetensors").exists()
    (tmp_path / "store" / published.path / "weights" / "config.json").write_text(json.dumps({}))
    with pytest.raises(artifacts.BrokenArtifact, match=r"config\.json"):
        artifacts.fetch_weights(objects, published, tmp_path / "bad")
    assert not (tmp_path / "bad" / published.digest).exists()


def test_i3_no_pickles_are_published(tiny: Tiny, tmp_path: Path) -> None:
    published = publish(tmp_path / "store", tiny.candidate, 1)
    manifest = contract.decode((tmp_path / "store" / published.path / contract.MANIFEST_NAME).read_bytes())
    endings = {Path(file.path).suffix for file in manifest.files}
    assert endings <= {".json", ".xml", ".bin", ".safetensors", ".txt"}
    assert [f.path for f in manifest.files if f.path.endswith(".bin")] == ["openvino/model.bin"]


def manifest_of(store_folder: Path, published: PublishedVersion) -> Manifest:
    return contract.decode((store_folder / published.path / contract.MANIFEST_NAME).read_bytes())


def test_the_manifest_says_whether_vectors_are_left_as_they_come(family: dict[str, Relative], tmp_path: Path) -> None:
    raw = publish(tmp_path, family["bert-mean-raw"].candidate, 1)
    assert (raw.kind, manifest_of(tmp_path, raw).raw) == (Kind.ENCODER, True)
    scaled = publish(tmp_path, family["bert-mean"].candidate, 2)
    assert (scaled.kind, manifest_of(tmp_path, scaled).raw) == (Kind.ENCODER, False)


def test_a_reranker_is_published_as_one(family: dict[str, Relative], tmp_path: Path) -> None:
    published = publish(tmp_path, family["bert-reranker"].candidate, 1)
    assert (published.kind, published.dimension, published.dimensions) == (Kind.RERANKER, 0, ())
    manifest = manifest_of(tmp_path, published)
    assert manifest.kind == MODEL_KIND_RERANKER
    assert len(manifest.golden.queries) == len(manifest.golden.texts) == len(manifest.golden.vectors) / 4 == 5


@pytest.mark.parametrize(
    ("request_of", "name"),
    [({"kind": "reranker"}, "bert-reranker"), ({"kind": "encoder"}, "bert-mean"), ({}, "bert-mean")],
)
def test_an_import_brings_the_kind_that_was_asked_for(
    store: Store, family: dict[str, Relative], tmp_path: Path, request_of: dict[str, Any], name: str
) -> None:
    class Prepared(Runner):
        """Has the job's work done beforehand."""

        def _job(self, run: RunRow, folder: Path) -> None:
            specs.append(Spec.read(folder))
            shutil.copytree(family[name].candidate, folder / "candidate")

    specs: list[Spec] = []
    (tmp_path / "objects").mkdir()
    objects = from_url((tmp_path / "objects").as_uri())
    kind = Kind(request_of.get("kind", "encoder"))
    run = store.jobs.register("new", kind, "somewhere", {"source": "somewhere", "dimensions": [], **request_of})
    Prepared(store.jobs, store.registry, objects, None, tmp_path, Shutdown()).execute(run.id)  # type: ignore[arg-type]
    assert [spec.model_kind for spec in specs] == [kind.value]
    assert store.registry.version(model="new", number=1).kind is kind
