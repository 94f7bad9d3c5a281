"""Workers on several machines: nothing in common but one PostgreSQL. And a real sweep that is killed half way."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.harness.database import rows
from tests.harness.project import Project

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def killed_sweep() -> Any:
    """benchmarks/killed_sweep.py, whose counting judge and small settings serve here too."""
    spec = importlib.util.spec_from_file_location("killed_sweep", BENCHMARKS / "killed_sweep.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def worker(folder: Path, dsn: str, *overrides: str) -> subprocess.Popen[str]:
    """mmo-rl as on a machine of its own: other folders, the same server."""
    folder.mkdir(exist_ok=True)
    return Project.at(folder, DATABASE_URL=dsn, KEY="none").start("source=postgres", *overrides)


@pytest.mark.slow
async def test_workers_with_homes_of_their_own_share_data_judgments_and_registry(
    migrated_url: str, tmp_path: Path
) -> None:
    shared = killed_sweep()
    judge = shared.Judge()
    server = judge.start()
    play = (*shared.SMALL, "task=collect", "collect.windows=3", "collect.agents=6")
    recorded = worker(tmp_path / "first", migrated_url, *play)
    told = recorded.communicate(timeout=300)
    assert recorded.returncode == 0, told
    train = [
        *shared.SMALL,
        *(
            "collect=none evaluate=none report=local iterations=1 sampler.min_actions=1 judge=ruler "
            f"judge.model=loopback judge.base_url={judge.url} judge.api_key_env=KEY judge.max_per_window=3"
        ).split(),
    ]
    workers = [
        worker(tmp_path / name, migrated_url, *train, f"name={name}", f"trainer.learning_rate={rate}")
        for name, rate in (("first", "1e-4"), ("second", "1e-3"))
    ]
    try:
        outputs = [w.communicate(timeout=300) for w in workers]
    finally:
        server.shutdown()
        server.server_close()
    assert [w.returncode for w in workers] == [0, 0], outputs
    asked = Counter(question for question, _ in judge.asked)
    assert len(asked) >= 3 and set(asked.values()) == {1}
    summaries = [
        json.loads(next((tmp_path / n / "runs").glob("*/*/summary.json")).read_text()) for n in ("first", "second")
    ]
    assert sum(s["judge/calls"] for s in summaries) == len(asked)
    assert all(s["train/gradient_steps"] > 0 for s in summaries)
    assert len(await rows(migrated_url, "select from trained_models")) == 2


@pytest.mark.slow
def test_a_killed_sweep_ends_as_one_left_in_peace() -> None:
    script = [sys.executable, str(BENCHMARKS / "killed_sweep.py"), "--quick", "--kills", "1", "--json"]
    ran = subprocess.run(script, capture_output=True, text=True, timeout=900, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(ran.stdout)
    assert result["done_killed"] == result["jobs"] == 2
    assert result["jobs_whose_numbers_differ"] == result["done_jobs_run_again"] == 0
    assert result["answered_twice_unexplained"] == 0 < result["judgments"]
