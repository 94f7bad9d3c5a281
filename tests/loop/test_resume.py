"""Runs that are killed at milestones, on real parts: each goes on with the same command to the same numbers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.report.run_folder import RunFolder
from tests.harness.database import rows
from tests.harness.project import ACCIDENTS, OURS, Project, read_json, read_rows, untimed

ON = "source=postgres"
TINY = ("report=local", ON, "collect.windows=2", "collect.agents=5", "evaluate.markets=2", "evaluate.agents=1")


def environment(root: Path, dsn: str) -> dict[str, str]:
    return dict(Project.at(root, DATABASE_URL=dsn).variables)


def perform(*commands: dict[str, Any]) -> tuple[list[int], str]:
    """How each of the commands ended, and everything that they printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    kept["OMP_NUM_THREADS"] = "1"  # threads that wait for each other on a busy machine are slower than one
    done = subprocess.run(
        [sys.executable, "-P", str(ACCIDENTS), json.dumps(commands)],
        env=kept,
        capture_output=True,
        text=True,
        check=True,
    )
    ended = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ended: ")]
    return ended, done.stdout + done.stderr


def folder(root: Path) -> Path:
    (found,) = [p.parent for p in root.glob("runs/*/*/status.json")]
    return found


def numbers(run: Path) -> dict[str, Any]:
    """Everything that a run measured, but for the time it took."""
    metrics = [untimed(row) for row in read_rows(run / "metrics.jsonl")]
    return {"summary": untimed(read_json(run / "summary.json")), "metrics": metrics}


def weights(run: Path) -> dict[str, str]:
    """The checksum of each checkpoint's weights."""
    return {
        sealed.parent.name: json.loads(sealed.read_text())["files"]["model.safetensors"]["sha256"]
        for sealed in sorted(run.glob("checkpoints/*/checkpoint.json"))
    }


@pytest.mark.slow
async def test_killed_at_any_moment_a_run_ends_with_the_numbers_of_an_unbroken_one(
    tmp_path: Path, migrated_url: str, database_url: str
) -> None:
    command = ["iterations=3", "trainer.keep_last=1", "trainer.warm_start=0.2", *TINY]
    record = ["task=collect", ON, "collect.windows=2", "collect.agents=5", "collect.strategies=[informed,balanced]"]
    whole = {"environment": environment(tmp_path / "whole", migrated_url)}
    broken = {"environment": environment(tmp_path / "broken", database_url)}
    moments = (
        "killed:weights written:1",  # while the warm start is saved
        "killed:checkpoint written:1",  # it is saved, and not registered
        "killed:trajectories recorded:1",  # in the middle of play
        "killed:weights written:1",  # the version not published
        "killed:checkpoint written:1",  # published in the folder, nowhere else
        "killed:registry committed:1",  # and in the registry; no row of the run's own
        "killed:rows appended/metrics:1",  # judgments, metrics, and no row in checkpoints.jsonl
        "killed:rows appended/checkpoints:1",  # an iteration is done, nothing pruned
        "killed:registry committed/archive:1",  # archived, and not removed
        "killed:policy evaluated:2",
    )
    ended, told = perform(
        {**whole, "arguments": record},
        {**whole, "arguments": command},
        {**broken, "arguments": ["task=migrate", ON]},
        {**broken, "arguments": record},
        *({**broken, "arguments": command, "accident": moment} for moment in moments),
        {**broken, "arguments": command},
    )
    assert ended == [0, 0, 0, 0, *[-signal.SIGKILL] * len(moments), 0], told
    one, other = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    assert numbers(other) == numbers(one)
    assert numbers(one)["metrics"][0]["train/warm_start_steps"] > 0
    assert weights(other) == weights(one) and set(weights(one)) >= {"0000", "0003"}
    assert not list(other.glob("checkpoints/*.*"))
    judged = [json.loads(row)["iteration"] for row in (other / "judgments.jsonl").read_text().splitlines()]
    assert {iteration: judged.count(iteration) for iteration in judged} == {-1: 10, 0: 10, 1: 10, 2: 10}
    assert [json.loads(r)["iteration"] for r in (other / "checkpoints.jsonl").read_text().splitlines()] == [-1, 0, 1, 2]
    for query in (
        'select version, status, "archivedAt" is null as kept, "evalMetrics"::jsonb'
        " - '{tokens_per_s,packed_tokens_per_s,padded_tokens_per_s}'::text[] as metrics,"
        ' "benchmarkScore" from trained_models order by "createdAt"',
        'select "modelVersion", status, "trainingLoss" from training_batches order by "createdAt"',
        'select "usedInTraining", right("trainedInBatch", 4) as batch, "finalPnL", "agentId" from trajectories'
        ' order by right("trainedInBatch", 4), "windowId", "agentId"',
    ):
        assert await rows(database_url, query) == await rows(migrated_url, query)
    models = await rows(migrated_url, 'select version, status, "storagePath" as path from trained_models')
    assert all((m["status"] == "archived") == (not Path(m["path"]).is_dir()) for m in models)


@pytest.mark.slow
async def test_a_full_disk_a_kill_and_a_damaged_checkpoint_cost_nothing_but_time(
    tmp_path: Path, migrated_url: str, database_url: str
) -> None:
    command = ["iterations=2", *TINY]
    whole = {"environment": environment(tmp_path / "whole", migrated_url), "arguments": command}
    broken = {"environment": environment(tmp_path / "broken", database_url), "arguments": command}
    second = tmp_path / "broken" / "runs" / "*" / "*" / "checkpoints" / "0002"
    ended, told = perform(
        whole,
        broken | {"arguments": ["task=migrate", ON]},
        broken | {"accident": "full:checkpoint started:2"},
        broken | {"accident": "killed:policy evaluated:1"},
        {"shell": f"truncate -s 1000 {second}/model.safetensors"},
        broken,
        {"shell": f"rm -r {second}"},
        broken,
    )
    assert ended == [0, 0, 1, -signal.SIGKILL, 1, 0], told
    one, other = folder(tmp_path / "whole"), folder(tmp_path / "broken")
    assert re.search(r"mmo-rl: could not save checkpoint 2: .*File too large.*; nothing of it was published", told)
    assert "its model.safetensors has 1,000 bytes instead of" in told and f"rm -r {other}/checkpoints/0002" in told
    assert "checkpoint 2 is not in" in told and "iteration 2 is done again" in told
    assert "Traceback" not in told
    assert f"Checkpoint: {one}/checkpoints/0002" in told
    assert f"mmo-rl task=evaluate evaluate.b={one}/checkpoints/0002" in told
    assert numbers(other) == numbers(one) and weights(other) == weights(one)
    states = 'select status, error from training_batches order by "createdAt"'
    assert await rows(database_url, states) == [{"status": "completed", "error": None}] * 2
    assert len(await rows(database_url, "select from trained_models where status = 'ready'")) == 2


async def test_rewards_that_teach_nothing_end_the_run_and_publish_nothing(tmp_path: Path, migrated_url: str) -> None:
    here = {"environment": environment(tmp_path, migrated_url)}
    record = ["task=collect", ON, "collect.windows=2", "collect.agents=5", "collect.strategies=[informed,balanced]"]
    offline = ["judge=oracle_trajectory", "collect=none", "evaluate=none", "report=local", ON]
    ended, told = perform(
        here | {"arguments": record},
        *(
            here | {"arguments": [f"name='{how}'", *offline], "accident": f"rewards:{how}"}
            for how in ("equal", "one", "nan")
        ),
        here | {"arguments": ["name=warm", "trainer.warm_start=0.1", *offline], "accident": "rewards:equal"},
    )
    assert ended == [0, 1, 1, 1, 1], told
    errors = (
        "no group carries signal, so nothing was trained: of 2 groups in 2 all rewards are equal",
        "no group carries signal, so nothing was trained: of 2 groups 2 have one member, which there is nothing to "
        "compare with",
        "the reward of ",
        "there is no best to imitate: all 10 rewards are equal",
    )
    for name, error in zip(("equal", "one", "nan", "warm"), errors, strict=True):
        assert f"mmo-rl: {error}" in told, told[-3500:]
        (run,) = [p.parent for p in tmp_path.glob(f"runs/{name}/*/status.json")]
        status = json.loads((run / "status.json").read_text())
        assert status["status"] == "failed" and error in status["error"]
        assert not (run / "checkpoints.jsonl").exists() and not list(run.glob("checkpoints/*"))
        # What was judged has been paid for: it is kept, of the warm start too.
        judged = {json.loads(row)["iteration"] for row in (run / "judgments.jsonl").read_text().splitlines()}
        assert judged == {-1 if name == "warm" else 0}
    assert "Traceback" not in told
    batches = await rows(migrated_url, 'select status, error from training_batches order by "createdAt"')
    assert [batch["status"] for batch in batches] == ["failed"] * 3
    assert all(batch["error"].startswith(error) for batch, error in zip(batches, errors[:3], strict=True))
    assert await rows(migrated_url, "select from trained_models") == []
    assert await rows(migrated_url, 'select from trajectories where "usedInTraining"') == []

    # Somebody else, on another machine that shares the folder, is at work on it now.
    with RunFolder(run).locked():
        status = json.loads((run / "status.json").read_text())
        (run / "status.json").write_text(json.dumps(status | {"status": "running", "pid": 4242, "host": "elsewhere"}))
        second = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "mmo_rl", "name=warm", "trainer.warm_start=0.1", *offline],
            env=os.environ | here["environment"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert second.returncode == 2
    assert f"the run folder {run} is in use by pid 4242 on elsewhere" in second.stderr
