"""Composition root: `python -m services.search`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from diapason.search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    document_pb2,
    document_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from services.kit.admission import Admission
from services.kit.channels import open_channel
from services.kit.errors import ServiceError
from services.kit.server import CannotStart, Host, run
from services.kit.sql import Database
from services.search.adapters.catalog import Catalog
from services.search.adapters.documents import Documents
from services.search.adapters.edge import EdgeEngine
from services.search.adapters.embedder import GrpcEmbedder
from services.search.adapters.impressions import ImpressionBuffer
from services.search.collections import Collections
from services.search.moving import Moving
from services.search.ports import Embedder, Engine, Impressions
from services.search.retrieval import Retrieval
from services.search.routing import Routing
from services.search.servicers.collections import CollectionServicer
from services.search.servicers.documents import DocumentServicer
from services.search.servicers.searching import SearchServicer
from services.search.settings import SearchSettings
from services.search.state import State
from services.search.writing import Writing

SEARCH = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name
DOCUMENTS = document_pb2.DESCRIPTOR.services_by_name["DocumentService"].full_name
COLLECTIONS = collection_pb2.DESCRIPTOR.services_by_name["CollectionService"].full_name
MIGRATIONS = Path(__file__).parent / "migrations"


class Search:
    """The use cases, wired together."""

    def __init__(self, database: Database, engine: Engine, embedder: Embedder, impressions: Impressions) -> None:
        self.state = State(Catalog(database), Documents(database), engine, embedder)
        self.writing = Writing(self.state)
        self.collections = Collections(self.state)
        self.routing = Routing(self.state)
        self.retrieval = Retrieval(self.state, impressions)
        self.moving = Moving(self.state, self.collections, self.writing)


def open_engine(settings: SearchSettings, catalog: str) -> Engine:
    """The engine that the settings name, for a catalog's identity. Raises ``CannotStart``."""
    if settings.qdrant_url:
        # Only here: who uses the embedded engine need not load the client.
        from services.search.adapters.server import ServerEngine
        from services.search.adapters.server_calls import ServerSettings

        return ServerEngine(
            ServerSettings(
                url=settings.qdrant_url,
                api_key=settings.qdrant_api_key.get_secret_value(),
                grpc_port=settings.qdrant_grpc_port,
                prefix=settings.qdrant_prefix,
                catalog=catalog,
                shards=settings.qdrant_shards,
                replication_factor=settings.qdrant_replicas,
                write_consistency_factor=settings.qdrant_write_consistency,
            )
        )
    if settings.indexes_dir is None:
        raise CannotStart("no place for indexes is named; set DIAPASON_INDEXES_DIR or DIAPASON_QDRANT_URL")
    return EdgeEngine(settings.indexes_dir, catalog)


def serve(host: Host, search: Search, max_requests: int) -> None:
    """Plug the servicers into a host."""
    host.serve(
        SEARCH,
        search_pb2_grpc.add_SearchServiceServicer_to_server,
        SearchServicer(search.retrieval, Admission(max_requests)),
    )
    host.serve(DOCUMENTS, document_pb2_grpc.add_DocumentServiceServicer_to_server, DocumentServicer(search.writing))
    host.serve(
        COLLECTIONS,
        collection_pb2_grpc.add_CollectionServiceServicer_to_server,
        CollectionServicer(search.collections, search.routing, search.moving),
    )


@asynccontextmanager
async def build(settings: SearchSettings, host: Host) -> AsyncIterator[None]:
    """Wire search together."""
    database = Database(settings.catalog_url)
    await asyncio.to_thread(database.migrate, MIGRATIONS)
    engine = open_engine(settings, await asyncio.to_thread(Catalog(database).identity))
    async with (
        open_channel(settings.embedder_address) as embedder,
        open_channel(settings.feedback_address) as feedback,
    ):
        impressions = ImpressionBuffer(feedback)
        search = Search(database, engine, GrpcEmbedder(embedder), impressions)
        try:
            await search.state.open()
        except ServiceError as error:
            raise CannotStart(error.message) from error
        serve(host, search, settings.max_requests)
        host.background("impressions", impressions.run)
        host.background("keeping", search.state.keep)
        host.background("retention", search.state.drop_expired)
        host.background("readiness", lambda: host.set_ready(True))
        yield
        await search.state.close()
        await impressions.flush()
    database.close()


if __name__ == "__main__":
    sys.exit(run("search", SearchSettings, build))
