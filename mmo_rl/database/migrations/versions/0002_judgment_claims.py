"""Table of claims to judgments under way, so that workers that share a database pay for each once."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        """
        create table mmo_rl.judgment_claims (
            key text primary key,
            owner uuid not null,
            expires_at timestamptz not null
        )
        """
    )


def downgrade() -> None:
    op.get_bind().exec_driver_sql("drop table mmo_rl.judgment_claims")
