"""From a game's own database to a training set, with the commands of docs/data.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.database import rows
from tests.harness.project import Project

CANARY = "zqxjkv"
EXPORT = ("source=postgres", "judge=oracle", "trainer=export")


@pytest.fixture
def project(projects: Callable[[], Project], babylon_url: str, tmp_path: Path) -> Project:
    """A project with a game's own database, whose processes have no torch."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('an export needs no torch')")
    return projects().with_variables(DATABASE_URL=babylon_url, PYTHONPATH=str(blocked))


def exported(root: Path) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    (folder,) = root.glob("runs/*/*/export")
    texts = {file.name: file.read_text() for file in folder.iterdir()}
    card = json.loads(texts["card.json"])
    lines = [json.loads(line) for name, text in sorted(texts.items()) if "iter" in name for line in text.splitlines()]
    return lines, card, "".join(texts[name] for name in texts if "iter" in name)


@pytest.mark.slow
async def test_the_plain_commands_lead_to_a_training_set(project: Project, babylon_url: str) -> None:
    out = project.execute("task=train", *EXPORT, code=1)
    assert "mmo-rl task=migrate source=postgres" in out
    project.execute("task=migrate", "source=postgres")
    out = project.execute("task=train", *EXPORT, code=1)
    assert "no ground truth" in out and "mmo-rl task=outcomes source=postgres" in out
    project.execute("task=outcomes", "source=postgres")
    before = await rows(babylon_url, 'select * from trajectories order by "trajectoryId"')
    out = project.execute("task=train", *EXPORT)
    assert "switched off: collect, evaluate" in out and "Exported: " in out
    lines, card, _ = exported(project.root)
    used = {line["metadata"]["trajectoryId"] for line in lines}
    calls = await rows(babylon_url, 'select "trajectoryId" as id, count(*) as n from llm_call_logs group by 1')
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
    assert await rows(babylon_url, 'select * from trajectories order by "trajectoryId"') == before
    assert await rows(babylon_url, "select 1 from training_batches union all select 1 from trained_models") == []


@pytest.mark.slow
async def test_no_leak_field_is_in_the_files(project: Project, babylon_url: str) -> None:
    await rows(
        babylon_url,
        f"""update trajectories set "metadataJson" = '{{"gameKnowledge": {{"futureOutcomes": "{CANARY}"}}}}',
        "metricsJson" = '{{"finalPnL": 1, "secret": "{CANARY}"}}', "stepsJson" = replace("stepsJson",
        '"success":true', '"success":true,"correctness":{{"actualOutcome":"{CANARY}"}}')""",
    )
    assert await rows(babylon_url, f"select 1 from trajectories where \"stepsJson\" like '%{CANARY}%' limit 1")
    project.execute("task=outcomes", "source=postgres")
    await rows(babylon_url, f"update market_outcomes set \"newsEvents\" = '[\"{CANARY}\"]', sentiment = '{CANARY}'")
    out = project.execute(
        *EXPORT, "collect=none", "evaluate=none", "database=embedded", "report=local", "trainer.path=set"
    )
    assert "are off" not in out and "Exported: " in out
    text = "".join(file.read_text() for file in (project.root / "set").glob("*-0*.jsonl"))
    assert "Should you trade?" in text
    for secret in (CANARY, "correctness", "gameKnowledge", "actualOutcome", "endPrice", "changePercent"):
        assert secret not in text
    prices = await rows(babylon_url, 'select "endPrice"::text as price from market_outcomes')
    written = [json.loads(line) for line in text.splitlines()]
    answers = "".join(m["content"] for row in written for m in row.get("messages", [])[-1:] + row.get("chosen", []))
    assert prices and not any(row["price"] in answers for row in prices)


def test_the_newest_recorder_s_trades_become_ranked_rows(projects: Callable[[], Project]) -> None:
    """Ten agents trade in the words of the game's newest recorders; half of them are right."""
    project = projects()
    folder = project.root / "play"
    folder.mkdir()

    def step(number: int, action: str, **parameters: object) -> dict[str, Any]:
        return {
            "stepNumber": number,
            "timestamp": f"2026-03-01T10:0{number}:00Z",
            "environmentState": {"marketPrices": {"NOVA": 100}},
            "llmCalls": [{"userPrompt": f"step {number}", "response": json.dumps(parameters)}],
            "action": {"actionType": action, "parameters": parameters, "success": True},
        }

    def row(agent: int) -> dict[str, Any]:
        up = "long" if agent % 2 else "short"
        steps = [
            step(0, "TRADE", ticker="NOVA", side=up, amount=10 + agent),
            step(1, "TRADING_DECISION", marketId="q", side="yes" if agent % 2 else "no", price=0.5),
            step(2, "CLOSE", ticker="NOVA", price=100),
        ]
        times = {"startTime": "2026-03-01T10:00:00Z", "endTime": "2026-03-01T10:05:00Z"}
        return {"trajectoryId": f"t{agent}", "agentId": f"a{agent}", **times, "steps": steps, "finalPnL": agent}

    outcomes = [
        {"windowId": "2026-03-01T10:00", "stockTicker": "NOVA", "startPrice": 100, "endPrice": 110},
        {"windowId": "2026-03-01T10:00", "predictionMarketId": "q", "question": "Q?", "outcome": "YES"},
    ]
    for name, lines in (("rows", [row(agent) for agent in range(10)]), ("market-outcomes", outcomes)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("source=jsonl", f"source.path={folder}", "judge=oracle", "trainer=export", "sampler.min_actions=1")
    project.run(*command, "collect=none", "evaluate=none", "report=local", "sampler.holdout=0", "iterations=1")
    lines, card, _ = exported(project.root)
    assert len(lines) == 30 and card["formats"]["chat"]["rows"] > 0 and card["formats"]["dpo"]["rows"] > 0
    first = {
        line["metadata"]["trajectoryId"]: line["reward"] for line in lines if line["messages"][0]["content"] == "step 0"
    }
    assert min(first[f"t{agent}"] for agent in (1, 3, 5, 7, 9)) > max(first[f"t{agent}"] for agent in (0, 2, 4, 6, 8))
