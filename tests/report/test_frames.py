"""Runs as data frames: values and types of the columns, missing numbers, and what is no run."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mmo_rl.errors import ConfigError
from mmo_rl.report.frames import load_run, load_runs
from mmo_rl.report.run_folder import RunFolder


def write(path: Path, *, seed: int, rate: float, pnl: float | None) -> RunFolder:
    """A finished run; without ``pnl`` one that failed."""
    folder = RunFolder(path)
    with folder.locked():
        folder.set_status("running")
        folder.write_overrides([f"seed={seed}", f"trainer.learning_rate={rate}"])
        folder.write_config({"name": "g", "seed": seed, "task": "train", "trainer": {"learning_rate": rate}})
        folder.append("metrics", {"iteration": 0, "play/pnl": 1}, {"iteration": 1, "play/pnl": 2.5, "train/loss": 0.1})
        member = {"window_id": "w", "group_id": "w", "explanation": "", "spread": None, "oracle": None, "pnl": 1.0}
        for name, score, reason in (("a", 0.25, None), ("b", None, "no answer")):
            judged = {"iteration": 0, "trajectory_id": name, "score": score, "reason": reason}
            folder.append("judgments", judged | member)
        if pnl is None:
            folder.set_status("failed", error="out of memory")
        else:
            folder.write_summary({"eval/pnl_trained": pnl, "eval/pnl_base": None})
            folder.set_status("done")
    return folder


def test_a_run_is_frames(tmp_path: Path) -> None:
    write(tmp_path / "runs/g/a", seed=3, rate=0.1, pnl=12.5)
    run = load_run(tmp_path / "runs/g/a")
    assert (run.state, run.seed, run.task, run.config["trainer.learning_rate"]) == ("done", 3, "train", 0.1)
    assert run.overrides == ("seed=3", "trainer.learning_rate=0.1")
    assert run.metrics["play/pnl"].to_list() == [1.0, 2.5]
    assert run.metrics["train/loss"].to_list() == [None, 0.1], "a missing number is null, never 0"
    scored = run.judgments.filter(pl.col("score").is_not_null())
    assert scored["trajectory_id"].to_list() == ["a"] and run.judgments["score"].dtype == pl.Float64
    assert run.summary["eval/pnl_trained"] == 12.5 and run.summary_frame["eval/pnl_base"].to_list() == [None]


def test_a_sweep_is_one_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (seed, rate, pnl) in enumerate([(0, 0.1, 1.0), (1, 0.1, 3.0), (0, 0.2, 5.0), (1, 0.2, None)]):
        write(tmp_path / f"runs/g/{number}", seed=seed, rate=rate, pnl=pnl)
    frame = load_runs("runs/g")
    assert frame["state"].to_list() == ["done", "done", "done", "failed"]
    means = frame.group_by("trainer.learning_rate").agg(pl.col("eval/pnl_trained").mean()).sort("trainer.learning_rate")
    assert means.rows() == [(0.1, 2.0), (0.2, 5.0)]
    assert frame.equals(load_runs(tmp_path / "runs/g/*"))


def test_an_unfinished_run_has_no_summary(tmp_path: Path) -> None:
    write(tmp_path / "runs/g/a", seed=0, rate=0.1, pnl=None)
    run = load_run(tmp_path / "runs/g/a")
    assert run.state == "failed" and not run.summary and run.summary_frame.is_empty()
    assert len(run.metrics) == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "runs/g/a", seed=0, rate=0.1, pnl=1.0)
    with pytest.raises(ConfigError, match="no run folder; load_runs"):
        load_run(tmp_path / "runs/g")
    with pytest.raises(ConfigError, match="no run"):
        load_runs(tmp_path / "runs/nothing")
    (tmp_path / "runs/g/a/summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run(tmp_path / "runs/g/a")
