"""A W&B run beside the files: online where there is a key, else offline in the run's folder."""

from __future__ import annotations

import json
import logging
import netrc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from mmo_rl.errors import ConfigError
from mmo_rl.report.base import ReportParts
from mmo_rl.report.local_report import LocalReport
from mmo_rl.report.mask import mask, mask_tree, masker
from mmo_rl.report.run_folder import JudgmentRow, RunFolder, flat, jsonable
from mmo_rl.types import JsonDict, ScoredGroup

log = logging.getLogger(__name__)

Mode = Literal["auto", "online", "offline", "disabled"]

INIT_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 120.0
NAME_LENGTH = 100
TAG_LENGTH, PROJECT_LENGTH = 64, 128
PROJECT_REFUSES = frozenset("/\\#?%:")
"""W&B's own limits: characters of a tag and of a project's name, and what the latter may not hold."""
BEST = {"play/pnl": "max", "play/win_rate": "max", "play/error_rate": "min"}
"""Metrics of which the best iteration is worth knowing beside the last."""
JUDGED_COLUMNS = ("iteration", "window_id", "group_id", "trajectory_id", "score", "spread", "reason", "oracle", "pnl")
JUDGED_ROWS = 10_000
WANDB_HOSTS = frozenset({"api.wandb.ai", "api.forge.coreweave.com"})
"""Under these names `wandb login` keeps the key of the public service."""


class WandbReport:
    """Writes what `LocalReport` writes, and one W&B run a job.

    ``mode`` auto is online where W&B has a key (``WANDB_API_KEY`` or `wandb login`), else offline; ``WANDB_MODE`` is
    respected. The W&B run is named by the folder's overrides and grouped by its experiment; its id belongs to the
    folder, so a resumed job continues its W&B run, and two folders never share one. W&B is company, not cargo: what it
    first fails with is a warning, what else it fails with stands in the log, and the run and its files go on. Raises
    `ConfigError` for mode online without a key.

    At the end the run gets a table of what was judged (``judge/judgments``, the newest 10,000 rows; explanations only
    where ``explanations`` says so, since they quote what agents wrote), an artifact of type ``dataset`` with the
    windows and trajectories that were selected, and with ``checkpoints`` last one of type ``model`` with the last
    policy: its files up to ``checkpoint_limit_mb`` megabytes, else a reference to its folder. Offline all of it waits
    in the run's folder for ``wandb sync``.
    """

    def __init__(
        self,
        *,
        project: str = "mmo-rl",
        entity: str | None = None,
        mode: Mode = "auto",
        tags: Sequence[str] = (),
        explanations: bool = False,
        checkpoints: Literal["last", "none"] = "last",
        checkpoint_limit_mb: Annotated[float, Field(ge=0)] = 500.0,
        parts: ReportParts,
    ) -> None:
        self._files = LocalReport(parts=parts)
        self._folder = parts.folder
        self._project, self._entity, self._tags = project, entity, list(tags)
        self._columns = (*JUDGED_COLUMNS, *(("explanation",) if explanations else ()))
        self._checkpoints = checkpoints
        self._limit = checkpoint_limit_mb * 1e6
        self._mode: Mode = mode
        self._lost = False
        self._run: Any = None
        self._environment: Any = None

    @staticmethod
    def check_keys(*, project: str = "mmo-rl", tags: Sequence[str] = (), **_: object) -> None:
        """Raises `ConfigError` for a project or a tag that W&B refuses: it would do so after the run has begun, and the
        run would end without any W&B run."""
        if not project or len(project) > PROJECT_LENGTH or set(project) & PROJECT_REFUSES:
            raise ConfigError(
                f"report.project: found {project!r}, expected 1 to {PROJECT_LENGTH} characters without"
                f" {' '.join(sorted(PROJECT_REFUSES))}",
                hint="an entity has a key of its own: report.entity=my-team report.project=my-project",
            )
        for tag in tags:
            if not 1 <= len(tag) <= TAG_LENGTH:
                raise ConfigError(
                    f"report.tags: found {tag!r} of {len(tag)} characters, expected 1 to {TAG_LENGTH}",
                    hint="a longer text belongs into name=... or into the experiment's file",
                )

    @property
    def location(self) -> str | None:
        """The URL of the W&B run, or the folder of an offline one; None while there is none."""
        if self._run is None:
            return None
        return str(os.path.dirname(self._run.dir) if self._run.offline else self._run.url)

    @property
    def tracking_id(self) -> str | None:
        return None if self._run is None else str(self._run.id)

    def start(self, config: Mapping[str, object]) -> None:
        """Writes the config and opens the W&B run; raises `ConfigError` for mode online where W&B has no key."""
        if self._mode == "online" and not has_key():
            raise ConfigError(
                "report.mode=online, but W&B has no key",
                hint="set WANDB_API_KEY or type `wandb login`; report.mode=offline keeps the run on this machine",
            )
        self._files.start(config)
        mode = _resolve(self._mode)
        if mode == "disabled":
            return
        self._guarded(
            "could not go online" if mode == "online" else "could not start", lambda: self._init(config, mode)
        )
        if self._run is None and mode == "online":
            # W&B's service keeps the id of a run that failed to start, and refuses to start it again.
            self._guarded("could not be reset", _restart_service)
            self._guarded("could not start offline either", lambda: self._init(config, "offline"))
        if self._run is not None:
            log.info("W&B run: %s", self.location)
            self._guarded("lost the iterations of an earlier start", self._log_earlier)

    def iteration(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._files.iteration(iteration, metrics)
        row = _shown({"iteration": iteration, **_present(metrics)})
        self._guarded("lost an iteration", lambda: self._run.log(row), needs_run=True)

    def judgments(
        self, iteration: int, groups: Sequence[ScoredGroup], oracle: Mapping[str, float] | None = None
    ) -> list[JudgmentRow]:
        """Into the files; W&B gets them as one table at the end."""
        return self._files.judgments(iteration, groups, oracle)

    def finish(self, summary: Mapping[str, float | int | str | None]) -> None:
        self._files.finish(summary)
        present = _present(summary)
        self._guarded("lost the summary", lambda: self._run.summary.update(present), needs_run=True)
        self._guarded("lost the table of judgments", self._log_judgments, needs_run=True)
        self._guarded("lost the artifacts", self._log_artifacts, needs_run=True)

    def close(self, *, failed: bool) -> None:
        self._files.close(failed=failed)
        run = self._run
        try:
            self._guarded("could not finish", lambda: run.finish(exit_code=int(failed)), needs_run=True)
        finally:
            self._run = None
            self._leave()

    def _log_judgments(self) -> None:
        import wandb

        rows = [_shown(row) for row in self._folder.read("judgments")[-JUDGED_ROWS:]]
        masked = masker()
        if rows:
            data = [[masked(v) if isinstance(v := row.get(c), str) else v for c in self._columns] for row in rows]
            self._run.log({"judge/judgments": wandb.Table(columns=list(self._columns), data=data)})

    def _log_artifacts(self) -> None:
        import wandb

        rows = self._folder.read("checkpoints")
        if selected := _selected(rows, self._folder.read("judgments")):
            selection = wandb.Artifact(
                f"selection-{self._run.id}", type="dataset", metadata={"iterations": len(selected)}
            )
            with selection.new_file("selection.jsonl") as lines:
                lines.writelines(f"{json.dumps(_shown({'iteration': i, 'windows': w}))}\n" for i, w in selected.items())
            self._run.log_artifact(selection)
        version = rows[-1].get("version") if rows else None
        weights = self._folder.path / "checkpoints" / f"{version or 0:04d}"
        if self._checkpoints == "none" or version is None or not weights.is_dir():
            return
        # What only a trainer needs to go on stays here.
        files = [file for file in sorted(weights.rglob("*")) if file.is_file() and file.suffix != ".pt"]
        policy = wandb.Artifact(f"policy-{self._run.id}", type="model", metadata={"version": version})
        if sum(file.stat().st_size for file in files) <= self._limit:
            for file in files:
                # A published version never changes, so W&B may read it where it lies instead of keeping copies.
                policy.add_file(str(file), str(file.relative_to(weights)), policy="immutable", skip_cache=True)
        else:
            policy.add_reference(weights.resolve().as_uri(), checksum=False)
        self._run.log_artifact(policy)

    def _log_earlier(self) -> None:
        """Logs the iterations of an earlier start that W&B does not have: a kill loses those of the last seconds, and
        an offline run that is continued begins with none, in a folder of its own."""
        for row in self._folder.read("metrics")[self._run.starting_step :]:
            self._run.log(_shown(_present(row)))

    def _init(self, config: Mapping[str, object], mode: Literal["online", "offline", "disabled"]) -> None:
        self._leave()
        environment = _inside(self._folder)
        environment.__enter__()
        self._environment = environment

        import wandb

        if mode == "offline":  # of several folders with one id `wandb sync` would take each for the whole run
            for earlier in self._folder.path.glob("wandb/offline-run-*"):
                earlier.rename(earlier.with_name(f"superseded-{earlier.name}"))
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            id=self._folder.run_id(),
            name=self._name(),
            group=self._folder.path.parent.name,
            job_type=str(config.get("task", "train")),
            tags=self._tags or _environment_tags(),
            dir=str(self._folder.path),
            config={**dict(flat(mask_tree(jsonable(config)))), **self._typed()},
            mode=mode,
            resume="allow",
            # Without it all jobs of a sweep in one process would land in the first one's run.
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True,
                console="off",
                # The command line and the code's diff are in the run's folder, masked; W&B would send them as they are.
                x_disable_meta=True,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=FINISH_TIMEOUT_S,
            ),
        )
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")
        for metric, best in BEST.items():
            run.define_metric(metric, step_metric="iteration", summary=f"{best},last")
        self._run = run

    def _typed(self) -> dict[str, object]:
        """Job key and overrides as config keys: the name of a W&B run holds only the beginning of them."""
        return {"job": self._folder.path.name, "overrides": self._folder.overrides()}

    def _name(self) -> str:
        return " ".join(self._folder.overrides())[:NAME_LENGTH] or self._folder.path.parent.name

    def _guarded(self, what: str, action: Callable[[], object], *, needs_run: bool = False) -> None:
        if needs_run and self._run is None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - W&B raises of every kind, and none is worth a training run
            level = logging.INFO if self._lost else logging.WARNING
            self._lost = True
            log.log(level, "W&B %s (the run's files are complete): %s", what, mask(f"{type(error).__name__}: {error}"))

    def _leave(self) -> None:
        if self._environment is not None:
            self._environment.__exit__(None, None, None)
            self._environment = None


@contextmanager
def _inside(folder: RunFolder) -> Iterator[None]:
    """Keeps W&B in the run's folder, where artifacts and caches are not lost on a copy, and out of the terminal."""
    place = str(folder.path / "wandb")
    new = {"WANDB_DATA_DIR": place, "WANDB_CACHE_DIR": place, "WANDB_ARTIFACT_DIR": place, "WANDB_SILENT": "true"}
    old = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _selected(rows: Sequence[JsonDict], judgments: Sequence[JudgmentRow]) -> dict[int, dict[str, list[str]]]:
    """The trajectories of each window by iteration: those that were selected, in a run that only judges those that were
    judged."""
    found: dict[int, dict[str, list[str]]] = {}
    chosen = [(row["iteration"], w) for row in rows if "selection" in row for w in row["selection"]["windows"]]
    for iteration, window in chosen:
        found.setdefault(iteration, {}).setdefault(window["window"]["id"], []).extend(window["trajectory_ids"])
    for row in () if chosen else judgments:
        found.setdefault(row["iteration"], {}).setdefault(row["window_id"], []).append(row["trajectory_id"])
    return found


def _shown(row: Mapping[str, object]) -> dict[str, object]:
    """A row as people see it: the files count iterations from 0, pages, terminal and W&B from 1 (a warm start is 0)."""
    iteration = row.get("iteration")
    return {**row, "iteration": iteration + 1} if isinstance(iteration, int) else dict(row)


def _environment_tags() -> list[str]:
    """Returns the tags that ``WANDB_TAGS`` names, as W&B reads it."""
    return [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if 1 <= len(tag) <= TAG_LENGTH]


def _restart_service() -> None:
    import wandb

    wandb.teardown()


def _present(values: Mapping[str, object]) -> dict[str, object]:
    return {k: v for k, v in jsonable(values).items() if v is not None}


def _resolve(mode: Mode) -> Literal["online", "offline", "disabled"]:
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("disabled", "dryrun", "offline"):
        return "disabled" if asked == "disabled" else "offline"
    if mode == "auto":
        return "online" if has_key() else "offline"
    return mode


def has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    own = urlsplit(os.environ.get("WANDB_BASE_URL", "")).netloc
    try:
        logins = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return not logins.keys().isdisjoint({own} if own else WANDB_HOSTS)
