"""Judging without training, on a game's own database, with a scripted endpoint on loopback."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.database import rows
from tests.harness.endpoint import Endpoint, Reply, Request
from tests.harness.project import Project
from tests.judge.conftest import scores

FEW = ("source=postgres", "report=local", "sampler.min_agents=2", "sampler.min_actions=1")


@pytest.fixture
def project(projects: Callable[[], Project], babylon_url: str) -> Project:
    """A project with a game's own database."""
    return projects().with_variables(DATABASE_URL=babylon_url)


def queried(project: Project, query: str) -> list[dict[str, Any]]:
    return asyncio.run(rows(project.variables["DATABASE_URL"], query))


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


WRITTEN = """
    select t."trajectoryId", t."windowId", "aiJudgeReward", "aiJudgeReasoning", t."judgedAt", j."judgeModel",
        j."judgeVersion", "overallScore", rank, "normalizedScore", "groupId", j.reasoning, "criteriaJson",
        j."judgedAt" as also from trajectories t join reward_judgments j using ("trajectoryId")
    where j."judgeModel" = 'scripted' order by 1
"""


def test_a_killed_one_goes_on_and_asks_nothing_twice(project: Project, endpoint: Endpoint) -> None:
    project.run("task=migrate", "source=postgres")
    project.run("task=outcomes", "source=postgres")
    endpoint.script = by_place
    two_are_stored = "killed:judgment stored:2"  # the third may be on its way
    project.execute(*asking(endpoint, "judge.write_back=true"), code=-signal.SIGKILL, accident=two_are_stored)
    assert len(queried(project, "select key from mmo_rl.judgments")) == 2
    out = project.run(*asking(endpoint, "judge.write_back=true"))
    prompts = [request.user for request in endpoint.requests]
    assert all(prompts.count(stored) == 1 for stored in prompts[:2]), "what is stored is not asked again"
    assert len(prompts) - len(set(prompts)) <= 1 and len(set(prompts)) > 3
    judged = project.rows("judgments")
    assert len({row["trajectory_id"] for row in judged}) == len(judged) == project.summary()["data/trajectories_used"]
    summary = project.summary()
    assert summary["judge/calls"] <= len(set(prompts)) <= summary["judge/calls"] + summary["judge/cache_hits"]
    assert summary["judge/windows"] == 4
    assert summary["judge/oracle_tau"] is not None and -1 <= summary["judge/oracle_tau"] <= 1
    assert summary["judge/position_effect"] is not None and summary["judge/unscored_share"] == 0
    assert "tau oracle" in out and "Written back: scores of" in out

    written = queried(project, WRITTEN)
    whole = {row["trajectory_id"]: row["score"] for row in judged if "@" not in row["trajectory_id"]}
    assert len(whole) > 5 and whole.items() <= {row["trajectoryId"]: row["aiJudgeReward"] for row in written}.items()
    assert {row["trajectoryId"] for row in written} == {row["trajectory_id"].partition("@")[0] for row in judged}
    for row in written:
        assert row["overallScore"] == row["aiJudgeReward"] and row["reasoning"] == row["aiJudgeReasoning"]
        assert row["judgedAt"] == row["also"] and "scripted" in row["criteriaJson"]
        assert row["trajectoryId"] not in whole or (row["rank"] >= 1 and row["groupId"] is not None)

    again = project.run(*asking(endpoint, "judge.write_back=true"))
    assert "nothing is done again" in again and "tau oracle" in again
    asked = len(endpoint.requests)
    project.run(*asking(endpoint, "judge.write_back=true", "name=other"))
    assert len(endpoint.requests) == asked and queried(project, WRITTEN) == written, "the same, its time too"


def test_a_budget_stops_it_and_the_same_command_goes_on(project: Project, endpoint: Endpoint) -> None:
    endpoint.script = by_place
    project.run("task=migrate", "source=postgres")
    command = asking(endpoint, "judge.budget_calls=2")
    out = project.run(*command, code=1)
    assert "judge.budget.calls=2" in out and "the same command goes on" in out and "members" in out
    assert (
        len({row["window_id"] for row in project.rows("judgments")}) == 2
        and not (project.folder() / "summary.json").exists()
    )
    for _ in range(8):
        if (project.folder() / "summary.json").exists():
            break
        project.attempt(*command)
    summary = project.summary()
    assert summary["judge/calls"] == len(endpoint.requests) and summary["judge/windows"] == 4
    assert summary["judge/oracle_tau"] is None, "nobody derived outcomes"
    assert queried(project, 'select 1 from trajectories where "aiJudgeReward" is not null') == []


def test_what_may_not_be_written_is_refused_before_anything_is_judged(
    project: Project,
    endpoint: Endpoint,
) -> None:
    missing = project.run(*asking(endpoint, "judge.write_back=true"), code=1)
    assert "no table" in missing and "task=migrate" in missing
    project.run("task=migrate", "source=postgres")
    name = project.variables["DATABASE_URL"].rpartition("/")[2].partition("?")[0]
    queried(project, f"alter database {name} set default_transaction_read_only = on")
    out = project.run(*asking(endpoint, "judge.write_back=true"), code=1)
    assert "read-only" in out and "leave judge.write_back out and add database=embedded" in out
    elsewhere = project.run(*asking(endpoint, "judge.write_back=true", "database=embedded"), code=2)
    assert "database=... is another" in elsewhere
    files = project.run("task=judge", "source=jsonl", "source.path=x", "judge.write_back=true", code=2)
    assert "task=import source=jsonl" in files
    assert endpoint.requests == []
    assert "no key or group judge.write_back" in project.run("judge.write_back=true", code=2)


def test_a_poor_judge_is_not_trained_on(project: Project, endpoint: Endpoint) -> None:
    project.run("task=migrate", "source=postgres")
    bar = ("judge=heuristic", "judge.min_agreement=0.999", *FEW, "collect=none", "evaluate=none", "iterations=1")
    unknown = project.run(*bar, "trainer=export", code=1)
    assert "for want of outcomes" in unknown and "task=outcomes source=postgres" in unknown
    project.run("task=outcomes", "source=postgres")
    out = project.run(*bar, "trainer=export", code=1)
    assert "Kendall's tau-b" in out and "judge.min_agreement=0.999; nothing was trained" in out
    assert "judge.min_agreement=null" in out and not list((project.folder() / "export").glob("*"))
    assert project.rows("judgments") and {"oracle", "pnl"} <= project.rows("judgments")[0].keys()
    assert project.status()["status"] == "failed"
