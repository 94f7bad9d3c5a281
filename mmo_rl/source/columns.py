"""Names and types of the tables' columns: a game's own, in camelCase or snake_case, older or newer.

Columns are found by their names without case and underscores. Optional ones may be missing; values come in one type
whatever the column's is (``jsonb`` instead of ``text``, ``timestamptz`` instead of ``timestamp``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmo_rl.source.base import Row

TABLES = ("trajectories", "llm_call_logs", "market_outcomes", "reward_judgments")
REQUIRED = ("trajectoryId", "agentId", "startTime", "stepsJson", "episodeLength")
OTHER_NAMES = {
    "stepsJson": ("steps",),
    "metricsJson": ("metrics",),
    "metadataJson": ("metadata",),
    "archetype": ("role",),
    "messagesJson": ("messages",),
    "actionType": ("action_type",),
}
TEXTS = ("text", "character varying", "character")

COLUMNS_SQL = """
    select t.name as "table", a.attname::text as name, format_type(a.atttypid, null) as type
    from unnest($1::text[]) as t(name)
    join pg_attribute a on a.attrelid = to_regclass(t.name) and a.attnum > 0 and not a.attisdropped
    where t.name <> 'reward_judgments' or has_table_privilege(a.attrelid, 'select')
    order by a.attnum
"""
SCHEMAS_SQL = """
    select n.nspname::text as schema, array_agg(a.attname::text) as columns,
           bool_and(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')) as readable
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relname = 'trajectories' and c.relkind in ('r', 'p', 'v', 'm', 'f')
    group by n.nspname order by max(pg_total_relation_size(c.oid)) desc, 1
"""
"""The schemas that have a table of trajectories, the largest one first."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table's columns by their names in lower case without underscores; each is (quoted name, type)."""

    name: str
    columns: Mapping[str, tuple[str, str]]

    def __bool__(self) -> bool:
        """Tells if the table exists."""
        return bool(self.columns)

    def _column(self, column: str) -> tuple[str, str] | None:
        for name in (column, *OTHER_NAMES.get(column, ())):
            if found := self.columns.get(plain(name)):
                return found
        return None

    def has(self, column: str) -> bool:
        return self._column(column) is not None

    def missing(self, columns: Iterable[str]) -> list[str]:
        return [column for column in columns if not self.has(column)]

    def raw(self, column: str) -> str:
        """Returns the quoted name of a column that exists, for comparisons that an index can answer."""
        found = self._column(column)
        if found is None:
            raise KeyError(column)
        return found[0]

    def listed_in(self, column: str, parameter: str) -> str:
        """Builds a condition: the column is one of a parameter's texts."""
        found = self._column(column)
        kind = "text" if found is None or found[1] in TEXTS else found[1]
        return f"{self.raw(column)} = any({parameter}::text[]{'' if kind == 'text' else f'::{kind}[]'})"

    def is_text(self, column: str) -> bool:
        found = self._column(column)
        return found is not None and found[1] in TEXTS

    def text(self, column: str) -> str:
        found = self._column(column)
        if found is None:
            return "null::text"
        return found[0] if found[1] in TEXTS else f"{found[0]}::text"

    def role(self) -> str:
        """Builds an expression: the role that agents are grouped by, as `mmo_rl.source.values.agent_role` does."""
        if not self.has("npcRole"):
            return self.text("archetype")
        part = f"nullif({self.text('npcRole')}, '')"
        if not self.has("archetype"):
            return part
        return f"nullif(concat_ws('/', nullif({self.text('archetype')}, ''), {part}), '')"

    def json(self, column: str) -> str:
        """Builds an expression: JSON as the bytes of its text."""
        return f"convert_to({self.text(column)}, 'UTF8')" if self.has(column) else "null::bytea"

    def number(self, column: str) -> str:
        found = self._column(column)
        if found is None:
            return "null::float8"
        return found[0] if found[1] == "double precision" else f"{found[0]}::float8"

    def integer(self, column: str) -> str:
        found = self._column(column)
        return "null::int" if found is None else found[0]

    def flag(self, column: str, *, default: bool) -> str:
        found = self._column(column)
        value = "true" if default else "false"
        return value if found is None else f"coalesce({found[0]}, {value})"

    def time(self, column: str) -> str:
        """Builds an expression: a timestamp in UTC without a zone; numbers count milliseconds since 1970."""
        found = self._column(column)
        if found is None:
            return "null::timestamp"
        name, kind = found
        if kind == "timestamp with time zone":
            return f"({name} at time zone 'UTC')"
        if kind in ("bigint", "numeric", "double precision"):
            return f"(to_timestamp({name} / 1000.0) at time zone 'UTC')"
        return name

    def everything(self) -> str:
        """Lists all columns as they are: `parse` knows both ways of writing their names."""
        return ", ".join(name for name, _ in self.columns.values())


def plain(name: str) -> str:
    return name.replace("_", "").lower()


def tables(rows: Iterable[Row]) -> dict[str, Table]:
    """Reads the tables from rows of `COLUMNS_SQL`.

    Of names that differ only in case or underscores the first counts.
    """
    columns: dict[str, dict[str, tuple[str, str]]] = {name: {} for name in TABLES}
    for row in rows:
        quoted = row["name"].replace('"', '""')
        columns[row["table"]].setdefault(plain(row["name"]), (f'"{quoted}"', row["type"]))
    return {name: Table(name, found) for name, found in columns.items()}


def schema_hint(rows: Sequence[Row], *, dsn_env: str | None) -> str | None:
    """Names the schema that holds the play, for a message, from rows of `SCHEMAS_SQL`; None where there is none.

    Of several schemas it is the one whose table has the columns, may be read and is the largest.
    """
    if not rows or dsn_env is None:
        return None
    readable = [row for row in rows if row["readable"]]
    suited = [row for row in readable or rows if not _table_with(row["columns"]).missing(REQUIRED)]
    best = (suited or readable or rows)[0]
    if len(rows) == 1:
        found = f"it has one in the schema {best['schema']}"
    else:
        found = f"it has them in the schemas {', '.join(sorted(row['schema'] for row in rows))}"
        found += f", the largest that fits in {best['schema']}" if suited else ", and none of them has the columns"
    grant = "" if readable else f"; this user may not read it: grant usage on schema {best['schema']} and select"
    return f"{found}: set ?schema={best['schema']} in {dsn_env}{grant}"


def _table_with(columns: Iterable[str]) -> Table:
    return Table("trajectories", {plain(column): (column, "text") for column in columns})
