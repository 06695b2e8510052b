"""Alembic's entry."""

from services.kit.sql import run_migrations
from services.trainer.store import Base

run_migrations(Base.metadata)
