"""SQL that counts windows and lists their members, for the columns that a database has; none of it reads a step.

Those that count begin with the same columns: recorded id or start of the window, role, members, those that may be
trained on, those of them with enough steps, agents, steps, lowest and highest P&L.

Of the parameters, $1 is the length of a window and $2 the names of a choice (`mmo_rl.source.chosen`), unless said
otherwise.
"""

from __future__ import annotations

from mmo_rl.source.base import WINDOWS_INDEX
from mmo_rl.source.chosen import Chosen
from mmo_rl.source.columns import Table
from mmo_rl.source.statements import EPOCH, end_sql, named_start_sql, several_hours_sql

INDEX_SQL = f"""
    select (select reltuples from pg_class where oid = to_regclass('trajectories')) as rows, exists (
        select from pg_index i join pg_class c on c.oid = i.indexrelid
        where i.indrelid = to_regclass('trajectories') and c.relname = '{WINDOWS_INDEX}' and i.indisvalid
    ) as indexed
"""
USUAL = rf"""
    name ~ '^[12]\d\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d$' and substr(name, 6, 2) between '01' and '12'
    and substr(name, 12, 2) < '24' and substr(name, 9, 2) between '01' and '31'
    and (substr(name, 9, 2) < '29' or {named_start_sql("name")} is not null)
"""
"""A condition: an id is as the game writes it. As texts such ids stand in the order of the starts that they name."""
OLDEST = "timestamp '0001-01-01'"
NOW = "(now() at time zone 'utc')"
NEWEST = f"coalesce(max(start) filter (where start <= {NOW}), max(start))"
"""The start of the newest window that has begun: a clock of years ahead would hide all others from a look back."""
COLUMNS = 'id, agent, steps, pnl, role, training, evaluation, name, "startTime", "endTime", start, crosses'


def named_counts_sql(table: Table, chosen: Chosen, *, by_role: bool) -> str:
    """Counts by recorded window id, for windows of an hour: an index alone can answer it.

    $1 the names of the choice, $2 the fewest steps. ``ended`` is the latest end, ``hours`` the most hours of a window.
    Where all ids are ``usual`` ones, only those come of windows that start at $3, or where that is null $4 before the
    newest one, or later, and those from which something reaches as far.
    """
    steps, pnl = table.integer("episodeLength"), table.number("finalPnL")
    trainable = " and ".join(
        f"{table.raw(column)} is {value}"
        for column, value in (("isTrainingData", "not false"), ("isEvaluation", "not true"))
        if table.has(column)
    )
    usable = f"{trainable or 'true'} and {steps} >= $2"
    role = table.role() if by_role else "null::text"
    return f"""
        with counted as materialized (
            select {table.text("windowId")} as name, {role} as role, count(*) as members,
                   count(*) filter (where {trainable or "true"}) as trainable,
                   count(*) filter (where {usable}) as available,
                   count(distinct {table.text("agentId")}) filter (where {usable}) as agents,
                   sum({steps}) filter (where {usable}) as steps,
                   min({pnl}) filter (where {usable}) as pnl_low, max({pnl}) filter (where {usable}) as pnl_high,
                   max({end_sql(table)}) as ended, max({table.integer("windowHours")}) as hours
            from trajectories where {chosen.sql(table, "$1")}
            group by {table.text("windowId")}{f", {role}" if by_role and role != "null::text" else ""}
        ), known as materialized (
            select coalesce(bool_and(name is not null and {USUAL} and coalesce(hours, 1) <= 1), false) as usual,
                   coalesce(max(name collate "C") filter (where name <= to_char({NOW}, 'YYYY-MM-DD"T"HH24:MI')),
                            max(name collate "C")) as newest
            from counted
        ), first as materialized (
            select usual, moment, to_char(moment, 'YYYY-MM-DD"T"HH24:MI') as name
            from known cross join lateral (
                select case when usual then
                    greatest(coalesce($3::timestamp, {named_start_sql("newest")} - $4::interval), {OLDEST})
                end as moment
            ) m
        )
        select counted.*, usual from counted, first
        where moment is null or counted.name collate "C" >= first.name or ended >= moment
    """


def counts_sql(table: Table, chosen: Chosen, *, hourly: bool, joined: bool, by_role: bool) -> str:
    """Counts by window, whatever its length and the recorded ids.

    ``joined`` counts an agent's trajectories in a window as one. $3 the fewest steps; ``reach`` is the latest end of
    those that cross the end of their window. Only windows come that start at $4, or where that is null $5 before the
    newest one, or later, and those from which a trajectory reaches as far.
    """
    role = "role" if by_role else "null::text"
    if joined:
        available = "(ok > 0 and ok_steps >= $3)::int"
        few, apart, usable = "(ok > 0 and ok_steps < $3)::int", "apart_kinds", "ok_steps >= $3"
        pnl = "case when ok_pnls = ok then ok_pnl end"
        low = high = f"case when {usable} then {pnl} end"
    else:
        available, few, apart = "many", "ok - many", "apart"
        low, high = "low", "high"
    return f"""
        {_common_sql(table, chosen, hourly=hourly, narrowed=False)}, agents as (
            select start, {role} as role, agent,
                   count(*) filter (where training and not evaluation) as ok,
                   count(pnl) filter (where training and not evaluation) as ok_pnls,
                   sum(pnl) filter (where training and not evaluation) as ok_pnl,
                   sum(steps) filter (where training and not evaluation) as ok_steps,
                   count(*) filter (where training and not evaluation and steps >= $3) as many,
                   sum(steps) filter (where training and not evaluation and steps >= $3) as many_steps,
                   min(pnl) filter (where training and not evaluation and steps >= $3) as low,
                   max(pnl) filter (where training and not evaluation and steps >= $3) as high,
                   count(*) filter (where not training or evaluation) as apart,
                   (bool_or(training and evaluation)::int + bool_or(not training and evaluation)::int
                    + bool_or(not training and not evaluation)::int) as apart_kinds,
                   max("endTime") filter (where crosses) as reach
            from recorded group by 1, 2, 3
        ), each as (
            select *, {available} as available, {few} as few, {apart} as excluded, {low} as least, {high} as most,
                   {"ok_steps" if joined else "many_steps"} as taken
            from agents
        ), first as (
            select greatest(coalesce($4::timestamp, {NEWEST} - $5::interval), {OLDEST}) as moment from agents
        ), counted as (
            select start, role, coalesce(sum(available + excluded + few), 0)::bigint as members,
                   coalesce(sum(available + few), 0)::bigint as trainable,
                   coalesce(sum(available), 0)::bigint as available,
                   count(*) filter (where available > 0) as agents,
                   sum(taken) filter (where available > 0) as steps, min(least) as pnl_low, max(most) as pnl_high,
                   max(reach) as reach
            from each group by start, role
        )
        select counted.* from counted, first where start >= moment or reach >= moment
    """


def windows_sql(table: Table, chosen: Chosen, *, hourly: bool) -> str:
    """Selects the statistics of every trajectory of the windows asked for, and the start of its window.

    $3 and $4 a span ``[start, end)`` of windows or null, $5 how far to look back from the newest window or null; both
    select a little too much where trajectories cross windows, because what their slices are is known only later. Of
    the columns (`COLUMNS`), the order counts: id, agent, steps, P&L, role, for training, for evaluation, recorded
    window id, start, end, start of the window, whether it goes on beyond it.
    """
    return f"""
        {_common_sql(table, chosen, hourly=hourly, narrowed=False)}
        select {COLUMNS} from recorded
        where ($3::timestamp is null or case when crosses then "endTime" else start end >= $3)
          and ($4::timestamp is null or start + $1 <= $4)
          and ($5::interval is null
               or case when crosses then "endTime" else start end > (select {NEWEST} from recorded) - $5)
    """


def members_sql(table: Table, chosen: Chosen, *, hourly: bool, named: bool) -> str:
    """Selects as `windows_sql` does the windows whose starts are $3; ``named``: $4 has all their recorded ids."""
    return f"""
        {_common_sql(table, chosen, hourly=hourly, narrowed=True, names="$4" if named else None)}
        select {COLUMNS} from recorded where start = any($3::timestamp[])
    """


def drawn_sql(table: Table, chosen: Chosen, *, hourly: bool, joined: bool, by_role: bool, named: bool) -> str:
    """Selects as `members_sql` does, without members that random dropout takes or that may not be trained on.

    $4 the rate, $5 the seed, $6 the prefix that has no part in the choice, $7 how many agents stay in each group, $8
    the fewest steps; ``named``: $9 has all recorded ids of these windows. A row without an id lists the agents and
    roles of what was left out of a window. The rule is that of the sampler: the fraction of the md5 of ``id:seed``
    reaches the rate, or the member is the best of one of the best agents. Members that are sliced have no id here yet:
    all that their agents did comes along.
    """
    agent = "start, agent, role" if by_role else "start, agent"
    group = "start, role" if by_role else "start"
    if joined:
        whole = f'partition by {agent} order by "startTime", id collate "C"'
        more = f"count(*) over (partition by {agent}) - 1"
        first = f"first_value(id) over ({whole})"
        member = f"{first} || case when {more} > 0 then '+' || ({more}) else '' end"
        steps, place = f"sum(steps) over (partition by {agent})", f"row_number() over ({whole})"
    else:
        member, steps, place = "id", "steps", "1"
    own = "case when starts_with(member, $6) then substr(member, length($6) + 1) else member end"
    digest = f"md5(convert_to(({own}) || ':' || $5, 'UTF8'))"
    return f"""
        {_common_sql(table, chosen, hourly=hourly, narrowed=True, names="$9" if named else None)}, trainable as (
            select *, bool_or(crosses) over (partition by agent) as sliced
            from recorded where start = any($3::timestamp[]) and training and not evaluation
        ), members as (
            select *, {member} as member, {steps} as all_steps, {place} as place from trainable where not sliced
        ), numbered as (
            select *, ('x' || substr({digest}, 1, 8))::bit(32)::int8::float8 / 4294967296 as fraction
            from members where all_steps >= $8::int
        ), ranked as (
            select *, rank() over (partition by {agent} order by fraction desc, member collate "C") = 1 as best
            from numbered
        ), judged as (
            select *, fraction >= $4::float8 or (best and $7::int >=
                   dense_rank() over (partition by {group}, best order by fraction desc, member collate "C")) as stays
            from ranked
        )
        select {COLUMNS}, null::text[] as agents, null::text[] as roles from trainable where sliced
        union all select {COLUMNS}, null, null from judged where stays
        union all select null, null, null, null, null, null, null, null, null, null, start, false,
                         array_agg(agent), array_agg(role)
        from judged where not stays and place = 1 group by start
    """


def _common_sql(table: Table, chosen: Chosen, *, hourly: bool, narrowed: bool, names: str | None = None) -> str:
    """Builds the common part: ``recorded`` has `COLUMNS`.

    ``narrowed`` looks up by index the rows that can be in the windows that start at $3; where the recorded ids of these
    windows are known, the parameter ``names`` has them.
    """
    identity = table.text("windowId")
    several = several_hours_sql(table)
    conditions = [chosen.sql(table)]
    known = f"(select distinct {identity} as name from trajectories) known"
    binned = f'(select *, date_bin($1, "startTime", {EPOCH}) as binned from chosen) r'
    if hourly and table.has("windowId"):
        # Of a window of several hours, the recorded id does not say which of them.
        start = "coalesce(case when several_hours then null else n.start end, binned)"
        placed = f"select r.*, {start} as start from {binned} left join names n on n.name = r.name"
        if names is not None:
            known = f"unnest({names}::text[]) as known(name)"
            conditions.append(f"{identity} = any({names}::text[])")
        elif narrowed:
            named = "select name from names where name is not null and (start is null or start = any($3::timestamp[]))"
            whole = f" or {several}" if table.has("windowHours") else ""
            conditions.append(f"({identity} = any(array({named})) or {identity} is null{whole})")
    else:
        placed = f"select r.*, binned as start from {binned}"
        if narrowed:
            moment = table.time("startTime")
            conditions += [
                f"{moment} >= (select min(start) from unnest($3::timestamp[]) s(start))",
                f"{moment} < (select max(start) + $1 from unnest($3::timestamp[]) s(start))",
            ]
    return f"""
        with names as materialized (
            select name, {named_start_sql("name")} as start
            from {known}
        ), chosen as (
            select {table.text("trajectoryId")} as id, {table.text("agentId")} as agent,
                   {table.integer("episodeLength")} as steps, {table.number("finalPnL")} as pnl,
                   {table.role()} as role, {table.flag("isTrainingData", default=True)} as training,
                   {table.flag("isEvaluation", default=False)} as evaluation, {identity} as name,
                   {table.time("startTime")} as "startTime", {end_sql(table)} as "endTime", {several} as several_hours
            from trajectories
            where {" and ".join(conditions)}
        ), placed as (
            {placed}
        ), recorded as not materialized (
            select *, start = binned and "endTime" > start + $1 as crosses from placed
        )
    """
