"""The statements of `mmo_rl.source.postgres`, for the tables that a database has."""

from __future__ import annotations

from mmo_rl.source.columns import Table
from mmo_rl.window_ids import ID_PATTERN

EPOCH = "timestamp '1970-01-01'"
ROW_TEXTS = ("agentId", "scenarioId", "finalStatus", "archetype")


def several_hours_sql(table: Table) -> str:
    """Whether a recorded window is longer than an hour, so that its id does not say which of them."""
    return f"coalesce({table.integer('windowHours')} > 1, false)" if table.has("windowHours") else "false"


def end_sql(table: Table) -> str:
    return table.time("endTime") if table.has("endTime") else table.time("startTime")


def outcome_starts_sql(table: Table, *, hourly: bool) -> str:
    """The starts of the windows with an outcome; $1 length of a window."""
    start = named_start_sql("name") if hourly else f"date_bin($1, {named_start_sql('name')}, {EPOCH})"
    known = f"select distinct {table.text('windowId')} as name from market_outcomes"
    return f"select distinct {start} as start from ({known}) known where $1::interval is not null"


def outcomes_sql(table: Table) -> str:
    """Outcomes of windows: $1 and $2 the ids at which each starts and ends, $3 ids in other formats."""
    name = table.text("windowId")
    order = ", ".join(table.raw(column) for column in ("windowId", "createdAt", "id") if table.has(column))
    return (
        f"select {table.everything()} from market_outcomes where {name} = any($3::text[]) or exists (select from"
        f" unnest($1::text[], $2::text[]) w(first, past) where {name} >= w.first and {name} < w.past) order by {order}"
    )


def steps_sql(table: Table) -> str:
    """When and at what P&L each step of some trajectories began ($1 their ids), as texts in the order of the steps."""
    pnl = ", ".join(
        f"step #>> '{{{state},{name}}}'"
        for state in ("environmentState", "environment_state", "observation")
        for name in ("agentPnL", "agent_pnl")
    )
    return f"""
        select {table.text("trajectoryId")} as id, s.times, s.pnls
        from trajectories t cross join lateral (
            select array_agg(step ->> 'timestamp' order by place) as times,
                   array_agg(coalesce({pnl}) order by place) as pnls
            from json_array_elements({table.raw("stepsJson")}::json) with ordinality as listed(step, place)
        ) s
        where {table.listed_in("trajectoryId", "$1")}
    """


def rows_sql(table: Table) -> str:
    """Whole trajectories ($1 their ids) under the game's own column names; what a database lacks is left out."""
    listed = [f'{table.text("trajectoryId")} as "trajectoryId"', f'{table.json("stepsJson")} as "stepsJson"']
    listed += [f'{table.text(column)} as "{column}"' for column in ROW_TEXTS if table.has(column)]
    if table.has("windowId"):
        named = table.text("windowId")
        listed.append(f'case when {several_hours_sql(table)} then null else {named} end as "windowId"')
    listed += [f'{table.json(column)} as "{column}"' for column in ("metricsJson", "metadataJson") if table.has(column)]
    listed += [f'{table.time(column)} as "{column}"' for column in ("startTime", "endTime") if table.has(column)]
    listed += [f'{table.number(column)} as "{column}"' for column in ("finalBalance", "finalPnL") if table.has(column)]
    listed += [f'{table.flag("isTrainingData", default=True)} as "isTrainingData"']
    listed += [f'{table.flag("isEvaluation", default=False)} as "isEvaluation"']
    return f"select {', '.join(listed)} from trajectories where {table.listed_in('trajectoryId', '$1')}"


def calls_sql(table: Table) -> str:
    """The logged LLM calls of some trajectories ($1 their ids), in the order in which they were made."""
    call = table.text("callId")
    moment = f"{table.raw('timestamp')}, " if table.has("timestamp") else ""
    return (
        f"select {table.text('trajectoryId')} as of_trajectory, {table.everything()} from llm_call_logs"
        f" where {table.listed_in('trajectoryId', '$1')} order by {moment}length({call}), {call}"
    )


def named_start_sql(column: str) -> str:
    """`mmo_rl.source.slices.named_start` of a text column: null where it names no start, or no such day exists (30
    February): counted on from the first of the month, because a cast would fail the whole statement."""
    minute = f"case when substr({column}, 14, 1) = ':' then substr({column}, 15, 2)::int else 0 end"
    counted = (
        f"make_timestamp(substr({column}, 1, 4)::int, substr({column}, 6, 2)::int, 1, substr({column}, 12, 2)::int,"
        f" {minute}, 0) + (substr({column}, 9, 2)::int - 1) * interval '1 day'"
    )
    same_month = f"to_char({counted}, 'MM') = substr({column}, 6, 2)"
    return f"case when {column} ~ '{ID_PATTERN}' then case when {same_month} then {counted} end end"
