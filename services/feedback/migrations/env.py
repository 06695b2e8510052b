"""Alembic's entry."""

from services.feedback.store import Base
from services.kit.sql import run_migrations

run_migrations(Base.metadata)
