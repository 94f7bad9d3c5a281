"""A real instruct model goes once round the whole loop on a CPU, with what that takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness.project import Project

# As small as the loop can be and still have something to compare: two seats of the model and one scripted trader, whose
# orders are valid where the model's seldom are; an adapter instead of all weights; rows computed one or two at a time.
SMALL = (
    "model.lora_rank=8",
    "model.max_completion_tokens=24",
    "market.prompt=explained",
    "market.lenient_answers=true",
    "market.ticks=2",
    "collect.windows=1",
    "collect.agents=3",
    "collect.strategies=[policy,policy,balanced]",
    "collect.temperature=0.7",
    "sampler.min_agents=2",
    "sampler.min_actions=1",
    "trainer.rows_per_step=2",
    "trainer.micro_batch_tokens=512",
    "trainer.learning_rate=1e-4",
    "evaluate.markets=2",
    "evaluate.agents=1",
    "iterations=1",
    "report=local",
)


@pytest.mark.slow
def test_smollm2_goes_once_round_the_loop(smollm2: Path, smollm2_cache: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(smollm2_cache)
    environment = Project.at(tmp_path, home).environment
    command = [sys.executable, "-m", "mmo_rl", "model=smollm2_135m", f"model.path={smollm2}", *SMALL]
    started = time.perf_counter()
    with (tmp_path / "out").open("w+") as out:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=out, stderr=out)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        assert process.returncode == 0, out.read()[-4000:]
    wall_s = time.perf_counter() - started
    (folder,) = (tmp_path / "runs").glob("*/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["train/gradient_steps"] > 0 and summary["train/tokens"] > 0
    assert summary["data/trajectories_used"] == 3 and summary["eval/pnl_trained"] is not None
    assert list((folder / "checkpoints").glob("[0-9]*/*.safetensors"))
    stages = {key.removeprefix("time/"): round(value, 1) for key, value in summary.items() if key.startswith("time/")}
    peak = used.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    cpu_s = used.ru_utime + used.ru_stime
    print(f"SmolLM2, one iteration: {wall_s:.0f} s, {cpu_s:.0f} CPU-seconds, peak {peak:.1f} GB; {stages}")
