"""The statements of `mmo_rl.source.postgres`, for the tables that a database has."""

from __future__ import annotations

from mmo_rl.source.columns import Table
from mmo_rl.source.slices import ID_PATTERN

EPOCH = "timestamp '1970-01-01'"
ROW_TEXTS = ("agentId", "scenarioId", "finalStatus", "archetype")


def windows_sql(table: Table, *, hourly: bool) -> str:
    """The statistics of every trajectory of the windows asked for, and the start of its window; reads no step.

    $1 length of a window, $2 scenario or null, $3 and $4 a span ``[start, end)`` of windows or null, $5 how far to
    look back from the newest window or null; both select a little too much where trajectories cross windows, because
    what their slices are is known only later. Of the columns, the order counts: id, agent, steps, P&L, role, for
    training, for evaluation, recorded window id, start, end, start of the window, whether it goes on beyond it.
    """
    scenario = f"$2::text is null or {table.text('scenarioId')} = $2"
    identity = table.text("windowId")
    binned = f'(select *, date_bin($1, "startTime", {EPOCH}) as binned from chosen) r'
    if hourly and table.has("windowId"):
        start = "coalesce(case when several_hours then null else n.start end, binned)"
        placed = f"select r.*, {start} as start from {binned} left join names n on n.name = r.name"
    else:
        placed = f"select r.*, binned as start from {binned}"
    return f"""
        with names as materialized (
            select name, {named_start_sql("name")} as start
            from (select distinct {identity} as name from trajectories) known
        ), chosen as (
            select {table.text("trajectoryId")} as id, {table.text("agentId")} as agent,
                   {table.integer("episodeLength")} as steps, {table.number("finalPnL")} as pnl,
                   {table.text("archetype")} as role, {table.flag("isTrainingData", default=True)} as training,
                   {table.flag("isEvaluation", default=False)} as evaluation, {identity} as name,
                   {table.time("startTime")} as "startTime", {end_sql(table)} as "endTime",
                   {several_hours_sql(table)} as several_hours
            from trajectories
            where {scenario}
        ), placed as (
            {placed}
        ), recorded as not materialized (
            select *, start = binned and "endTime" > start + $1 as crosses from placed
        )
        select id, agent, steps, pnl, role, training, evaluation, name, "startTime", "endTime", start, crosses
        from recorded
        where ($3::timestamp is null or case when crosses then "endTime" else start end >= $3)
          and ($4::timestamp is null or start + $1 <= $4)
          and ($5::interval is null
               or case when crosses then "endTime" else start end > (select max(start) from recorded) - $5)
    """


def counts_sql(table: Table, *, hourly: bool) -> str:
    """What every window before a moment holds: $1 to $5 as in `windows_sql`, of which $4 is that moment; $6 the steps
    that an agent takes at least. A trajectory counts in every window that it reaches into."""
    return f"""
        select w.start, count(*) as trajectories,
               count(distinct agent) filter (where steps >= $6 and training and not evaluation) as agents
        from ({windows_sql(table, hourly=hourly)}) r cross join lateral
             generate_series(r.start, case when crosses then "endTime" - interval '1 us' else r.start end, $1)
             as w(start)
        where w.start + $1 <= $4
        group by w.start order by w.start
    """


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
