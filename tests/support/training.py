"""The trainer's API in this process, and its worker: real stores and real training, search and feedback as planted."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from obstore.store import ObjectStore, from_url

from diapason.client import Addresses, Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1 import collection_pb2 as search
from diapason.trainer.v1 import dataset_pb2_grpc, training_pb2_grpc
from services.kit.server import Host
from services.kit.settings import ServiceSettings
from services.trainer.__main__ import DATASETS, TRAINING
from services.trainer.datasets import Datasets
from services.trainer.domain.data import Judgment
from services.trainer.domain.model import PublishedVersion
from services.trainer.pacing import Shutdown
from services.trainer.peers import Exported
from services.trainer.reporting.reports import Reports
from services.trainer.runs import Runner
from services.trainer.servicers.datasets import DatasetServicer
from services.trainer.servicers.training import TrainingServicer
from services.trainer.tables import RunRow
from tests.support.jobs import OLD, Store
from tests.support.serving import in_thread
from tests.support.words import TOPICS, document

MOST_ROWS, MOST_BYTES = 5_000, 1_000_000


@dataclass
class PlantedPeers:
    """Search with a document for each topic, and feedback with the judgments that a test gives."""

    serving: PublishedVersion = OLD
    feedback: Sequence[Judgment] = ()
    documents: dict[str, str] = field(default_factory=lambda: {f"t{i}": document(i) for i in range(TOPICS)})
    asked_for_feedback: bool = False

    def collection(self, name: str) -> search.Collection:
        encoder = VersionRef(digest=self.serving.digest)
        return search.Collection(name=name, route=search.Route(collection=name, generation=1, encoder=encoder))

    def judgments(self, collection: str, consumer: str = "", policy: str = "") -> Exported:
        self.asked_for_feedback = True
        return Exported(self.feedback, {"name": "thumbs", "version": 1})

    def passages(self, collection: str) -> Iterator[tuple[str, str]]:
        yield from self.documents.items()

    def record_training(self, consumer: str, version: PublishedVersion) -> None:
        raise AssertionError("nothing is published here")


class _Nudger:
    def nudge(self, task: str, job: str) -> bool:
        return True


@dataclass
class Trainer:
    """What the tests look at."""

    store: Store
    objects: ObjectStore
    folder: Path
    peers: PlantedPeers
    client: Client
    address: str

    def execute(self, run_id: str) -> RunRow:
        """Do a run as a worker would; what it came to."""
        work, peers = self.folder / "work", self.peers
        Runner(self.store.jobs, self.store.registry, self.objects, peers, work, Shutdown()).execute(run_id)  # type: ignore[arg-type]
        return self.store.jobs.get(RunRow, run_id)

    def kept(self) -> list[str]:
        """The objects of datasets."""
        root = self.folder / "objects" / "datasets"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@contextmanager
def serving(store: Store, folder: Path) -> Iterator[Trainer]:
    """A trainer whose objects and work are in a folder, for the time of the block."""
    (folder / "objects").mkdir(exist_ok=True)
    objects, peers = from_url((folder / "objects").as_uri()), PlantedPeers()
    datasets = Datasets(store.database, objects)

    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        host = Host(ServiceSettings(listen=""))
        bringing = DatasetServicer(datasets, folder / "uploads", MOST_ROWS, MOST_BYTES)
        host.serve(DATASETS, dataset_pb2_grpc.add_DatasetServiceServicer_to_server, bringing)
        reports = Reports(store.jobs, store.registry, objects)
        runs = TrainingServicer(store.jobs, store.registry, _Nudger(), peers, reports, datasets)  # type: ignore[arg-type]
        host.serve(TRAINING, training_pb2_grpc.add_TrainingServiceServicer_to_server, runs)
        yield f"127.0.0.1:{await host.start('127.0.0.1:0')}"
        await host.stop(1)

    with in_thread(opened) as address, Client(Addresses(trainer=address)) as client:
        yield Trainer(store, objects, folder, peers, client, address)
