"""The default sweeper: the whole sweep is checked before its first job, and one failed job stops no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn


class CheckedSweeper(BasicSweeper):
    """Composes and validates every job first (raises `ConfigError` naming the bad ones), then launches them.

    Raises `MmoRlError` at the end where a job failed, after all of them had their turn and the table was printed.
    """

    def sweep(self, arguments: list[str]) -> Any:
        from mmo_rl.cli.sweep import Sweep

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        self.overrides = self.split_arguments(
            parser.parse_overrides([*self._parse_config(), *arguments]), self.max_batch_size
        )
        sweep = Sweep.checked(
            [list(job) for batch in self.overrides for job in batch],
            compose=lambda job: self.hydra_context.config_loader.load_sweep_config(self.config, job),  # type: ignore[union-attr, arg-type]
        )
        returns: list[Sequence[JobReturn]] = []
        done = 0
        while not self.is_done():
            batch = self.get_job_batch()
            results = self.launcher.launch(batch, initial_job_idx=done)
            done += len(batch)
            returns.append(results)
        sweep.report([result for batch_results in returns for result in batch_results])
        return returns


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="mmo_rl",
    node={
        "_target_": "hydra_plugins.mmo_rl_plugins.sweeper.CheckedSweeper",
        "max_batch_size": None,
        "params": None,
    },
    provider="mmo_rl",
)
