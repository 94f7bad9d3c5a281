"""Judging without training, on a game's own database, with a scripted endpoint on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.harness.endpoint import Endpoint, Reply, Request
from tests.judge.conftest import scores

FEW = ("source=postgres", "report=local", "sampler.min_agents=2", "sampler.min_actions=1")


class Shell:
    """The command line, its DATABASE_URL a game's own database."""

    def __init__(self, root: Path, url: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MMO_RL_", "DATABASE_"))}
        self.root, self.url = root, url
        self._environment = kept | {
            "MMO_RL_ROOT": str(root),
            "MMO_RL_HOME": str(root / "home"),
            "DATABASE_URL": url,
            "COLUMNS": "160",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "mmo_rl", *arguments],
            cwd=self.root,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        out, _ = await asyncio.to_thread(process.communicate, timeout=120)
        assert process.returncode == code, out
        return out

    def folder(self) -> Path:
        (found,) = [p.parent for p in self.root.glob("runs/*/*/status.json")]
        return found

    def judged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder() / "judgments.jsonl").read_text().splitlines()]

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder() / "summary.json").read_text())
        return summary


@pytest.fixture
def shell(babylon_url: str, tmp_path: Path) -> Shell:
    return Shell(tmp_path, babylon_url)


def asking(endpoint: Endpoint, *more: str) -> tuple[str, ...]:
    return (
        "task=judge",
        *FEW,
        "judge=ruler",
        "judge.model=scripted",
        f"judge.base_url={endpoint.url}",
        "judge.api_key_env=null",
        "judge.concurrency=1",
        *more,
    )


def by_place(request: Request, number: int) -> Reply:
    """Scores by what an entry says, the same wherever it stands."""
    return scores([(i, round((len(text) % 97) / 97, 3)) for i, text in request.texts.items()])


async def rows(url: str, query: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


WRITTEN = """
    select t."trajectoryId", t."windowId", "aiJudgeReward", "aiJudgeReasoning", t."judgedAt", j."judgeModel",
        j."judgeVersion", "overallScore", rank, "normalizedScore", "groupId", j.reasoning, "criteriaJson",
        j."judgedAt" as also from trajectories t join reward_judgments j using ("trajectoryId")
    where j."judgeModel" = 'scripted' order by 1
"""


async def test_a_killed_one_goes_on_and_asks_nothing_twice(shell: Shell, endpoint: Endpoint) -> None:
    await shell("task=migrate", "source=postgres")
    await shell("task=outcomes", "source=postgres")
    started = threading.Event()

    def killed_at_the_third(request: Request, number: int) -> Reply:
        if number == 2:
            started.set()
            return Reply(then="hang")
        return by_place(request, number)

    endpoint.script = killed_at_the_third
    process = shell.start(*asking(endpoint, "judge.write_back=true"))
    assert await asyncio.to_thread(started.wait, 60)
    async with asyncio.timeout(60):  # an answer on its way into the database at that very moment would be lost
        while len(await rows(shell.url, "select key from mmo_rl.judgments")) < 2:  # noqa: ASYNC110 (another process keeps it)
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.communicate)
    endpoint.script = by_place
    out = await shell(*asking(endpoint, "judge.write_back=true"))
    prompts = [request.user for request in endpoint.requests]
    assert prompts.count(prompts[2]) == 2, "the one that was not answered is asked again"
    assert len(set(prompts)) == len(prompts) - 1, "and no other"
    judged = shell.judged()
    assert len({row["trajectory_id"] for row in judged}) == len(judged) == shell.summary()["data/trajectories_used"]
    summary = shell.summary()
    assert summary["judge/calls"] <= len(set(prompts)) <= summary["judge/calls"] + summary["judge/cache_hits"]
    assert summary["judge/windows"] == 4
    assert summary["judge/oracle_tau"] is not None and -1 <= summary["judge/oracle_tau"] <= 1
    assert summary["judge/position_effect"] is not None and summary["judge/unscored_share"] == 0
    assert "tau oracle" in out and "Written back: scores of" in out

    written = await rows(shell.url, WRITTEN)
    whole = {row["trajectory_id"]: row["score"] for row in judged if "@" not in row["trajectory_id"]}
    assert len(whole) > 5 and whole.items() <= {row["trajectoryId"]: row["aiJudgeReward"] for row in written}.items()
    assert {row["trajectoryId"] for row in written} == {row["trajectory_id"].partition("@")[0] for row in judged}
    for row in written:
        assert row["overallScore"] == row["aiJudgeReward"] and row["reasoning"] == row["aiJudgeReasoning"]
        assert row["judgedAt"] == row["also"] and "scripted" in row["criteriaJson"]
        assert row["trajectoryId"] not in whole or (row["rank"] >= 1 and row["groupId"] is not None)

    again = await shell(*asking(endpoint, "judge.write_back=true"))
    assert "nothing is done again" in again and "tau oracle" in again
    asked = len(endpoint.requests)
    await shell(*asking(endpoint, "judge.write_back=true", "name=other"))
    assert len(endpoint.requests) == asked and await rows(shell.url, WRITTEN) == written, "the same, its time too"


async def test_a_budget_stops_it_and_the_same_command_goes_on(shell: Shell, endpoint: Endpoint) -> None:
    endpoint.script = by_place
    await shell("task=migrate", "source=postgres")
    command = asking(endpoint, "judge.budget_calls=2")
    out = await shell(*command, code=1)
    assert "judge.budget_calls=2" in out and "the same command goes on" in out and "members" in out
    assert len({row["window_id"] for row in shell.judged()}) == 2 and not (shell.folder() / "summary.json").exists()
    for _ in range(8):
        if (shell.folder() / "summary.json").exists():
            break
        process = shell.start(*command)
        await asyncio.to_thread(process.communicate, timeout=120)
    summary = shell.summary()
    assert summary["judge/calls"] == len(endpoint.requests) and summary["judge/windows"] == 4
    assert summary["judge/oracle_tau"] is None, "nobody derived outcomes"
    assert await rows(shell.url, 'select 1 from trajectories where "aiJudgeReward" is not null') == []


async def test_what_may_not_be_written_is_refused_before_anything_is_judged(
    shell: Shell,
    endpoint: Endpoint,
) -> None:
    missing = await shell(*asking(endpoint, "judge.write_back=true"), code=1)
    assert "no table" in missing and "task=migrate" in missing
    await shell("task=migrate", "source=postgres")
    await rows(
        shell.url,
        f"alter database {shell.url.rpartition('/')[2].partition('?')[0]} set default_transaction_read_only = on",
    )
    out = await shell(*asking(endpoint, "judge.write_back=true"), code=1)
    assert "read-only" in out and "leave judge.write_back out and add database=embedded" in out
    elsewhere = await shell(*asking(endpoint, "judge.write_back=true", "database=embedded"), code=2)
    assert "database=... is another" in elsewhere
    files = await shell("task=judge", "source=jsonl", "source.path=x", "judge.write_back=true", code=2)
    assert "task=import source=jsonl" in files
    assert endpoint.requests == []
    assert "no key or group judge.write_back" in await shell("judge.write_back=true", code=2)


async def test_a_poor_judge_is_not_trained_on(shell: Shell, endpoint: Endpoint) -> None:
    await shell("task=migrate", "source=postgres")
    bar = ("judge=heuristic", "judge.min_agreement=0.999", *FEW, "collect=none", "evaluate=none", "iterations=1")
    unknown = await shell(*bar, "trainer=export", code=1)
    assert "for want of outcomes" in unknown and "task=outcomes source=postgres" in unknown
    await shell("task=outcomes", "source=postgres")
    out = await shell(*bar, "trainer=export", code=1)
    assert "Kendall's tau-b" in out and "judge.min_agreement=0.999; nothing was trained" in out
    assert "judge.min_agreement=null" in out and not list((shell.folder() / "export").glob("*"))
    assert shell.judged() and {"oracle", "pnl"} <= shell.judged()[0].keys()
    assert json.loads((shell.folder() / "status.json").read_text())["status"] == "failed"
