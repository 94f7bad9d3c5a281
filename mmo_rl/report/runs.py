"""Reader of finished runs: the config, state, summary and learning curves of each, for comparisons and notebooks.

A folder is read wherever it lies, also one that was moved or copied from another machine.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TypeGuard

from mmo_rl.errors import ConfigError, MmoRlError
from mmo_rl.report.run_folder import MetricsRow, RunFolder, SummaryValue, flat

ConfigValue = str | int | float | bool | None
MARKS = ("status.json", "summary.json", "config.yaml")
"""A folder that has one of these is a run's."""
OUTPUT = "compare"
"""The folder under runs/ that comparisons write into; it holds no runs."""
DEPTH = 2
"""A pattern may name runs, sweep folders, or the folder of all sweeps."""
BESIDE = re.compile(r"\.(replay|\d+)$")
"""Ends of the names of folders that stand beside a run: its replay, and its state before its config changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run. ``config`` is flat, by dotted key; ``rows`` are those of metrics.jsonl; ``state`` is that of
    status.json, ``unreadable`` or ``beside`` another; ``reason`` says why its numbers do not count."""

    id: str
    location: str
    state: str
    reason: str = ""
    seed: int | None = None
    task: str = "train"
    config: Mapping[str, ConfigValue] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    summary: Mapping[str, SummaryValue] = field(default_factory=dict)
    rows: Sequence[MetricsRow] = ()
    commit: str | None = None
    ended: str = ""

    @property
    def finished(self) -> bool:
        """True where the numbers count: the run is done and has a summary."""
        return self.state == "done" and bool(self.summary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of a list of runs; ``since`` is its end, or its start where it has not ended."""

    path: Path
    name: str
    task: str
    state: str
    since: datetime | None
    summary: Mapping[str, SummaryValue]
    overrides: tuple[str, ...]


def list_runs(root: Path) -> list[Listed]:
    """Lists the runs under ``root``/runs, newest first, without those that stand beside another. No rows are read."""
    runs = root / "runs"
    listed = [_listed(path) for path in _runs_in(runs, DEPTH) if not _is_beside(path)] if runs.is_dir() else []
    return sorted(listed, key=lambda run: run.since or datetime.min.replace(tzinfo=UTC), reverse=True)


def _listed(path: Path) -> Listed:
    folder = RunFolder(path)
    try:
        status, summary, overrides = folder.status(), folder.summary() or {}, tuple(folder.overrides())
    except (MmoRlError, OSError, ValueError):
        return Listed(
            path=path, name=path.parent.name, task="", state="unreadable", since=None, summary={}, overrides=()
        )
    status = status or {}
    moment = status.get("ended") or status.get("started")
    typed = dict(override.partition("=")[::2] for override in overrides)
    return Listed(
        path=path,
        name=path.parent.name,
        task=typed.get("task") or str((folder.config() or {}).get("task", "train")),
        state=str(status.get("status", "unknown")),
        since=datetime.fromisoformat(moment) if moment else None,
        summary=summary,
        overrides=overrides,
    )


def find_runs(patterns: Sequence[str], *, roots: Sequence[Path]) -> list[Run]:
    """The runs that patterns name: run folders, sweep folders or globs of them, each relative to the first of
    ``roots`` where it matches. In the order of their paths, each once.

    What stands ``beside`` a run (`BESIDE`) is no further seed of it: its numbers count only where a pattern spells the
    end of its name. Raises `ConfigError` where a pattern names no run.
    """
    meant: dict[Path, bool] = {}
    for pattern in patterns:
        folders = _matching(pattern, roots)
        if not folders:
            raise ConfigError(f"compare.runs: there is no run at {pattern!r}", hint=offer(roots))
        for path in folders:
            meant[path] = meant.get(path, False) or not _is_beside(path) or "." in PurePath(pattern).name
    return [read_run(path) if counts else _set_apart(read_run(path)) for path, counts in meant.items()]


def sweeps(root: Path) -> dict[str, int]:
    """The experiments under ``root``/runs and how many runs each has."""
    folders = sorted(p for p in (root / "runs").glob("*") if p.is_dir() and p.name != OUTPUT)
    counts = {f.name: sum(not _is_beside(run) for run in _runs_in(f, 1)) for f in folders}
    return {name: count for name, count in counts.items() if count}


def read_run(path: Path) -> Run:
    """Reads one run folder. A broken file in it makes the run ``unreadable``, with the reason; nothing is raised."""
    folder = RunFolder(path)
    name = f"{path.parent.name}/{path.name}"
    try:
        status, summary, config = folder.status(), folder.summary(), flat_config(folder.config() or {})
        overrides, provenance = folder.overrides(), folder.provenance() or {}
        rows = folder.read("metrics")
        if not config and summary:
            raise ValueError("it has no config.yaml")
    except (MmoRlError, OSError, ValueError) as error:
        reason = error.message if isinstance(error, MmoRlError) else str(error)
        return Run(id=name, location=str(path), state="unreadable", reason=reason)
    # A copy of the results alone has no status.json; one that never ended has no summary either.
    status = status or {"status": "done" if summary else "interrupted", "error": "it has no summary.json"}
    state, reason = str(status.get("status")), str(status.get("error") or "").strip()
    if state == "done" and not summary:
        reason = "it left no summary.json"
    seed = config.get("seed")
    return Run(
        id=name,
        location=str(path),
        state=state,
        reason="" if state == "done" and summary else reason.splitlines()[0] if reason else state,
        seed=seed if isinstance(seed, int) else None,
        task=str(config.get("task", "train")),
        config=config,
        overrides=tuple(overrides),
        summary=summary or {},
        rows=rows,
        commit=(provenance.get("git") or {}).get("commit"),
        ended=str(status.get("ended") or ""),
    )


def is_run(path: Path) -> bool:
    """True for the folder of a run, whatever its state."""
    return any((path / mark).is_file() for mark in MARKS)


def _is_beside(path: Path) -> bool:
    end = BESIDE.search(path.name)
    return end is not None and is_run(path.with_name(path.name[: end.start()]))


def _set_apart(run: Run) -> Run:
    original, _, what = PurePath(run.location).name.rpartition(".")
    was = f"a replay of {original}" if what == "replay" else f"{original} before its configuration changed"
    return replace(run, state="beside", reason=f"{was}; it counts where compare.runs names it")


def flat_config(tree: Mapping[str, object]) -> dict[str, ConfigValue]:
    """A config by dotted key; a list or an empty mapping is one value, as JSON."""
    leaves = flat(tree) if tree else ()
    return {key: value if is_leaf(value) else json.dumps(value, default=str) for key, value in leaves}


def is_leaf(value: object) -> TypeGuard[ConfigValue]:
    """Tells single values of a config from lists and mappings."""
    return value is None or isinstance(value, (str, int, float))


def _matching(pattern: str, roots: Sequence[Path]) -> list[Path]:
    expanded = str(Path(pattern).expanduser())
    for root in dict.fromkeys(roots):
        literal = root / expanded  # a folder may be called exp[v2]
        found = [] if literal.is_dir() else glob.glob(str(Path(glob.escape(str(root))) / expanded))
        paths = [literal] if literal.is_dir() else sorted(map(Path, found))
        runs = [run for path in paths if path.is_dir() for run in _runs_in(path, DEPTH)]
        if runs:
            return [run.resolve() for run in runs]
    return []


def _runs_in(path: Path, depth: int) -> Iterator[Path]:
    if is_run(path):
        yield path
    elif depth:
        for inner in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if (path.name, inner.name) != ("runs", OUTPUT):
                yield from _runs_in(inner, depth - 1)


def offer(roots: Sequence[Path]) -> str:
    """Hint for the next command: the experiments under the ``runs`` of ``roots``."""
    for root in roots:
        if there := sweeps(root):
            listed = ", ".join(f"runs/{name} ({n})" for name, n in list(there.items())[:12])
            return f"there is: {listed}; for example compare.runs='runs/{next(iter(there))}/*'"
    return f"no run is under {roots[-1] / 'runs'} yet; make one: mmo-rl -m +experiments=quick seed=0,1"
