"""Required tables and columns, and checks for them. The game's tables are Prisma's: quoted camelCase names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mmo_rl.database.base import Connection
from mmo_rl.errors import DatabaseError

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = max(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))

# The columns that are read or written here; the game's tables may have more.
_COLUMNS = {
    "trajectories": """
        id trajectoryId agentId startTime endTime durationMs windowId windowHours scenarioId stepsJson
        rewardComponentsJson metricsJson metadataJson totalReward episodeLength finalStatus finalBalance finalPnL
        tradesExecuted postsCreated isTrainingData isEvaluation usedInTraining trainedInBatch createdAt updatedAt
    """,
    "llm_call_logs": """
        id trajectoryId stepId callId timestamp latencyMs model purpose actionType systemPrompt userPrompt
        messagesJson response reasoning temperature maxTokens topP promptTokens completionTokens totalTokens
        metadata createdAt
    """,
    "market_outcomes": """
        id windowId stockTicker startPrice endPrice changePercent sentiment newsEvents predictionMarketId question
        outcome finalProbability createdAt
    """,
    "training_batches": """
        id batchId baseModel modelVersion trajectoryIds rewardsJson status error createdAt startedAt completedAt
    """,
    "trained_models": """
        id modelId version baseModel trainingBatch status storagePath avgReward evalMetrics wandbRunId createdAt
        updatedAt
    """,
    "reward_judgments": "id trajectoryId",
}
GAME_COLUMNS = {table: tuple(columns.split()) for table, columns in _COLUMNS.items()}
OWN_TABLES = ("worlds", "judgments", "judgment_claims")
OWN_SCHEMA = "mmo_rl"
ALL_TABLES = (*GAME_COLUMNS, *(f"{OWN_SCHEMA}.{table}" for table in OWN_TABLES))

FOUND_SQL = """
    select name, case when split_part(name, '.', 2) = '' then to_regclass(name)::oid else (
        select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where (n.nspname, c.relname) = (split_part(name, '.', 1), split_part(name, '.', 2))
    ) end as oid
    from unnest($1::text[]) as name
"""
"""Tables by name. Of a schema that may not be looked into, `to_regclass` would fail instead of answering."""


def quote_identifier(identifier: str) -> str:
    """Quotes an identifier for SQL."""
    escaped = identifier.replace('"', '""')
    return f'"{escaped}"'


async def missing_tables(connection: Connection) -> list[str]:
    """Lists the tables that do not exist: the game's in the search path, our own in the schema ``mmo_rl``."""
    rows = await connection.fetch(f"select name from ({FOUND_SQL}) found where oid is null", ALL_TABLES)
    found = {row["name"] for row in rows}
    return [name for name in ALL_TABLES if name in found]


async def refusal(connection: Connection, missing: Collection[str]) -> str | None:
    """Describes a refusal: to write at all (a standby server), to create missing tables, or to write to existing ones.

    None where nothing is refused.
    """
    if await connection.fetchval("select pg_is_in_recovery()"):
        return "write: it is a standby server"
    [may_create] = await connection.fetch(
        "select has_schema_privilege(current_schema(), 'create') as game, case when to_regnamespace($1) is null"
        " then has_database_privilege(current_database(), 'create')"
        " else has_schema_privilege(to_regnamespace($1)::oid, 'create') end as own",
        OWN_SCHEMA,
    )
    own = [name for name in missing if name.startswith(f"{OWN_SCHEMA}.")]
    if (own and not may_create["own"]) or (len(own) < len(missing) and may_create["game"] is False):
        return f"create the tables that are missing ({', '.join(missing)})"
    rows = await connection.fetch(
        f"select name from ({FOUND_SQL}) found join pg_class c on c.oid = found.oid"
        " where not (has_schema_privilege(c.relnamespace, 'usage') and has_table_privilege(c.oid, 'insert'))",
        ALL_TABLES,
    )
    return f"write to the table {', '.join(row['name'] for row in rows)}" if rows else None


async def require_columns(connection: Connection) -> None:
    """Raises `DatabaseError` that names every column of the game's existing tables that is needed and not there."""
    rows = await connection.fetch(
        "select name as table, a.attname::text as column from unnest($1::text[]) as name"
        " left join pg_attribute a on a.attrelid = to_regclass(name) and a.attnum > 0 and not a.attisdropped"
        " where to_regclass(name) is not null",
        list(GAME_COLUMNS),
    )
    existing = {(row["table"], row["column"]) for row in rows}
    tables = {table for table, _ in existing}
    missing = [
        f"{table}.{column}"
        for table, columns in GAME_COLUMNS.items()
        if table in tables
        for column in columns
        if (table, column) not in existing
    ]
    if missing:
        raise DatabaseError(
            f"the database's tables lack columns: {', '.join(missing)}",
            hint="bring the game's own schema up to date first; its tables are never altered from here",
        )


async def current_revision(connection: Connection) -> str | None:
    """Reads the revision of the database; None where it was never migrated."""
    if await connection.fetchval("select to_regclass('mmo_rl.alembic_version') is null"):
        return None
    revision: str | None = await connection.fetchval("select version_num from mmo_rl.alembic_version")
    return revision
