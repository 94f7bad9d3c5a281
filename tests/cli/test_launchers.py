"""What a launcher would find out only when it starts its first job is asked before."""

from __future__ import annotations

import pytest

from mmo_rl.cli.launchers import require_counts
from mmo_rl.errors import ConfigError
from tests.harness.config import compose_launcher


def test_a_time_that_is_up_as_the_job_starts_is_refused() -> None:
    # submitit tells a job to stop signal_delay_s before its time is up: with 2 minutes and 120 s that is at once.
    with pytest.raises(ConfigError, match="timeout_min=2 ends each job as it starts"):
        require_counts(compose_launcher("submitit_slurm", "hydra.launcher.timeout_min=2"))
    require_counts(compose_launcher("submitit_slurm", "hydra.launcher.timeout_min=3"))
    require_counts(
        compose_launcher("submitit_slurm", "hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=30")
    )


def test_slurm_gives_each_task_a_share_of_the_nodes_memory() -> None:
    # Without it each task of an array takes all of a node's memory, and they run one after another.
    assert compose_launcher("submitit_slurm").hydra.launcher.mem_gb == 32
