"""Settings, counts, pauses; who keeps an index; rerankers in routes; the catalog's identity."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def collections() -> tuple[sa.Column, ...]:
    return (
        sa.Column("settings", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("documents", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_by", sa.String(), nullable=False, server_default=""),
    )


def indexes() -> tuple[sa.Column, ...]:
    return (
        sa.Column("fields", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("max_rate", sa.Double(), nullable=False, server_default="0"),
        sa.Column("owner", sa.String(), nullable=False, server_default=""),
        sa.Column("token", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
    )


def upgrade() -> None:
    identity = op.create_table("identity", sa.Column("id", sa.String(), nullable=False), sa.PrimaryKeyConstraint("id"))
    op.bulk_insert(identity, [{"id": uuid.uuid4().hex}])
    for column in collections():
        op.add_column("collections", column)
    for column in indexes():
        op.add_column("indexes", column)
    op.add_column("routes", sa.Column("reranker", sa.JSON(), nullable=True))
    op.add_column("reindexes", sa.Column("rate", sa.Double(), nullable=False, server_default="0"))
    with op.batch_alter_table("documents") as table:
        table.alter_column("revision", existing_type=sa.Integer(), type_=sa.BigInteger(), existing_nullable=False)
    op.execute(
        "UPDATE collections SET documents = (SELECT count(*) FROM documents "
        "WHERE documents.collection = collections.name AND NOT documents.deleted)"
    )


def downgrade() -> None:
    op.drop_table("identity")
    with op.batch_alter_table("documents") as table:
        table.alter_column("revision", existing_type=sa.BigInteger(), type_=sa.Integer(), existing_nullable=False)
    op.drop_column("reindexes", "rate")
    op.drop_column("routes", "reranker")
    for column in indexes():
        op.drop_column("indexes", column.name)
    for column in collections():
        op.drop_column("collections", column.name)
