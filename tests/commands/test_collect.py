"""task=collect as it is typed: a home of its own, scripts and endpoints, then task=check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.endpoint import Endpoint, completion

Mmo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mmo(tmp_path: Path, scratch: Path) -> Mmo:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MMO_RL_", "WANDB_", "OPENAI_"))}
    home = scratch / tmp_path.name
    environment = kept | {"MMO_RL_ROOT": str(tmp_path), "MMO_RL_HOME": str(home), "COLUMNS": "160"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mmo_rl", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def test_what_was_collected_is_ready_and_is_not_collected_again(mmo: Mmo) -> None:
    command = (
        "task=collect",
        "collect.windows=3",
        "collect.agents=5",
        "collect.strategies=[conservative,balanced,aggressive,momentum,contrarian]",
    )
    first = mmo(*command)
    assert first.returncode == 0, first.stderr
    assert "Ranking by P&L" in first.stdout and "momentum-03" in first.stdout
    assert "3 windows, 15 trajectories" in first.stdout
    checked = mmo("task=check", "check.format=json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    report = json.loads(checked.stdout)
    assert report["windows_ready"] == 3, report
    again = mmo(*command)
    assert "3 windows were recorded before, 0 are new" in again.stdout
    assert again.stdout.split("Ranking")[1] == first.stdout.split("Ranking")[1]


def test_an_endpoints_play_is_recorded_and_one_that_is_down_is_told_at_once(
    mmo: Mmo,
    endpoint: Endpoint,
) -> None:
    small = ("task=collect", "collect.windows=1", "collect.agents=5", "policy=endpoint", "policy.model=some-model")
    down = mmo(*small, "policy.base_url=http://127.0.0.1:9/v1")
    assert down.returncode == 1 and "nobody answers" in down.stderr and "policy.base_url" in down.stderr
    endpoint.script = lambda request, number: completion('{"action":"HOLD"}')
    played = mmo(*small, f"policy.base_url={endpoint.url}")
    assert played.returncode == 0, played.stderr
    assert "some-model" in played.stdout and len(endpoint.requests) == 5 * 8
