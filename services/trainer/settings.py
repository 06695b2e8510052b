"""What the trainer's API and workers can be told."""

from pathlib import Path

from pydantic import Field

from services.kit.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """`DIAPASON_…` and flags of the trainer."""

    listen: str = "127.0.0.1:7074"
    database_url: str = Field(description="SQLAlchemy URL, for example sqlite:////data/trainer.db")
    broker_url: str = Field("redis://127.0.0.1:6379/0", description="Redis, as a broker only")
    artifacts_url: str = Field(
        description="where versions are published: file:///data/artifacts, s3://, gs:// or az://"
    )
    work_dir: Path = Field(description="folder for training data, weights and candidates")
    search_address: str = Field("127.0.0.1:7072", description="host:port of search")
    feedback_address: str = Field("127.0.0.1:7073", description="host:port of feedback")
    watch_seconds: float = Field(5.0, ge=0, description="how long a rollout watches the new version after the switch")
    dataset_rows: int = Field(500_000, ge=1, description="most rows that an uploaded dataset may have")
    dataset_bytes: int = Field(512 * 1024 * 1024, ge=1, description="most bytes that their texts may have together")
    load_timeout_seconds: float = Field(600.0, gt=0, description="how long replicas may take to load a version")
    training_processes: int = Field(1, ge=1, description="processes that train together, one for each GPU")
    push_timeout_seconds: float = Field(3600.0, gt=0, description="how long pushing a version to a model hub may take")
    trackers: str = Field("", description="where workers report training: any of tensorboard,mlflow,wandb, by commas")
