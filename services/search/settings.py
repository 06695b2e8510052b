"""What search can be told."""

from pathlib import Path

from pydantic import Field

from services.kit.settings import ServiceSettings


class SearchSettings(ServiceSettings):
    """`DIAPASON_…` and flags of search."""

    listen: str = "127.0.0.1:7072"
    embedder_address: str = Field("127.0.0.1:7071", description="host:port of the embedder")
    feedback_address: str = Field("127.0.0.1:7073", description="host:port of feedback, for impressions")
    catalog_url: str = Field(description="SQLAlchemy URL of the catalog, for example sqlite:////data/catalog.db")
    indexes_dir: Path = Field(description="folder of the embedded engine's indexes")
