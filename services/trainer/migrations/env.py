"""Alembic's entry."""

from services.kit.sql import run_migrations
from services.trainer.tables import Base

run_migrations(Base.metadata)
