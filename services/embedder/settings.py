"""What the embedder can be told."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from services.embedder import cores
from services.embedder.domain.versions import Preserving
from services.kit.settings import ServiceSettings


class EmbedderSettings(ServiceSettings):
    """`DIAPASON_…` and flags of the embedder."""

    listen: str = "127.0.0.1:7071"
    registry_address: str = Field("127.0.0.1:7074", description="host:port of the trainer's registry")
    artifacts_url: str = Field(
        description="where versions are published: a folder's file:// URL, s3://, gs:// or az://"
    )
    cache_dir: Path = Field(description="folder for fetched versions")
    cache_max_bytes: int = Field(
        20 * 1024**3, ge=1, description="most that fetched versions may take there; those used longest ago go first"
    )
    replica_id: str = Field("", description="name of this replica; empty for host name and process id")
    runtime: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="what computes; auto takes torch where it is installed and finds a GPU, else openvino"
    )
    inference_threads: int = Field(
        default_factory=cores.usable,
        ge=1,
        description="threads that compute, shared by all versions; by default the cores that may be used",
    )
    threads_per_batch: int = Field(
        1, ge=1, description="threads of one batch while others run beside it; more for large models on many cores"
    )
    preserve: Preserving = Field(
        Preserving.AVAILABILITY,
        description="availability loads a new version before one that is not wanted leaves; resources the other way",
    )
    load_attempts: int = Field(10, ge=1, description="tries to load a version before it is given up")
    max_requests: int = Field(2048, ge=1, description="unary requests at work at once; more are refused")
    max_streams: int = Field(64, ge=1, description="streams open at once; more are refused")
    max_texts: int = Field(256, ge=1, description="texts in one request")
    max_text_characters: int = Field(100_000, ge=1, description="characters in one text")
    max_queued_texts: int = Field(4096, ge=1, description="texts that may wait, in each lane; at least max-texts")
    max_queued_tokens: int = Field(131_072, ge=1, description="tokens that may wait, in each lane, by an estimate")
    query_cache_entries: int = Field(
        10_000, ge=0, description="interactive queries whose vectors are remembered; 0 remembers none"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_queued_texts < self.max_texts:
            raise ValueError(f"max_queued_texts must be at least max_texts, {self.max_texts}")
        if self.threads_per_batch > self.inference_threads:
            raise ValueError(f"threads_per_batch must be at most inference_threads, {self.inference_threads}")
        return self

    @property
    def slots(self) -> int:
        """Batches that may be computed at the same time."""
        return self.inference_threads // self.threads_per_batch
