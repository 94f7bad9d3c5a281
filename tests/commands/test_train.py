"""The whole loop on real parts: embedded server, shipped model, ART, offline W&B."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.database import rows_at_home
from tests.harness.endpoint import Endpoint, Reply, Request, completion
from tests.harness.project import Project, untimed

SMALL = ("collect.windows=2", "collect.agents=5", "evaluate.markets=4", "evaluate.agents=2")
COMMAND = ("iterations=2", "sampler.target_trajectories=8", "sampler.min_agents=3", *SMALL)
DESIGN_KEYS = {
    "data/": "windows_available windows_used trajectories_available trajectories_used dropout_rate",
    "judge/": "calls cache_hits unscored cost_usd",
    "train/": "gradient_steps tokens groups_skipped_zero_variance",
    "eval/": "pnl_base pnl_trained pnl_improvement_pct pnl_improvement_pct_low pnl_improvement_pct_high"
    " oracle_share_base oracle_share_trained win_rate_base win_rate_trained error_rate_base error_rate_trained",
    "eval/greedy/": "pnl_base pnl_trained win_rate_base win_rate_trained error_rate_base error_rate_trained",
    "time/": "select_s judge_s train_s evaluate_s total_s",
}


def rows(project: Project, query: str) -> list[dict[str, Any]]:
    return asyncio.run(rows_at_home(project.home, query))


@pytest.fixture(scope="module")
def trained(scratch: Path) -> Iterator[tuple[Project, str]]:
    """A project with one finished run of `COMMAND`, and what it printed; `copied` is for tests that change it."""
    root, home = (Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch)) for name in ("trained", "home"))
    home.chmod(0o755)
    project = Project.at(root, home)
    yield project, project.run(*COMMAND)
    shutil.rmtree(root)
    shutil.rmtree(home)


@pytest.fixture
def copied(trained: tuple[Project, str], project: Project) -> Project:
    """A copy of the project with the finished run; owners are kept, as root starts servers as somebody else."""
    for source, target in ((trained[0].root, project.root), (trained[0].home, project.home)):
        subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)
    return project


def test_the_loop_from_play_to_report_and_nothing_is_done_twice(trained: tuple[Project, str]) -> None:
    project, out = trained
    folder = project.folder()
    assert str(folder / "report.html") in out and "Same 4 held-out markets" in out
    summary = project.summary()
    assert {level + key for level, keys in DESIGN_KEYS.items() for key in keys.split()} <= set(summary)
    used = summary["data/trajectories_used"]
    assert summary["data/windows_used"] == 4 and summary["data/trajectories_available"] == 20 > used >= 4 * 3
    assert summary["data/dropout_rate"] > 0
    assert summary["train/gradient_steps"] > 0 and summary["train/tokens"] > 0
    measured = project.rows("evaluations")
    pnl = {key: [row["pnl"] for row in measured if row["measured"] == key] for key in ("base", "trained", "oracle")}
    assert all(len(found) == 4 * 2 for found in pnl.values())
    for key in ("base", "trained"):
        assert sum(pnl[key]) / 8 == pytest.approx(summary[f"eval/pnl_{key}"])
    planned = json.loads((folder / "plan.json").read_text())
    assert planned["data/windows_used"] == 4 and planned["data/trajectories_used"] == pytest.approx(used, abs=4)
    assert planned["judge/calls"] == summary["judge/calls"] == 0
    # However much of what is selected still differs in reward, as much is selected as was planned.
    assert summary["train/tokens_selected"] == pytest.approx(planned["train/tokens_selected"], rel=0.05)
    assert 0 < summary["train/tokens"] <= summary["train/tokens_selected"]
    assert 0 < planned["train/tokens"] <= planned["train/tokens_selected"]
    assert [json.loads(r)["iteration"] for r in (folder / "metrics.jsonl").read_text().splitlines()] == [0, 1]
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert json.loads((folder / "provenance.json").read_text())["data"]["trajectories"] == used
    assert len(list(folder.glob("wandb/**/offline-run-*/run-*.wandb"))) == 1
    judged = [json.loads(line) for line in (folder / "judgments.jsonl").read_text().splitlines()]
    assert len(judged) == used and all(0 <= j["score"] <= 1 for j in judged)

    models = rows(project, 'select status, version, "wandbRunId" from trained_models order by version')
    assert [m["status"] for m in models] == ["ready", "ready"]
    assert {m["wandbRunId"] for m in models} == {(folder / "run-id.txt").read_text().strip()}
    assert [b["status"] for b in rows(project, "select status from training_batches")] == ["completed"] * 2
    (stored,) = rows(
        project,
        'select count(*) n, count(*) filter (where "usedInTraining") used, count(distinct "windowId") w'
        " from trajectories",
    )
    assert stored == {"n": 20, "used": used, "w": 4}
    (calls,) = rows(project, "select count(*) n from llm_call_logs")
    assert calls["n"] == 20 * 8
    (outcomes,) = rows(project, 'select count(distinct "windowId") n from market_outcomes')
    assert outcomes["n"] == 4

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    again = project.run(*COMMAND)
    assert "finished" in again and "Same 4 held-out markets" in again
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before
    assert "READY" in project.run("task=check")


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(trained: tuple[Project, str], project: Project) -> None:
    whole, broken = trained[0], project
    broken.execute(*COMMAND, code=-signal.SIGKILL, accident="killed:rows appended/checkpoints:1")
    broken.run(*COMMAND)
    assert untimed(broken.summary()) == untimed(whole.summary())
    assert [row["iteration"] for row in broken.rows("metrics")] == [0, 1]
    # The ids differ in the part that belongs to one run folder alone, and in nothing else.
    recorded = (
        """select regexp_replace("trajectoryId", '-[0-9a-f]{6}-w', '-w') id, "finalPnL" from trajectories order by 1"""
    )
    assert rows(broken, recorded) == rows(whole, recorded)
    fingerprints = [json.loads((p.folder() / "provenance.json").read_text())["data"] for p in (broken, whole)]
    assert fingerprints[0] == fingerprints[1]


def test_a_run_whose_folder_was_deleted_is_a_new_run_with_the_same_numbers(copied: Project) -> None:
    """What the earlier run recorded is neither trained on again nor lost."""
    project = copied
    first = untimed(project.summary())
    shutil.rmtree(project.root / "runs")
    project.run(*COMMAND)
    assert untimed(project.summary()) == first
    assert first["data/windows_used"] == 4
    counted = rows(project, 'select count(distinct "windowId") w, count(distinct "scenarioId") s from trajectories')
    assert counted == [{"w": 8, "s": 2}]
    batches = rows(project, "select status, count(*) n from training_batches group by 1")
    assert batches == [{"status": "completed", "n": 4}]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("sampler.min_agents=9", "sampler.min_agents=9"),
        ("source=jsonl source.path=nowhere.jsonl", "collect=none"),
    ],
)
def test_play_that_could_not_be_trained_on_is_never_played(project: Project, wrong: str, said: str) -> None:
    out = project.run("report=local", *wrong.split(), code=2)
    assert said in out and "Traceback" not in out
    assert not (project.home / "postgres").exists()


def test_recorded_play_of_scripts_can_be_trained_on(project: Project) -> None:
    out = project.run(
        "task=collect", "collect.windows=3", "collect.agents=5", "collect.strategies=[balanced,momentum,aggressive]"
    )
    assert "3 windows, 15 trajectories" in out and "balanced-00" in out
    project.run("collect=none", "iterations=5", "evaluate=none", "report=local", "sampler.max_windows=2")
    summary = project.summary()
    assert summary["data/windows_used"] == 3  # the third iteration finds none left
    assert summary["train/iterations"] == 2
    assert summary["eval/pnl_base"] is None
    metrics = json.loads((project.folder() / "metrics.jsonl").read_text().splitlines()[0])
    assert metrics["train/unknown_logprobs_share"] == 1.0 and metrics["train/kl"] < 0.1


def test_no_window_is_an_error_that_says_what_to_type(project: Project) -> None:
    out = project.run("collect=none", "evaluate=none", "report=local", code=1)
    assert "no window has been recorded" in out and "mmo-rl task=collect" in out and "Traceback" not in out


def by_order(request: Request, number: int) -> Reply:
    """A judge that prefers the trajectory whose id sorts first."""
    text = "\n".join(str(message["content"]) for message in request.body["messages"])
    ids = sorted(set(re.findall(r'^<trajectory[^>]*\bid="([^"]+)"', text, re.MULTILINE)))
    scores = [
        {"trajectory_id": i, "explanation": "by order", "score": round(1 - n / max(1, len(ids)), 3)}
        for n, i in enumerate(ids)
    ]
    return completion(json.dumps({"scores": scores}))


def test_ruler_judges_the_loop_over_http(project: Project, endpoint: Endpoint) -> None:
    endpoint.script = by_order
    ruler = ("judge=ruler", "judge.model=judge-1", f"judge.base_url={endpoint.url}", "judge.api_key_env=null")
    project.run("iterations=1", "report=local", *ruler, *SMALL)
    summary = project.summary()
    assert summary["judge/calls"] == 2 and summary["judge/unscored"] == 0
    assert summary["judge/prompt_tokens"] == 200
    assert summary["train/gradient_steps"] > 0
    planned = json.loads((project.folder() / "plan.json").read_text())
    assert planned["judge/calls"] == 2 and planned["data/trajectories_used"] == 10
    assert "The plan and what was spent" in (project.folder() / "report.html").read_text()


def test_weights_that_cannot_be_had_are_missed_before_anything_is_played(project: Project) -> None:
    told = project.run("model=qwen2_5_3b", "model.path=nowhere", "report=local", *SMALL, code=1)
    assert "model.path=nowhere is not there" in told
    assert not (project.home / "postgres").exists()


def test_a_judge_that_is_down_ends_the_run_at_once(project: Project) -> None:
    out = project.run(
        "iterations=1",
        "report=local",
        "judge=ruler",
        "judge.base_url=http://127.0.0.1:9/v1",
        "judge.api_key_env=null",
        *SMALL,
        code=1,
    )
    assert "127.0.0.1:9" in out and "Traceback" not in out
    assert json.loads((project.folder() / "status.json").read_text())["status"] == "failed"
    assert rows(project, "select 1 from trained_models") == []
