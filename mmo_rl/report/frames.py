"""Finished runs as polars data frames, for notebooks: one run, or a row for each run of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmo_rl.errors import ConfigError
from mmo_rl.report.arms import config_value, differing
from mmo_rl.report.run_folder import RunFolder, SummaryValue
from mmo_rl.report.runs import ConfigValue, Run, find_runs, is_run, read_run

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """One run folder. ``config`` is flat, by dotted key; ``summary`` holds the numbers of summary.json, empty while the
    run is not done; ``state`` is that of status.json."""

    path: Path
    state: str
    seed: int | None
    task: str
    config: Mapping[str, ConfigValue]
    overrides: tuple[str, ...]
    summary: Mapping[str, SummaryValue]

    @property
    def metrics(self) -> pl.DataFrame:
        """Rows of metrics.jsonl, one an iteration."""
        return _frame(RunFolder(self.path).read("metrics"))

    @property
    def judgments(self) -> pl.DataFrame:
        """Rows of judgments.jsonl, one a member of a group; ``score`` is null where the member is unscored."""
        return _frame(RunFolder(self.path).read("judgments"))

    @property
    def summary_frame(self) -> pl.DataFrame:
        """The summary as a frame of one row."""
        return _frame([self.summary] if self.summary else [])


def load_run(path: str | Path) -> LoadedRun:
    """Loads one run folder, finished or not.

    Raises `ConfigError` where there is none, and where its files cannot be read.
    """
    folder = Path(path).expanduser().resolve()
    if not is_run(folder):
        several = "; load_runs reads all runs of a folder" if folder.is_dir() else ""
        raise ConfigError(f"{folder} is no run folder{several}", hint="load_run('runs/EXPERIMENT/JOB_KEY')")
    run = read_run(folder)
    if run.state == "unreadable":
        raise ConfigError(f"the run {folder} cannot be read: {run.reason}")
    return LoadedRun(
        path=folder,
        state=run.state,
        seed=run.seed,
        task=run.task,
        config=run.config,
        overrides=run.overrides,
        summary=run.summary,
    )


def load_runs(*patterns: str | Path) -> pl.DataFrame:
    """Loads all runs of sweep folders, run folders or globs of them, a row a run.

    Columns: ``run``, ``state``, ``seed``, the config keys that differ between the runs, every number of their
    summaries, and ``folder``. Numbers of runs that are not done are null. Raises `ConfigError` where a pattern names no
    run.
    """
    runs = find_runs([str(pattern) for pattern in patterns], roots=[Path.cwd()])
    columns = differing(runs)
    return _frame([_row(run, columns) for run in runs])


def _row(run: Run, columns: Sequence[str]) -> dict[str, object]:
    return {
        "run": run.id,
        "state": run.state,
        "seed": run.seed,
        **{column: config_value(run, column) for column in columns},
        **(run.summary if run.finished else {}),
        "folder": run.location,
    }


def _frame(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """A frame with the columns of all rows: a key that some rows lack is null there."""
    import polars as pl

    columns = dict.fromkeys(key for row in rows for key in row)
    return pl.DataFrame({key: pl.Series(key, [row.get(key) for row in rows], strict=False) for key in columns})
