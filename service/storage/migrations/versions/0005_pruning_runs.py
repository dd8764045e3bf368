"""Pruning runs beside subnet requests, and pruned networks, whose accuracy nothing predicts, beside subnets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"

_LATENCIES = (
    "subnet_id, device, predicted_ms, measured_ms, created_at, accuracy, predicted_accuracy, macs, params, supernet_id"
)


def upgrade() -> None:
    """Add columns and allow what was not; what is stored stays as it is."""
    with op.batch_alter_table("subnet_requests") as requests:
        requests.add_column(sa.Column("method", sa.String(), nullable=True))
        requests.add_column(sa.Column("source", sa.String(), nullable=True))
        requests.add_column(sa.Column("weights", sa.JSON(none_as_null=True), nullable=True))
        requests.create_index("subnet_requests_by_method", ["method", "created_at", "id"])
        requests.create_index("subnet_requests_by_subnet", ["subnet_id"])
        requests.create_index("subnet_requests_by_source", ["source"])
    if op.get_bind().dialect.name != "sqlite":
        _allow_none()
        return
    # SQLite changes a column by making the table anew, and drops no table whose rows others refer to.
    op.execute("create temporary table kept_latencies as select * from subnet_latencies")
    op.execute("delete from subnet_latencies")
    _allow_none()
    op.execute(f"insert into subnet_latencies ({_LATENCIES}) select {_LATENCIES} from kept_latencies")
    op.execute("drop table kept_latencies")


def _allow_none() -> None:
    for table in ("subnets", "subnet_latencies"):
        with op.batch_alter_table(table) as rows:
            rows.alter_column("predicted_accuracy", existing_type=sa.Double(), nullable=True)
