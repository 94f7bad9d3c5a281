"""SQL that reads rows of trajectories, calls and outcomes, for the columns that a database has."""

from __future__ import annotations

from mmo_rl.source.columns import Table
from mmo_rl.window_ids import ID_PATTERN

EPOCH = "timestamp '1970-01-01'"
NUMBERS = ("finalBalance", "finalPnL", "totalReward", "aiJudgeReward")
ROW_TEXTS = ("agentId", "scenarioId", "finalStatus", "archetype", "npcRole")


def several_hours_sql(table: Table) -> str:
    """Builds a condition: a recorded window is longer than an hour, so that its id does not name one of them."""
    return f"coalesce({table.integer('windowHours')} > 1, false)" if table.has("windowHours") else "false"


def end_sql(table: Table) -> str:
    return table.time("endTime") if table.has("endTime") else table.time("startTime")


def outcome_starts_sql(table: Table, *, hourly: bool) -> str:
    """Selects the starts of the windows with an outcome; $1 length of a window."""
    start = named_start_sql("name") if hourly else f"date_bin($1, {named_start_sql('name')}, {EPOCH})"
    known = f"select distinct {table.text('windowId')} as name from market_outcomes"
    return f"select distinct {start} as start from ({known}) known where $1::interval is not null"


def outcomes_sql(table: Table) -> str:
    """Selects outcomes of windows: $1 and $2 the ids at which each starts and ends, $3 ids in other formats."""
    name = table.text("windowId")
    order = ", ".join(table.raw(column) for column in ("windowId", "createdAt", "id") if table.has(column))
    return (
        f"select {table.everything()} from market_outcomes where {name} = any($3::text[]) or exists (select from"
        f" unnest($1::text[], $2::text[]) w(first, past) where {name} >= w.first and {name} < w.past) order by {order}"
    )


def steps_sql(table: Table) -> str:
    """Selects time and P&L at the beginning of each step, as texts in the order of the steps; $1 trajectory ids."""
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


def rows_sql(table: Table, judgments: Table) -> str:
    """Selects whole trajectories ($1 their ids) under the game's column names, without columns that do not exist, and
    their score in the table of ``judgments``."""
    listed = [f'{table.text("trajectoryId")} as "trajectoryId"', f'{table.json("stepsJson")} as "stepsJson"']
    listed += [f'{table.text(column)} as "{column}"' for column in ROW_TEXTS if table.has(column)]
    if table.has("windowId"):
        named = table.text("windowId")
        listed.append(f'case when {several_hours_sql(table)} then null else {named} end as "windowId"')
    listed += [f'{table.json(column)} as "{column}"' for column in ("metricsJson", "metadataJson") if table.has(column)]
    listed += [f'{table.time(column)} as "{column}"' for column in ("startTime", "endTime") if table.has(column)]
    listed += [f'{table.number(column)} as "{column}"' for column in NUMBERS if table.has(column)]
    if not judgments.missing(("trajectoryId", "overallScore")):
        own = f"{judgments.text('trajectoryId')} = trajectories.{table.raw('trajectoryId')}::text"
        score = f"select {judgments.number('overallScore')} from reward_judgments where {own} limit 1"
        listed.append(f'({score}) as "rewardJudgment"')
    listed += [f'{table.flag("isTrainingData", default=True)} as "isTrainingData"']
    listed += [f'{table.flag("isEvaluation", default=False)} as "isEvaluation"']
    return f"select {', '.join(listed)} from trajectories where {table.listed_in('trajectoryId', '$1')}"


def calls_sql(table: Table) -> str:
    """Selects the logged LLM calls of some trajectories ($1 their ids), in the order in which they were made."""
    call = table.text("callId")
    moment = f"{table.raw('timestamp')}, " if table.has("timestamp") else ""
    return (
        f"select {table.text('trajectoryId')} as of_trajectory, {table.everything()} from llm_call_logs"
        f" where {table.listed_in('trajectoryId', '$1')} order by {moment}length({call}), {call}"
    )


def named_start_sql(column: str) -> str:
    """Builds `mmo_rl.window_ids.named_start` of a text column; null where it names no start.

    The day is counted from the first of the month: a cast of a day that does not exist (30 February) would fail the
    whole statement.
    """
    minute = f"case when substr({column}, 14, 1) = ':' then substr({column}, 15, 2)::int else 0 end"
    counted = (
        f"make_timestamp(substr({column}, 1, 4)::int, substr({column}, 6, 2)::int, 1, substr({column}, 12, 2)::int,"
        f" {minute}, 0) + (substr({column}, 9, 2)::int - 1) * interval '1 day'"
    )
    same_month = f"to_char({counted}, 'MM') = substr({column}, 6, 2)"
    return f"case when {column} ~ '{ID_PATTERN}' then case when {same_month} then {counted} end end"
