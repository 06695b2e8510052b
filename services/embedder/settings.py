"""What the embedder can be told."""

import os
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from services.kit.settings import ServiceSettings


def _cores() -> int:
    """The cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class EmbedderSettings(ServiceSettings):
    """`DIAPASON_…` and flags of the embedder."""

    listen: str = "127.0.0.1:7071"
    registry_address: str = Field("127.0.0.1:7074", description="host:port of the trainer's registry")
    artifacts_url: str = Field(
        description="where versions are published: a folder's file:// URL, s3://, gs:// or az://"
    )
    cache_dir: Path = Field(description="folder for fetched versions")
    replica_id: str = Field("", description="name of this replica; empty for host name and process id")
    inference_threads: int = Field(default_factory=_cores, ge=1, description="threads of one forward pass")
    max_texts: int = Field(256, ge=1, description="texts in one request")
    max_text_characters: int = Field(100_000, ge=1, description="characters in one text")
    max_queued_texts: int = Field(4096, ge=1, description="texts that may wait, per version; at least max-texts")

    @model_validator(mode="after")
    def _whole_requests_fit(self) -> Self:
        if self.max_queued_texts < self.max_texts:
            raise ValueError(f"max_queued_texts must be at least max_texts, {self.max_texts}")
        return self
