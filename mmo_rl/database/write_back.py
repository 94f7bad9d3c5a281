"""Writer of judgments into the game's own tables: scores on trajectories, and whole judgments in reward_judgments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from mmo_rl.clock import utc_now
from mmo_rl.database.base import Connection, Database, Row, Written
from mmo_rl.database.judgments import jsonb_text
from mmo_rl.database.rows import naive_utc, to_json
from mmo_rl.errors import DatabaseError
from mmo_rl.types import Score, ScoredGroup
from mmo_rl.window_ids import split_id

_NEEDED = {
    "trajectories": ("trajectoryId", "aiJudgeReward", "aiJudgeReasoning", "judgedAt", "updatedAt"),
    "reward_judgments": (
        *("id", "trajectoryId", "judgeModel", "judgeVersion", "overallScore", "componentScoresJson", "rank"),
        *("normalizedScore", "groupId", "reasoning", "criteriaJson", "judgedAt"),
    ),
}
_COLUMNS = """
    select name as table, a.attname::text as column from unnest($1::text[]) as name
    join pg_attribute a on a.attrelid = to_regclass(name) and a.attnum > 0 and not a.attisdropped
"""
_REFUSED = """
    select name || ' (' || what || ')' as action from (values
        ('trajectories', 'select'), ('reward_judgments', 'select'),
        ('reward_judgments', 'insert'), ('reward_judgments', 'update')
    ) as needed (name, what) where not has_table_privilege(to_regclass(name)::oid, what)
    union all
    select 'trajectories (update)' where exists (
        select from unnest($1::text[]) as name where not has_column_privilege('trajectories', name, 'update')
    )
"""
_KEPT = """
    select "trajectoryId", "judgeModel", "judgeVersion", "componentScoresJson" from reward_judgments
    where "trajectoryId" = any($1::text[]) order by "trajectoryId" for update
"""
# A judgment is ours where its version says so and the trajectory's own score is still that.
_OTHERS = """
    select t."trajectoryId" as id, coalesce(j."judgeModel", '') as judge
    from trajectories t left join reward_judgments j on j."trajectoryId" = t."trajectoryId"
    where t."trajectoryId" = any($1::text[]) and (
        j."judgeVersion" not like 'mmo-rl %'
        or t."aiJudgeReward" is not null and t."aiJudgeReward" is distinct from j."overallScore"
    )
"""
# Both statements leave equal values as they are, their time too. A trajectory that was removed since is not judged.
# Every writer of trajectories locks them in the order of their ids, so that no two wait for each other.
_JUDGE = """
    with shared as materialized (
        select "trajectoryId" from trajectories where "trajectoryId" = any($1::text[])
        order by "trajectoryId" for no key update
    )
    update trajectories as t set "aiJudgeReward" = new.score, "aiJudgeReasoning" = new.reasoning, "judgedAt" = $4,
        "updatedAt" = $4
    from unnest($1::text[], $2::float8[], $3::text[]) as new (id, score, reasoning)
        join shared on shared."trajectoryId" = new.id
    where t."trajectoryId" = new.id
        and (t."aiJudgeReward", t."aiJudgeReasoning", t."judgedAt" is null)
            is distinct from (new.score, new.reasoning, false)
"""
_INSERT = """
    insert into reward_judgments as kept (id, "trajectoryId", "judgeModel", "judgeVersion", "overallScore",
        "componentScoresJson", rank, "normalizedScore", "groupId", reasoning, "criteriaJson", "judgedAt")
    select 'mmo-rl-' || $1::text, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
    where exists (select from trajectories where "trajectoryId" = $1)
    on conflict ("trajectoryId") do update set "judgeModel" = excluded."judgeModel",
        "judgeVersion" = excluded."judgeVersion", "overallScore" = excluded."overallScore",
        "componentScoresJson" = excluded."componentScoresJson", rank = excluded.rank,
        "normalizedScore" = excluded."normalizedScore", "groupId" = excluded."groupId",
        reasoning = excluded.reasoning, "criteriaJson" = excluded."criteriaJson", "judgedAt" = excluded."judgedAt"
    where (kept."judgeModel", kept."judgeVersion", kept."overallScore", kept."componentScoresJson", kept.rank,
            kept."normalizedScore", kept."groupId", kept.reasoning, kept."criteriaJson")
        is distinct from (excluded."judgeModel", excluded."judgeVersion", excluded."overallScore",
            excluded."componentScoresJson", excluded.rank, excluded."normalizedScore", excluded."groupId",
            excluded.reasoning, excluded."criteriaJson")
"""


class _Component(msgspec.Struct, frozen=True):
    """The judgment of a trajectory's steps in one window, as ``componentScoresJson`` holds it."""

    score: float
    steps: int
    reasoning: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """The judgment of one recorded trajectory; ``components`` has that of each window by the window's id."""

    trajectory_id: str
    components: Mapping[str, _Component]
    rank: int | None
    normalized: float | None
    group_id: str | None

    @property
    def score(self) -> float:
        if len(self.components) == 1:
            return next(iter(self.components.values())).score
        steps = sum(part.steps for part in self.components.values())
        return sum(part.score * part.steps for part in self.components.values()) / steps

    @property
    def reasoning(self) -> str:
        if len(self.components) == 1:
            return next(iter(self.components.values())).reasoning
        return "\n".join(f"{window}: {part.reasoning}" for window, part in sorted(self.components.items()))

    @property
    def components_json(self) -> str:
        return to_json(msgspec.to_builtins(self.components))


class ScoreWriter:
    """Implements `mmo_rl.database.base.WriteBack`: one transaction a window; twice changes nothing.

    ``judge_model`` and ``judge_version`` name the judge, ``criteria`` say how it judged. A trajectory that was
    joined in a longer window gives its score to each of its parts; one that was sliced has the mean of its slices'
    scores by the same judge, weighted by their steps; ``componentScoresJson`` has each window's own. ``rank`` (1 is
    best, equal scores share a place) and ``normalizedScore`` (0 the group's lowest score, 1 its highest) are those in
    the group, null where a trajectory was judged in several. Members that are unscored are left as they are, and so are
    trajectories with a judgment that another program has written, unless ``replace``.
    """

    def __init__(
        self,
        *,
        database: Database,
        judge_model: str,
        judge_version: str,
        criteria: Mapping[str, object],
        replace: bool = False,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._model = judge_model
        self._version = judge_version
        self._criteria = to_json(dict(criteria))
        self._replace = replace
        self._now = now

    async def require(self) -> None:
        """Raises `DatabaseError` where tables or columns do not exist or may not be written, before anything is."""
        instead = (
            "leave judge.write_back out and add database=embedded: the run's judgments.jsonl has the judgments; or copy"
            " the play to this machine first: mmo-rl task=import source=postgres database=embedded"
        )
        async with self._database.acquire() as connection:
            name = self._database.name
            if await connection.fetchval("select current_setting('transaction_read_only') = 'on'"):
                raise DatabaseError(
                    f"judge.write_back=true writes judgments into {name}, which is read-only", hint=instead
                )
            rows = await connection.fetch(_COLUMNS, list(_NEEDED))
            found = {(row["table"], row["column"]) for row in rows}
            missing = [f"{t}.{c}" for t, columns in _NEEDED.items() for c in columns if (t, c) not in found]
            if missing:
                raise DatabaseError(
                    f"judge.write_back=true writes judgments into {name}, which has no {', '.join(missing)}",
                    hint="mmo-rl task=migrate source=postgres makes the tables that are missing",
                )
            refused = await connection.fetch(_REFUSED, list(_NEEDED["trajectories"][1:]))
        if refused:
            raise DatabaseError(
                f"judge.write_back=true writes judgments into {name}, whose user may not write to"
                f" {', '.join(row['action'] for row in refused)}",
                hint=f"grant it, or {instead}",
            )

    async def require_free(self, recorded_ids: Collection[str]) -> None:
        """Raises `DatabaseError` where another program has judged any of these trajectories, unless ``replace``."""
        if self._replace:
            return
        async with self._database.acquire() as connection:
            others = await _judged_by_others(connection, sorted({split_id(i)[0] for i in recorded_ids}))
        if others:
            judges = Counter(judge or "aiJudgeReward alone" for judge in others.values()).most_common(3)
            raise DatabaseError(
                f"judge.write_back=true would overwrite judgments that others wrote into {self._database.name}:"
                f" {len(others):,} of {len(recorded_ids):,} trajectories have one"
                f" ({', '.join(f'{judge}: {count:,}' for judge, count in judges)}); nothing was judged",
                hint="judge.write_back=replace overwrites them; without judge.write_back, the run's judgments.jsonl has"
                " the judgments",
            )

    async def write(self, scored: ScoredGroup, parts: Mapping[str, Sequence[str]]) -> Written:
        """Writes one group. ``parts`` maps the id of a joined trajectory to the ids of its parts."""
        fresh = _entries(scored, parts)
        if not fresh:
            return Written(0)
        now = naive_utc(self._now())
        async with self._database.acquire() as connection:
            kept = {row["trajectoryId"]: row for row in await connection.fetch(_KEPT, sorted(fresh))}
            others = await _judged_by_others(connection, sorted(fresh))
            if not self._replace:  # written since the run began
                fresh = {i: entry for i, entry in fresh.items() if i not in others}
            entries = [self._merge(fresh[i], kept.get(i)) for i in sorted(fresh)]
            await connection.executemany(
                _INSERT,
                [
                    (
                        *(v.trajectory_id, self._model, self._version, v.score, v.components_json, v.rank),
                        *(v.normalized, v.group_id, v.reasoning, self._criteria, now),
                    )
                    for v in entries
                ],
            )
            columns = [list(c) for c in zip(*((v.trajectory_id, v.score, v.reasoning) for v in entries), strict=True)]
            await connection.execute(_JUDGE, *columns, now)
        return Written(len(entries), *((len(others), 0) if self._replace else (0, len(others))))

    def _merge(self, entry: _Entry, kept: Row | None) -> _Entry:
        """Merges an entry with the other windows that the same judge has judged of this trajectory."""
        if kept is None or (kept["judgeModel"], kept["judgeVersion"]) != (self._model, self._version):
            return entry
        before = msgspec.json.decode(kept["componentScoresJson"] or "{}", type=dict[str, _Component])
        components = dict(sorted((before | dict(entry.components)).items()))
        if len(components) == 1:
            return entry
        return _Entry(entry.trajectory_id, components, None, None, None)


async def _judged_by_others(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """Reads the judge of each trajectory that another program has judged; "" where only the score is there."""
    return {row["id"]: row["judge"] for row in await connection.fetch(_OTHERS, ids)}


def _entries(scored: ScoredGroup, parts: Mapping[str, Sequence[str]]) -> dict[str, _Entry]:
    """Builds the entries of a group, by the id of the recorded trajectory."""
    scores = {i: j for i, j in scored.judgments.items() if isinstance(j, Score)}
    if not scores:
        return {}
    values = [score.value for score in scores.values()]
    low, high = min(values), max(values)
    steps = {member.trajectory_id: max(1, len(member.steps)) for member in scored.group.members}
    found: dict[str, _Entry] = {}
    for identity, score in scores.items():
        part = _Component(score.value, steps[identity], jsonb_text(score.explanation))
        rank = 1 + sum(value > score.value for value in values)
        normalized = None if high == low else (score.value - low) / (high - low)
        for part_id in parts.get(identity, (identity,)):
            recorded, _ = split_id(part_id)
            found[recorded] = _Entry(recorded, {scored.group.window.id: part}, rank, normalized, scored.group.group_id)
    return found
