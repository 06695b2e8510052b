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
from services.kit.server import Host, run
from services.kit.sql import Database
from services.search.adapters.catalog import Catalog
from services.search.adapters.edge import EdgeEngine
from services.search.adapters.embedder import GrpcEmbedder
from services.search.adapters.impressions import ImpressionBuffer
from services.search.application import Search
from services.search.servicers import CollectionServicer, DocumentServicer, SearchServicer
from services.search.settings import SearchSettings

SEARCH = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name
DOCUMENTS = document_pb2.DESCRIPTOR.services_by_name["DocumentService"].full_name
COLLECTIONS = collection_pb2.DESCRIPTOR.services_by_name["CollectionService"].full_name
MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def build(settings: SearchSettings, host: Host) -> AsyncIterator[None]:
    """Wire search together."""
    database = Database(settings.catalog_url)
    await asyncio.to_thread(database.migrate, MIGRATIONS)
    async with (
        open_channel(settings.embedder_address) as embedder,
        open_channel(settings.feedback_address) as feedback,
    ):
        impressions = ImpressionBuffer(feedback)
        search = Search(Catalog(database), EdgeEngine(settings.indexes_dir), GrpcEmbedder(embedder), impressions)
        await search.open()
        host.serve(
            SEARCH,
            search_pb2_grpc.add_SearchServiceServicer_to_server,
            SearchServicer(search, Admission(settings.max_requests)),
        )
        host.serve(DOCUMENTS, document_pb2_grpc.add_DocumentServiceServicer_to_server, DocumentServicer(search))
        host.serve(
            COLLECTIONS,
            collection_pb2_grpc.add_CollectionServiceServicer_to_server,
            CollectionServicer(search),
        )
        host.background("impressions", impressions.run)
        host.background("retention", search.drop_expired)
        host.background("readiness", lambda: host.set_ready(True))
        yield
        await search.close()
        await impressions.flush()
    database.close()


if __name__ == "__main__":
    sys.exit(run("search", SearchSettings, build))
