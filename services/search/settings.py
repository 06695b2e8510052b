"""What search can be told."""

from pathlib import Path

from pydantic import Field, SecretStr

from services.kit.settings import ServiceSettings


class SearchSettings(ServiceSettings):
    """`DIAPASON_…` and flags of search."""

    listen: str = "127.0.0.1:7072"
    embedder_address: str = Field("127.0.0.1:7071", description="host:port of the embedder")
    feedback_address: str = Field("127.0.0.1:7073", description="host:port of feedback, for impressions")
    catalog_url: str = Field(
        description="SQLAlchemy URL of the catalog, for example sqlite:////data/catalog.db or postgresql+psycopg://…"
    )
    indexes_dir: Path | None = Field(None, description="folder of the embedded engine's indexes")
    qdrant_url: str = Field("", description="a Qdrant server in place of the embedded engine, as http://host:6333")
    qdrant_api_key: SecretStr = Field(SecretStr(""), description="key of the Qdrant server, if it needs one")
    qdrant_grpc_port: int = Field(6334, ge=1, le=65_535, description="port of the Qdrant server's gRPC")
    qdrant_shards: int = Field(0, ge=0, description="shards of each new index on the server; 0: as it thinks best")
    qdrant_replicas: int = Field(1, ge=1, description="copies of each shard on the server")
    qdrant_write_consistency: int = Field(
        0, ge=0, description="copies that must have a write before it counts; 0: most of them"
    )
    qdrant_prefix: str = Field("diapason-", description="of the names of indexes on the server")
