"""Options of the tasks: one frozen dataclass a task, whose fields are the keys of its YAML node (``check.format``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a task that has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildModelOptions(Options):
    """Options of ``task=build_model``: the folder ``output``, and the numbers of whole prompts (``examples``) and of
    prompts with only news (``headlines``) that are imitated."""

    output: str
    examples: Annotated[int, Field(ge=64)] = 200_000
    headlines: Annotated[int, Field(ge=0)] = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions(Options):
    """Options of ``task=check``; ``steps`` False looks at statistics alone."""

    format: Literal["table", "json"] = "table"
    steps: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions(Options):
    """Options of ``task=compare``; the YAML file explains each."""

    runs: str | list[str] | None = None
    wandb: str | None = None
    wandb_report: bool = False
    by: str | list[str] | None = None
    metrics: str | list[str] | None = None
    sort: str | None = None
    where: dict[str, object] | None = None
    against: str | int | None = None
    cost: str | None = None
    curves: str | list[str] | None = None
    format: Literal["table", "markdown", "json", "csv"] = "table"
    output: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions(Options):
    """Options of ``task=dump``: the file ``output``, whose name says its format."""

    output: Annotated[str, Field(pattern=r"\.(jsonl|jsonl\.gz|parquet)$")] = "play.jsonl"
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions(Options):
    """Options of ``task=import``; ``example`` prints lines that it reads."""

    example: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions(Options):
    """Options of ``task=judge``: the windows of a training (``selected``) or all that are ready; ``write_back`` writes
    the scores into the game's tables, ``replace`` also over judgments that others have written there."""

    windows: Literal["selected", "ready"] = "selected"
    write_back: bool | Literal["replace"] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateOptions(Options):
    """Options of ``task=migrate``; ``index`` makes the index of windows on a game's own table too."""

    index: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExperimentOptions(Options):
    """Options of ``task=new_experiment``: the folder ``source`` of a run or sweep (typed as ``from=``)."""

    source: str
    question: str = "what is asked here? (write it before you commit this file)"
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomesOptions(Options):
    """Options of ``task=outcomes``; ``recompute`` derives those of final windows again."""

    recompute: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions(Options):
    """Options of ``task=plan``. At most ``max_windows`` windows are read and rendered, the others are taken to be like
    them; ``changes`` plans cheaper variants too. Rates are those achieved: TFLOP/s, dollars an hour (None: unknown) and
    seconds of a judge's answer."""

    format: Literal["table", "json"] = "table"
    max_windows: Annotated[int, Field(ge=1)] = 200
    changes: bool = True
    cpu_tflops: Annotated[float, Field(gt=0)] = 0.05
    gpu_tflops: Annotated[float, Field(gt=0)] = 150.0
    gpu_usd_per_hour: Annotated[float, Field(ge=0)] | None = None
    judge_call_s: Annotated[float, Field(gt=0)] = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions(Options):
    """Options of ``task=replay``: the folder of the ``run``; ``code`` recorded runs the recorded commit."""

    run: str
    check_only: bool = False
    code: Literal["here", "recorded"] = "here"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsOptions(Options):
    """Options of ``task=runs``; ``name`` is an experiment or a pattern of names, ``limit`` the lines of the table."""

    name: str | None = None
    limit: Annotated[int, Field(ge=1)] = 30
    format: Literal["table", "json"] = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions(Options):
    """Options of ``task=serve``; the YAML file explains each."""

    runs: str | list[str] = field(default_factory=list)
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    device: Literal["cpu", "cuda"] = "cpu"
    max_batch: Annotated[int, Field(ge=1)] = 64
    max_loaded: Annotated[int, Field(ge=1)] = 2
    max_queue: Annotated[int, Field(ge=1)] = 1024
    max_body_mb: Annotated[float, Field(gt=0)] = 4.0
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    api_key_env: str | None = None
    verbose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions(Options):
    """Options of ``task=view``: pages at an address (``do`` "serve"), as files of the folder ``output``, or one window
    in the terminal (``do`` "window")."""

    do: Literal["serve", "window"] = "serve"
    runs: str | list[str] | None = None
    output: str | None = None
    window: str | None = None
    agent: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8400
    token_env: str | None = None


TASKS: Mapping[str, type[Options]] = {
    "build_model": BuildModelOptions,
    "check": CheckOptions,
    "collect": Options,
    "compare": CompareOptions,
    "dump": DumpOptions,
    "evaluate": Options,
    "import": ImportOptions,
    "judge": JudgeOptions,
    "migrate": MigrateOptions,
    "new_experiment": NewExperimentOptions,
    "outcomes": OutcomesOptions,
    "plan": PlanOptions,
    "replay": ReplayOptions,
    "runs": RunsOptions,
    "serve": ServeOptions,
    "train": Options,
    "view": ViewOptions,
}
"""The tasks by name, with their options."""

TOP_KEYS: Mapping[str, tuple[str, ...]] = {"new_experiment": ("from",), "replay": ("run",)}
"""Keys at the top of the config, which are typed without the name of their task: ``task=replay run=PATH``."""
