"""Choice of recorded play in SQL and in files, by the same names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from mmo_rl.origins import Where
from mmo_rl.source.base import SourceParts
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.types import WindowQuery
from tests.source.test_postgres import NOW, Connections
from tests.source.test_statistics import COLUMNS

PLAY = (
    # id, scenario, agent, role, model, start; the last one's calls lie in the table of calls alone
    ("teach-collect-0123456789-w00000-a00", "teach-collect-0123456789", "informed-00", None, "script/informed", 3),
    ("teach-collect-0123456789-w00001-a00", "teach-collect-0123456789", "balanced-00", None, "script/balanced", 4),
    ("pilot-aaaaaaaaaa-bbbbbb-w00000-a00", "pilot-aaaaaaaaaa-bbbbbb", "agent-00", None, "tiny", 5),
    ("game-1", None, "alice", "insider", "gpt-4.1", 400),
    ("game-2", "benchmark-7", "bob", "observer", 'o"3', 401),
    ("game-3", "benchmark-7", "bob", "observer", "logged", 402),
)
CASES = [
    (Where(), False, [0, 1, 2, 3, 4, 5]),
    (Where(), True, [0, 1, 2]),
    (Where(scenario="*"), True, [0, 1, 2, 3, 4, 5]),
    (Where(run="teach"), True, [0, 1]),
    (Where(run=("teach", "pilot/aaaaaaaaaa")), False, [0, 1, 2]),
    (Where(scenario="benchmark-7"), True, [4, 5]),
    (Where(scenario="b*-7"), False, [4, 5]),
    (Where(model="script/*"), False, [0, 1]),
    (Where(model=("gpt-4.1", "logged")), False, [3, 5]),
    (Where(model="t*y"), False, [2]),
    (Where(agent="bob", model="logged"), False, [5]),
    (Where(role="in*"), False, [3]),
    (Where(role="insider"), False, [3]),
    (Where(agent=("alice", "agent-*")), False, [2, 3]),
    (Where(scenario="nothing'; drop table trajectories"), False, []),
]
QUERY = WindowQuery(lookback_hours=24.0)


def rows() -> list[dict[str, object]]:
    listed = []
    for identity, scenario, agent, role, model, hour in PLAY:
        start = datetime(2025, 6, 1, tzinfo=UTC) + timedelta(hours=hour)
        call = [{"model": model, "userPrompt": "p", "response": "r"}]
        step = {
            "stepNumber": 0,
            "timestamp": int(start.timestamp() * 1000),
            "environmentState": {},
            "llmCalls": [] if model == "logged" else call,
            "action": {"actionType": "HOLD", "success": True},
        }
        plain = start.replace(tzinfo=None)
        listed.append(
            {
                "id": identity, "trajectoryId": identity, "agentId": agent, "startTime": plain,
                "endTime": plain + timedelta(minutes=5), "durationMs": 0, "windowId": f"{start:%Y-%m-%dT%H}:00",
                "windowHours": 1, "scenarioId": scenario, "archetype": role, "stepsJson": json.dumps([step]),
                "rewardComponentsJson": "{}", "metricsJson": "{}", "metadataJson": "{}", "totalReward": 0.0,
                "episodeLength": 1, "finalStatus": "completed", "finalPnL": 1.0, "isTrainingData": True,
                "isEvaluation": False, "updatedAt": plain,
            }
        )  # fmt: skip
    return listed


@pytest.fixture
async def stored(migrated_url: str) -> AsyncIterator[Connections]:
    connection = await asyncpg.connect(migrated_url)
    records = [[row[column] for column in COLUMNS] for row in rows()]
    await connection.copy_records_to_table("trajectories", records=records, columns=list(COLUMNS))
    await connection.execute(
        'insert into llm_call_logs (id, "trajectoryId", "stepId", "callId", "timestamp", model, purpose,'
        ' "systemPrompt",'
        ' "userPrompt", response, temperature, "maxTokens", "createdAt") values ('
        "'c', 'game-3', 'game-3-step-0', 'game-3-call-0-0', now(), 'logged', 'action', '', 'p', 'r', 1, 1, now())"
    )
    yield Connections(connection)
    await connection.close()


def read(pool: Connections, where: Where) -> PostgresSource:
    return PostgresSource(dsn_env=None, where=where, parts=SourceParts(pool=pool, now=lambda: NOW))


async def ids_of(source: PostgresSource | JsonlSource, query: WindowQuery) -> list[str]:
    return [member.trajectory_id for window in await source.windows(query) for member in window.members]


async def test_sql_chooses_what_the_names_say(stored: Connections) -> None:
    wide = WindowQuery(lookback_hours=1e6)
    for where, simulated, kept in CASES:
        source, names = read(stored, where), [PLAY[number][0] for number in kept]
        for hours in (1.0, 2.0):
            query = WindowQuery(lookback_hours=1e6, window_hours=hours, simulated=simulated)
            found = await source.windows(query)
            assert sorted(i for w in found for i in w.everything.recorded_ids) == sorted(names), (where, hours)
            counts = await source.counts(query)
            assert sum(c.members for c in counts) == sum(len(w.members) for w in found), (where, hours)
            only = WindowQuery(window_hours=hours, only=tuple(w.window for w in found), simulated=simulated)
            assert not found or await source.windows(only) == found, (where, hours)
        if not simulated:
            assert [t.trajectory_id async for t in source.stream()] == sorted(names), where  # type: ignore[union-attr]
            assert await source.total() == len(names)
    own = WindowQuery(lookback_hours=1e6, scenario_id="pilot-aaaaaaaaaa-bbbbbb")
    assert await ids_of(read(stored, Where(run="teach")), own) == [PLAY[2][0]]  # a run that plays reads its own world
    assert len(await ids_of(read(stored, Where()), wide)) == len(PLAY)


async def test_files_are_chosen_by_the_same_names(tmp_path: Path) -> None:
    text = [json.dumps(row, default=lambda moment: f"{moment.isoformat()}Z") for row in rows()]
    (tmp_path / "play.jsonl").write_text("\n".join(text))
    for where, simulated, kept in CASES:
        if any("logged" in names for names in where.asked.values()):
            continue
        parts = SourceParts(now=lambda: NOW)
        source = JsonlSource(path=str(tmp_path), where=where, parts=parts)
        names = [PLAY[number][0] for number in kept]
        assert await ids_of(source, WindowQuery(lookback_hours=1e6, simulated=simulated)) == names, where
        if not simulated:
            assert [t.trajectory_id async for t in source.stream()] == names, where  # type: ignore[union-attr]


async def test_look_back_counts_from_the_newest_window_that_is_chosen(stored: Connections) -> None:
    assert await ids_of(read(stored, Where()), QUERY) == [PLAY[n][0] for n in (3, 4, 5)]
    assert await ids_of(read(stored, Where(run="teach")), QUERY) == [PLAY[n][0] for n in (0, 1)]
    assert await ids_of(read(stored, Where(model="tiny")), QUERY) == [PLAY[2][0]]


async def test_origins_name_scenario_models_and_market(stored: Connections) -> None:
    found = await read(stored, Where()).origins([row[0] for row in PLAY] + ["unknown"])
    assert {i: (o.scenario_id, o.simulated) for i, o in found.items()} == {
        identity: (scenario, "-w0" in identity) for identity, scenario, *_ in PLAY
    }
    assert {i: o.models for i, o in found.items() if i != "game-2"} == {
        identity: (model,) for identity, _, _, _, model, _ in PLAY if identity != "game-2"
    }


async def test_the_index_of_models_answers(stored: Connections) -> None:
    plan = await stored.connection.fetch(
        "explain select \"trajectoryId\" from llm_call_logs where left(model, 100) = any(array['logged'])"
    )
    await stored.connection.execute("set enable_seqscan = off")
    plan = await stored.connection.fetch(
        "explain select \"trajectoryId\" from llm_call_logs where left(model, 100) = any(array['logged'])"
    )
    assert any("mmo_rl_models_idx" in row[0] for row in plan), plan
