"""Alembic's entry."""

from services.feedback.adapters.tables import Base
from services.kit.sql import run_migrations

run_migrations(Base.metadata)
