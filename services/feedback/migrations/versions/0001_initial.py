"""Impressions and feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "feedback",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("collection", sa.String(), nullable=False),
        sa.Column("search_id", sa.String(), nullable=True),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("signal", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("key"),
    )
    op.create_index(op.f("ix_feedback_collection"), "feedback", ["collection"], unique=False)
    op.create_table(
        "impressions",
        sa.Column("search_id", sa.String(), nullable=False),
        sa.Column("collection", sa.String(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("route", sa.JSON(), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("search_id"),
    )
    op.create_index(op.f("ix_impressions_collection"), "impressions", ["collection"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_impressions_collection"), table_name="impressions")
    op.drop_table("impressions")
    op.drop_index(op.f("ix_feedback_collection"), table_name="feedback")
    op.drop_table("feedback")
