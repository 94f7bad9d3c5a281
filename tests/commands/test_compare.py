"""``task=compare`` as it is typed: what it prints, what it writes and where, and what it answers to mistakes."""

from __future__ import annotations

import csv
import functools
import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mmo_rl.report.run_folder import RunFolder
from tests.harness.project import Project, Ran

Compare = Callable[..., Ran]


@pytest.fixture
def compare(project: Project) -> Compare:
    """Executes ``mmo-rl task=compare ...`` in an empty project."""
    return functools.partial(project.attempt, "task=compare")


def sweep(root: Path, *, arms: int, seeds: int, name: str = "dropout") -> None:
    for arm in range(arms):
        for seed in range(seeds):
            folder = root / "runs" / name / f"{arm:04d}{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            node = {"_target_": "mmo_rl.sampler.windows.WindowSampler", "max_dropout": arm / 100}
            config = {"name": name, "seed": seed, "task": "train", "sampler": node}
            summary = {"eval/pnl_trained": 900.0 - 50 * arm + seed + (arm * seed) % 3, "time/total_s": 10.0}
            rows = [{"iteration": i, "play/pnl": 10.0 * i} for i in range(3)]
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            (folder / "overrides.yaml").write_text(yaml.safe_dump([f"sampler.max_dropout={arm / 100}", f"seed={seed}"]))
            (folder / "summary.json").write_text(json.dumps(summary))
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "status.json").write_text('{"status": "done", "ended": "2026-01-01T00:00:00+00:00"}')


def test_a_sweep_is_compared_and_written_beside_the_runs(project: Project, compare: Compare) -> None:
    sweep(project.root, arms=2, seeds=3)
    RunFolder(project.root / "runs/dropout/broken").set_status("failed", error="out of memory")
    ran = compare("compare.runs=runs/dropout/*")
    assert ran.code == 0, ran.err
    assert "6 runs, 2 arms, 3 seeds, by eval/pnl_trained (largest first)" in ran.out
    assert "left out: dropout/broken (failed): out of memory" in ran.out
    (folder,) = (project.root / "runs" / "compare").iterdir()
    assert str(folder / "compare.html") in ran.out
    rows = list(csv.DictReader((folder / "compare.csv").read_text().splitlines()))
    assert [row["run"] for row in rows if row["arm"] == "1"] == ["dropout/00000", "dropout/00001", "dropout/00002"]
    assert (len(rows), rows[-1]["state"]) == (7, "failed")
    assert len(json.loads((folder / "compare.json").read_text())["arms"]) == 2

    sweep(project.root, arms=3, seeds=3)  # the same command sees what has been added since, and not its own output
    assert "9 runs, 3 arms" in compare("compare.runs=runs/dropout/*").out
    assert len(list((project.root / "runs" / "compare").iterdir())) == 1
    chosen = compare("compare.runs=runs", "compare.format=json", "compare.output=out", "compare.sort=-eval/pnl_trained")
    assert [arm["values"]["sampler.max_dropout"] for arm in json.loads(chosen.out)["arms"]] == [0.02, 0.01, 0.0]
    assert (project.root / "out" / "compare.html").is_file()


def test_a_mistake_is_answered_with_what_to_type(project: Project, compare: Compare) -> None:
    sweep(project.root, arms=2, seeds=1)
    nothing = compare()
    assert nothing.code == 2
    assert "compare.runs='runs/dropout/*'" in nothing.err and "runs/dropout (2)" in nothing.err
    filtered = compare("compare.runs=runs/dropout", "compare.where={sampler.max_dropout:0.5}")
    assert filtered.code == 2
    assert "no run has sampler.max_dropout=0.5" in filtered.err and "there is: 0, 0.01" in filtered.err
    assert "expected entity/project/group" in compare("compare.wandb=mine").err
    assert not (project.root / "runs" / "compare").exists()


@pytest.mark.slow
def test_five_hundred_runs_take_seconds(project: Project) -> None:
    sweep(project.root, arms=100, seeds=5)
    started = cpu_s()
    project.execute("task=compare", "--cfg", "job")
    bare_s = cpu_s() - started
    told = project.execute("task=compare", "compare.runs=runs/dropout")
    taken_s = cpu_s() - started - bare_s
    assert "500 runs, 100 arms, 5 seeds" in told
    assert taken_s < 10 * bare_s  # start-up is the measure of the machine: about a third of a second on a quiet one


def cpu_s() -> float:
    """CPU seconds of the processes that were started and have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
