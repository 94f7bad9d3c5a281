"""Files of a run's folder, ``runs/<experiment>/<job key>/``: status, config, rows, summary, provenance.

Written so that a process killed at any moment leaves a folder that the next one can continue from: small files are
replaced atomically, rows are appended whole and synced, and the lock dies with its process.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NotRequired, Protocol, TypedDict, cast, overload, runtime_checkable

from mmo_rl import files
from mmo_rl.clock import utc_now
from mmo_rl.errors import ConfigError, MmoRlError
from mmo_rl.milestones import reached
from mmo_rl.report.mask import MASK, mask, mask_arguments, mask_tree
from mmo_rl.types import JsonDict, Measured

State = Literal["running", "done", "failed", "interrupted"]
Rows = Literal["metrics", "judgments", "checkpoints"]
SummaryValue = float | int | str | None
MetricsRow = dict[str, float | int | None]
"""A row of metrics.jsonl: ``iteration`` and numbers by their names."""


class Status(TypedDict, total=False):
    """Content of status.json."""

    status: State
    started: str | None
    ended: str | None
    pid: int
    host: str
    error: str | None
    config_sha256: str
    result: object


class JudgmentRow(TypedDict):
    """A row of judgments.jsonl: ``score`` in [0, 1], or null with the ``reason``; ``oracle`` is the oracle's score of
    the same member, ``pnl`` in game dollars (null: unknown), ``answer`` a judge's text that could not be used."""

    iteration: int
    window_id: str
    group_id: str
    trajectory_id: str
    score: float | None
    reason: str | None
    explanation: str | None
    spread: float | None
    oracle: float | None
    pnl: float | None
    answer: NotRequired[str]


LOCK_WAIT_S = 1.0
"""Seconds that a start waits for the lock: longer than a reader holds it to see whether it is taken."""


class RunFolder:
    """Owns ``path``; creates it when something is first written.

    Readers (`status`, `read`, `summary`) need no lock and never change a file. Writers hold `locked`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._holds_lock = False

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    # --- lock and status -------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process; raises `ConfigError` where another process holds it.

        The lock is the operating system's, so it ends with its process however that ends.
        """
        from filelock import FileLock, Timeout

        self._make()
        lock = FileLock(self.path / ".lock", is_singleton=False)
        try:
            lock.acquire(timeout=LOCK_WAIT_S, poll_interval=0.05)
        except Timeout:
            raise self._in_use() from None
        self._holds_lock = True
        try:
            yield
        finally:
            self._holds_lock = False
            lock.release()

    def status(self) -> Status | None:
        """The content of status.json, or None before the first start. A run that claims to be running while no
        process holds its lock was killed: it reads as ``interrupted``."""
        status = self._recorded_status()
        if status is not None and status.get("status") == "running" and not self._is_held():
            return {**status, "status": "interrupted", "error": status.get("error") or "the process was killed"}
        return status

    def set_status(
        self, status: State, *, config_sha256: str | None = None, error: str | None = None, result: object = None
    ) -> None:
        """Writes status.json: the state, this process, ``started`` (of this start) and, unless running, ``ended``.

        ``config_sha256``, ``error`` and ``result`` (of the job) stay from call to call until the next ``running``.
        """
        now = utc_now().isoformat(timespec="milliseconds")
        if status == "running":
            row = Status(started=now, ended=None, pid=os.getpid(), host=socket.gethostname(), error=None)
        else:
            row = {**(self._recorded_status() or {"started": None}), "ended": now}
        if config_sha256 is not None:
            row["config_sha256"] = config_sha256
        if error is not None:
            row["error"] = mask(error)
        if result is not None:
            row["result"] = result
        self._write_json("status.json", {**row, "status": status})

    # --- rows -----------------------------------------------------------------------------------------------------

    def append(self, name: Rows, *rows: Mapping[str, object]) -> None:
        """Adds rows to ``<name>.jsonl``, durably: when it returns they survive a loss of power."""
        text = "".join(_dumps(row) + "\n" for row in rows).encode()
        self._make()
        with open(self._rows_path(name), "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read(1) not in (b"", b"\n"):
                # A row torn by a kill would swallow the first of the new ones.
                file.seek(0)
                file.truncate(_whole_length(file.read()))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        reached("rows appended", name)

    @overload
    def read(self, name: Literal["metrics"]) -> list[MetricsRow]: ...

    @overload
    def read(self, name: Literal["judgments"]) -> list[JudgmentRow]: ...

    @overload
    def read(self, name: Literal["checkpoints"]) -> list[JsonDict]: ...

    def read(self, name: Rows) -> list[MetricsRow] | list[JudgmentRow] | list[JsonDict]:
        """All whole rows, in order; none where nothing was written. A torn last line is not a row.

        Raises `MmoRlError` where a line in between is not JSON: that is damage, not an interrupted write.
        """
        return self._read_rows(name)

    def _read_rows(self, name: Rows) -> list[JsonDict]:
        path = self._rows_path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        rows = []
        for number, line in enumerate(data[: _whole_length(data)].splitlines(), start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise MmoRlError(
                    f"{path} line {number} is not JSON: {error}",
                    hint=f"repair or delete that line, or move {self.path} away to start the run afresh",
                ) from None
        return rows

    def truncate_after(self, name: Rows, iteration: int) -> None:
        """Keeps the rows up to and including ``iteration`` (rows without one stay), so that a resumed run has each
        iteration once; one before the first, which for a warm start is -1, drops them all."""
        rows = self._read_rows(name)
        kept = [row for row in rows if not isinstance(row.get("iteration"), int) or row["iteration"] <= iteration]
        if len(kept) < len(rows):
            self._write_text(f"{name}.jsonl", "".join(_dumps(row) + "\n" for row in kept))

    def write_evaluations(self, measured: Mapping[str, Measured]) -> None:
        """Replaces evaluations.jsonl by a row a market and seat of each measurement, named by its key (``base``,
        ``trained_greedy``, ``validation_base`` ...): whoever doubts an interval computes it again."""
        rows = [
            {"measured": key, "policy": found.policy, "decoding": found.decoding, **asdict(rollout)}
            for key, found in measured.items()
            for rollout in found.rollouts
        ]
        self._write_text("evaluations.jsonl", "".join(_dumps(row) + "\n" for row in rows))

    # --- documents ------------------------------------------------------------------------------------------------

    def write_summary(self, summary: Mapping[str, object]) -> None:
        self._write_json("summary.json", summary)

    def summary(self) -> JsonDict | None:
        """The numbers of a finished run, or None."""
        return self._read_json("summary.json")

    def write_config(self, config: Mapping[str, object]) -> None:
        """Writes config.yaml: the resolved config; secrets are masked once more here."""
        self._write_yaml("config.yaml", mask_tree(jsonable(config)))

    def config(self) -> JsonDict | None:
        """The resolved config, masked, or None before the first start."""
        loaded = self._read_yaml("config.yaml")
        return loaded if isinstance(loaded, dict) else None

    def run_id(self) -> str:
        """The id of this run in the world: the folder's name and six hex digits that belong to this folder alone.

        Two people who type the same command, or one who deletes the folder and runs it again, get two runs; a resumed
        run keeps its id.
        """
        path = self.path / "run-id.txt"
        if not path.exists():
            self._make()
            self._write_text(path.name, f"{self.path.name}-{secrets.token_hex(3)}")
        return path.read_text("utf-8").strip()

    def write_overrides(self, overrides: Sequence[str]) -> None:
        """Writes overrides.yaml: the overrides as typed, masked; with the commit they are the run's recipe."""
        self._write_yaml("overrides.yaml", mask_arguments(overrides))

    def overrides(self) -> list[str]:
        """The command line's overrides, masked; none where none were typed."""
        loaded = self._read_yaml("overrides.yaml")
        return [str(override) for override in loaded] if isinstance(loaded, list) else []

    def recipe(self) -> list[str]:
        """The overrides for a repetition of the run. Raises `ConfigError` where they hold a masked value, or keys of
        Hydra's own node: the run's folder may come from anybody, and those decide what is executed and where."""
        overrides = self.overrides()
        if hidden := [o for o in overrides if MASK in o]:
            raise ConfigError(
                f"overrides.yaml holds a masked value ({hidden[0]}), so the run cannot be repeated as it was",
                hint=f"put the value back into {self.path / 'overrides.yaml'}",
            )
        if foreign := [o for o in overrides if o.lstrip("+~").startswith("hydra")]:
            raise ConfigError(
                f"overrides.yaml sets Hydra's own keys, which no run of mmo-rl records: {', '.join(foreign[:3])}",
                hint=f"take them out of {self.path / 'overrides.yaml'}, or ask whoever made that folder",
            )
        return overrides

    def write_plan(self, expected: Mapping[str, object]) -> None:
        """Writes plan.json: the expected numbers by the keys of summary.json; null where one is unknown."""
        self._write_json("plan.json", expected)

    def plan(self) -> JsonDict | None:
        """The numbers that were expected before the run started, or None."""
        return self._read_json("plan.json")

    def write_inputs(self, inputs: Mapping[str, object]) -> None:
        """Writes inputs.json: the content of each path in the config, by config key."""
        self._write_json("inputs.json", inputs)

    def inputs(self) -> JsonDict | None:
        """The content that the run's paths had when it started, or None."""
        return self._read_json("inputs.json")

    def write_provenance(self, provenance: Mapping[str, object]) -> None:
        self._write_json("provenance.json", provenance)

    def provenance(self) -> JsonDict | None:
        return self._read_json("provenance.json")

    def write_text(self, name: str, text: str) -> Path:
        """Replaces a file of the folder atomically."""
        return self._write_text(name, text)

    # --- files ----------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the run folder {self.path} cannot be made: {error.strerror or error}",
                hint="make its parent folder writable, or start in a folder that is",
            ) from None

    def _is_held(self) -> bool:
        from filelock import FileLock, Timeout

        if self._holds_lock:
            return True
        path = self.path / ".lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0, is_singleton=False):
                return False
        except Timeout:
            return True
        except OSError:  # another user's folder: it can be read and not locked, and its word is all there is
            return True

    def _in_use(self) -> ConfigError:
        status = self._read_json("status.json") or {}
        pid, host = status.get("pid"), status.get("host")
        by = (
            "another process" if pid is None else f"pid {pid}" + ("" if host == socket.gethostname() else f" on {host}")
        )
        return ConfigError(
            f"the run folder {self.path} is in use by {by}",
            hint="wait for that run, stop it, or give this one another name: name=...",
        )

    def _rows_path(self, name: Rows) -> Path:
        return self.path / f"{name}.jsonl"

    def _recorded_status(self) -> Status | None:
        return cast("Status | None", self._read_json("status.json"))

    def _read_json(self, name: str) -> JsonDict | None:
        try:
            loaded = json.loads((self.path / name).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise MmoRlError(
                f"{self.path / name} is not JSON: {error}", hint="delete that file, and run again"
            ) from None
        return loaded if isinstance(loaded, dict) else None

    def _read_yaml(self, name: str) -> object:
        import yaml  # type: ignore[import-untyped]

        # libyaml reads ten times as fast, which hundreds of runs feel; not every installation has it.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            return cast("object", yaml.load((self.path / name).read_text("utf-8"), Loader=loader))
        except FileNotFoundError:
            return None
        except yaml.YAMLError as error:
            told = str(error).splitlines()[0]
            raise MmoRlError(f"{name} is not YAML: {told}", hint=f"repair or delete {self.path / name}") from None

    def _write_json(self, name: str, content: Mapping[str, object]) -> None:
        self._write_text(name, json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n")

    def _write_yaml(self, name: str, content: object) -> None:
        import yaml

        self._write_text(name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def _write_text(self, name: str, text: str) -> Path:
        self._make()
        return files.write_text(self.path / name, text, durable=True)


def move_aside(path: Path) -> Path:
    """Renames the folder of a run that is not the present one to the next free number; returns its new path."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return path.rename(aside)


def jsonable(value: object) -> Any:
    """Converts to JSON's own types: numbers that are not finite to null (missing is not a number), numpy scalars and
    the decimals of databases to numbers, and anything unknown to its text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (float, Decimal)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(v) for v in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, _Scalar) and value.ndim == 0:
        return jsonable(value.item())
    return str(value)


@runtime_checkable
class _Scalar(Protocol):
    """A numpy scalar, or an array or tensor without dimensions."""

    @property
    def ndim(self) -> int: ...

    def item(self) -> object: ...


def flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of nested mappings by their dotted keys; an empty mapping is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _dumps(row: Mapping[str, object]) -> str:
    return json.dumps(jsonable(row), allow_nan=False, ensure_ascii=False)


def _whole_length(data: bytes) -> int:
    """Length of the whole lines; a row counts once its newline is there."""
    return data.rfind(b"\n") + 1
