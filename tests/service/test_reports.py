"""Reports of runs: kept by the worker, made by the API over real gRPC, written by the command."""

import json
import webbrowser
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from obstore.store import ObjectStore, from_url

from diapason.client import Addresses, Client
from diapason.errors import FailedPrecondition, NotFound
from diapason.trainer.v1 import training_pb2, training_pb2_grpc
from services.kit.errors import Overloaded
from services.kit.server import Host
from services.kit.settings import ServiceSettings
from services.trainer.__main__ import TRAINING
from services.trainer.domain.model import RunState
from services.trainer.pacing import Shutdown
from services.trainer.process import spec as files
from services.trainer.reporting import keeping, reports
from services.trainer.reporting.reports import Reports
from services.trainer.runs import Runner
from services.trainer.servicers.training import TrainingServicer
from services.trainer.tables import RunRow
from tests.support import details as made
from tests.support.jobs import OLD, ScriptedSearch, Store, run_of
from tests.support.serving import in_thread
from tests.support.terminal import Command


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    (tmp_path / "objects").mkdir()
    return from_url((tmp_path / "objects").as_uri())


@pytest.fixture
def address(store: Store, objects: ObjectStore) -> Iterator[str]:
    """Where the trainer's runs are served."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        made_on_demand = Reports(store.jobs, store.registry, objects)
        servicer = TrainingServicer(store.jobs, store.registry, None, None, made_on_demand, None)  # type: ignore[arg-type]
        host = Host(ServiceSettings(listen=""))
        host.serve(TRAINING, training_pb2_grpc.add_TrainingServiceServicer_to_server, servicer)
        yield f"127.0.0.1:{await host.start('127.0.0.1:0')}"
        await host.stop(1)

    with in_thread(opened) as where:
        yield where


@pytest.fixture
def client(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Client]:
    monkeypatch.setenv("DIAPASON_TRAINER_ADDRESS", address)
    monkeypatch.chdir(tmp_path)
    with Client(Addresses(trainer=address)) as connected:
        yield connected


def ended(store: Store, state: RunState = RunState.SUCCEEDED, **changes: Any) -> str:
    """The id of a run that came to its end."""
    row = store.jobs.claim(RunRow, run_of(store).id)
    assert row is not None
    store.jobs.end(row, state, "done", **changes)
    return row.id


def told(store: Store, objects: ObjectStore, folder: Path) -> str:
    """The id of a run with a verdict and with details."""
    run_id = ended(store, gate=made.row(made.encoder())["gate"], losses=[[5, 0.1, 2.0], [10, 0.2, 1.0]])
    folder.mkdir()
    (folder / keeping.DETAILS).write_text(json.dumps(made.encoder()))
    keeping.keep(objects, run_id, folder)
    return run_id


def test_a_run_with_details_has_its_page_and_its_json(
    store: Store, objects: ObjectStore, client: Client, tmp_path: Path
) -> None:
    run_id = told(store, objects, tmp_path / "run")
    page = client.report(run_id)
    assert page.media_type == "text/html; charset=utf-8"
    assert page.content.startswith(b"<!doctype html>")
    assert page.sentence.startswith("Promoted (better): on 120 held-out queries")
    assert b"tiny version 1 (111111111111)" in page.content
    assert b'id="gains"' in page.content
    told_to_programs = client.report(run_id, json=True)
    assert told_to_programs.media_type == "application/json"
    content = json.loads(told_to_programs.content)
    assert (content["run"]["id"], content["run"]["collection"]) == (run_id, "films")
    assert len(content["training"]) == 199, "the details know more than the row"
    assert content["sentence"] == told_to_programs.sentence == page.sentence


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff"], ids=["none", "cut", "list", "bytes"])
def test_without_sound_details_the_row_is_told(
    store: Store, objects: ObjectStore, client: Client, content: bytes | None
) -> None:
    run_id = ended(store, RunState.FAILED, losses=[[5, 0.1, 2.0], [10, 0.2, 1.0]], data={"judgments": 7})
    if content is not None:
        objects.put(f"runs/{run_id}/details.json", content)
    page = client.report(run_id)
    assert page.sentence == "Failed without a verdict: done"
    assert b'id="loss-figure_1"' in page.content
    assert (b"only what its row says" in page.content) == (content is not None)
    assert json.loads(client.report(run_id, json=True).content)["data"]["judgments"] == 7


def test_details_beyond_the_bound_are_neither_kept_nor_read(
    store: Store, objects: ObjectStore, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = told(store, objects, tmp_path / "run")
    monkeypatch.setattr(keeping, "MOST_BYTES", 1_000)
    assert "1,000 are the most" in client.report(run_id).content.decode()
    keeping.keep(objects, "other", tmp_path / "run")
    assert keeping.fetch(objects, "other") == {}


def test_a_run_that_is_not_there_or_not_at_its_end_has_no_report(store: Store, client: Client) -> None:
    with pytest.raises(NotFound, match="there is no run 'nope'"):
        client.report("nope")
    with pytest.raises(FailedPrecondition, match="is queued; its report is made once it has ended"):
        client.report(run_of(store).id)


def test_a_form_that_there_is_not_is_refused(store: Store, address: str) -> None:
    asked = training_pb2.GetReportRequest(id=ended(store), format=9)  # type: ignore[arg-type]
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refusal:
        training_pb2_grpc.TrainingServiceStub(channel).GetReport(asked, timeout=10)
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_import_has_a_report_too(store: Store, client: Client) -> None:
    row = next(row for row in store.jobs.runs(10) if row.kind == "import")
    claimed = store.jobs.claim(RunRow, row.id)
    assert claimed is not None
    store.jobs.end(claimed, RunState.SUCCEEDED, "published as version 1", published_digest=OLD.digest)
    assert client.report(row.id).sentence == "Succeeded without a verdict: published as version 1"


def test_i10_more_reports_at_once_than_there_is_room_for_are_refused(
    store: Store, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_MOST_AT_ONCE", 0)
    full = Reports(store.jobs, store.registry, objects)
    with pytest.raises(Overloaded):
        full.page(ended(store))


def test_i7_a_run_leaves_its_details_before_its_folder_goes(store: Store, objects: ObjectStore, tmp_path: Path) -> None:
    asked = {"config": {}, "gate": {}, "dry_run": True}
    run = store.jobs.add_run("films", "tiny", OLD.digest, asked)
    # As a run taken up again finds it: collected, trained and measured.
    folder = tmp_path / "work" / "runs" / run.id
    folder.mkdir(parents=True)
    details = made.encoder()
    scores = {when: details["held_out"][when] for when in ("before", "after")}
    for name, content in ((files.HELD_OUT, {}), (files.RESULT, scores), (keeping.DETAILS, details)):
        files.write_json(folder / name, content)
    (tmp_path / "work" / "weights" / OLD.digest).mkdir(parents=True)
    runner = Runner(store.jobs, store.registry, objects, ScriptedSearch(), tmp_path / "work", Shutdown())  # type: ignore[arg-type]
    runner.execute(run.id)
    assert store.jobs.get(RunRow, run.id).state == "succeeded"
    assert not folder.exists()
    assert keeping.fetch(objects, run.id) == details


def test_the_command_writes_the_page(
    store: Store, objects: ObjectStore, client: Client, command: Command, tmp_path: Path
) -> None:
    run_id = told(store, objects, tmp_path / "run")
    code, out, err = command("report")
    assert code == 0, err
    path, sentence = out.splitlines()
    assert path == f"{run_id}.html"
    assert sentence == client.report(run_id).sentence
    assert (tmp_path / path).read_bytes() == client.report(run_id).content
    assert command("report", run_id[:6], "--output", "here.html")[1].startswith("here.html\n")
    assert (tmp_path / "here.html").exists()
    code, out, _ = command("report", run_id, "--json")
    assert (code, json.loads(out)["run"]["id"]) == (0, run_id)


def test_the_command_opens_the_page(
    store: Store, client: Client, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []

    def browse(address: str) -> bool:
        opened.append(address)
        return len(opened) == 1

    monkeypatch.setattr(webbrowser, "open", browse)
    run_id = ended(store)
    assert command("report", "--open")[0] == 0
    assert opened == [(tmp_path / f"{run_id}.html").as_uri()]
    code, _, err = command("report", "--open")
    assert (code, err) == (0, "no browser could be opened")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "there is no run 'nope'"),
        (["--json", "--open"], "leave --output and --open out"),
        (["--output", "no/such/folder.html"], "no/such/folder.html can't be written"),
    ],
)
def test_the_command_says_what_is_wrong(
    store: Store, client: Client, command: Command, arguments: list[str], said: str
) -> None:
    assert "no training run has ended yet" in command("report")[2]
    ended(store)
    code, _, err = command("report", *arguments)
    assert code == 2
    assert said in err
