"""Alembic's entry."""

from services.kit.sql import run_migrations
from services.search.adapters.tables import Base

run_migrations(Base.metadata)
