"""Uploading datasets over real gRPC into real stores: whole or not at all."""

import asyncio
import json
import multiprocessing
import resource
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path

import grpc
import pytest
from obstore.store import from_url

from diapason.datasets.checking import BadData
from diapason.errors import AlreadyExists, DeadlineExceeded, InvalidArgument, NotFound, Overloaded
from diapason.trainer.v1 import dataset_pb2 as pb
from diapason.trainer.v1 import dataset_pb2_grpc
from services.kit import errors
from services.kit.sql import Database
from services.trainer.__main__ import MIGRATIONS
from services.trainer.datasets import Datasets, Upload, read_rows
from services.trainer.servicers import datasets as servicer
from tests.support.jobs import Store
from tests.support.terminal import Command
from tests.support.training import MOST_BYTES, MOST_ROWS, Trainer, serving

PAIRS, JUDGMENTS = pb.DATASET_FORM_PAIRS, pb.DATASET_FORM_JUDGMENTS


@pytest.fixture
def trainer(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    with serving(store, tmp_path) as made:
        monkeypatch.setenv("DIAPASON_TRAINER_ADDRESS", made.address)
        yield made


def pair(query: str, positive: str) -> pb.DatasetRow:
    return pb.DatasetRow(pair=pb.PairRow(query=query, positive=pb.Passage(text=positive)))


def pairs(count: int = 12, word: str = "d") -> list[pb.DatasetRow]:
    return [pair(f"q{i}", f"{word}{i}") for i in range(count)]


def test_what_is_uploaded_is_there_and_goes_when_it_is_deleted(trainer: Trainer) -> None:
    made = trainer.client.upload_dataset("faq", PAIRS, [*pairs(3_000), *pairs(2)])
    assert (made.rows, made.queries, made.rankable_queries) == (3_000, 3_000, 3_000)
    assert list(made.remarks) == ["2 exact duplicates left out"]
    assert trainer.client.dataset("faq") == made
    assert list(trainer.client.datasets()) == [made]
    [kept] = trainer.kept()
    assert list(read_rows(trainer.objects, f"datasets/{kept}")) == pairs(3_000)
    trainer.client.delete_dataset("faq")
    assert (list(trainer.client.datasets()), trainer.kept()) == ([], [])
    for gone in (trainer.client.dataset, trainer.client.delete_dataset):
        with pytest.raises(NotFound, match="there is no dataset 'faq'"):
            gone("faq")


def test_the_same_rows_have_the_same_digest(trainer: Trainer) -> None:
    first, second, other = (trainer.client.upload_dataset(n, PAIRS, pairs(word=w)) for n, w in ("ad", "bd", "ce"))
    assert first.digest == second.digest != other.digest


def test_a_name_is_taken_until_it_is_said_to_be_replaced(trainer: Trainer) -> None:
    trainer.client.upload_dataset("faq", PAIRS, pairs())
    before = trainer.kept()
    with pytest.raises(AlreadyExists, match="say that it is to be replaced"):
        trainer.client.upload_dataset("faq", PAIRS, pairs(20))
    assert trainer.kept() == before
    assert trainer.client.upload_dataset("faq", PAIRS, pairs(20), replace=True).rows == 20
    assert len(trainer.kept()) == 1
    assert trainer.kept() != before
    # What replaces and is bad leaves what there was.
    with pytest.raises(InvalidArgument):
        trainer.client.upload_dataset("faq", PAIRS, pairs(3), replace=True)
    assert trainer.client.dataset("faq").rows == 20
    assert len(list(read_rows(trainer.objects, f"datasets/{trainer.kept()[0]}"))) == 20


@pytest.mark.parametrize("name", ["", "Faq", "-x", "a b", "a/b", "../up", "x" * 64])
def test_a_name_that_is_not_allowed_is_refused(trainer: Trainer, name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"header\.name: is .* use 1 to 63 lower-case letters"):
        trainer.client.upload_dataset(name, PAIRS, pairs())


def test_bad_rows_are_named_and_counted_and_nothing_is_stored(trainer: Trainer) -> None:
    rows = [*pairs(1_500), pair("", "x"), *(pair("q", " ") for _ in range(40))]
    with pytest.raises(InvalidArgument) as refusal:
        trainer.client.upload_dataset("faq", PAIRS, rows)
    assert refusal.value.violations[0] == ("rows[1500].query", "is empty; give a text")
    assert refusal.value.violations[1] == ("rows[1501].positive", "is empty; give a text")
    assert refusal.value.violations[-1] == ("rows", "26 more of them are wrong")
    assert (trainer.kept(), list(trainer.client.datasets())) == ([], [])


def test_contradictory_judgments_are_refused_with_both_places(trainer: Trainer) -> None:
    def judged(query: str, grade: float) -> pb.DatasetRow:
        return pb.DatasetRow(judgment=pb.JudgmentRow(query=query, document=pb.Passage(id="d1"), grade=grade))

    rows = [judged(f"q{i}", i % 2) for i in range(12)]
    with pytest.raises(InvalidArgument, match=r"rows\[12\]\.grade: is 1, but 0 for the document in rows\[0\]"):
        trainer.client.upload_dataset("j", JUDGMENTS, [*rows, judged("q0", 1.0)])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (pairs(MOST_ROWS + 1), f"a dataset may have {MOST_ROWS:,} rows"),
        ([pair(f"q{i}", "x" * 90_000) for i in range(MOST_BYTES // 90_000 + 1)], f"may have {MOST_BYTES:,} bytes"),
    ],
    ids=["rows", "bytes"],
)
def test_i10_more_than_the_bounds_is_refused(trainer: Trainer, rows: list[pb.DatasetRow], said: str) -> None:
    with pytest.raises(Overloaded, match=said):
        trainer.client.upload_dataset("large", PAIRS, rows)
    assert trainer.kept() == []


def test_a_form_and_an_order_that_can_not_be_are_refused(trainer: Trainer) -> None:
    with pytest.raises(InvalidArgument, match=r"header\.form: is 0; give one of judgments, pairs"):
        trainer.client.upload_dataset("x", pb.DATASET_FORM_UNSPECIFIED, pairs())
    header = pb.UploadDatasetRequest(header=pb.DatasetHeader(name="x", form=PAIRS))
    rows = pb.UploadDatasetRequest(rows=pb.DatasetRows(rows=pairs()))
    for parts, said in (([rows, header], "header: is missing"), ([header, rows, header], "rows: is missing"), ([], "")):
        with grpc.insecure_channel(trainer.address) as channel, pytest.raises(grpc.RpcError) as refusal:
            dataset_pb2_grpc.DatasetServiceStub(channel).UploadDataset(iter(parts), timeout=10)
        assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert said in (refusal.value.details() or "")
    assert trainer.kept() == []


def test_an_upload_that_is_broken_off_leaves_nothing(trainer: Trainer) -> None:
    def broken() -> Iterator[pb.DatasetRow]:
        yield from pairs(1_200)
        raise BadData("the file went away")

    with pytest.raises(BadData, match="the file went away"):
        trainer.client.upload_dataset("faq", PAIRS, broken())
    whole = [
        pb.UploadDatasetRequest(header=pb.DatasetHeader(name="faq", form=PAIRS)),
        pb.UploadDatasetRequest(rows=pb.DatasetRows(rows=pairs(20))),
    ]
    with grpc.insecure_channel(trainer.address) as channel:
        stub = dataset_pb2_grpc.DatasetServiceStub(channel)
        for _ in range(20):
            asked, ended = threading.Event(), threading.Event()

            def parts(asked: threading.Event, ended: threading.Event) -> Iterator[pb.UploadDatasetRequest]:
                yield from whole
                asked.set()  # all is on its way
                ended.wait(20)

            call = stub.UploadDataset.future(parts(asked, ended))
            assert asked.wait(20)
            call.cancel()
            ended.set()
        ends: dict[str, list[pb.UploadDatasetRequest]] = {
            "sent: is missing": [],
            "is 21, but 20 rows": [pb.UploadDatasetRequest(sent=21)],
            "not last": [pb.UploadDatasetRequest(sent=20), whole[1]],
        }
        for wrong, end in ends.items():
            with pytest.raises(grpc.RpcError, match=wrong):
                stub.UploadDataset(iter([*whole, *end]), timeout=20)
    assert trainer.kept() == []
    assert list(trainer.client.datasets()) == []
    assert list((trainer.folder / "uploads").iterdir()) == []


def test_i10_an_upload_that_falls_silent_gives_its_place_back(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "_IDLE_SECONDS", 0.2)
    ending = threading.Event()

    def silent() -> Iterator[pb.DatasetRow]:
        yield from pairs(1_001)
        ending.wait(20)

    with pytest.raises(DeadlineExceeded, match="nothing came for"):
        trainer.client.upload_dataset("faq", PAIRS, silent())
    ending.set()
    assert trainer.client.upload_dataset("faq", PAIRS, pairs()).rows == 12


async def test_i10_more_uploads_at_once_than_there_are_places_are_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    datasets = Datasets(store.database, from_url((tmp_path / "objects").as_uri()))
    serving = servicer.DatasetServicer(datasets, tmp_path / "uploads", 100, 10**6)
    begun, ending = asyncio.Semaphore(0), asyncio.Event()

    async def parts(name: str, waits: bool) -> AsyncIterator[pb.UploadDatasetRequest]:
        yield pb.UploadDatasetRequest(header=pb.DatasetHeader(name=name, form=PAIRS))
        begun.release()
        if waits:
            await ending.wait()
        yield pb.UploadDatasetRequest(rows=pb.DatasetRows(rows=pairs()))
        yield pb.UploadDatasetRequest(sent=12)

    def upload(name: str, waits: bool = False) -> Coroutine[object, object, pb.UploadDatasetResponse]:
        return serving.UploadDataset(parts(name, waits), None)  # type: ignore[arg-type]

    slow = [asyncio.create_task(upload(f"slow-{i}", waits=True)) for i in range(4)]
    for _ in slow:
        await begun.acquire()
    with pytest.raises(errors.Overloaded, match="4 requests may be at work at once"):
        await upload("fifth")
    ending.set()
    assert {done.dataset.rows for done in await asyncio.gather(*slow)} == {12}
    assert (await upload("fifth")).dataset.rows == 12


def _fill(folder: Path, most: int, answers: "multiprocessing.Queue[str]") -> None:
    """Upload where no file may grow beyond so much: what a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    rows = [pair(f"{i} {hash(str(i))}", f"{hash(str(-i))}") for i in range(60_000)]
    upload = Upload(PAIRS, folder / "uploads", 100_000, 10**9)
    try:
        upload.take(rows)
        upload.finish()
    except errors.Overloaded as error:
        answers.put(error.message)
    else:
        answers.put("there was room")
    finally:
        upload.close()


def _fill_store(folder: Path, most: int, answers: "multiprocessing.Queue[str]") -> None:
    """The same, where there is room for the upload but not for the object."""
    database = Database(f"sqlite:///{folder / 'full.db'}")
    database.migrate(MIGRATIONS)
    upload = Upload(PAIRS, folder / "uploads", 100_000, 10**9)
    upload.take([pair(f"{i} {hash(str(i))}", f"{hash(str(-i))}") for i in range(60_000)])
    upload.finish()
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    datasets = Datasets(database, from_url((folder / "objects").as_uri()))
    try:
        datasets.store(pb.DatasetHeader(name="faq", form=PAIRS), upload)
    except errors.Overloaded as error:
        answers.put(error.message if not datasets.every() else "a row was written")
    else:
        answers.put("there was room")
    finally:
        upload.close()


@pytest.mark.parametrize(("filling", "where"), [(_fill, "uploads"), (_fill_store, "the object store")])
def test_a_full_disk_is_said_to_be_full_and_nothing_is_left(tmp_path: Path, filling: object, where: str) -> None:
    assert callable(filling)
    (tmp_path / "objects").mkdir()
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=filling, args=(tmp_path, 200_000, answers))
    process.start()
    said = answers.get(timeout=60)
    process.join(30)
    assert said.startswith("there is no room left in ")
    assert where in said
    assert [path for path in (tmp_path / "objects").rglob("*") if path.is_file()] == []


def test_a_dataset_is_stored_in_any_database(catalog_url: str, tmp_path: Path) -> None:
    database = Database(catalog_url)
    database.migrate(MIGRATIONS)
    (tmp_path / "objects").mkdir()
    datasets = Datasets(database, from_url((tmp_path / "objects").as_uri()))
    for replace in (False, True):
        upload = Upload(PAIRS, tmp_path / "uploads", 100, 10**6)
        upload.take(pairs())
        datasets.store(pb.DatasetHeader(name="faq", form=PAIRS, replace=replace), upload)
        upload.close()
    assert [(row.name, row.rows) for row in datasets.every()] == [("faq", 12)]
    with pytest.raises(errors.AlreadyExists):
        datasets.check_free("faq", replace=False)
    datasets.delete("faq")
    assert [path for path in (tmp_path / "objects").rglob("*") if path.is_file()] == []
    database.close()


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_commands_upload_list_show_and_delete(trainer: Trainer, command: Command, tmp_path: Path) -> None:
    file = write(tmp_path / "faq.jsonl", [{"question": f"q{i}", "answer": f"a{i}", "id": i} for i in range(12)])
    code, out, err = command("datasets", "upload", "faq", file)
    assert code == 0, err
    assert out == "dataset 'faq', pairs: 12 rows, 12 queries (12 with a relevant document)\n"
    assert "faq.jsonl is read as pairs; --form says otherwise" in err
    assert "columns that were not read: id" in err
    code, out, _ = command("datasets", "show", "faq", "--json")
    assert json.loads(out)["rows"] == "12"
    assert "faq" in command("datasets")[1]
    code, _, err = command("datasets", "upload", "faq", file)
    assert (code, "there is a dataset 'faq' already; choose another name, or say --replace" in err) == (2, True)
    assert command("datasets", "upload", "faq", file, "--replace", "--json")[0] == 0
    assert command("datasets", "delete", "faq")[1] == "dataset 'faq' is deleted\n"
    code, _, err = command("datasets", "show", "faq")
    assert (code, "there is no dataset 'faq'" in err) == (2, True)


def test_the_command_names_bad_lines_and_stores_nothing(trainer: Trainer, command: Command, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"query": f"q{i}", "document": f"d{i}", "grade": 1} for i in range(12)]
    rows[4]["grade"], rows[7]["document"] = 7, ""
    code, _, err = command("datasets", "upload", "faq", write(tmp_path / "faq.jsonl", rows))
    assert code == 2
    assert "2 bad rows, and nothing was stored: line 5: grade is 7.0; give a number from 0 to 1" in err
    assert "line 8: document is missing; give a text, or a document's id" in err
    assert trainer.kept() == []
    code, _, err = command("datasets", "upload", "faq", str(tmp_path / "none.csv"))
    assert (code, "none.csv is not there" in err) == (2, True)
