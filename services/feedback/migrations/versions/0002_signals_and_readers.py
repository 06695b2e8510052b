"""Tenants, clients and times of events; who read them; erasures. Numbers are never given twice."""

from datetime import UTC, datetime
from hashlib import blake2b

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ROWS = 1_000


def upgrade() -> None:
    # What is there gets its values below; the defaults are only for the moment between.
    recreate = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("feedback", recreate=recreate, table_kwargs={"sqlite_autoincrement": True}) as table:
        table.add_column(sa.Column("query_key", sa.String(), nullable=False, server_default=""))
        table.add_column(sa.Column("tenant", sa.String(), nullable=False, server_default=""))
        table.add_column(sa.Column("client", sa.String(), nullable=False, server_default=""))
        table.add_column(sa.Column("time", sa.BigInteger(), nullable=False, server_default="0"))
        table.drop_index("ix_feedback_collection")
    fill()
    op.create_index("feedback_by_query", "feedback", ["collection", "query_key", "number"])
    op.create_index("feedback_by_actor", "feedback", ["actor"])
    op.create_index("feedback_by_search", "feedback", ["search_id"])
    op.create_index("feedback_by_age", "feedback", ["time"])
    op.add_column("impressions", sa.Column("tenant", sa.String(), nullable=False, server_default=""))
    op.create_index("impressions_by_actor", "impressions", ["actor"])
    op.create_index("impressions_by_age", "impressions", ["at"])
    op.create_table(
        "exports",
        sa.Column("consumer", sa.String(), nullable=False),
        sa.Column("collection", sa.String(), nullable=False),
        sa.Column("up_to", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "collection", "up_to"),
    )
    op.create_table(
        "trainings",
        sa.Column("consumer", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "digest"),
    )
    op.create_table(
        "erasures",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("signals", sa.JSON(), nullable=False),
        sa.Column("impressions", sa.Integer(), nullable=False),
        sa.Column("consumers", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )


def fill() -> None:
    """The key of each query, and the time of arrival as the time, for the events there are."""
    feedback = sa.table(
        "feedback",
        sa.column("number", sa.BigInteger()),
        sa.column("query", sa.Text()),
        sa.column("query_key", sa.String()),
        sa.column("time", sa.BigInteger()),
        sa.column("at", sa.DateTime(timezone=True)),
    )
    connection, last = op.get_bind(), 0
    columns = feedback.c.number, feedback.c.query, feedback.c.at
    change = (
        feedback.update()
        .where(feedback.c.number == sa.bindparam("row"))
        .values(query_key=sa.bindparam("named"), time=sa.bindparam("moment"))
    )
    page = sa.select(*columns).order_by(feedback.c.number).limit(_ROWS)
    while rows := connection.execute(page.where(feedback.c.number > last)).all():
        last = rows[-1].number
        connection.execute(
            change,
            [
                {
                    "row": row.number,
                    "named": blake2b(row.query.encode(), digest_size=16).hexdigest(),
                    "moment": milliseconds(row.at),
                }
                for row in rows
            ],
        )


def milliseconds(moment: datetime) -> int:
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def downgrade() -> None:
    for table in ("erasures", "trainings", "exports"):
        op.drop_table(table)
    op.drop_index("impressions_by_age", "impressions")
    op.drop_index("impressions_by_actor", "impressions")
    op.drop_column("impressions", "tenant")
    for index in ("feedback_by_age", "feedback_by_search", "feedback_by_actor", "feedback_by_query"):
        op.drop_index(index, "feedback")
    with op.batch_alter_table("feedback", table_kwargs={"sqlite_autoincrement": False}) as table:
        for column in ("time", "client", "tenant", "query_key"):
            table.drop_column(column)
        table.create_index("ix_feedback_collection", ["collection"])
