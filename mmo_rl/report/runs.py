"""Runs as they are compared: what each was asked, how it ended and what came out, read from run folders.

A folder is read wherever it lies: one that was moved, or copied from another machine, tells the same.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from mmo_rl.errors import ConfigError, MmoRlError
from mmo_rl.report.run_folder import RunFolder

MARKS = ("status.json", "summary.json", "config.yaml")
"""A folder that has one of these is a run's."""
OUTPUT = "compare"
"""Under runs/, what comparisons write: not runs."""
DEPTH = 2
"""A pattern may name runs, sweep folders, or the folder of all sweeps."""
BESIDE = re.compile(r"\.(replay|\d+)$")
"""How folders end that stand beside the run of their name: its replay, and what it was before its config changed."""


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
    config: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    commit: str | None = None
    ended: str = ""

    @property
    def finished(self) -> bool:
        """Whether its numbers count: done, with a summary."""
        return self.state == "done" and bool(self.summary)


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
    """One run folder. A file in it that is broken makes the run ``unreadable``, with the reason, and raises nothing."""
    folder = RunFolder(path)
    name = f"{path.parent.name}/{path.name}"
    try:
        status, summary, config = folder.status(), folder.summary(), _config(path)
        overrides, provenance = _list(path / "overrides.yaml"), folder.provenance() or {}
        rows = folder.read("metrics")
        if not config and summary:
            raise ValueError("it has no config.yaml, so what it was asked is not known")
    except (MmoRlError, OSError, ValueError) as error:
        reason = error.message if isinstance(error, MmoRlError) else str(error)
        return Run(id=name, location=str(path), state="unreadable", reason=reason)
    # A copy of the results alone has no status.json; one that never ended has no summary either.
    status = status or {"status": "done" if summary else "interrupted", "error": "it has no summary.json"}
    state, reason = str(status.get("status")), str(status.get("error") or "").strip()
    if state == "done" and not summary:
        reason = "it left no summary.json"
    return Run(
        id=name,
        location=str(path),
        state=state,
        reason="" if state == "done" and summary else reason.splitlines()[0] if reason else state,
        seed=config["seed"] if isinstance(config.get("seed"), int) else None,
        task=str(config.get("task", "train")),
        config=config,
        overrides=tuple(str(o) for o in overrides),
        summary=summary or {},
        rows=rows,
        commit=(provenance.get("git") or {}).get("commit"),
        ended=str(status.get("ended") or ""),
    )


def _is_run(path: Path) -> bool:
    return any((path / mark).is_file() for mark in MARKS)


def _is_beside(path: Path) -> bool:
    end = BESIDE.search(path.name)
    return end is not None and _is_run(path.with_name(path.name[: end.start()]))


def _set_apart(run: Run) -> Run:
    original, _, what = PurePath(run.location).name.rpartition(".")
    was = f"a replay of {original}" if what == "replay" else f"{original} before its configuration changed"
    return replace(run, state="beside", reason=f"{was}; it counts where compare.runs names it")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings by dotted key; a list is one value, as JSON."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{path}.")
        else:
            out[path] = json.dumps(value, default=str) if isinstance(value, (list, tuple, dict)) else value
    return out


def _matching(pattern: str, roots: Sequence[Path]) -> list[Path]:
    expanded = str(Path(pattern).expanduser())
    for root in dict.fromkeys(roots):
        paths = sorted(Path(p) for p in glob.glob(str(Path(glob.escape(str(root))) / expanded)))
        runs = [run for path in paths if path.is_dir() for run in _runs_in(path, DEPTH)]
        if runs:
            return [run.resolve() for run in runs]
    return []


def _runs_in(path: Path, depth: int) -> Iterator[Path]:
    if _is_run(path):
        yield path
    elif depth:
        for inner in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if (path.name, inner.name) != ("runs", OUTPUT):
                yield from _runs_in(inner, depth - 1)


def offer(roots: Sequence[Path]) -> str:
    """What to type instead, from what there is under the ``runs`` of ``roots``."""
    for root in roots:
        if there := sweeps(root):
            listed = ", ".join(f"runs/{name} ({n})" for name, n in list(there.items())[:12])
            return f"there is: {listed}; for example compare.runs='runs/{next(iter(there))}/*'"
    return f"no run is under {roots[-1] / 'runs'} yet; make one: mmo-rl -m +experiments=quick seed=0,1"


def _config(path: Path) -> dict[str, Any]:
    loaded = _yaml(path / "config.yaml")
    return flat(loaded) if isinstance(loaded, Mapping) else {}


def _list(path: Path) -> list[Any]:
    loaded = _yaml(path)
    return loaded if isinstance(loaded, list) else []


def _yaml(path: Path) -> Any:
    import yaml  # type: ignore[import-untyped]

    # libyaml reads ten times as fast, which hundreds of runs feel.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(path.read_text("utf-8"), Loader=loader)
    except FileNotFoundError:
        return None
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is not YAML: {str(error).splitlines()[0]}") from None
