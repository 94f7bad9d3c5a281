"""task=runs, `latest`, the commands that follow a run or a sweep, and comparisons of policies among trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmo_rl.commands.new_experiment import _folders
from mmo_rl.config.latest import with_latest
from mmo_rl.errors import ConfigError
from mmo_rl.report.compared import compare_runs
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.runs import find_runs
from tests.harness.project import Project


def past(root: Path, key: str, *, task: str = "train", state: str = "done", ended: str = "2026-01-01", seed: int = 0,
         **summary: float) -> Path:  # fmt: skip
    """A run's folder as an earlier command left it."""
    folder = RunFolder(root / "runs" / "default" / key)
    folder.write_config({"task": task, "seed": seed})
    folder.write_overrides([f"task={task}"] if task != "train" else [f"seed={seed}"])
    folder.write_summary(summary)
    folder.write_text("status.json", json.dumps({"status": state, "ended": f"{ended}T00:00:00+00:00"}))
    return folder.path


def test_runs_are_listed_newest_first_with_state_and_result(project: Project) -> None:
    past(project.root, "old", **{"eval/pnl_improvement": 120.0})
    past(project.root, "new", ended="2026-02-01", task="evaluate", **{"ab/pnl_difference": -5.0})
    past(project.root, "bad", ended="2026-01-15", state="failed")
    past(project.root, "old.1", ended="2026-03-01")
    told = project.run("task=runs").splitlines()
    assert [line.split()[0] for line in told[1:4]] == [f"runs/default/{key}" for key in ("new", "bad", "old")]
    assert "B minus A -5 $" in told[1] and "failed" in told[2] and "P&L +120 $" in told[3] and " d " in told[3]
    (only,) = [run for run in json.loads(project.run("task=runs", "runs.format=json")) if run["state"] == "failed"]
    assert only["run"] == "runs/default/bad" and only["result"] is None
    assert "no run named pilot*" in project.run("task=runs", "runs.name=pilot*", code=2)
    assert sorted(p.name for p in project.root.iterdir()) == ["runs"]


def test_latest_is_the_newest_finished_training_wherever_a_run_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMO_RL_ROOT", str(tmp_path))
    with pytest.raises(ConfigError, match="no training is finished"):
        with_latest(["evaluate.b=latest"])
    past(tmp_path, "old")
    newest = past(tmp_path, "new", ended="2026-02-01")
    past(tmp_path, "failed", ended="2026-03-01", state="failed")
    past(tmp_path, "other", ended="2026-04-01", task="evaluate")
    typed = ["evaluate.b=latest", "serve.runs=[latest,runs/a]", "run=latest", "name=latest", "policy.path=latest-one"]
    assert with_latest(typed) == [
        f"evaluate.b={newest}", f"serve.runs=[{newest},runs/a]", f"run={newest}", "name=latest",
        "policy.path=latest-one",
    ]  # fmt: skip


def test_comparisons_of_policies_lie_among_trainings_and_disturb_nothing(tmp_path: Path) -> None:
    for seed in (0, 1):
        past(tmp_path, f"run{seed}", seed=seed, **{"eval/pnl_improvement": 10.0 + seed})
    past(tmp_path, "ab", task="evaluate", **{"ab/pnl_difference": 3.0})
    compared = compare_runs(find_runs(["runs"], roots=[tmp_path]))
    assert compared.task == "train" and sum(len(arm.runs) for arm in compared.arms) == 2
    assert [(run.id, why) for run, why in compared.left_out] == [
        ("default/ab", "of another task: 'compare.where={task:evaluate}'")
    ]
    assert [folder.path.name for folder in _folders("runs/default", tmp_path)] == ["run0", "run1"]


def test_a_run_and_its_sweep_say_what_to_type_next_the_second_time_too(project: Project) -> None:
    quick = ("report=local", "iterations=1", "collect.windows=1", "evaluate.markets=2", "name=next")
    first, again = project.run(*quick), project.run(*quick)
    lines = [line for line in first.splitlines() if line.startswith(("Checkpoint:", "  measure", "  play", "  serve"))]
    assert len(lines) == 4 and all(line in again.splitlines() for line in lines)
    swept = project.run("-m", *quick, "seed=0,1")
    assert "P&L gain $" in swept and "mmo-rl task=compare compare.runs=runs/next" in swept
    assert "Best: seed=" in swept and "mmo-rl task=evaluate evaluate.b=" in swept
