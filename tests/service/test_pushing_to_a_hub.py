"""Versions pushed to a model hub: the real client of the hub, a hub on loopback, and the registry's own contract."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from obstore.store import from_url
from sentence_transformers import SentenceTransformer

from diapason import errors
from diapason.artifact.v1.manifest_pb2 import Lineage
from diapason.client import Addresses, Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.trainer.v1 import registry_pb2, registry_pb2_grpc
from services.kit.server import Host
from services.kit.settings import ServiceSettings
from services.trainer import artifacts
from services.trainer.domain.model import Kind, PublishedVersion
from services.trainer.hub import card
from services.trainer.hub.pushing import Pusher
from services.trainer.servicers.registry import RegistryServicer
from services.trainer.tables import RunRow
from tests.conftest import Tiny
from tests.support.hub import TOKEN, Hub, running
from tests.support.jobs import OLD, Store
from tests.support.serving import in_thread
from tests.support.terminal import Command

REPO = "acme/search-films"
_GATE = {
    "queries": 81,
    "metrics": [{"metric": "ndcg@10", "dimensions": 32, "before": 0.5, "after": 0.625, "low": 0.05, "high": 0.2}],
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that the environment names, with a token for it."""
    with running() as made:
        for name, value in {
            "HF_ENDPOINT": made.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "hf"),
            # It is stored as by git alone; huggingface.co has another way beside it.
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def published(store: Store, tiny: Tiny, tmp_path: Path) -> PublishedVersion:
    """Version 3 of the model `tiny`, which a run with a gate has made."""
    run = store.jobs.add_run("films", "tiny", OLD.digest, {})
    with store.database.writing() as session:
        session.get_one(RunRow, run.id).gate = _GATE
    (tmp_path / "objects").mkdir()
    objects = from_url((tmp_path / "objects").as_uri())
    lineage = Lineage(source="/home/somebody/base", parent_digest=OLD.digest, run_id=run.id)
    version = artifacts.publish(objects, tiny.candidate, model="tiny", number=3, lineage=lineage)
    store.registry.publish(version, "")
    return version


@pytest.fixture
def client(store: Store, published: PublishedVersion, tmp_path: Path) -> Iterator[Client]:
    with in_thread(partial(_registry, store, tmp_path, 60.0)) as address, Client(Addresses(trainer=address)) as made:
        yield made


@asynccontextmanager
async def _registry(store: Store, folder: Path, seconds: float) -> AsyncIterator[str]:
    host = Host(ServiceSettings(listen=""))
    pusher = Pusher(from_url((folder / "objects").as_uri()), folder / "work", seconds)
    servicer = RegistryServicer(store.jobs, store.registry, None, pusher)  # type: ignore[arg-type]
    host.serve("registry", registry_pb2_grpc.add_RegistryServiceServicer_to_server, servicer)
    port = await host.start("127.0.0.1:0")
    yield f"127.0.0.1:{port}"
    await host.stop(1)


def third(client: Client, repo: str = REPO, private: bool = False) -> list[registry_pb2.PushVersionResponse]:
    return list(client.push_version(VersionRef(model="tiny", number=3), repo, private))


def left_in(folder: Path) -> list[Path]:
    return list((folder / "work" / "pushes").iterdir())


def pushed(client: Client, repo: str) -> bool:
    """False if the place is taken still."""
    try:
        return bool(third(client, repo)[-1].commit)
    except errors.Overloaded:
        return False


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_the_hub_gets_is_what_was_published(
    client: Client, hub: Hub, published: PublishedVersion, tiny: Tiny, tmp_path: Path
) -> None:
    answers = third(client, private=True)
    stages = [registry_pb2.PUSH_STAGE_FETCHING, registry_pb2.PUSH_STAGE_UPLOADING, registry_pb2.PUSH_STAGE_DONE]
    assert [answer.stage for answer in answers] == stages
    assert (answers[-1].url, answers[-1].commit) == (f"{hub.url}/{REPO}", f"{1:040x}")
    assert hub.private == {REPO: True}
    assert hub.commits == [f"tiny version 3, {published.digest[:12]}"]
    received = hub.files[REPO]
    assert sum(map(len, received.values())) == answers[-1].size_bytes
    weights = tmp_path / "objects" / published.path / "weights"
    kept = {path.relative_to(weights).as_posix(): path for path in weights.rglob("*") if path.is_file()}
    assert set(received) == {*kept, "README.md"}
    assert {name: received[name] for name in kept} == {name: path.read_bytes() for name, path in kept.items()}
    for name, content in received.items():
        (tmp_path / "received" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "received" / name).write_bytes(content)
    texts = ["owls hunt mice at night", "a barn"]
    ours, theirs = (SentenceTransformer(str(one)).encode(texts) for one in (tiny.model, tmp_path / "received"))
    np.testing.assert_array_equal(ours, theirs)
    assert left_in(tmp_path) == []


def test_the_card_says_where_the_version_comes_from_and_how_to_load_it(
    client: Client, hub: Hub, published: PublishedVersion
) -> None:
    third(client)
    said = hub.files[REPO]["README.md"].decode()
    assert said.startswith("---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n")
    for part in (published.digest, OLD.digest, published.run_id, f'SentenceTransformer("{REPO}", truncate_dim=16)'):
        assert part in said
    assert "On 81 queries" in said
    assert "| ndcg@10 | 32 | 0.500 | 0.625 | +0.050 to +0.200 |" in said
    # Where a base was imported from may be a folder of somebody's.
    assert "somebody" not in said


def test_the_card_of_an_imported_reranker_has_no_comparison() -> None:
    imported = replace(OLD, kind=Kind.RERANKER, dimension=0, dimensions=())
    assert "0.4 of the order" not in card.render(imported, REPO, {})
    assert "0.4 of the order stayed that of the search before it" in card.render(imported, REPO, {}, 0.4)
    said = card.render(imported, REPO, {})
    assert "pipeline_tag: text-ranking" in said
    assert f'CrossEncoder("{REPO}")' in said
    assert "none: it was imported" in said
    assert "Before and after" not in said
    assert "SentenceTransformer" not in said


def test_pushing_into_a_repository_that_is_there_leaves_what_it_holds_beside(client: Client, hub: Hub) -> None:
    hub.private[REPO], hub.files[REPO] = False, {"NOTES.md": b"ours"}
    third(client)
    assert hub.files[REPO]["NOTES.md"] == b"ours"
    assert "model.safetensors" in hub.files[REPO]


def test_nothing_that_is_to_be_private_goes_into_a_public_repository(client: Client, hub: Hub) -> None:
    hub.private[REPO], hub.files[REPO] = False, {}
    with pytest.raises(errors.FailedPrecondition, match="is public"):
        third(client, private=True)
    assert hub.files[REPO] == {}
    hub.private[REPO] = True
    third(client, private=True)
    assert hub.files[REPO]


@pytest.mark.parametrize(
    "repo",
    [
        "",
        "films",
        "acme/",
        "/films",
        "a/b/c",
        "acme/se a",
        "acme/a--b",
        "acme/a..b",
        "acme/x.git",
        "../x",
        "a/" + 95 * "b",
    ],
)
def test_a_name_that_is_no_repository_is_refused_before_any_work(
    client: Client, hub: Hub, repo: str, tmp_path: Path
) -> None:
    with pytest.raises(errors.InvalidArgument) as refusal:
        third(client, repo)
    assert [field for field, _ in refusal.value.violations] == ["repo"]
    assert hub.asked == []
    assert not (tmp_path / "work").exists()


def test_a_version_that_is_not_there_is_named(client: Client, hub: Hub) -> None:
    with pytest.raises(errors.NotFound, match="tiny/9"):
        list(client.push_version(VersionRef(model="tiny", number=9), REPO))
    # In the registry, but without its files.
    with pytest.raises(errors.NotFound, match="no longer in the artifact store"):
        list(client.push_version(VersionRef(model="tiny", number=1), REPO))
    assert hub.asked == []


def test_i3_changed_weights_are_not_pushed(
    client: Client, hub: Hub, published: PublishedVersion, tmp_path: Path
) -> None:
    (tmp_path / "objects" / published.path / "weights" / "config.json").write_text("{}")
    with pytest.raises(errors.FailedPrecondition, match=r"config\.json"):
        third(client)
    assert hub.asked == []
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_says_where_the_token_is_set_and_does_not_show_it(
    client: Client, hub: Hub, status: int, tmp_path: Path
) -> None:
    hub.refuses = status
    with pytest.raises(errors.FailedPrecondition, match=rf"refused.*{status}.*set HF_TOKEN") as refusal:
        third(client)
    assert TOKEN not in str(refusal.value)
    assert left_in(tmp_path) == []


def test_without_a_token_or_without_the_network_nothing_is_asked(
    client: Client, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(errors.FailedPrecondition, match=r"there is no token.*set HF_TOKEN"):
        third(client)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(errors.FailedPrecondition, match="HF_HUB_OFFLINE"):
        third(client)
    assert hub.asked == []


def test_a_hub_that_does_not_answer_is_unavailable(
    client: Client, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.refuses = 500
    with pytest.raises(errors.Unavailable, match="500") as refusal:
        third(client)
    assert refusal.value.retry_after > 0
    hidden = "http://somebody:secret@127.0.0.1:9"
    monkeypatch.setenv("HF_ENDPOINT", hidden)
    with pytest.raises(errors.Unavailable, match=r"http://127\.0\.0\.1:9 does not answer") as refusal:
        third(client)
    assert "secret" not in str(refusal.value)
    assert left_in(tmp_path) == []


def test_i10_one_push_at_a_time_and_one_that_nobody_waits_for_ends(client: Client, hub: Hub, tmp_path: Path) -> None:
    hub.goes_on.clear()
    answers = client.push_version(VersionRef(model="tiny", number=3), REPO)
    assert next(answers).stage == registry_pb2.PUSH_STAGE_FETCHING
    assert next(answers).stage == registry_pb2.PUSH_STAGE_UPLOADING
    assert hub.uploading.wait(30)
    with pytest.raises(errors.Overloaded, match="one goes at a time") as refusal:
        third(client, "acme/other")
    assert refusal.value.retry_after > 0
    answers.close()  # type: ignore[attr-defined]
    eventually(lambda: left_in(tmp_path) == [])
    hub.goes_on.set()
    eventually(lambda: pushed(client, "acme/other"))
    assert hub.files[REPO] == {}


def test_i10_a_push_that_takes_too_long_is_stopped(
    store: Store, published: PublishedVersion, hub: Hub, tmp_path: Path
) -> None:
    hub.goes_on.clear()
    with in_thread(partial(_registry, store, tmp_path, 2.0)) as address, Client(Addresses(trainer=address)) as client:
        with pytest.raises(errors.DeadlineExceeded, match="DIAPASON_PUSH_TIMEOUT_SECONDS"):
            third(client)
        assert left_in(tmp_path) == []
    assert hub.files.get(REPO, {}) == {}


def test_the_command_pushes_and_says_where_it_is(
    published: PublishedVersion,
    hub: Hub,
    command: Command,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with in_thread(partial(_registry, store, tmp_path, 60.0)) as address:
        monkeypatch.setenv("DIAPASON_TRAINER_ADDRESS", address)
        status, out, err = command("models", "push", "tiny", "3", REPO, "--private")
        assert status == 0
        assert f"tiny version 3 is at {hub.url}/{REPO}, commit {1:040x}" in out
        assert "uploading" in err
        status, out, _ = command("models", "push", "tiny", "3", "acme/other", "--json")
        assert (status, json.loads(out)["url"]) == (0, f"{hub.url}/acme/other")
        assert hub.private == {REPO: True, "acme/other": False}
        status, _, err = command("models", "push", "tiny", "3", "nonsense")
        assert status == 2
        assert "repo: is 'nonsense'" in err
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        status, _, err = command("models", "push", "tiny", "3", REPO)
        assert status == 1
        assert err.endswith("does not answer (ConnectError); HF_ENDPOINT says where it is")
