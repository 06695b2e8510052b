"""The search service under test: a real process beside a real embedder, with the embedded engine."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.embedder.stage import Stage as EmbedderStage
from diapason.client import Addresses, Client
from diapason.common.v1.version_pb2 import VersionRef
from diapason.search.v1.collection_pb2 import REINDEX_STATE_CAUGHT_UP, CollectionSettings
from diapason.search.v1.document_pb2 import Document
from services.trainer.domain.model import PublishedVersion

_WAIT_SECONDS = 120.0


@dataclass
class Stage:
    """A running search service. Nobody takes its impressions: they are dropped, and counted."""

    address: str
    client: Client

    def fill(self, name: str, version: PublishedVersion, texts: Sequence[str], settings: CollectionSettings) -> None:
        """A collection with these documents, indexed."""
        encoder = VersionRef(digest=version.digest)
        self.client.create_collection(name, encoder, settings=settings)
        documents = (Document(id=f"d{i}", text=text) for i, text in enumerate(texts))
        left = [receipt.id for receipt in self.client.upsert(name, documents) if not receipt.indexed]
        if left:
            raise RuntimeError(f"{len(left)} documents were not indexed")
        # An index is brought into form before it takes in what is written next.
        list(self.client.upsert(name, [Document(id="last", text=texts[0])]))

    def reindex(self, name: str, version: PublishedVersion) -> float:
        """Build an index under another version; returns documents per second until it has caught up."""
        started = time.perf_counter()
        reindex = self.client.start_reindex(name, VersionRef(digest=version.digest))
        while reindex.state != REINDEX_STATE_CAUGHT_UP:
            time.sleep(0.05)
            reindex = self.client.reindex(reindex.id)
        return float(reindex.total) / (time.perf_counter() - started)


@contextmanager
def running(embedder: EmbedderStage, port: int) -> Iterator[Stage]:
    """A search service over a fresh folder, for the time of the block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = os.environ | {
            "DIAPASON_LISTEN": f"127.0.0.1:{port}",
            "DIAPASON_EMBEDDER_ADDRESS": embedder.address,
            "DIAPASON_FEEDBACK_ADDRESS": "127.0.0.1:9",
            "DIAPASON_CATALOG_URL": f"sqlite:///{folder / 'catalog.db'}",
            "DIAPASON_INDEXES_DIR": str(folder / "indexes"),
            "DIAPASON_LOG_LEVEL": "ERROR",
        }
        process = subprocess.Popen([sys.executable, "-m", "services.search"], env=environment)
        try:
            address = f"127.0.0.1:{port}"
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(_WAIT_SECONDS)
            addresses = Addresses(embedder=embedder.address, search=address)
            with Client(addresses, timeout=_WAIT_SECONDS) as client:
                while client.health("search") != "SERVING":
                    time.sleep(0.05)
                yield Stage(address, client)
        finally:
            process.terminate()
            process.wait(60)
