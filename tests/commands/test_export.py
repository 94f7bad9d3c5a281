"""From a game's own database to a training set, with the commands of docs/data.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

CANARY = "zqxjkv"
EXPORT = ("source=postgres", "judge=oracle", "trainer=export")
Run = Callable[..., str]


@pytest.fixture
def run(babylon_url: str, tmp_path: Path) -> Run:
    """The command line in a project of its own, with a game's own database in DATABASE_URL, and without torch."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MMO_RL_", "DATABASE_"))}
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('an export needs no torch')")
    environment = kept | {
        "MMO_RL_ROOT": str(tmp_path),
        "MMO_RL_HOME": str(tmp_path / "home"),
        "DATABASE_URL": babylon_url,
        "PYTHONPATH": str(blocked),
        "COLUMNS": "160",
    }

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "mmo_rl", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


async def sql(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        found: list[asyncpg.Record] = await connection.fetch(statement)
        return found
    finally:
        await connection.close()


def exported(root: Path) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    (folder,) = root.glob("runs/*/*/export")
    texts = {file.name: file.read_text() for file in folder.iterdir()}
    card = json.loads(texts["card.json"])
    lines = [json.loads(line) for name, text in sorted(texts.items()) if "iter" in name for line in text.splitlines()]
    return lines, card, "".join(texts[name] for name in texts if "iter" in name)


@pytest.mark.slow
async def test_the_plain_commands_lead_to_a_training_set(run: Run, babylon_url: str, tmp_path: Path) -> None:
    out = run("task=train", *EXPORT, code=1)
    assert "mmo-rl task=migrate source=postgres" in out
    run("task=migrate", "source=postgres")
    out = run("task=train", *EXPORT, code=1)
    assert "no ground truth" in out and "mmo-rl task=outcomes source=postgres" in out
    run("task=outcomes", "source=postgres")
    before = await sql(babylon_url, 'select * from trajectories order by "trajectoryId"')
    out = run("task=train", *EXPORT)
    assert "switched off: collect, evaluate" in out and "Exported: " in out
    lines, card, _ = exported(tmp_path)
    used = {line["metadata"]["trajectoryId"] for line in lines}
    calls = await sql(babylon_url, 'select "trajectoryId" as id, count(*) as n from llm_call_logs group by 1')
    whole = {row["id"]: row["n"] for row in calls}
    by_trajectory: dict[str, int] = {}
    for line in lines:
        name = line["metadata"]["trajectoryId"].partition("@")[0]
        by_trajectory[name] = by_trajectory.get(name, 0) + 1
    assert len(by_trajectory) == 18, "all but the one that was alone in its window"
    assert by_trajectory == {name: whole[name] for name in by_trajectory}, "a history for every LLM call"
    assert all(0 <= line["reward"] <= 1 and line["messages"][-1]["role"] == "assistant" for line in lines)
    art, chat, dpo = (card["formats"][name] for name in ("art", "chat", "dpo"))
    assert art["rows"] == len(lines) == 2740
    assert card["data"]["trajectories"] == art["trajectories"] == len(used)
    assert chat["taken"] == -(-chat["ranked"] // 10) and chat["rows"] + sum(chat["left_out"].values()) == len(lines)
    assert 2 * dpo["rows"] + sum(dpo["left_out"].values()) == len(lines)
    assert card["iterations"][0]["dropout_rate"] == 0.0 and "oracle" in card["judge"]["_target_"]
    # A training set is no training: nothing was written to the game's database.
    assert await sql(babylon_url, 'select * from trajectories order by "trajectoryId"') == before
    assert await sql(babylon_url, "select 1 from training_batches union all select 1 from trained_models") == []


@pytest.mark.slow
async def test_no_leak_field_is_in_the_files(run: Run, babylon_url: str, tmp_path: Path) -> None:
    await sql(
        babylon_url,
        f"""update trajectories set "metadataJson" = '{{"gameKnowledge": {{"futureOutcomes": "{CANARY}"}}}}',
        "metricsJson" = '{{"finalPnL": 1, "secret": "{CANARY}"}}', "stepsJson" = replace("stepsJson",
        '"success":true', '"success":true,"correctness":{{"actualOutcome":"{CANARY}"}}')""",
    )
    assert await sql(babylon_url, f"select 1 from trajectories where \"stepsJson\" like '%{CANARY}%' limit 1")
    run("task=outcomes", "source=postgres")
    await sql(babylon_url, f"update market_outcomes set \"newsEvents\" = '[\"{CANARY}\"]', sentiment = '{CANARY}'")
    out = run(*EXPORT, "collect=none", "evaluate=none", "database=embedded", "report=local", "trainer.path=set")
    assert "are off" not in out and "Exported: " in out
    text = "".join(file.read_text() for file in (tmp_path / "set").glob("*-0*.jsonl"))
    assert "Should you trade?" in text
    for secret in (CANARY, "correctness", "gameKnowledge", "actualOutcome", "endPrice", "changePercent"):
        assert secret not in text
    prices = await sql(babylon_url, 'select "endPrice"::text as price from market_outcomes')
    rows = [json.loads(line) for line in text.splitlines()]
    answers = "".join(m["content"] for row in rows for m in row.get("messages", [])[-1:] + row.get("chosen", []))
    assert prices and not any(row["price"] in answers for row in prices)
